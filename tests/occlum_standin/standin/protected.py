"""Integrity-only protected files: writing, and reading with every tag checked."""

from __future__ import annotations

import struct

from standin.gmac import gmac

NODE, FIRST, DATA_NODES, CHILDREN = 4096, 3072, 96, 32
MAGIC = 0x5347585F46494C45

_PLAIN = struct.Struct("<QBB32s16s2sB16s16sBB")
_META = struct.Struct("<260sq16sI16s16s3072s")
_END = _PLAIN.size + _META.size


class Damaged(Exception):
    """A protected file that is none, or was changed."""


def mac_text(mac: bytes) -> str:
    """Give a tag as Occlum spells it."""
    return "-".join(f"{byte:02x}" for byte in mac)


def protect(content: bytes, filename: str) -> tuple[bytes, bytes]:
    """Give the protected file of a content, and its root tag."""
    data = [content[at : at + NODE] for at in range(FIRST, len(content), NODE)]
    data = [node.ljust(NODE, b"\0") for node in data]
    macs = [gmac(node) for node in data]
    tree: dict[int, bytes] = {}
    tree_macs: dict[int, bytes] = {}
    count = -(-len(data) // DATA_NODES)
    for index in reversed(range(count)):
        children = range(CHILDREN * index + 1, min(CHILDREN * (index + 1) + 1, count))
        entries = macs[DATA_NODES * index : DATA_NODES * (index + 1)]
        entries += [bytes(16)] * (DATA_NODES - len(entries))
        entries += [tree_macs[child] for child in children]
        node = b"".join(bytes(16) + mac for mac in entries).ljust(NODE, b"\0")
        tree[index], tree_macs[index] = node, gmac(node)
    meta = _META.pack(
        filename.encode("utf-8", "surrogateescape").ljust(260, b"\0"),
        len(content),
        bytes(16),
        0,
        bytes(16),
        tree_macs.get(0, bytes(16)),
        content[:FIRST].ljust(FIRST, b"\0"),
    )
    mac = gmac(meta)
    head = _PLAIN.pack(MAGIC, 1, 0, bytes(32), bytes(16), bytes(2), 1, bytes(16), mac, 0, 1)
    nodes = [(head + meta).ljust(NODE, b"\0")]
    for index in range(count):
        nodes += [tree[index], *data[DATA_NODES * index : DATA_NODES * (index + 1)]]
    return b"".join(nodes), mac


def unprotect(data: bytes, filename: str) -> tuple[bytes, bytes]:
    """Give content and root tag.

    Raises:
        Damaged: it is not the file of that name, or not intact.
    """
    if len(data) < NODE or len(data) % NODE:
        raise Damaged(f"{filename}: not a protected file")
    magic, *_, mac, _, integrity_only = _PLAIN.unpack_from(data)
    if magic != MAGIC or integrity_only != 1:
        raise Damaged(f"{filename}: not an integrity-only protected file")
    if gmac(data[_PLAIN.size : _END]) != mac:
        raise Damaged(f"{filename}: the root tag is wrong")
    name, size, _, _, _, root, first = _META.unpack_from(data, _PLAIN.size)
    if name.rstrip(b"\0") != filename.encode("utf-8", "surrogateescape"):
        raise Damaged(f"{filename}: was written under another name")
    count = -(-max(size - FIRST, 0) // NODE)
    trees = -(-count // DATA_NODES)
    if size < 0 or len(data) // NODE != 1 + count + trees:
        raise Damaged(f"{filename}: the size does not fit")
    parts, expected = [first], {0: root}
    for index in range(trees):
        start = NODE * (1 + index * (DATA_NODES + 1))
        node = data[start : start + NODE]
        if gmac(node) != expected[index]:
            raise Damaged(f"{filename}: the tag of tree node {index} is wrong")
        for child in range(CHILDREN):
            at = 32 * (DATA_NODES + child) + 16
            expected[CHILDREN * index + 1 + child] = node[at : at + 16]
        for place in range(min(DATA_NODES, count - index * DATA_NODES)):
            start += NODE
            part = data[start : start + NODE]
            if gmac(part) != node[32 * place + 16 : 32 * place + 32]:
                raise Damaged(f"{filename}: the tag of a data node is wrong")
            parts.append(part)
    return b"".join(parts)[:size], mac
