"""Occlum in a base: where its toolchain is, and which version."""

import re
from dataclasses import dataclass

from imagekit.enclave.occlum.versions import OcclumVersion, occlum_version
from imagekit.enclave.standin import is_standin
from imagekit.errors import InputError, UsageError
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
from imagekit.release.contents import Base, find_contents
from imagekit.spec.project import Project

TOOLCHAIN = "/opt/occlum"
"""Where Occlum's own images and packages have it."""

_LIBRARIES = f"{TOOLCHAIN}/build/lib"
_LIBRARY = re.compile(r"libocclum-libos\.so\.([0-9]+\.[0-9]+\.[0-9]+)")


@dataclass(frozen=True)
class OcclumBase(Base):
    """A base with Occlum's toolchain.

    Attributes:
        version: whose rules apply.
        version_origin: how the version was found out, for people.
        libos: path of the library that becomes the enclave.
        is_standin: whether that is the stand-in's.
    """

    version: OcclumVersion
    version_origin: str
    libos: str
    is_standin: bool

    @property
    def standin(self) -> bool:
        """Whether its Occlum is the stand-in."""
        return self.is_standin

    @property
    def libos_name(self) -> str:
        """See Base."""
        return "Occlum"

    @property
    def toolchain(self) -> str:
        """See Base."""
        return f"Occlum {self.version.name} ({self.version_origin})"


def occlum_base(image: Image, rootfs: Rootfs, project: Project) -> OcclumBase:
    """Look at a base.

    Raises:
        InputError: no Occlum in it, or something that jobs need is missing or ambiguous.
    """
    libos, found = find_library(rootfs)
    version, origin = _version(found, project)
    return OcclumBase(
        image=image,
        rootfs=rootfs,
        contents=find_contents(image, rootfs, project),
        version=version,
        version_origin=origin,
        libos=libos,
        is_standin=is_standin(rootfs.read(libos)),
    )


def find_library(rootfs: Rootfs) -> tuple[str, str]:
    """Give path and version of Occlum's library OS; its simulation is another file.

    Raises:
        InputError: there is none, or several.
    """
    names = rootfs.children(_LIBRARIES) if rootfs.kind(_LIBRARIES) == "dir" else []
    found = {
        rootfs.resolve(f"{_LIBRARIES}/{name}"): match[1]
        for name in names
        if (match := _LIBRARY.fullmatch(name)) and rootfs.kind(f"{_LIBRARIES}/{name}") == "file"
    }
    if len(found) != 1:
        what = "no" if not found else "more than one"
        raise InputError(
            f"the base has {what} Occlum: {what} libocclum-libos.so.VERSION in {_LIBRARIES}",
            "take a base made from Occlum's own image (docs/occlum.md)",
        )
    return found.popitem()


def _version(found: str, project: Project) -> tuple[OcclumVersion, str]:
    wanted = project.occlum.version
    if wanted is not None:
        return occlum_version(wanted), f"{project.path.name} says so; the library is {found}"
    try:
        return occlum_version(found), f"library {found} in the base"
    except UsageError as error:
        raise InputError(
            f"the base has Occlum {found}, whose rules are not known",
            f"{error.hint}; occlum.version in {project.path.name} overrides this",
        ) from None
