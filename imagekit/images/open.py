"""Opening images wherever a reference points to."""

from imagekit.images.cache import Cache
from imagekit.images.layout import OciLayout
from imagekit.images.oci import Image
from imagekit.images.references import Reference, parse_reference


def open_image(reference: str | Reference, cache: Cache) -> Image:
    """Open an image; archives are unpacked into the cache's blobs first, once.

    Manifest and config are verified here, layers when they are read.

    Args:
        reference: as :func:`imagekit.images.references.parse_reference` takes it.
        cache: where archives are unpacked to.

    Raises:
        UsageError: not a reference.
        EngineError: a registry or daemon.
        InputError: there is no such image, or it is damaged.
    """
    where = parse_reference(reference) if isinstance(reference, str) else reference
    if where.transport == "oci":
        return OciLayout.open(where.path).image(where.tag)
    # Only archives need the tar reader: imported here, so that naming images stays quick.
    from imagekit.images.archives import open_docker_archive, open_oci_archive

    if where.transport == "oci-archive":
        return open_oci_archive(where.path, where.tag, cache)
    return open_docker_archive(where.path, where.tag, cache)
