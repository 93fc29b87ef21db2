"""Enclave files with metadata of any version, and their measurement record by record.

The measurement here is a second one, made for clearness alone: it reads the file with ``struct``
and hashes every record on its own, by the algorithm that the loader of the Intel SGX SDK follows.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence

from sdk_enclaves import PAGE, section_range

from imagekit.enclave.sdk.metadata import (
    Directory,
    ElRange,
    LayoutEntry,
    LayoutGroup,
    Metadata,
    Patch,
    head_size,
)

Layout = Sequence[LayoutEntry | LayoutGroup]
TCS = struct.pack("<QQQIIQQQII", 0, 0, 0x1000, 0, 2, 0x1008, 0, 0x20000, 0xFFF, 0xFFF) + bytes(8)
"""Template of a TCS: addresses are relative to its own page."""


def make_block(
    layout: Layout,
    *,
    version: tuple[int, int] = (1, 5),
    enclave_size: int = 1 << 30,
    patches: Iterable[Patch] = (),
    elrange: ElRange | None = None,
    data: bytes = TCS,
    sigstruct: bytes = bytes(1808),
    ssa_frame_pages: int = 1,
) -> bytes:
    """Give a metadata block: head, ELRANGE, `data`, patch table, layout table.

    Contents and patches point into `data` by offsets from its own start.
    """
    head = head_size(version)
    body = elrange.pack() if elrange else b""
    start = head + len(body)
    patches = [Patch(p.destination, start + p.source, p.size) for p in patches]
    items = [
        LayoutEntry(**{**vars(item), "content_offset": start + item.content_offset - 1})
        if isinstance(item, LayoutEntry) and item.content_offset
        else item
        for item in layout
    ]
    tables = [b"".join(p.pack() for p in patches), b"".join(i.pack() for i in items)]
    body += data
    directories = []
    for table in tables:
        directories.append(Directory(head + len(body), len(table)))
        body += table
    if elrange:
        directories.append(Directory(head, 24))
    # fmt: off
    metadata = Metadata(version, head + len(body), 1, ssa_frame_pages, 2688, 0, 1, enclave_size,
                        4, 0xE7, sigstruct, tuple(directories))
    # fmt: on
    return metadata.pack_head() + body


def content_at(offset: int) -> int:
    """Give what :func:`make_block` takes as the offset of a content, which 0 would not be."""
    return offset + 1


def with_blocks(data: bytes, *blocks: bytes) -> bytes:
    """Give an enclave library with metadata blocks in its note."""
    start, size = section_range(data, ".note.sgxmeta")
    content = b"".join(blocks)
    room = struct.unpack_from("<I", data, start + 4)[0]
    if len(content) > room:
        raise ValueError("the note has no room")
    return data[: start + 25] + content.ljust(size - 25, b"\0") + data[start + size :]


def block_offset(data: bytes) -> int:
    """Give where the first metadata block stands."""
    return section_range(data, ".note.sgxmeta")[0] + 25


class _Hash:
    def __init__(self, frame: int, size: int) -> None:
        self.sha = hashlib.sha256(b"ECREATE\0" + struct.pack("<IQ44x", frame, size))

    def page(self, offset: int, flags: int, content: bytes | None) -> None:
        self.sha.update(b"EADD\0\0\0\0" + struct.pack("<QQ40x", offset, flags))
        if content is not None:
            for chunk in range(0, PAGE, 256):
                self.sha.update(b"EEXTEND\0" + struct.pack("<Q48x", offset + chunk))
                self.sha.update(content[chunk : chunk + 256])


def _relocated(data: bytes) -> set[int]:
    headers = _program_headers(data)
    dynamic = {}
    for header in headers:
        if header[0] == 2:
            for at in range(header[2], header[2] + header[5], 16):
                tag, value = struct.unpack_from("<QQ", data, at)
                dynamic[tag] = value
    pages = set()
    if 22 in dynamic:
        for at in range(dynamic[7], dynamic[7] + dynamic[8], 24):  # the table is at its address
            place, info = struct.unpack_from("<QQ", data, at)
            if info & 0xFFFFFFFF:
                pages.add(place // PAGE)
                if place % PAGE > 4088:
                    pages.add(place // PAGE + 1)
    return pages


def _program_headers(data: bytes) -> list[tuple[int, ...]]:
    (count,) = struct.unpack_from("<H", data, 56)
    return [struct.unpack_from("<IIQQQQQQ", data, 64 + 56 * n) for n in range(count)]


def _up(value: int) -> int:
    return -(-value // PAGE) * PAGE


def slow_mr_enclave(data: bytes, offset: int | None = None) -> bytes:
    """Give MRENCLAVE by the metadata block at a file offset (the first one unless given)."""
    offset = block_offset(data) if offset is None else offset
    minor, major, size, _, frame = struct.unpack_from("<IIIII", data, offset + 8)
    (enclave_size,) = struct.unpack_from("<Q", data, offset + 40)
    block = data[offset : offset + size]
    tables = [struct.unpack_from("<II", block, at) for at in (1872, 1880)]
    relocated, loads = _relocated(data), [h for h in _program_headers(data) if h[0] == 1]
    image = bytearray(data)
    for at in range(tables[0][0], sum(tables[0]), 32):
        target, source, length = struct.unpack_from("<QII", block, at)
        image[target : target + length] = block[source : source + length]
    shift = 0
    if major > 10:
        address, start, enclave_size = struct.unpack_from(
            "<QQQ", block, struct.unpack_from("<I", block, 1888)[0]
        )
        shift = address - start
    hashed = _Hash(frame, enclave_size)
    for number, (_, elf_flags, at, vaddr, _, filesz, memsz, _) in enumerate(loads):
        flags = 0x200 | (elf_flags >> 2 & 1) | (elf_flags & 2) | (elf_flags & 1) << 2
        first, end = vaddr // PAGE * PAGE, _up(vaddr + memsz)
        memory = bytes(vaddr - first) + bytes(image[at : at + filesz])
        memory = memory.ljust(end - first, b"\0")
        for page in range(first, end, PAGE):
            extra = 2 if page // PAGE in relocated else 0
            content = memory[page - first : page - first + PAGE]
            hashed.page(page + shift, flags | extra, content)
        if (major, minor) == (1, 3) and end < _up(vaddr + _up(memsz)):
            following = loads[number + 1][3] // PAGE * PAGE if number + 1 < len(loads) else None
            if following is None or end < following:
                hashed.page(end + shift, flags, bytes(PAGE))
    _slow_layout(hashed, block, range(tables[1][0], sum(tables[1]), 32), shift)
    return hashed.sha.digest()


def _slow_layout(hashed: _Hash, block: bytes, places: range, shift: int) -> None:
    for number, at in enumerate(places):
        kind, count, times, step = struct.unpack_from("<HHIQ", block, at)
        if kind & 0x1000:
            for copy in range(1, times + 1):
                for before in places[number - count : number]:
                    _slow_region(hashed, block, before, copy * step, shift)
        else:
            _slow_region(hashed, block, at, 0, shift)


def _slow_region(hashed: _Hash, block: bytes, at: int, move: int, shift: int) -> None:
    fields = struct.unpack_from("<HHIQIIQ", block, at)
    _, attributes, pages, rva, size, source, flags = fields
    if not attributes & 1:
        return
    rva += move
    content = block[source : source + size]
    if source and flags == 0x100:
        page = bytearray(content.ljust(PAGE, b"\0"))
        for field in (16, 48, 56):
            (value,) = struct.unpack_from("<Q", page, field)
            struct.pack_into("<Q", page, field, value + rva)
        hashed.page(rva + shift, flags, bytes(page) if attributes & 3 == 3 else None)
        return
    for number in range(pages if source or flags else 0):
        if source:
            page = content[number * PAGE : (number + 1) * PAGE].ljust(PAGE, b"\0")
        else:
            page = struct.pack("<I", size) * 1024 if attributes & 3 == 3 else None
        hashed.page(rva + shift + number * PAGE, flags, page)
