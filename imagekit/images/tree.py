"""The merging of layers: a tree of nodes, and how a layer changes it.

The rules are those of OCI image layer.md; where it is silent, what containerd and Docker do when
they apply a layer. A tree that is built on another one copies only the folders it changes.
"""

from collections.abc import Callable

from imagekit.errors import InputError
from imagekit.images.tarindex import IndexEntry

MAX_SYMLINKS = 40
"""Symbolic links followed before a path counts as a circle (ELOOP), as in Linux."""

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_META = ".wh..wh."


class Node:
    """One file, link or folder of the merged view.

    Attributes:
        entry: kind, size, mode, owner and hash.
        layer: index of the layer that put it there.
        source: index of the layer whose tar has the content (another one for some hard links).
        children: name to node for a folder, else None.
        owner: the tree that may change this node; others copy it first.
    """

    __slots__ = ("children", "entry", "layer", "owner", "source")

    def __init__(self, entry: IndexEntry, layer: int, source: int, owner: object) -> None:
        self.entry = entry
        self.layer = layer
        self.source = source
        self.owner = owner
        self.children: dict[str, Node] | None = {} if entry.kind == "dir" else None


def folder_entry(path: str) -> IndexEntry:
    """A folder that no layer mentions but something lies in: root's, mode 0755."""
    return IndexEntry(path, "dir", 0, 0o755, 0, 0, "", 0, "")


class Tree:
    """A merged view under construction.

    Args:
        below: the root of a finished tree to build on, which stays as it is.
    """

    def __init__(self, below: Node | None = None) -> None:
        self._me = object()
        self.root = below or Node(folder_entry(""), 0, 0, self._me)
        self._folders: dict[str, Node] = {}  # of the present layer: parent as written -> node

    def apply(self, entries: tuple[IndexEntry, ...], layer: int, where: str) -> None:
        """Put a layer on top, entry by entry in the tar's order.

        Raises:
            InputError: an entry lies below a file, or a hard link has no target; names ``where``.
        """
        self._folders = {}
        for entry in entries:
            parent_path, _, name = entry.path.rpartition("/")
            if not name:
                self._restate_root(entry, layer)
                continue
            if name.startswith(_WHITEOUT):
                self._whiteout(parent_path, name, layer, where)
                continue
            parent = self._folders.get(parent_path)
            if parent is None:
                parent = self._folder(parent_path, layer, where)
                self._folders[parent_path] = parent
            self._put(parent, name, entry, layer, where)

    def _put(self, parent: Node, name: str, entry: IndexEntry, layer: int, where: str) -> None:
        children = parent.children
        assert children is not None
        present = children.get(name)
        if entry.kind == "hardlink":
            node = self._hard_link(entry, layer, where)
        else:
            node = Node(entry, layer, layer, self._me)
        if present is not None:
            # Like containerd: a folder on a folder changes its mode and keeps what is in it; all
            # else replaces what has the name, a symbolic link to a folder included.
            if present.children is not None and node.children is not None:
                node.children = (
                    present.children if present.owner is self._me else dict(present.children)
                )
            if node.children is not None or present.entry.kind in ("dir", "symlink"):
                self._folders.clear()
        elif entry.kind == "symlink":
            # A dangling way that earlier entries made folders for may lead elsewhere now.
            self._folders.clear()
        children[name] = node

    def _restate_root(self, entry: IndexEntry, layer: int) -> None:
        if entry.kind == "dir":
            root = Node(entry, layer, layer, self._me)
            root.children = dict(self.root.children or {})
            self.root = root
            self._folders.clear()

    def _hard_link(self, entry: IndexEntry, layer: int, where: str) -> Node:
        # containerd resolves links in the target's folder, but not the target itself.
        parts = entry.target.split("/")
        parent = _walk(self.root, parts[:-1], f"{where}: hard link {entry.path!r}")
        found = parent.children.get(parts[-1]) if parent and parent.children else None
        if found is None or found.children is not None:
            raise InputError(
                f"{where}: {entry.path!r} is a hard link to {entry.target!r}, which is no file",
                "the layer is damaged: build the image anew",
            )
        shared = found.entry._replace(path=entry.path)
        return Node(shared, layer, found.source, self._me)

    def _whiteout(self, parent_path: str, name: str, layer: int, where: str) -> None:
        if name.startswith(_META) and name != _OPAQUE:
            return  # AUFS's own bookkeeping, which engines skip
        if not name[len(_WHITEOUT) :]:
            raise InputError(f"{where}: a whiteout without a name", "build the image anew")
        parent = _walk(self.root, parent_path.split("/") if parent_path else [], where, lax=True)
        if parent is None or parent.children is None:
            return
        parent = self._folder(parent_path, layer, where)
        children = parent.children
        assert children is not None
        # Whiteouts hide what is below, never what the same layer brings (layer.md, "Whiteouts").
        hidden = list(children) if name == _OPAQUE else [name[len(_WHITEOUT) :]]
        for child in hidden:
            if child in children and not self._keep(children, child, layer):
                del children[child]
        self._folders.clear()

    def _keep(self, children: "dict[str, Node]", name: str, layer: int) -> bool:
        """Take out of a child what lower layers brought; whether anything is left."""
        node = children[name]
        if node.children is None:
            return node.layer == layer
        if node.owner is not self._me:
            return False  # nothing of this layer is in it
        for child in list(node.children):
            if not self._keep(node.children, child, layer):
                del node.children[child]
        return bool(node.children) or node.layer == layer

    def _folder(self, path: str, layer: int, where: str) -> Node:
        """The folder at a path, made where missing, ready to be changed.

        Symbolic links on the way are followed inside the root, as containerd and Docker do when
        they apply a layer: ``lib/x`` lands in ``usr/lib`` if a lower layer has ``lib -> usr/lib``.
        """
        parts = path.split("/") if path else []
        real = _real_parts(self.root, parts, f"{where}: {path!r}", create=True)
        assert real is not None
        self.root = node = self._own(self.root)
        for index, part in enumerate(real):
            children = node.children
            assert children is not None
            child = children.get(part)
            if child is None:
                child = Node(folder_entry("/".join(real[: index + 1])), layer, layer, self._me)
            elif child.children is None:
                at = "/" + "/".join(real[: index + 1])
                raise InputError(
                    f"{where}: {path!r}: {at} is a file, not a folder (ENOTDIR)",
                    "the layer does not fit the layers below: build the image anew",
                )
            else:
                child = self._own(child)
            children[part] = child
            node = child
        return node

    def _own(self, node: Node) -> Node:
        if node.owner is self._me:
            return node
        copy = Node(node.entry, node.layer, node.source, self._me)
        copy.children = dict(node.children or {})
        return copy


def _walk(root: Node, parts: list[str], where: str, lax: bool = False) -> Node | None:
    """The node at a path with all links followed; None if it is not there.

    With ``lax`` a circle of links or a file on the way gives None too.
    """
    try:
        real = _real_parts(root, parts, where)
    except InputError:
        if lax:
            return None
        raise
    return None if real is None else at_real(root, real)


def at_real(root: Node, parts: list[str]) -> Node | None:
    """The node at a path whose folders are no links; None if it is not there."""
    node: Node | None = root
    for part in parts:
        node = node.children.get(part) if node is not None and node.children is not None else None
    return node


def _real_parts(
    root: Node, parts: list[str], where: str, *, create: bool = False
) -> list[str] | None:
    return real_parts(root, parts, lambda problem: _unfit(where, problem), create=create)


def _unfit(where: str, problem: str) -> InputError:
    return InputError(
        f"{where}: {problem}", "the layer does not fit the layers below: build the image anew"
    )


def real_parts(
    root: Node,
    parts: list[str],
    error: Callable[[str], InputError],
    *,
    follow: bool = True,
    create: bool = False,
) -> list[str] | None:
    """The canonical names on the way to a path, links followed inside the root and never above it.

    Args:
        root: the root folder.
        parts: the path's names; "", "." and ".." may be among them.
        error: makes the error for a problem.
        follow: whether a link at the end is followed.
        create: accept missing names at the end (they will be made) in place of giving None.

    Returns:
        The names from the root, or None if there is nothing.

    Raises:
        InputError: too many links (ELOOP), or a file in a folder's place (ENOTDIR).
    """
    todo = parts[::-1]
    names: list[str] = []
    nodes: list[Node] = [root]
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            _need_folder(nodes[-1] if len(nodes) > len(names) else None, names, error)
            continue
        if part == "..":
            _need_folder(nodes[-1] if len(nodes) > len(names) else None, names, error)
            if names:
                names.pop()
                del nodes[len(names) + 1 :]
            continue
        if len(nodes) <= len(names):  # already in what is missing
            names.append(part)
            continue
        here = nodes[-1]
        _need_folder(here, names, error)
        assert here.children is not None
        child = here.children.get(part)
        if child is None:
            if not create:
                return None
            names.append(part)
        elif child.entry.kind == "symlink" and (todo or follow):
            links += 1
            if links > MAX_SYMLINKS:
                raise error("symbolic links lead in a circle (ELOOP)")
            target = child.entry.target
            if target.startswith("/"):
                names, nodes = [], [root]
            todo += target.split("/")[::-1]
        else:
            names.append(part)
            nodes.append(child)
    return names


def _need_folder(node: Node | None, names: list[str], error: Callable[[str], InputError]) -> None:
    if node is not None and node.children is None:
        raise error(f"/{'/'.join(names)} is a file, not a folder (ENOTDIR)")
