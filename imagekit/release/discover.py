"""What a base brings along: Gramine and its release, Python, Java, Spark, Flink.

Looked up in the merged view of the base; nothing of it is run. What the project file says wins over
what is found, and a search that ends with two candidates is an error, not a guess.
"""

import posixpath
import re
from dataclasses import dataclass

from imagekit.enclave.elf import Elf, parse_elf
from imagekit.enclave.releases import NEWEST, Release, release_named
from imagekit.enclave.standin import is_standin
from imagekit.errors import InputError, UsageError
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
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
class Base:
    """A base image and what was found in it; paths are absolute inside the image.

    Attributes:
        image: the image.
        rootfs: its merged view.
        gramine: where Gramine is installed.
        pal: Gramine's PAL.
        release: whose rules apply.
        release_origin: how the release was found out, for people.
        python: the interpreter, without links.
        python_lib: its standard library.
        java_home: "" if there is no Java.
        java_etc: folders outside `java_home` that links in it lead to.
        spark_home, flink_home: "" if not there.
    """

    image: Image
    rootfs: Rootfs
    gramine: GramineVariables
    pal: Elf
    release: Release
    release_origin: str
    python: str
    python_lib: str
    java_home: str
    java_etc: tuple[str, ...]
    spark_home: str
    flink_home: str

    @property
    def standin(self) -> bool:
        """Whether its Gramine is the stand-in."""
        return is_standin(self.pal.data)


def discover(image: Image, rootfs: Rootfs, project: Project) -> Base:
    """Look at a base.

    Raises:
        InputError: no Gramine in it, or something the profile needs is missing or ambiguous.
    """
    gramine = find_gramine(rootfs)
    release, origin = _release(rootfs, project)
    java_home = _java_home(image, rootfs, project)
    python, python_lib = _python(rootfs, project)
    return Base(
        image=image,
        rootfs=rootfs,
        gramine=gramine,
        pal=read_pal(rootfs, gramine),
        release=release,
        release_origin=origin,
        python=python,
        python_lib=python_lib,
        java_home=java_home,
        java_etc=_linked_folders(rootfs, java_home) if java_home else (),
        spark_home=_home(image, rootfs, "SPARK_HOME", project.paths.spark_home, "jars"),
        flink_home=_home(image, rootfs, "FLINK_HOME", project.paths.flink_home, "lib"),
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


def _python(rootfs: Rootfs, project: Project) -> tuple[str, str]:
    wanted = project.paths.python or "/usr/bin/python3"
    if rootfs.kind(wanted) != "file":
        raise InputError(
            f"the base has no {wanted}: the launcher runs on it",
            "add python3-minimal to the base's packages, or set paths.python",
        )
    python = rootfs.resolve(wanted)
    prefix = posixpath.dirname(posixpath.dirname(python))
    library = f"{prefix}/lib/{posixpath.basename(python)}"
    if rootfs.kind(library) != "dir":
        raise InputError(
            f"the base has {python} but not its library {library}",
            "add the full python3 package, or set paths.python",
        )
    return python, library


def _java_home(image: Image, rootfs: Rootfs, project: Project) -> str:
    wanted = project.paths.java_home or image.env.get("JAVA_HOME")
    if wanted:
        if rootfs.kind(f"{wanted}/bin/java") != "file":
            raise InputError(
                f"{wanted}/bin/java is not in the base",
                "set paths.java_home to where its Java is",
            )
        return rootfs.resolve(wanted)
    folder = "/usr/lib/jvm"
    names = rootfs.children(folder) if rootfs.kind(folder) == "dir" else []
    found = {
        rootfs.resolve(f"{folder}/{name}")
        for name in names
        if rootfs.kind(f"{folder}/{name}/bin/java") == "file"
    }
    if len(found) > 1:
        raise InputError(
            f"the base has several Javas: {', '.join(sorted(found))}", "set paths.java_home"
        )
    return found.pop() if found else ""


def _home(image: Image, rootfs: Rootfs, variable: str, wanted: str | None, part: str) -> str:
    path = wanted or image.env.get(variable, "")
    if not path:
        return ""
    if rootfs.kind(f"{path}/{part}") != "dir":
        raise InputError(
            f"{variable} is {path}, but the base has no {path}/{part}",
            f"set paths.{variable.lower()} to where it is",
        )
    return rootfs.resolve(path)


def _linked_folders(rootfs: Rootfs, top: str) -> tuple[str, ...]:
    """Folders outside `top` that hold the targets of links below it, without nested ones."""
    folders = set()
    pending = [top]
    while pending:
        path = pending.pop()
        entry = rootfs.entry(path, follow=False)
        if entry is not None and entry.kind == "dir":
            pending += [f"{path}/{name}" for name in rootfs.children(path)]
        elif entry is not None and entry.kind == "symlink" and rootfs.kind(path) is not None:
            target = rootfs.resolve(path)
            if rootfs.kind(path) == "file":
                target = posixpath.dirname(target)
            if not f"{target}/".startswith(f"{top}/") and target != "/":
                folders.add(target)
    return tuple(
        sorted(f for f in folders if not any(f.startswith(f"{other}/") for other in folders))
    )
