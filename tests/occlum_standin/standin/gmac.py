"""AES-128-GMAC under an all-zero key and initial value (NIST SP 800-38D), without AES.

Of AES only two blocks are needed, and with a fixed key they are constants. Where the package
cryptography is at hand it does the work, some hundred times as quickly.
"""

from __future__ import annotations

import os
import sys
from typing import Callable  # noqa: UP035 - Python 3.8

HASH_KEY = 0x66E94BD4EF8A2C3B884CFA59CA342B2E
"""AES of the zero block: H."""
FIRST_BLOCK = 0x58E2FCCEFA7E3061367F1D57A4E7455A
"""AES of the first counter block, 15 zero bytes and a one: what the tag is masked with."""

TOOLS = "/opt/imagekit-tools"  # where bases of tests have Python packages


def _tables(key: int) -> list[list[int]]:
    """For each byte of a block: the products of its 256 values with the hash key."""
    powers = []  # of x, times the key; the first bit of a block is the coefficient of 1
    for _ in range(128):
        powers.append(key)
        key = key >> 1 ^ (0xE1 << 120 if key & 1 else 0)
    tables = []
    for place in range(0, 128, 8):
        row = [0] * 256
        for number in range(1, 256):
            low = number & -number
            bit = 8 - low.bit_length()
            row[number] = row[number ^ low] ^ powers[place + bit]
        tables.append(row)
    return tables


_A, _B, _C, _D, _E, _F, _G, _H, _I, _J, _K, _L, _M, _N, _O, _P = _tables(HASH_KEY)


def plain_gmac(content: bytes) -> bytes:
    """Give the tag, in plain Python."""
    length = len(content)
    blocks = content + bytes(-length % 16) + (8 * length).to_bytes(8, "big") + bytes(8)
    number = int.from_bytes
    value = 0
    for start in range(0, len(blocks), 16):
        b = (value ^ number(blocks[start : start + 16], "big")).to_bytes(16, "big")
        value = (
            _A[b[0]] ^ _B[b[1]] ^ _C[b[2]] ^ _D[b[3]] ^ _E[b[4]] ^ _F[b[5]] ^ _G[b[6]] ^ _H[b[7]]
        )
        value ^= _I[b[8]] ^ _J[b[9]] ^ _K[b[10]] ^ _L[b[11]]
        value ^= _M[b[12]] ^ _N[b[13]] ^ _O[b[14]] ^ _P[b[15]]
    return (value ^ FIRST_BLOCK).to_bytes(16, "big")


def _find() -> Callable[[bytes], bytes]:
    if os.path.isdir(TOOLS):  # noqa: PTH112
        sys.path.append(TOOLS)
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        return plain_gmac
    cipher = AESGCM(bytes(16))
    return lambda content: cipher.encrypt(bytes(12), b"", content)


gmac = _find()
"""Gives the tag of some bytes."""
