"""Writing integrity-only protected files as Occlum does, for tests.

Standard library alone, Python 3.8: the stand-in for Occlum runs it in a container. All keys are
zero, so GMAC needs no cipher: two values of AES under the zero key are constants.
"""

import struct

_H = 0x66E94BD4EF8A2C3B884CFA59CA342B2E  # AES of the zero block
_E = 0x58E2FCCEFA7E3061367F1D57A4E7455A  # AES of the first counter block, for an IV of zeros
_R = 0xE1 << 120
_NODE, _FIRST, _DATA_NODES, _CHILDREN = 4096, 3072, 96, 32
_MAGIC = 0x5347585F46494C45


def _times_x(value: int) -> int:
    return value >> 1 ^ (_R if value & 1 else 0)


def _tables() -> "list[list[int]]":
    """Products of H with each byte at each of 16 places (NIST SP 800-38D, section 6.3)."""
    powers = []
    value = _H
    for _ in range(128):
        powers.append(value)
        value = _times_x(value)
    tables = []
    for place in range(16):
        table = [0] * 256
        for bit in range(8):
            table[0x80 >> bit] = powers[8 * place + bit]
        for byte in range(256):
            low = byte & -byte
            if byte != low:
                table[byte] = table[low] ^ table[byte ^ low]
        tables.append(table)
    return tables


_TABLES = _tables()


def gmac(data: bytes) -> bytes:
    """GMAC under the zero key and the zero IV: 16 bytes."""
    total = 0
    padded = data + bytes(-len(data) % 16)
    lengths = struct.pack(">QQ", 8 * len(data), 0)
    t = _TABLES
    t0, t1, t2, t3, t4, t5, t6, t7 = t[:8]
    t8, t9, ta, tb, tc, td, te, tf = t[8:]
    for start in range(0, len(padded), 16):
        x = (total ^ int.from_bytes(padded[start : start + 16], "big")).to_bytes(16, "big")
        # fmt: off
        total = (
            t0[x[0]] ^ t1[x[1]] ^ t2[x[2]] ^ t3[x[3]] ^ t4[x[4]] ^ t5[x[5]] ^ t6[x[6]] ^ t7[x[7]]
            ^ t8[x[8]] ^ t9[x[9]] ^ ta[x[10]] ^ tb[x[11]] ^ tc[x[12]] ^ td[x[13]] ^ te[x[14]]
            ^ tf[x[15]]
        )
        # fmt: on
    x = (total ^ int.from_bytes(lengths, "big")).to_bytes(16, "big")
    total = 0
    for place in range(16):
        total ^= t[place][x[place]]
    return (total ^ _E).to_bytes(16, "big")


def mac_text(mac: bytes) -> str:
    """A tag as Occlum's tools print it: ``xx-xx-…``, 47 characters."""
    return "-".join(f"{byte:02x}" for byte in mac)


def protected_file(name: str, content: bytes) -> "tuple[bytes, str]":
    """An integrity-only protected file, and its tag as text.

    Args:
        name: of the file, which stands in it.
        content: what it holds.
    """
    rest = content[_FIRST:]
    data = [rest[start : start + _NODE].ljust(_NODE, b"\0") for start in range(0, len(rest), _NODE)]
    trees = [data[start : start + _DATA_NODES] for start in range(0, len(data), _DATA_NODES)]
    nodes = [b""] * len(trees)
    tags = [b""] * len(trees)
    for number in reversed(range(len(trees))):  # children come after their parents
        entries = [bytes(16) + gmac(node) for node in trees[number]]
        entries += [bytes(32)] * (_DATA_NODES - len(entries))
        first = _CHILDREN * number + 1
        children = tags[first : first + _CHILDREN]
        entries += [bytes(16) + tag for tag in children]
        entries += [bytes(32)] * (_CHILDREN - len(children))
        nodes[number] = b"".join(entries)
        tags[number] = gmac(nodes[number])
    meta = name.encode().ljust(260, b"\0") + struct.pack("<q", len(content)) + bytes(20)
    meta += bytes(16) + (tags[0] if tags else bytes(16)) + content[:_FIRST].ljust(_FIRST, b"\0")
    tag = gmac(meta)
    plain = struct.pack("<QBB", _MAGIC, 1, 0) + bytes(32 + 16 + 2) + b"\1" + bytes(16)
    first_node = (plain + tag + b"\0\1" + meta).ljust(_NODE, b"\0")
    body = b"".join(node + b"".join(tree) for node, tree in zip(nodes, trees))  # noqa: B905 - 3.8
    return first_node + body, mac_text(tag)
