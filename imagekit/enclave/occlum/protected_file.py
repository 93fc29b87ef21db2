"""Protected files of Occlum's SGX SDK, those that are integrity-only: reading and checking them.

Occlum keeps its internal configuration and the files of an enclave's tree in them. Such a file is
plain text in nodes of 4096 bytes, each with a tag of 16 bytes: node 0 has the file's name, size and
first 3072 bytes; the rest follows in data nodes, whose tags stand in nodes of a tree, the tag of
whose root stands in node 0. The tag of node 0, the *root tag*, names the whole file.

What these tags are worth: against accidents everything, against people nothing. A tag is AES-GMAC
(NIST SP 800-38D) under a key and an initial value of zeros, both known to everybody. GMAC is linear
in what it authenticates: whoever knows the key changes a file at will, sets 16 other bytes so that
the change cancels out, and has another file with the same tag; that takes no search, just the
solution of linear equations. It is no cryptographic hash. A measurement that holds such a tag does
not pin the file, so imagekit keeps a list of SHA-256 hashes beside it
(:mod:`imagekit.enclave.occlum.rootfs_manifest`).

Source: Occlum 0.26 to 0.31 with its forks of the Intel SGX SDK; checked on files that they wrote.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from imagekit.errors import CheckError, InputError, printable

NODE_SIZE = 4096
"""Bytes of a node; a file is a whole number of them."""
FIRST_DATA = 3072
"""Bytes of content that node 0 has."""
MAC_SIZE = 16
"""Bytes of a tag."""

_MAGIC = 0x5347585F46494C45
_VERSION = (1, 0)
# Node 0, little-endian: magic, version, key id, CPU SVN, ISV SVN, use of a user's key, attribute
# mask, root tag, update flag, integrity-only flag. None of these is under the tag.
_PLAIN = struct.Struct("<QBB32s16s2sB16s16sBB")
# Under the tag: file name, size, id and value of a counter, key and tag of the tree's root.
_META = struct.Struct("<260sq16sI16s16s")
_META_SIZE = _META.size + FIRST_DATA
_META_END = _PLAIN.size + _META_SIZE
_NO_KEY = bytes(16)
_DATA_PER_TREE_NODE, _CHILDREN = 96, 32
_ENTRY = struct.Struct("16s16s")  # key and tag; 96 of data nodes, then 32 of tree nodes
_HINT = "take the file that occlum build wrote"


@dataclass(frozen=True)
class ProtectedFile:
    """An integrity-only protected file, all of its tags checked.

    Attributes:
        mac: the root tag, 16 bytes.
        filename: the file's own name, without folder. The tag covers it, and Occlum does not open
            the file under another one.
        size: bytes of content.
        content: what the file holds.
    """

    mac: bytes
    filename: str
    size: int
    content: bytes = field(repr=False)


def read_protected_file(data: bytes, name: str) -> ProtectedFile:
    """Read an integrity-only protected file and check every tag in it.

    Bytes behind the content in its last node are under a tag and may be anything.

    Args:
        data: the whole file. No more than its size again is needed in memory.
        name: how the file is called in error messages.

    Raises:
        InputError: no protected file, one of another version, an encrypted one, or one whose size
            does not fit its nodes.
        CheckError: a tag is wrong; with the node.
    """
    mac, meta = _read_head(data, name)
    filename, size, _, _, tree_key, tree_mac = _META.unpack_from(meta)
    data_nodes = -(-max(size - FIRST_DATA, 0) // NODE_SIZE)
    tree_nodes = -(-data_nodes // _DATA_PER_TREE_NODE)
    nodes = len(data) // NODE_SIZE
    if size < 0 or 1 + tree_nodes + data_nodes != nodes:
        raise InputError(f"{name}: says it holds {size} bytes, but has {nodes} nodes", _HINT)
    if tree_nodes:
        _check_key(tree_key, name, 1)
        _check(_node(data, 1), tree_mac, name, "node 1 (the tree's root)")
        for parent in range(tree_nodes):
            _check_below(data, name, parent, data_nodes)
    parts = [meta[_META.size : _META.size + min(size, FIRST_DATA)]]
    left = size - FIRST_DATA
    for index in range(data_nodes):
        parts.append(_node(data, _data_place(index))[:left])
        left -= NODE_SIZE
    return ProtectedFile(mac, _file_name(filename, name), size, b"".join(parts))


def is_encrypted(data: bytes) -> bool:
    """Tell whether a file says that it is an encrypted protected file, of which no tag fits here.

    Args:
        data: the file, or at least its first node.
    """
    if len(data) < NODE_SIZE:
        return False
    magic, *_, integrity_only = _PLAIN.unpack_from(data)
    return bool(magic == _MAGIC and integrity_only == 0)


def _read_head(data: bytes, name: str) -> tuple[bytes, memoryview]:
    """Give the root tag and the part of node 0 that it is for."""
    if len(data) < 8 or int.from_bytes(data[:8], "little") != _MAGIC:
        raise InputError(f"{name}: not a protected file of the SGX SDK", _HINT)
    if len(data) % NODE_SIZE:
        raise InputError(
            f"{name}: has {len(data)} bytes, which is no whole number of nodes; it is truncated",
            _HINT,
        )
    _, major, minor, _, _, _, user_key, _, mac, updating, integrity_only = _PLAIN.unpack_from(data)
    if (major, minor) != _VERSION:
        raise InputError(f"{name}: protected file of version {major}.{minor}, known is 1.0", _HINT)
    if integrity_only != 1:
        raise InputError(
            f"{name}: an encrypted protected file; only integrity-only ones can be read",
            "the tags of encrypted files are under a secret key",
        )
    if user_key != 1:
        raise InputError(f"{name}: the tags are under a key of one machine", _HINT)
    if updating:
        raise InputError(f"{name}: was not written to its end", _HINT)
    if any(data[_META_END:NODE_SIZE]):
        raise InputError(f"{name}: there is something behind the tagged part of node 0", _HINT)
    meta = memoryview(data)[_PLAIN.size : _META_END]
    _check(meta, mac, name, "node 0")
    return mac, meta


def _check_below(data: bytes, name: str, parent: int, data_nodes: int) -> None:
    """Check the nodes that a tree node has entries of; tree nodes are numbered breadth first."""
    entries = list(_ENTRY.iter_unpack(_node(data, _tree_place(parent))))
    for place, what, (key, mac) in _below(parent, data_nodes, entries):
        _check_key(key, name, place)
        _check(_node(data, place), mac, name, f"node {place} ({what})")


def _below(
    parent: int, data_nodes: int, entries: list[tuple[bytes, bytes]]
) -> Iterator[tuple[int, str, tuple[bytes, bytes]]]:
    tree_nodes = -(-data_nodes // _DATA_PER_TREE_NODE)
    first = parent * _DATA_PER_TREE_NODE
    for index in range(first, min(first + _DATA_PER_TREE_NODE, data_nodes)):
        yield _data_place(index), f"data {index}", entries[index - first]
    first = parent * _CHILDREN + 1
    for child in range(first, min(first + _CHILDREN, tree_nodes)):
        place = _DATA_PER_TREE_NODE + child - first
        yield _tree_place(child), f"tree {child}", entries[place]


def _tree_place(index: int) -> int:
    """Number of the node that is the tree's node `index`, each followed by its data nodes."""
    return 1 + index * (1 + _DATA_PER_TREE_NODE)


def _data_place(index: int) -> int:
    parent, place = divmod(index, _DATA_PER_TREE_NODE)
    return _tree_place(parent) + 1 + place


def _node(data: bytes, place: int) -> memoryview:
    return memoryview(data)[place * NODE_SIZE : (place + 1) * NODE_SIZE]


def _check(content: memoryview, mac: bytes, name: str, what: str) -> None:
    if gmac(content) != mac:
        raise CheckError(
            f"{name}: the tag (MAC) of {what} is wrong: the file was changed or damaged",
            "build it again; do not use this one",
        )


def _check_key(key: bytes, name: str, place: int) -> None:
    if key != _NO_KEY:
        raise InputError(
            f"{name}: node {place} has a key of its own, as in encrypted files only", _HINT
        )


def gmac(content: bytes | memoryview) -> bytes:
    """Give the tag of a node: AES-128-GMAC under a key and an initial value of zeros.

    This is no hash; see above.

    Args:
        content: what is authenticated.

    Returns:
        16 bytes.
    """
    # Imported where it is used: most commands never come here.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_NO_KEY).encrypt(bytes(12), b"", content)


def _file_name(field: bytes, name: str) -> str:
    text, end, _ = field.partition(b"\0")
    if not text or not end:
        raise InputError(f"{name}: has no name of its own in it", _HINT)
    return text.decode("utf-8", "backslashreplace")


def mac_text(mac: bytes) -> str:
    """Give a tag as Occlum spells it: ``36-c2-…-5a``, 47 characters, no line end.

    Raises:
        ValueError: not 16 bytes.
    """
    if len(mac) != MAC_SIZE:
        raise ValueError(f"a tag has {MAC_SIZE} bytes, not {len(mac)}")
    return mac.hex("-")


def parse_mac_text(text: str | bytes, name: str) -> bytes:
    """Read a tag as Occlum spells it; one line end behind it is taken.

    Args:
        text: such as the content of ``.ROOT_MAC``, or a value of the internal configuration.
        name: how it is called in error messages.

    Raises:
        InputError: anything else.
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    line = text.removesuffix("\n")
    pairs = line.split("-") if len(line) == 3 * MAC_SIZE - 1 else []
    digits = "0123456789abcdefABCDEF"
    if len(pairs) != MAC_SIZE or not all(
        len(pair) == 2 and pair[0] in digits and pair[1] in digits for pair in pairs
    ):
        raise InputError(
            f"{name}: {printable(line[:60])!r} is no tag",
            "a tag is 16 pairs of hexadecimal digits with dashes between them",
        )
    return bytes.fromhex("".join(pairs))
