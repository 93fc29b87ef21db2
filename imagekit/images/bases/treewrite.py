"""Trees become layers: sorted, with one time for all."""

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from imagekit.errors import InputError
from imagekit.images.bases.repack import CAPABILITY, Node, check_name, content_of
from imagekit.images.layers import Layer, LayerWriter
from imagekit.images.store import BlobStore
from imagekit.images.tarwrite import (
    DIRECTORY,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Member,
    header,
    padding,
)

_WHITEOUT = ".wh."


def write_tree(
    tree: Mapping[str, Node],
    content: BinaryIO,
    store: BlobStore,
    epoch: int,
    where: str,
    removed: Sequence[str] = (),
) -> Layer:
    """Write nodes as one layer, sorted by path in byte order, every time being ``epoch``.

    Args:
        tree: nodes by path inside the image, without leading slash; parents must be among them.
        content: where the nodes' offsets point to.
        store: where the layer goes.
        epoch: seconds since 1970.
        where: what the archive is called in errors.
        removed: paths of the layers below that are gone, whose parents are among the nodes; each
            becomes a whiteout (OCI image-spec, "Whiteouts").

    Raises:
        InputError: a path lies below something that is no directory, or the disk refuses.
    """
    for path in tree:
        check_name(path, where)
    tree = {**tree, **{_whiteout(path): Node(REGULAR, 0o644, data=b"") for path in removed}}
    order = sorted(tree, key=lambda path: path.encode("utf-8", "surrogateescape"))
    written: dict[int, str] = {}
    with LayerWriter(store) as writer:
        for path in order:
            parent = path.rpartition("/")[0]
            if parent and (parent not in tree or tree[parent].kind != DIRECTORY):
                raise InputError(
                    f"{where}: {path} lies below {parent}, which is no directory",
                    "give the path without symbolic links",
                )
            _write_node(writer, path, tree[path], content, epoch, written)
        return writer.commit()


def _whiteout(path: str) -> str:
    parent, slash, name = path.rpartition("/")
    return f"{parent}{slash}{_WHITEOUT}{name}"


def _write_node(
    writer: LayerWriter,
    path: str,
    node: Node,
    content: BinaryIO,
    epoch: int,
    written: dict[int, str],
) -> None:
    name = path.encode("utf-8", "surrogateescape")
    mode = 0o777 if node.kind == SYMLINK else node.mode
    records = {f"SCHILY.xattr.{CAPABILITY}": node.capability} if node.capability else {}
    first = written.setdefault(id(node), path)
    if first != path and node.kind == REGULAR:
        link = first.encode("utf-8", "surrogateescape")
        member = Member(name, HARDLINK, 0, mode, node.uid, node.gid, epoch, link, records)
        writer.write(header(member))
        return
    size = len(node.data) if node.data is not None else node.size
    link = node.link.encode("utf-8", "surrogateescape")
    writer.write(
        header(Member(name, node.kind, size, mode, node.uid, node.gid, epoch, link, records))
    )
    if node.kind == REGULAR:
        for block in content_of(node, content, path):
            writer.write(block)
    writer.write(padding(size))
