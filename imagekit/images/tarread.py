"""A strict streaming tar parser for input that nobody vouches for.

Reads ustar, GNU long names (types L and K), pax headers (x; g where it changes nothing that
matters) and base-256 numbers. Everything doubtful is refused with one InputError that names the
archive and the member: ``..`` in names, sparse files, unknown types, broken checksums, sizes beyond
the archive. Where tar readers disagree (a GNU and a pax name for one member) it refuses
too: what is measured must be what a container engine unpacks. Sources: POSIX.1-2017 pax, GNU tar
manual "Basic Tar Format".
"""

import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from imagekit.errors import InputError

BLOCK = 512
MAX_SIZE = 1 << 40
"""Largest member (bytes)."""
MAX_HEADER = 1 << 20
"""Largest pax header or GNU long name (bytes)."""
MAX_MEMBERS = 5_000_000
_ZERO = bytes(BLOCK)
_XATTR = "SCHILY.xattr."
_NO_CONTENT = frozenset("123456")
_KINDS = {b"\0": "0", b"7": "0"}
_KNOWN = frozenset("0123456")
_PAX_TIME = re.compile(rb"-?[0-9]{1,20}(?:\.[0-9]*)?", re.ASCII)


class Member(NamedTuple):
    """One member of an archive as it was read.

    Attributes:
        path: without leading and trailing slash, no ``.`` and empty parts; ``""`` is the root.
            Bytes that are no UTF-8 are surrogate-escaped.
        kind: "0" file, "1" hard link, "2" symlink, "3" character device, "4" block device,
            "5" directory, "6" fifo.
        size: bytes of content, 0 for all but files.
        link: a symlink's target as it stands; a hard link's target as a path like ``path``.
        offset: where the content begins in the uncompressed archive (bytes).
        device: (major, minor), for devices.
        xattrs: extended attributes, name to value.
    """

    path: str
    kind: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime: int
    link: str
    offset: int
    device: tuple[int, int]
    xattrs: dict[str, bytes]


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0").partition(b"\0")[0]
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:
        return None


_repeated_octal = lru_cache(1024)(_octal)


@lru_cache(1024)
def _owned(fields: bytes) -> tuple[int, int, int] | None:
    """Mode, uid and gid, which few entries have for themselves; None if they are not plain."""
    mode, uid, gid = _octal(fields[:8]), _octal(fields[8:16]), _octal(fields[16:])
    return None if mode is None or uid is None or gid is None else (mode & 0o7777, uid, gid)


class TarReader:
    """Iterates over the members of an archive; each one's content may be read before the next.

    Args:
        blocks: the uncompressed archive, in pieces of any size.
        where: what the archive is called in errors, as in ``layer sha256:…``.
        total: bytes of the whole archive where known, to see absurd sizes at once.
        require_end: refuse an archive without its end mark. Not needed where a digest says that
            the archive is whole.

    Iterating raises InputError for everything that is wrong with the archive.
    """

    def __init__(
        self,
        blocks: Iterator[bytes],
        where: str,
        *,
        total: int | None = None,
        require_end: bool = False,
    ) -> None:
        self._blocks = blocks
        self._where = where
        self._total = total
        self._require_end = require_end
        self._buffer = memoryview(b"")
        self._at = 0  # position in the buffer
        self._start = 0  # position of the buffer in the archive
        self._left = 0  # content of the present member that was not read, without padding
        self._padding = 0
        self._name = b""  # for errors

    def __iter__(self) -> Iterator[Member]:
        count = 0
        while True:
            if self._left:
                for _ in self.content():
                    pass
            if self._padding:
                self._skip(self._padding)
                self._padding = 0
            member = self._next()
            if member is None:
                break
            count += 1
            if count > MAX_MEMBERS:
                raise self._error(f"more than {MAX_MEMBERS} entries")
            yield member
        for _ in self._blocks:  # what follows the end belongs to the digest
            pass

    def content(self) -> Iterator[memoryview]:
        """The present member's content that was not read yet, in pieces."""
        while self._left:
            if self._at == len(self._buffer):
                self._fill()
            end = min(len(self._buffer), self._at + self._left)
            piece = self._buffer[self._at : end]
            self._left -= end - self._at
            self._at = end
            yield piece

    # -- bytes

    def _fill(self) -> None:
        self._start += len(self._buffer)
        self._at = 0
        self._buffer = memoryview(next(self._blocks, b""))
        if not self._buffer:
            raise self._error("the archive ends in the middle of an entry")

    def _take(self, size: int) -> bytes:
        piece = self._buffer[self._at : self._at + size]
        self._at += len(piece)
        if len(piece) == size:
            return bytes(piece)
        pieces = [piece]
        size -= len(piece)
        while size:
            self._fill()
            piece = self._buffer[:size]
            self._at = len(piece)
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _skip(self, size: int) -> None:
        here = min(size, len(self._buffer) - self._at)
        self._at += here
        if size > here:
            self._take(size - here)

    def _at_end(self) -> bool:
        """Whether the archive has no byte left."""
        while self._at == len(self._buffer):
            self._start += len(self._buffer)
            self._at = 0
            block = next(self._blocks, None)
            if block is None:
                self._buffer = memoryview(b"")
                return True
            self._buffer = memoryview(block)
        return False

    # -- headers

    def _next(self) -> Member | None:
        pax: dict[str, bytes] = {}
        long: dict[str, bytes] = {}
        while True:
            if self._at_end():
                if self._require_end or pax or long:
                    raise self._error("the archive ends without its end mark")
                return None
            raw = self._take(BLOCK)
            if raw == _ZERO:
                self._end(bool(pax or long))
                return None
            self._checksum(raw)
            kind = raw[156:157]
            if kind in (b"x", b"L", b"K", b"g"):
                self._extension(kind, raw, pax, long)
                continue
            return self._member(raw, pax, long)

    def _end(self, open_extension: bool) -> None:
        if open_extension:
            raise self._error("an extended header without its entry")
        if self._at_end():
            if self._require_end:
                raise self._error("the archive ends without its end mark")
            return
        if self._take(BLOCK) != _ZERO:
            raise self._error("data after a zero block: the archive is damaged")

    def _checksum(self, raw: bytes) -> None:
        stored = self._octal(raw[148:156], "checksum")
        # Adler-32's lower half is 1 + the sum, as long as that is below 65521, as of ASCII it is.
        total = (zlib.adler32(raw) & 0xFFFF) - 1 if raw.isascii() else sum(raw)
        if stored == total - sum(raw[148:156]) + 256:
            return
        signed = sum(byte - 256 if byte > 127 else byte for byte in raw[:148] + raw[156:]) + 256
        if stored != signed:  # some old writers summed signed bytes
            raise self._error("a header with a wrong checksum")

    def _extension(
        self, kind: bytes, raw: bytes, pax: dict[str, bytes], long: dict[str, bytes]
    ) -> None:
        size = self._octal(raw[124:136], "size")
        if size > MAX_HEADER:
            raise self._error(f"an extended header of {size} bytes")
        body = self._take(size)
        self._skip(-size % BLOCK)
        if kind == b"x":
            if pax:
                raise self._error("two pax headers for one entry")
            pax.update(self._records(body))
        elif kind == b"g":
            changed = {"path", "linkpath", "size"} & self._records(body).keys()
            if changed or b"GNU.sparse." in body:
                raise self._error("a global pax header that changes names or sizes")
        else:
            key = "path" if kind == b"L" else "linkpath"
            if key in long:
                raise self._error("two long names for one entry")
            long[key] = body.partition(b"\0")[0]

    def _records(self, body: bytes) -> dict[str, bytes]:
        records: dict[str, bytes] = {}
        at = 0
        while at < len(body):
            space = body.find(b" ", at, at + 10)
            digits = body[at:space]
            if space < 0 or not digits.isdigit():
                raise self._error("a damaged pax header")
            end = at + int(digits)
            key, equals, value = body[space + 1 : end - 1].partition(b"=")
            if end > len(body) or end <= space + 1 or body[end - 1] != 0x0A or not equals:
                raise self._error("a damaged pax header")
            if key.startswith(b"GNU.sparse."):
                raise self._error("a sparse file, which is not supported")
            records[key.decode("utf-8", "surrogateescape")] = value
            at = end
        return records

    def _member(self, raw: bytes, pax: dict[str, bytes], long: dict[str, bytes]) -> Member:
        if pax and long and pax.keys() & long.keys():
            raise self._error("an entry with a GNU and a pax name")
        name, link = self._names(raw)
        if pax or long:
            name = pax.get("path") or long.get("path") or name
            link = pax.get("linkpath") or long.get("linkpath") or link
        self._name = name
        kind_byte = raw[156:157]
        kind = _KINDS.get(kind_byte) or kind_byte.decode("latin-1")
        if kind not in _KNOWN:
            what = "a sparse file" if kind == "S" else f"an entry of unknown type {kind!r}"
            raise self._error(f"{what}, which is not supported")
        if kind_byte == b"\0" and name.endswith(b"/"):
            kind = "5"  # how archives older than ustar mark directories
        size = self._size(raw, pax, kind)
        path = self._path(name)
        if not path and kind != "5":
            raise self._error("an entry without a name")
        if b"\0" in link:
            raise self._error("a zero byte in a link")
        owned = None if pax else _owned(raw[100:124])
        if owned is None:
            owned = (
                self._number(raw[100:108], "mode") & 0o7777,
                self._owner(pax, "uid", raw[108:116]),
                self._owner(pax, "gid", raw[116:124]),
            )
        self._left, self._padding = size, -size % BLOCK
        return Member(
            path,
            kind,
            size,
            *owned,
            self._mtime(raw, pax),
            (self._path(link) if kind == "1" else link.decode("utf-8", "surrogateescape"))
            if link
            else "",
            self._start + self._at,
            (self._number(raw[329:337], "major"), self._number(raw[337:345], "minor"))
            if kind in "34"
            else (0, 0),
            {key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)}
            if pax
            else {},
        )

    def _names(self, raw: bytes) -> tuple[bytes, bytes]:
        name = raw[:100].partition(b"\0")[0]
        link = raw[157:257].partition(b"\0")[0] if raw[157] else b""
        # GNU's magic ("ustar  ") stores times where ustar has the prefix; star's ends in "tar".
        if raw[257:263] == b"ustar\0" and raw[345]:
            width = 131 if raw[508:512] == b"tar\0" else 155
            name = raw[345 : 345 + width].partition(b"\0")[0] + b"/" + name
        return name, link

    def _path(self, name: bytes) -> str:
        if b"\0" in name:
            raise self._error("a zero byte in a name")
        text = name.decode("utf-8", "surrogateescape")
        text = text.removeprefix("./")
        if "/." not in text and "//" not in text and not text.startswith("."):
            return text.strip("/")
        parts = [part for part in text.split("/") if part and part != "."]
        if ".." in parts:
            raise self._error("'..' in a name")
        return "/".join(parts)

    def _size(self, raw: bytes, pax: dict[str, bytes], kind: str) -> int:
        if kind in _NO_CONTENT:
            return 0
        if "size" in pax:
            digits = pax["size"]
            if not digits.isdigit() or len(digits) > 20:
                raise self._error("a size that is no number")
            size = int(digits)
        else:
            size = self._number(raw[124:136], "size")
        if size < 0 or size > MAX_SIZE:
            raise self._error(f"a size of {size} bytes")
        if self._total is not None and self._start + self._at + size > self._total:
            raise self._error(f"a size of {size} bytes, more than the archive has left")
        return size

    def _owner(self, pax: dict[str, bytes], key: str, field: bytes) -> int:
        digits = pax.get(key)
        if digits is None:
            number = self._number(field, key)
        elif digits.isdigit() and len(digits) <= 20:
            number = int(digits)
        else:
            raise self._error(f"a {key} that is no number")
        if not 0 <= number < 1 << 32:
            raise self._error(f"a {key} of {number}")
        return number

    def _mtime(self, raw: bytes, pax: dict[str, bytes]) -> int:
        text = pax.get("mtime")
        if text is None:
            number = _repeated_octal(raw[136:148])
            return self._number(raw[136:148], "mtime") if number is None else number
        if not _PAX_TIME.fullmatch(text):
            raise self._error("an mtime that is no number")
        return int(text.partition(b".")[0])

    def _number(self, field: bytes, what: str) -> int:
        """Octal digits, or base-256 (big endian, two's complement) when the top bit is set."""
        if not field[0] & 0x80:
            return self._octal(field, what)
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        return value

    def _octal(self, field: bytes, what: str) -> int:
        number = _octal(field)
        if number is None:
            raise self._error(f"a {what} that is no number")
        return number

    def _error(self, problem: str) -> InputError:
        name = self._name.decode("utf-8", "backslashreplace")[:300]
        entry = f", at or after entry {name!r}" if name else ""
        return InputError(
            f"{self._where}{entry}: {problem}",
            "the archive is damaged or unfit for an image: fetch or build it anew",
        )
