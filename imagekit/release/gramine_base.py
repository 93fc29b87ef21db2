"""Gramine in a base: where it is, and whose rules apply."""

import re
from dataclasses import dataclass

from imagekit.enclave.elf import Elf, parse_elf
from imagekit.enclave.releases import NEWEST, Release, release_named
from imagekit.enclave.standin import is_standin
from imagekit.errors import InputError, UsageError
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
from imagekit.release.contents import Base, find_contents
from imagekit.render.variables import GramineVariables
from imagekit.spec.project import Project

PKGLIBDIRS = (
    "/usr/lib/x86_64-linux-gnu/gramine",
    "/usr/local/lib/x86_64-linux-gnu/gramine",
    "/usr/lib64/gramine",
    "/usr/local/lib64/gramine",
    "/usr/lib/gramine",
)
"""Where Gramine's packages and its own build put its files."""

_PACKAGES = ("gramine", "gramine-standin")
_DPKG_STATUS = "/var/lib/dpkg/status"


@dataclass(frozen=True)
class GramineBase(Base):
    """A base with Gramine.

    Attributes:
        gramine: where Gramine is installed.
        pal: Gramine's PAL.
        release: whose rules apply.
        release_origin: how the release was found out, for people.
    """

    gramine: GramineVariables
    pal: Elf
    release: Release
    release_origin: str

    @property
    def standin(self) -> bool:
        """Whether its Gramine is the stand-in."""
        return is_standin(self.pal.data)

    @property
    def libos_name(self) -> str:
        """See Base."""
        return "Gramine"

    @property
    def toolchain(self) -> str:
        """See Base."""
        return f"Gramine {self.release.name} ({self.release_origin})"


def gramine_base(image: Image, rootfs: Rootfs, project: Project) -> GramineBase:
    """Look at a base.

    Raises:
        InputError: no Gramine in it, or something the profile needs is missing or ambiguous.
    """
    gramine = find_gramine(rootfs)
    release, origin = _release(rootfs, project)
    return GramineBase(
        image=image,
        rootfs=rootfs,
        contents=find_contents(image, rootfs, project),
        gramine=gramine,
        pal=read_pal(rootfs, gramine),
        release=release,
        release_origin=origin,
    )


def find_gramine(rootfs: Rootfs) -> GramineVariables:
    """Find Gramine's folder.

    Raises:
        InputError: not there.
    """
    for folder in PKGLIBDIRS:
        gramine = GramineVariables(folder)
        if rootfs.kind(gramine.libpal) == "file" and rootfs.kind(gramine.libos) == "file":
            return gramine
    raise InputError(
        "the base has no Gramine: no libsysdb.so and sgx/libpal.so below "
        + ", ".join(PKGLIBDIRS[:2])
        + " …",
        "add the package gramine and its apt source to the base (see imagekit init)",
    )


def read_pal(rootfs: Rootfs, gramine: GramineVariables) -> Elf:
    """Read the PAL out of an image.

    Raises:
        InputError: it is missing, or not an ELF file.
    """
    return parse_elf(rootfs.read(gramine.libpal), gramine.libpal)


def _release(rootfs: Rootfs, project: Project) -> tuple[Release, str]:
    if project.gramine.version is not None:
        return release_named(project.gramine.version), f"{project.path.name} says so"
    version = _package_version(rootfs)
    if version is None:
        return NEWEST, "the base does not say which it has; the newest known one is taken"
    try:
        return release_named(version), f"package version {version} in the base"
    except UsageError as error:
        raise InputError(
            f"the base has Gramine {version}, whose rules are not known",
            f"{error.hint}; gramine.version in {project.path.name} overrides this",
        ) from None


def _package_version(rootfs: Rootfs) -> str | None:
    """Upstream version of the gramine package as dpkg knows it, None if it does not."""
    if rootfs.kind(_DPKG_STATUS) != "file":
        return None
    status = rootfs.read(_DPKG_STATUS).decode("utf-8", "replace")
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Package") in _PACKAGES and "Version" in fields:
            upstream = fields["Version"].partition(":")[2] or fields["Version"]
            return re.split(r"[-+~]", upstream)[0]
    return None
