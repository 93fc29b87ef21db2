"""What every base brings along, whatever its library OS: Python, Java, Spark, Flink.

Looked up in the merged view of the base; nothing of it is run. What the project file says wins over
what is found, and a search that ends with two candidates is an error, not a guess.
"""

import posixpath
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from imagekit.errors import InputError
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
from imagekit.spec.project import Project


class Contents(NamedTuple):
    """What runs jobs in a base; paths are absolute inside the image.

    Attributes:
        python: the interpreter, without links.
        python_lib: its standard library.
        java_home: "" if there is no Java.
        java_etc: folders outside `java_home` that links in it lead to.
        spark_home, flink_home: "" if not there.
    """

    python: str
    python_lib: str
    java_home: str
    java_etc: tuple[str, ...]
    spark_home: str
    flink_home: str


@dataclass(frozen=True)
class Base(ABC):
    """A base image and what was found in it.

    Attributes:
        image: the image.
        rootfs: its merged view.
        contents: what runs jobs.
    """

    image: Image
    rootfs: Rootfs
    contents: Contents

    @property
    @abstractmethod
    def standin(self) -> bool:
        """Whether its library OS is the stand-in."""

    @property
    @abstractmethod
    def libos_name(self) -> str:
        """Its library OS, as people write it."""

    @property
    @abstractmethod
    def toolchain(self) -> str:
        """Its library OS with the version, and how that was found out; for people."""

    @property
    def python(self) -> str:
        """See :class:`Contents`."""
        return self.contents.python

    @property
    def python_lib(self) -> str:
        """See :class:`Contents`."""
        return self.contents.python_lib

    @property
    def java_home(self) -> str:
        """See :class:`Contents`."""
        return self.contents.java_home

    @property
    def java_etc(self) -> tuple[str, ...]:
        """See :class:`Contents`."""
        return self.contents.java_etc

    @property
    def spark_home(self) -> str:
        """See :class:`Contents`."""
        return self.contents.spark_home

    @property
    def flink_home(self) -> str:
        """See :class:`Contents`."""
        return self.contents.flink_home


def find_contents(image: Image, rootfs: Rootfs, project: Project) -> Contents:
    """Look for what runs jobs.

    Raises:
        InputError: something is missing or ambiguous.
    """
    java_home = _java_home(image, rootfs, project)
    python, python_lib = _python(rootfs, project)
    return Contents(
        python=python,
        python_lib=python_lib,
        java_home=java_home,
        java_etc=_linked_folders(rootfs, java_home) if java_home else (),
        spark_home=_home(image, rootfs, "SPARK_HOME", project.paths.spark_home, "jars"),
        flink_home=_home(image, rootfs, "FLINK_HOME", project.paths.flink_home, "lib"),
    )


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
