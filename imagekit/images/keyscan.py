"""Finding private keys in any bytes, without ever repeating what they hold.

A stream is searched for the marks of PEM and DER; what stands around a mark is judged in
:mod:`imagekit.images.keyforms`. The bare begin line of PEM is a string constant of every TLS
library and no finding.
"""

from collections.abc import Callable
from dataclasses import dataclass

from imagekit.images.keyforms import DER_MARK, PEM_MARK, Found, der_key, pem_key

LOOKAHEAD = 32 << 10
"""Bytes from the begin of a key that are looked at; an RSA key of 16384 bits is 13 KiB of PEM."""

_BEFORE = 96
"""Bytes before a mark that are looked at for the begin of the key."""


_SEAM = len(PEM_MARK) - 1

# Two bytes of a mark that are looked for, at even (0) or odd (1) offsets, and where in the mark
# they are; another way for when they are frequent. Of five dashes two lie at an even offset.
_Ways = tuple[tuple[tuple[bytes, int, tuple[int, ...]], ...], ...]
_PEM_PAIRS: _Ways = (((b"--", 0, (11, 12)),), ((b"Y-", 0, (10,)), (b"Y-", 1, (10,))))
_DER_PAIRS: _Ways = (
    ((b"\x02\x01", 0, (0,)), (b"\x02\x01", 1, (0,))),
    ((b"\x00\x02", 0, (2,)), (b"\x00\x02", 1, (2,))),
)
_FREQUENT = 300


@dataclass(frozen=True)
class KeyFinding:
    """A private key that was found. Never holds any part of the key.

    Attributes:
        layer: index of the layer, 0 the lowest; -1 when it was not in a layer.
        path: absolute path of the file inside the layer; "" when it was not in a file.
        offset: bytes from the begin of the file (or text) to the begin of the key.
        kind: what it is, as in "RSA private key (PEM)".
        program: it stands inside an ELF program or library.
        sgx: an enclave can be signed with it (RSA, 3072 bits, exponent 3), or that cannot be known,
            as it is encrypted or cut off.
        signer: for RSA keys of 3072 bits the MRSIGNER of what they sign (64 hex digits: the SHA-256
            of the public modulus, little endian), whatever their exponent; else "".
    """

    layer: int
    path: str
    offset: int
    kind: str
    program: bool
    sgx: bool
    signer: str

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
    return [
        KeyFinding(-1, "", key.offset, key.kind, False, key.sgx, key.signer)
        for key in scanner.finish()
    ]


class KeyScanner:
    """Searches a stream that comes in blocks; keys may lie across their borders.

    A block is searched for marks when it comes, and the marks are looked at when the next block is
    there, so that what follows a mark is at hand without copying the stream.
    """

    def __init__(self) -> None:
        self.found: list[Found] = []
        self._small = b""
        self._before = b""  # the last bytes before the block
        self._block = b""
        self._marks: tuple[list[int], list[int]] = [], []
        self._start = 0  # position of the block in the stream
        self._search = _MarkSearch()

    def feed(self, block: bytes) -> None:
        """Search the next block."""
        if self._small:
            block = self._small + block
        if len(block) < LOOKAHEAD:
            self._small = block
        else:
            self._small = b""
            self._advance(block)

    def finish(self) -> list[Found]:
        """Search the rest; gives every key, by offset."""
        self._advance(self._small)
        self._advance(b"")
        self._small = b""
        return sorted(self.found)

    def _advance(self, following: bytes) -> None:
        pem, der = self._marks
        seam = max(0, len(self._block) - _SEAM)
        border = self._block[seam:] + following[:_SEAM]
        # The same place may be seen in the block and at its border.
        for at in sorted({*pem, *(seam + at for at in _all(border, PEM_MARK))}):
            if at < len(self._block):
                self._look(at, following, pem_key)
        for at in sorted({*der, *(seam + at for at in _all(border, DER_MARK))}):
            if at < len(self._block):
                self._look(at, following, der_key)
        self._start += len(self._block)
        self._before = (self._before + self._block[-_BEFORE:])[-_BEFORE:]
        self._block = following
        self._marks = self._search.marks(following)

    def _look(self, mark: int, following: bytes, judge: "_Judge") -> None:
        first = mark - _BEFORE
        text = self._before[first:] if first < 0 else b""
        lead = _BEFORE if first >= 0 else len(text) + mark
        text += self._block[max(0, first) : mark + LOOKAHEAD]
        text += following[: max(0, mark + LOOKAHEAD - len(self._block))]
        found = judge(text, lead)
        if found:
            self.found.append(found._replace(offset=self._start + mark - lead + found.offset))


_Judge = Callable[[bytes, int], Found | None]


def _all(data: bytes, pattern: bytes) -> list[int]:
    found = []
    at = data.find(pattern)
    while at >= 0:
        found.append(at)
        at = data.find(pattern, at + 1)
    return found


class _MarkSearch:
    """Where ``PRIVATE KEY-----`` and where 02 01 00 02 stand in a block.

    bytes.find alone takes up to four times as long as SHA-256 and holds the interpreter lock. So
    a block is first compared, as 16-bit words and many at once, with two bytes of the mark.
    """

    def __init__(self) -> None:
        self._flags = bytearray()  # one byte per word: whether it is equal

    def marks(self, data: bytes) -> tuple[list[int], list[int]]:
        """The offsets of both marks that lie wholly in the block, in no order."""
        return (
            self._search(data, PEM_MARK, _PEM_PAIRS),
            self._search(data, DER_MARK, _DER_PAIRS),
        )

    def _search(self, data: bytes, mark: bytes, ways: _Ways) -> list[int]:
        for way in ways if len(data) >= 64 else ():
            found: list[int] = []
            if all(self._with(data, mark, *pair, found) for pair in way):
                return found
        return _all(data, mark)

    def _with(
        self,
        data: bytes,
        mark: bytes,
        pair: bytes,
        shift: int,
        places: tuple[int, ...],
        found: list[int],
    ) -> bool:
        """Look for the mark wherever a pair stands at an offset of which ``shift`` is the rest.

        False if the pair is so frequent that another way is quicker.
        """
        import numpy as np

        count = (len(data) - shift) // 2
        if len(self._flags) < count:
            self._flags = bytearray(count)
        equal = np.frombuffer(self._flags, np.bool_, count)
        wanted = np.uint16(int.from_bytes(pair, "little"))
        np.equal(np.frombuffer(data, "<u2", count, shift), wanted, out=equal)
        find = self._flags.find
        at = find(1, 0, count)
        for _ in range(_FREQUENT):
            if at < 0:
                return True
            for place in places:
                begin = 2 * at + shift - place
                if data.startswith(mark, begin) and begin >= 0:
                    found.append(begin)
            at = find(1, at + 1, count)
        return False
