"""Packages installed on an image: how the engine is asked for them, and the layer they become.

The image runs ``add.sh``, which installs the packages and gives what that changed: new and altered
files, the paths that are gone, and the lists of packages. What differs from run to run is left out
or rewritten as in a distribution, then it all becomes one layer.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imagekit.errors import EngineError
from imagekit.images.bases.below import add_parents_of, entry_of
from imagekit.images.bases.cache import LayerRecord
from imagekit.images.bases.normalise import DROPPED, DROPPED_PATTERNS, EMPTIED, Normaliser
from imagekit.images.bases.pack import pack_tree
from imagekit.images.bases.packages import packages_of
from imagekit.images.bases.repack import Node, Tree, content_of, read_content, read_tree
from imagekit.images.cache import Cache
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.rootfs import Rootfs
from imagekit.images.tarwrite import DIRECTORY, REGULAR, SYMLINK

ADD = "add.sh"
"""The script beside this module that runs in the image."""
SKIP = "skip"
"""The file beside it that holds :func:`skipped`."""
CHANGED, REMOVED = "changed", "removed"
"""The folder with new files, and the file with paths that are gone or now of another type."""
INSTALLED, AVAILABLE = "installed", "available"
"""The lists of packages; see :mod:`imagekit.images.bases.packages`."""
APT = "/usr/bin/apt-get"
WHERE = "installed packages"


@dataclass(frozen=True)
class Installation:
    """What is to be installed where.

    Attributes:
        image: on what.
        packages: names as apt takes them.
        debs: local packages, installed last, in this order.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
        ca_bundle: certificates (PEM) to be trusted besides the image's, while it is done.
    """

    image: Image
    packages: tuple[str, ...]
    debs: tuple[Path, ...]
    epoch: int
    ca_bundle: bytes | None = None


class Installer(Protocol):
    """A way to install packages on an image."""

    def __call__(self, order: Installation, folder: Path, progress: Progress) -> Path:
        """Install packages.

        Args:
            order: what and where.
            folder: an empty scratch folder.
            progress: told the steps.

        Returns:
            What ``add.sh`` gives, as a tar file in ``folder``.

        Raises:
            EngineError: it failed; holds the last lines.
        """
        ...


def skipped() -> bytes:
    """Give the patterns of paths that no layer holds, one a line, as ``find -path`` takes them."""
    patterns = [*(f"{folder}/*" for folder in EMPTIED), *DROPPED, *DROPPED_PATTERNS]
    return "".join(f"{pattern}\n" for pattern in patterns).encode()


def packages_layer(
    answer: Path,
    folder: Path,
    rootfs: Rootfs,
    cache: Cache,
    epoch: int,
    progress: Progress = NO_PROGRESS,
) -> LayerRecord:
    """Make the layer of what an installation changed.

    Args:
        answer: what an :class:`Installer` gave.
        folder: a scratch folder.
        rootfs: the image it was installed on.
        cache: where the layer goes.
        epoch: seconds since 1970, the time of every entry.
        progress: told the bytes read.

    Raises:
        EngineError: the answer is not one.
        InputError: something that has no place in a layer, or the disk refuses.
    """
    normaliser = Normaliser(epoch)

    def keep(path: str) -> bool:
        return path.startswith(f"{CHANGED}/") and normaliser.keep(path.removeprefix(CHANGED))

    lists = (REMOVED, INSTALLED, AVAILABLE)
    tree = read_tree(answer, folder, WHERE, progress, lambda path: path in lists or keep(path))
    with tree.content:
        packages = packages_of(tree, INSTALLED, AVAILABLE)
        gone = tree.nodes.get(REMOVED)
        if gone is None or gone.kind != REGULAR:
            raise EngineError(
                "the engine does not say what the packages removed",
                "report this with the engine's version",
            )
        removed = read_content(tree, gone).decode("utf-8", "surrogateescape").split("\0")
        nodes = {
            path.removeprefix(f"{CHANGED}/"): node
            for path, node in tree.nodes.items()
            if keep(path)
        }
        for path, node in nodes.items():
            if node.kind == REGULAR and normaliser.rewrites("/" + path):
                node.data = normaliser.rewrite("/" + path, read_content(tree, node))
        _drop_unchanged(nodes, tree, rootfs)
        paths = _topmost([path.lstrip("/") for path in removed if path], nodes)
        paths = [path for path in paths if entry_of(rootfs, path) is not None]
        _add_folders(nodes, paths, rootfs)
        return pack_tree(nodes, tree, cache.blobs, epoch, WHERE, packages, paths)


def _drop_unchanged(nodes: dict[str, Node], tree: Tree, rootfs: Rootfs) -> None:
    """Take out what is in the image as it is: touched, but not changed."""
    for path in [path for path, node in nodes.items() if _is_below(path, node, tree, rootfs)]:
        del nodes[path]


def _is_below(path: str, node: Node, tree: Tree, rootfs: Rootfs) -> bool:
    found = entry_of(rootfs, path)
    if found is None or node.capability is not None:
        return False
    if node.kind == SYMLINK:
        return found.kind == "symlink" and found.target == node.link
    if (found.mode, found.uid, found.gid) != (node.mode, node.uid, node.gid):
        return False
    if node.kind == DIRECTORY:
        return found.kind == "dir"
    size = node.size if node.data is None else len(node.data)
    if found.kind != "file" or found.size != size:
        return False
    digest = hashlib.sha256()
    for block in content_of(node, tree.content, path):
        digest.update(block)
    return digest.hexdigest() == rootfs.sha256("/" + path)


def _topmost(removed: Sequence[str], nodes: dict[str, Node]) -> list[str]:
    """Give the paths that need a mark of their own: not those whose folder goes, too.

    Nor those below what was a folder and is something else now.
    """
    gone, found = set(removed), []
    for path in sorted(gone - nodes.keys()):
        above = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        replaced = (nodes.get(name) for name in above)
        if not gone.intersection(above) and all(
            node is None or node.kind == DIRECTORY for node in replaced
        ):
            found.append(path)
    return found


def _add_folders(nodes: dict[str, Node], removed: Sequence[str], rootfs: Rootfs) -> None:
    """Add the parents of what is there and of what is gone, as the image has them."""
    marks = {path: Node(REGULAR, 0o644) for path in removed}
    all_nodes = {**nodes, **marks}
    add_parents_of(all_nodes, rootfs)
    nodes.update((path, node) for path, node in all_nodes.items() if path not in marks)
