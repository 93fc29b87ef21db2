"""Finding private keys in any bytes, without ever repeating what they hold.

PEM: the line ``-----BEGIN … PRIVATE KEY-----`` followed by a base64 body that decodes (RFC 7468;
older encrypted keys have ``Proc-Type`` headers in between). The bare line is a string constant of
every TLS library and no finding. DER: the RSAPrivateKey structure (RFC 8017, A.1.2), also inside
PKCS#8.
"""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass

LOOKAHEAD = 32 << 10
"""Bytes from the begin of a key that are looked at; an RSA key of 16384 bits is 13 KiB of PEM."""

_PEM_MARK = b"PRIVATE KEY-----"
_PEM_BEGIN = re.compile(rb"-----BEGIN ((?:[A-Z0-9]{1,12} ){0,3})PRIVATE KEY-----")
_BEFORE = 96
"""Bytes before a mark that are looked at for the begin of the key."""

# How a line ends inside PEM: truly, or escaped in JSON and in environment variables.
_PEM_LINE = re.compile(rb"[ \t]*(?:\r\n|\n|\r|(?:\\{1,4}r)?\\{1,4}n|\\{1,4}r)[ \t]*")
_PEM_HEADER = re.compile(rb"[A-Za-z][A-Za-z-]{1,30}: [^\r\n\\]{1,200}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{1,76}={0,2}")
_BASE64_LONG = re.compile(rb"[A-Za-z0-9+/]{48,}={0,2}")
_SMALLEST_PEM = 40  # an Ed25519 key in PKCS#8 is 48 bytes

_DER_MARK = b"\x02\x01\x00\x02"  # version 0, and the tag of the modulus
_DER_WORD = int.from_bytes(_DER_MARK, "little")
_SMALLEST_MODULUS = 64
_LARGEST_MODULUS = 2048
_PKCS8_RSA = bytes.fromhex("020100300d06092a864886f70d01010105000482")


@dataclass(frozen=True)
class KeyFinding:
    """A private key that was found. Never holds any part of the key.

    Attributes:
        layer: index of the layer, 0 the lowest; -1 when it was not in a layer.
        path: absolute path of the file inside the layer; "" when it was not in a file.
        offset: bytes from the begin of the file (or text) to the begin of the key.
        kind: what it is, as in "RSA private key (PEM)".
    """

    layer: int
    path: str
    offset: int
    kind: str

    def __str__(self) -> str:
        place = f"layer {self.layer + 1}, " if self.layer >= 0 else ""
        file = f"{self.path}, " if self.path else ""
        return f"{place}{file}offset {self.offset}: {self.kind}"


def find_keys(data: bytes) -> list[KeyFinding]:
    """The private keys in a text or file that is in memory, such as an image's config.

    Args:
        data: any bytes. Line ends of PEM may be escaped, as they are in JSON.

    Returns:
        One finding per key, by offset; layer -1, path "".
    """
    scanner = KeyScanner()
    scanner.feed(data)
    return [KeyFinding(-1, "", offset, kind) for offset, kind in scanner.finish()]


class KeyScanner:
    """Searches a stream that comes in blocks; keys may lie across their borders.

    A block is searched for marks when it comes, and the marks are looked at when the next block is
    there, so that what follows a mark is at hand without copying the stream.
    """

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []
        self._small = b""
        self._before = b""  # the last bytes before the block
        self._block = b""
        self._start = 0  # position of the block in the stream

    def feed(self, block: bytes) -> None:
        """Search the next block."""
        if self._small:
            block = self._small + block
        if len(block) < LOOKAHEAD:
            self._small = block
        else:
            self._small = b""
            self._advance(block)

    def finish(self) -> list[tuple[int, str]]:
        """Search the rest; gives (offset in the stream, kind) of every key, by offset."""
        self._advance(self._small)
        self._advance(b"")
        self._small = b""
        return sorted(self.found)

    def _advance(self, following: bytes) -> None:
        pem, der = _marks(self._block)
        seam = max(0, len(self._block) - len(_PEM_MARK) + 1)
        border = self._block[seam:] + following[: len(_PEM_MARK) - 1]
        pem += [seam + at for at in _all(border, _PEM_MARK)]
        # The same place may be seen in the block and at its border.
        der = sorted({*der, *(seam + at for at in _all(border, _DER_MARK))})
        for at in pem:
            self._look(at, following, _pem_key)
        for at in der:
            if at < len(self._block):
                self._look(at, following, _der_key)
        self._start += len(self._block)
        self._before = (self._before + self._block[-_BEFORE:])[-_BEFORE:]
        self._block = following

    def _look(self, mark: int, following: bytes, judge: "_Judge") -> None:
        first = mark - _BEFORE
        text = self._before[first:] if first < 0 else b""
        lead = _BEFORE if first >= 0 else len(text) + mark
        text += self._block[max(0, first) : mark + LOOKAHEAD]
        text += following[: max(0, mark + LOOKAHEAD - len(self._block))]
        found = judge(text, lead)
        if found:
            self.found.append((self._start + mark - lead + found[0], found[1]))


_Judge = Callable[[bytes, int], tuple[int, str] | None]


def _all(data: bytes, pattern: bytes) -> list[int]:
    found = []
    at = data.find(pattern)
    while at >= 0:
        found.append(at)
        at = data.find(pattern, at + 1)
    return found


def _marks(data: bytes) -> tuple[list[int], list[int]]:
    """Where ``PRIVATE KEY-----`` and where 02 01 00 02 stand in a block.

    With numpy, four bytes compared at once: bytes.find takes as long as SHA-256 for such patterns
    and holds the interpreter lock, while numpy lets the hashing threads run.
    """
    import numpy as np

    pem: list[int] = []
    der: list[int] = []
    if len(data) < 8:
        return pem, _all(data, _DER_MARK)
    equal = np.empty(len(data) // 4, np.bool_)
    for shift in range(4):
        # Wherever the PEM mark stands, one of its first four words lies on a multiple of four.
        word = int.from_bytes(_PEM_MARK[shift : shift + 4], "little")
        np.equal(np.frombuffer(data, "<u4", len(data) // 4), word, out=equal)
        if equal.any():
            places = (np.flatnonzero(equal) * 4 - shift).tolist()
            pem += [at for at in places if at >= 0 and data.startswith(_PEM_MARK, at)]
        count = max(0, len(data) - shift) // 4
        np.equal(np.frombuffer(data, "<u4", count, shift), _DER_WORD, out=equal[:count])
        if equal[:count].any():
            der += (np.flatnonzero(equal[:count]) * 4 + shift).tolist()
    return pem, der


def _pem_key(data: bytes, mark: int) -> tuple[int, str] | None:
    """The key whose begin line has its mark there: (offset, kind)."""
    end = mark + len(_PEM_MARK)
    first = data.rfind(b"-----BEGIN ", 0, mark)
    match = _PEM_BEGIN.fullmatch(data, first, end) if first >= 0 else None
    encrypted = _pem_body(data[end:]) if match else None
    if not match or encrypted is None:
        return None
    label = match[1].decode("ascii").strip()
    name = f"{label} private key" if label else "private key"
    return first, f"{name} (PEM{encrypted})"


def _der_key(data: bytes, mark: int) -> tuple[int, str] | None:
    """The key whose version stands there: (offset, kind)."""
    begin = _der_begin(data, mark)
    if begin is None or not _is_rsa_key(data[mark + 3 :]):
        return None
    pkcs8 = _PKCS8_RSA in data[max(0, begin - 24) : begin]
    return begin, "RSA private key (DER, PKCS#8)" if pkcs8 else "RSA private key (DER)"


def _pem_body(data: bytes) -> str | None:
    """What follows the begin line: "" for a key, ", encrypted" for an encrypted one, else None."""
    at, body, encrypted = 0, b"", ""
    while True:
        line = _PEM_LINE.match(data, at)
        at = line.end() if line else at
        header = _PEM_HEADER.match(data, at)
        if header and not body:
            if b"ENCRYPTED" in header[0]:
                encrypted = ", encrypted"
            at = header.end()
            continue
        # Without a line end the whole body may stand on one line.
        text = (_BASE64_LONG if line is None or not body else _BASE64).match(data, at)
        text = text or (_BASE64.match(data, at) if line else None)
        if not text:
            if line and _PEM_LINE.match(data, at):
                continue
            break
        body += text[0]
        at = text.end()
        if not _PEM_LINE.match(data, at):
            break
    return encrypted if _decodes(body) else None


def _decodes(body: bytes) -> bool:
    """Whether the body is base64 of something as large and as varied as a key."""
    body = body.rstrip(b"=")
    body = body[: len(body) - (len(body) % 4 == 1)]
    try:
        raw = base64.b64decode(body + b"=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    # "AAAA…" and "xxxx…" in documentation are no keys.
    return len(raw) >= _SMALLEST_PEM and len(set(raw)) >= 16


def _der_begin(data: bytes, version: int) -> int | None:
    """Where the SEQUENCE begins whose first element is the version at that offset."""
    for width, mark in ((4, b"\x30\x82"), (3, b"\x30\x81")):
        begin = version - width
        if begin >= 0 and data.startswith(mark, begin):
            return begin
    return None


def _is_rsa_key(data: bytes) -> bool:
    """Whether the data begins with n, e, d, p, q of the sizes an RSA key has."""
    at, sizes = 0, list[int]()
    for _ in range(5):
        integer = _integer(data, at)
        if integer is None:
            return False
        size, at = integer
        sizes.append(size)
    n, e, d, p, q = sizes
    return (
        _SMALLEST_MODULUS <= n <= _LARGEST_MODULUS
        and 1 <= e <= 8
        and n // 2 <= d <= n
        and abs(p - n / 2) <= n / 4
        and abs(p + q - n) <= 2
    )


def _integer(data: bytes, at: int) -> tuple[int, int] | None:
    """(bytes of the number without its sign byte, offset behind it) of a DER INTEGER."""
    if data[at : at + 1] != b"\x02" or at + 2 > len(data):
        return None
    size, at = data[at + 1], at + 2
    if size & 0x80:
        width = size & 0x7F
        if width not in (1, 2) or at + width > len(data):
            return None
        size, at = int.from_bytes(data[at : at + width], "big"), at + width
    end = at + size
    if not size or end > len(data) or data[at] & 0x80:
        return None
    return size - (data[at] == 0), end
