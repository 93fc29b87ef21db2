"""Pulling an image from a registry into the cache."""

from imagekit.images.cache import Cache
from imagekit.images.oci import Image
from imagekit.images.progress import Progress
from imagekit.images.references import RegistryReference
from imagekit.images.registry.access import RegistryAccess


def pull_image(
    reference: RegistryReference, cache: Cache, access: RegistryAccess, progress: Progress
) -> Image:
    """Pull an image."""
    raise NotImplementedError
