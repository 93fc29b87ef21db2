"""A tree becomes a layer of a base, with what the layers above need to know of it."""

from collections.abc import Sequence

from imagekit.enclave.standin import is_standin
from imagekit.images.bases.cache import LayerRecord
from imagekit.images.bases.packages import Package
from imagekit.images.bases.repack import Node, Tree, add_parents, read_content
from imagekit.images.bases.treewrite import write_tree
from imagekit.images.store import BlobStore
from imagekit.images.tarwrite import DIRECTORY, REGULAR, SYMLINK

_PAL = "/sgx/libpal.so"


def pack_tree(
    nodes: dict[str, Node],
    tree: Tree,
    store: BlobStore,
    epoch: int,
    where: str,
    packages: tuple[Package, ...] = (),
    removed: Sequence[str] = (),
) -> LayerRecord:
    """Write nodes as a layer.

    Args:
        nodes: what goes into it, by path; missing parents are added to them.
        tree: where their content is.
        store: where the layer goes.
        epoch: seconds since 1970, the time of every entry.
        where: what it is called in errors.
        packages: those that are in it.
        removed: paths of layers below that are gone.

    Raises:
        InputError: as for :func:`imagekit.images.bases.treewrite.write_tree`.
    """
    add_parents(nodes, {})
    layer = write_tree(nodes, tree.content, store, epoch, where, removed)
    standin = any(
        is_standin(read_content(tree, node))
        for path, node in nodes.items()
        if node.kind == REGULAR and ("/" + path).endswith(_PAL)
    )
    return LayerRecord(
        layer,
        packages,
        {
            path: Node(DIRECTORY, node.mode, node.uid, node.gid)
            for path, node in nodes.items()
            if node.kind == DIRECTORY and (node.mode, node.uid, node.gid) != (0o755, 0, 0)
        },
        {path: node.link for path, node in nodes.items() if node.kind == SYMLINK},
        standin,
    )
