"""An artifact becomes a tree: unpacked, the wanted part taken, renamed, with plain modes.

Standard library alone: the stages of a Dockerfile run this code too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import InputError
from imagekit.files import disk_error
from imagekit.images.bases.repack import Node, Tree, read_tree
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.tarwrite import DIRECTORY, REGULAR
from imagekit.spec.base_values import Artifact


@dataclass(frozen=True)
class Unpacking:
    """How an artifact's file is used; the words of :class:`imagekit.spec.base_values.Artifact`.

    Attributes:
        name: what it is called in errors.
        to: its absolute place in the image.
        archive: whether it is unpacked (else it is one file).
        take: the folder inside that is taken, or None.
        strip: leading components that are cut.
        mode: permissions of a single file.
        where: ``FILE:LINE: key`` of the project file, for errors.
    """

    name: str
    to: str
    archive: bool
    take: str | None = None
    strip: int = 0
    mode: int = 0o644
    where: str = ""

    @classmethod
    def of(cls, artifact: Artifact) -> "Unpacking":
        """Give what the spec says about an artifact that becomes a layer."""
        return cls(
            artifact.name,
            artifact.to or "/",
            artifact.is_archive,
            artifact.take,
            artifact.strip,
            artifact.mode,
            artifact.where,
        )


def unpack(how: Unpacking, file: Path, scratch: Path, progress: Progress = NO_PROGRESS) -> Tree:
    """Give an artifact's content by its paths in the image; parents are not among them.

    Args:
        how: what to do.
        file: the artifact, its hash already compared.
        scratch: folder for unpacked content.
        progress: told the bytes read.

    Raises:
        InputError: damaged, unfit for a layer, or nothing is left of it.
    """
    to = how.to.strip("/")
    try:
        if not how.archive:
            node = Node(REGULAR, how.mode, size=file.stat().st_size, offset=0)
            return Tree({to: node}, file.open("rb"))
    except OSError as error:
        raise disk_error(error, file, "read") from None
    rename = renamer(how, to)
    tree = read_tree(file, scratch, how.name, progress, lambda path: rename(path) is not None)
    try:
        return Tree(_renamed(how, tree, rename), tree.content)
    except BaseException:
        tree.content.close()
        raise


def renamer(how: Unpacking, to: str) -> Callable[[str], str | None]:
    """Give the function from a path in the archive to the path in the image, None = not taken."""
    prefix = f"{to}/" if to else ""

    def take(path: str) -> str | None:
        inner = how.take or ""
        if path == inner:
            return to or None
        return prefix + path[len(inner) + 1 :] if path.startswith(inner + "/") else None

    def strip(path: str) -> str | None:
        parts = path.split("/")[how.strip :]
        return prefix + "/".join(parts) if parts else None

    return take if how.take else strip


def _renamed(how: Unpacking, tree: Tree, rename: Callable[[str], str | None]) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for path, node in tree.nodes.items():
        target = rename(path)
        if target is None:
            continue
        if target in nodes and not nodes[target].kind == node.kind == DIRECTORY:
            raise InputError(f"{how.name}: two entries become /{target}", "strip fewer components")
        # owner and modes of an archive are those of whoever packed it
        node.uid = node.gid = 0
        node.mode = 0o755 if node.kind == DIRECTORY or node.mode & 0o111 else 0o644
        node.capability = None
        nodes[target] = node
    if not any(node.kind != DIRECTORY for node in nodes.values()):
        tops = sorted({path.partition("/")[0] for path in tree.nodes})[:5]
        raise InputError(
            f"{how.where or how.name}: take or strip leaves nothing of the archive",
            f"at its top it has: {', '.join(tops)}",
        )
    return nodes
