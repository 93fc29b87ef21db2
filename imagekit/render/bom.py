"""What ``copy_bom`` copies into the tree of an Occlum enclave, made from the base's contents.

Folders are copied whole, since what a JVM or Python loads by name at run time is in them; libraries
that programs are linked with are found by ``copy_bom`` itself. Nothing is named that the base does
not have. Rules and reasons: ``docs/occlum.md``.
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imagekit.errors import InputError
from imagekit.render.bom_tree import EnclaveTree
from imagekit.render.image_files import Files
from imagekit.render.pod_paths import REFUSED_PATHS
from imagekit.render.yaml_text import to_yaml
from imagekit.runtime.paths import APP

__all__ = ["OWN_ETC", "REFUSED_PATHS", "BomInputs", "bom_document", "bom_yaml"]

OWN_ETC = ("hosts", "nsswitch.conf", "passwd")
"""Files of the launcher that stand in ``/etc`` of the enclave."""

EXCLUDED = ("__pycache__",)
"""Names that are left out of every folder. Python's compiled modules hold the times of their
sources, and all times are zero in an enclave's tree: Python would read and then ignore them, and
what is in them may differ from one making of a base to the next."""

LEFT_OUT: Mapping[str, frozenset[str]] = {
    # Tools to develop with, and what people read.
    "java_home": frozenset(
        ("demo", "docs", "include", "jmods", "legal", "man", "sample", "src.zip")
    ),
    # R has no interpreter inside; kubernetes/ and yarn/ are for making images and for node
    # managers, sbin/ for starting daemons by a shell; data/ and examples/ are no part of a job.
    "spark_home": frozenset(
        ("R", "data", "examples", "kubernetes", "licenses", "logs", "sbin", "work", "yarn")
    ),
    "flink_home": frozenset(("examples", "licenses", "log")),
}
"""What an enclave never needs of a distribution: names in its top folder. A file below one of these
that the project names (a jar, a path of ``trusted``) is copied all the same."""

_LIBC = "libc.so.6"
_LIBC_FOLDERS = ("/opt/occlum/glibc/lib", "/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu")
_NAME_SERVICES = ("libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")
_SHARED = (
    *("/etc/ssl/certs", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"),
    *("/usr/lib/locale/C.UTF-8", "/usr/lib/locale/C.utf8", "/usr/share/zoneinfo"),
)
_LONGEST_SCRIPT = 1 << 20  # bytes of a program that is looked into for an interpreter


@dataclass(frozen=True)
class BomInputs:
    """What the tree of an enclave depends on besides the base; paths are absolute.

    Attributes:
        where: the project file, for messages.
        python: the interpreter, without links.
        python_lib: its library.
        java_home, spark_home, flink_home: without links; "" if not there.
        java_etc: folders outside `java_home` that links in it lead to.
        trusted: further files ``file:/x`` and folders ``file:/x/``.
        command: the sealed command, whose first word is a program; empty for none.
        jars: jars of a job.
        mount_points: folders that further file systems are mounted at.
    """

    where: str
    python: str
    python_lib: str
    java_home: str = ""
    java_etc: Sequence[str] = ()
    spark_home: str = ""
    flink_home: str = ""
    trusted: Sequence[str] = ()
    command: Sequence[str] = ()
    jars: Sequence[str] = ()
    mount_points: Sequence[str] = ()


def bom_yaml(files: Files, inputs: BomInputs) -> bytes:
    """Give :func:`bom_document` as YAML, ASCII."""
    return to_yaml([bom_document(files, inputs)])


def bom_document(files: Files, inputs: BomInputs) -> dict[str, Any]:
    """Give the list for ``copy_bom``, sorted.

    Args:
        files: the base with the launcher's files (:class:`imagekit.images.rootfs.Rootfs`).
        inputs: the rest.

    Raises:
        InputError: a path is not in the base, is not what the project file says it is, or belongs
            to a pod or a machine; with the key that it comes from.
    """
    tree = EnclaveTree(files, inputs.where, EXCLUDED)
    tree.add_folder(APP, "the launcher")
    for name in OWN_ETC:
        tree.add_file(f"{APP}/etc/{name}", "the launcher", f"/etc/{name}")
    _add_python(tree, files, inputs)
    for key in LEFT_OUT:
        _add_distribution(tree, files, key, getattr(inputs, key))
    for path in inputs.java_etc:
        tree.add_folder(path, "paths.java_home")
    for path in _present(files, _SHARED, "dir"):
        tree.add_folder(path, path)
    _add_name_services(tree, files)
    _add_project(tree, files, inputs)
    for path in inputs.mount_points:
        tree.add_empty(path)
    tree.add_link_targets()
    return tree.document()


def _present(files: Files, paths: Iterable[str], kind: str) -> list[str]:
    return [path for path in paths if files.kind(path) == kind]


def _add_python(tree: EnclaveTree, files: Files, inputs: BomInputs) -> None:
    tree.add_file(inputs.python, "paths.python")
    tree.add_folder(inputs.python_lib, "paths.python")


def _add_distribution(tree: EnclaveTree, files: Files, key: str, home: str) -> None:
    """Add the entries of a distribution's top folder but those that are left out."""
    if not home:
        return
    if files.kind(home) != "dir":
        tree.add_folder(home, f"paths.{key}")  # says what is wrong
    for name in files.children(home):
        path = posixpath.join(home, name)
        if name in LEFT_OUT[key] or name in EXCLUDED:
            continue
        kind = files.kind(path)
        if kind == "dir":
            tree.add_folder(path, f"paths.{key}")
        elif kind == "file":
            tree.add_file(path, f"paths.{key}")


def _add_name_services(tree: EnclaveTree, files: Files) -> None:
    """Add what the C library loads by name to look up users and hosts.

    They belong to one C library: Occlum's own, where the base has it.
    """
    for folder in _LIBC_FOLDERS:
        if files.kind(f"{folder}/{_LIBC}") == "file":
            for path in _present(files, (f"{folder}/{name}" for name in _NAME_SERVICES), "file"):
                tree.add_file(path, path)
            return


def _add_project(tree: EnclaveTree, files: Files, inputs: BomInputs) -> None:
    """Add what the project file names."""
    for uri in inputs.trusted:
        path = uri.removeprefix("file:")
        if path.endswith("/"):
            tree.add_folder(path.rstrip("/") or "/", "trusted")
        else:
            tree.add_file(path, "trusted")
    for path in inputs.jars:
        tree.add_file(path, "launch.jars")
    if inputs.command:
        program = inputs.command[0]
        tree.add_file(program, "launch.command")
        interpreter = _interpreter(files, program)
        if interpreter is not None:
            if not interpreter.startswith("/") or files.kind(interpreter) != "file":
                raise InputError(
                    f"{inputs.where}: launch.command: {program} is a script, and the base has no "
                    f"program {interpreter[:80]!r}: Occlum takes the whole first line as its path",
                    "name the interpreter as the program, the script as its first argument",
                )
            tree.add_file(interpreter, "launch.command")


def _interpreter(files: Files, path: str) -> str | None:
    """Give what stands behind ``#!`` in a script's first line; None if it is no script."""
    entry = files.entry(path)
    if entry is None or entry.size > _LONGEST_SCRIPT:
        return None
    data = files.read(path)
    if data[:2] != b"#!":
        return None
    return data[2:].split(b"\n", 1)[0].decode("utf-8", "replace").strip()
