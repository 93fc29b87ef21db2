"""What new layers find below them: the folders of an image, and what they must not replace."""

from collections.abc import Iterable, Mapping

from imagekit.errors import InputError
from imagekit.images.bases.repack import Node
from imagekit.images.rootfs import Entry, Rootfs
from imagekit.images.tarwrite import DIRECTORY

_WORDS = {"dir": "a folder", "file": "a file", "symlink": "a symbolic link"}


def entry_of(rootfs: Rootfs, path: str) -> Entry | None:
    """Give what stands at a path of an image, links at its end not followed.

    Args:
        rootfs: the image.
        path: without leading slash.

    Returns:
        None where nothing is; also where the way there leads through something that is no folder.
    """
    try:
        return rootfs.entry(f"/{path}", follow=False)
    except InputError:
        return None


def add_parents_of(nodes: dict[str, Node], rootfs: Rootfs) -> None:
    """Add missing parent folders, with the modes and owners that they have in an image.

    Args:
        nodes: what a layer will hold, by path without leading slash.
        rootfs: the image below.
    """
    for path in list(nodes):
        parent = path.rpartition("/")[0]
        while parent and parent not in nodes:
            found = entry_of(rootfs, parent)
            same = found is not None and found.kind == "dir"
            mode = (found.mode, found.uid, found.gid) if found and same else (0o755, 0, 0)
            nodes[parent] = Node(DIRECTORY, *mode)
            parent = parent.rpartition("/")[0]


def folders_of(nodes: Mapping[str, Node]) -> dict[str, bool]:
    """Give nodes as :func:`check_kinds` takes them."""
    return {path: node.kind == DIRECTORY for path, node in nodes.items()}


def check_kinds(folders: Mapping[str, bool], rootfs: Rootfs, where: str) -> None:
    """Refuse to put a folder where an image has something else, or something else for a folder.

    A layer that has /lib/x makes /lib a folder: a link to usr/lib, and with it every program of the
    image, would be gone. A file in place of a folder takes all that is in the folder away.

    Args:
        folders: path without leading slash to whether it becomes a folder.
        rootfs: the image below.
        where: whose files they are, for errors.

    Raises:
        InputError: names the first such path.
    """
    for path in sorted(folders):
        found = entry_of(rootfs, path)
        if found is None or (found.kind == "dir") == folders[path]:
            continue
        there = _WORDS.get(found.kind, "a device or pipe")
        if found.kind == "symlink":
            there = f"{there} to {found.target}"
        if folders[path]:
            raise InputError(
                f"base: {where} leads through /{path}, in the image {there}",
                "name the place the link leads to" if found.target else "choose another path",
            )
        raise InputError(f"base: {where} would replace /{path}, in the image {there}, by a file",
                         "choose a path in that folder, or another one")  # fmt: skip


def parents_of(paths: Iterable[str]) -> dict[str, bool]:
    """Give paths as :func:`check_kinds` takes them: files, and the folders above them.

    Args:
        paths: absolute ones.
    """
    found = {}
    for path in paths:
        name = path.strip("/")
        found[name] = False
        while name := name.rpartition("/")[0]:
            found[name] = True
    return found
