"""Opening images wherever a reference points to."""

from typing import TYPE_CHECKING

from imagekit.images.cache import Cache
from imagekit.images.layout import OciLayout
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.references import (
    AnyReference,
    DaemonReference,
    RegistryReference,
    parse_reference,
)

if TYPE_CHECKING:
    from imagekit.images.registry.access import RegistryAccess


def open_image(
    reference: str | AnyReference,
    cache: Cache,
    access: "RegistryAccess | None" = None,
    progress: Progress = NO_PROGRESS,
) -> Image:
    """Open an image; what is not a layout on disk is brought into the cache's blobs first, once.

    Manifest and config are verified here, layers when they are read.

    Args:
        reference: as :func:`imagekit.images.references.parse_reference` takes it.
        cache: where archives are unpacked to, and layers of registries and engines go.
        access: how registries are reached; None for TLS with the CAs of this machine.
        progress: told the bytes that are fetched.

    Raises:
        UsageError: not a reference.
        EngineError: a registry or engine failed or has no such image.
        InputError: there is no such image, or it is damaged.
    """
    where = parse_reference(reference) if isinstance(reference, str) else reference
    # The readers are imported where they are used, so that naming images stays quick.
    if isinstance(where, RegistryReference):
        from imagekit.images.registry.access import RegistryAccess
        from imagekit.images.registry.pull import pull_image

        return pull_image(where, cache, access or RegistryAccess(), progress)
    if isinstance(where, DaemonReference):
        from imagekit.images.daemon.connect import connect
        from imagekit.images.daemon.export import export_image

        return export_image(connect(), where, cache, progress)
    if where.transport == "oci":
        return OciLayout.open(where.path).image(where.tag)
    from imagekit.images.archives import open_docker_archive, open_oci_archive

    if where.transport == "oci-archive":
        return open_oci_archive(where.path, where.tag, cache)
    return open_docker_archive(where.path, where.tag, cache)
