"""Deterministic tar headers: the same member always gives the same bytes.

ustar (POSIX.1-1988) where the member fits, else a pax extended header (POSIX.1-2001) in front of
it. No user or group names, no access or change times. Names are bytes here: what a tar holds need
not be UTF-8.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

BLOCK = 512
END = bytes(2 * BLOCK)
"""Two zero blocks end an archive; it is not padded to a record of 20 blocks."""

REGULAR, HARDLINK, SYMLINK, DIRECTORY = b"0", b"1", b"2", b"5"

_OCTAL_7, _OCTAL_11 = 8**7, 8**11


@dataclass(frozen=True)
class Member:
    """One member of an archive.

    Attributes:
        name: without leading slash; a directory's without trailing slash.
        kind: one of REGULAR, HARDLINK, SYMLINK, DIRECTORY.
        size: bytes of content; 0 unless REGULAR.
        mode: permission bits with set-id and sticky bits.
        mtime: seconds since 1970, not negative.
        link: target of a symlink, or name of the member a hard link points to.
        xattrs: pax records to add, key to value; the values may be any bytes.
    """

    name: bytes
    kind: bytes
    size: int = 0
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    link: bytes = b""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def header(member: Member) -> bytes:
    """The header blocks of a member: one block, or three and more with a pax header in front."""
    name = member.name + b"/" if member.kind == DIRECTORY else member.name
    records: dict[str, bytes] = dict(member.xattrs)
    split = _split(name)
    if split is None:
        records["path"] = name
        split = (b"", _cut(name))
    link = member.link
    if not _fits(link, 100):
        records["linkpath"] = link
        link = _cut(link)
    numbers = {"size": member.size, "mtime": member.mtime, "uid": member.uid, "gid": member.gid}
    for key, limit in (
        ("size", _OCTAL_11),
        ("mtime", _OCTAL_11),
        ("uid", _OCTAL_7),
        ("gid", _OCTAL_7),
    ):
        if numbers[key] >= limit:
            records[key] = b"%d" % numbers[key]
            numbers[key] = 0
    block = _block(split, member.kind, member.mode, link, numbers)
    return _pax(records, name) + block if records else block


def padding(size: int) -> bytes:
    """The zero bytes that follow content of that size up to a whole block."""
    return bytes(-size % BLOCK)


def _fits(text: bytes, limit: int) -> bool:
    # Outside ASCII a ustar header has no defined character set: pax says UTF-8.
    return len(text) <= limit and text.isascii()


def _cut(text: bytes) -> bytes:
    """What an old reader without pax gets to see of a long name."""
    return bytes(byte if byte < 128 else 0x5F for byte in text[:100])


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """(prefix, name) as ustar stores them: at most 155 and 100 bytes, cut at a slash."""
    if not name.isascii():
        return None
    if len(name) <= 100:
        return b"", name
    # The longest prefix leaves the shortest name; a directory's last slash belongs to its name.
    cut = name.rfind(b"/", 0, min(156, len(name) - 1))
    if cut <= 0 or len(name) - cut - 1 > 100:
        return None
    return name[:cut], name[cut + 1 :]


def _block(
    split: tuple[bytes, bytes], kind: bytes, mode: int, link: bytes, numbers: Mapping[str, int]
) -> bytes:
    prefix, name = split
    head = b"".join(
        (
            name.ljust(100, b"\0"),
            b"%07o\0" % (mode & 0o7777),
            b"%07o\0" % numbers["uid"],
            b"%07o\0" % numbers["gid"],
            b"%011o\0" % numbers["size"],
            b"%011o\0" % numbers["mtime"],
            b" " * 8,  # the checksum counts itself as spaces
            kind,
            link.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(32 + 32),  # no user and group names
            b"%07o\0" % 0,
            b"%07o\0" % 0,
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def _pax(records: Mapping[str, bytes], name: bytes) -> bytes:
    body = b"".join(_record(key.encode(), records[key]) for key in sorted(records))
    base = _cut(name.rstrip(b"/").rpartition(b"/")[2])[:80] or b"member"
    numbers = {"size": len(body), "mtime": 0, "uid": 0, "gid": 0}
    block = _block((b"", b"PaxHeaders.0/" + base), b"x", 0o644, b"", numbers)
    return block + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    r"""``<length> <key>=<value>\n``, where the length counts its own digits (pax)."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
