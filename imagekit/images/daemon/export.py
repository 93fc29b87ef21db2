"""Images out of an engine."""

from imagekit.images.cache import Cache
from imagekit.images.daemon.connect import Daemon
from imagekit.images.oci import Image
from imagekit.images.progress import Progress
from imagekit.images.references import DaemonReference


def export_image(
    daemon: Daemon, reference: DaemonReference, cache: Cache, progress: Progress
) -> Image:
    """Export an image."""
    raise NotImplementedError
