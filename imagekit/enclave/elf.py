"""The part of ELF64 that decides an SGX measurement: entry point and loadable segments.

Source: System V ABI, "Object Files" and "Program Loading", and the x86-64 psABI. Gramine's PAL is a
position-independent ELF64 file for x86-64, little-endian.
"""

import struct
from dataclasses import dataclass, field

from imagekit.errors import InputError

PAGE_SIZE = 4096

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_PT_LOAD = 1
_ET_EXEC, _ET_DYN = 2, 3
_EM_X86_64 = 62
_MAX_ADDRESS = 1 << 47
_HINT = "give the libpal.so of Gramine's SGX build (…/gramine/sgx/libpal.so)"


def page_floor(address: int) -> int:
    """Give the start of the 4096-byte page that holds `address`."""
    return address & ~(PAGE_SIZE - 1)


def page_ceil(address: int) -> int:
    """Give the lowest page border that is not below `address`."""
    return (address + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


@dataclass(frozen=True)
class Segment:
    """One PT_LOAD program header; offsets, addresses and sizes in bytes.

    Attributes:
        offset: where the bytes stand in the file.
        vaddr: where they go, relative to the load address.
        filesz: how many bytes come from the file.
        memsz: how many bytes there are in memory; what exceeds `filesz` is zero.
        flags: p_flags as stored (PF_X 1, PF_W 2, PF_R 4).
    """

    offset: int
    vaddr: int
    filesz: int
    memsz: int
    flags: int

    @property
    def first_page(self) -> int:
        """Address of the first page of the segment."""
        return page_floor(self.vaddr)

    @property
    def end_page(self) -> int:
        """Address just behind the last page of the segment."""
        return page_ceil(self.vaddr + self.memsz)


@dataclass(frozen=True)
class Elf:
    """An ELF64 shared object, reduced to what is measured.

    Attributes:
        entry: e_entry, relative to the load address.
        segments: the PT_LOAD segments in the order of the program headers.
        data: the whole file.
    """

    entry: int
    segments: tuple[Segment, ...]
    data: bytes = field(repr=False)

    @property
    def first_page(self) -> int:
        """Lowest page address over all segments."""
        return min(s.first_page for s in self.segments)

    @property
    def end_page(self) -> int:
        """Address just behind the highest page over all segments."""
        return max(s.end_page for s in self.segments)

    def segment_pages(self, segment: Segment) -> bytes:
        """Give the memory image of one segment, whole pages from `first_page` to `end_page`.

        Only the segment's own file bytes are placed; what stands before them in the first page and
        behind them is zero, whatever the file holds there.
        """
        image = bytearray(segment.end_page - segment.first_page)
        start = segment.vaddr - segment.first_page
        image[start : start + segment.filesz] = self.data[
            segment.offset : segment.offset + segment.filesz
        ]
        return bytes(image)


def parse_elf(data: bytes, name: str = "libpal.so", hint: str = _HINT) -> Elf:
    """Read an ELF64 x86-64 shared object.

    Args:
        data: the file's bytes.
        name: how the file is called in error messages.
        hint: what to do about another file.

    Raises:
        InputError: the bytes are not such a file, or its headers contradict each other.
    """

    def bad(what: str) -> InputError:
        return InputError(f"{name}: {what}", hint)

    if len(data) < _EHDR.size or data[:4] != b"\x7fELF":
        raise bad("not an ELF file")
    ident, kind, machine, _, entry, phoff, _, _, _, phentsize, phnum, *_ = _EHDR.unpack_from(data)
    if ident[4:6] != b"\x02\x01" or machine != _EM_X86_64 or kind not in (_ET_DYN, _ET_EXEC):
        raise bad("not a little-endian ELF64 file for x86-64")
    if phentsize != _PHDR.size or phoff + phnum * _PHDR.size > len(data):
        raise bad("broken program header table")
    segments = []
    for index in range(phnum):
        kind, flags, offset, vaddr, _, filesz, memsz, _ = _PHDR.unpack_from(
            data, phoff + index * _PHDR.size
        )
        if kind != _PT_LOAD or memsz == 0:
            continue
        if filesz > memsz or offset + filesz > len(data) or vaddr + memsz > _MAX_ADDRESS:
            raise bad(f"loadable segment {index} reaches beyond the file or the address space")
        segments.append(Segment(offset, vaddr, filesz, memsz, flags))
    if not segments:
        raise bad("no loadable segment")
    return Elf(entry, tuple(segments), data)
