"""What a base brings along, by the project's library OS."""

from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
from imagekit.release.contents import Base
from imagekit.release.gramine_base import gramine_base
from imagekit.spec.project import Project


def discover(image: Image, rootfs: Rootfs, project: Project) -> Base:
    """Look at a base.

    Raises:
        InputError: its library OS is not in it, or something the profile needs is missing or
            ambiguous.
    """
    if project.libos == "occlum":
        from imagekit.release.occlum_base import occlum_base  # here: most projects need none of it

        return occlum_base(image, rootfs, project)
    return gramine_base(image, rootfs, project)
