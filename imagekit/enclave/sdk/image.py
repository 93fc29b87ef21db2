"""An SDK enclave's shared object: what the measurement and the signing need beside the segments.

Source: System V ABI, "Object Files" and "Dynamic Linking", and the x86-64 psABI. An enclave of the
Intel SGX SDK is a position-independent ELF64 file; the metadata is found by its section's name, so
the section headers must be there.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from imagekit.enclave.elf import Elf, page_floor, parse_elf
from imagekit.errors import InputError

HINT = "give an enclave library of the Intel SGX SDK, like libocclum-libos.signed.so or enclave.so"

DT_PLTRELSZ, DT_RELA, DT_RELASZ, DT_TEXTREL, DT_JMPREL = 2, 7, 8, 22, 23
SHT_NOBITS = 8

_SHDR = struct.Struct("<IIQQQQIIQQ")
_PHDR = struct.Struct("<IIQQ8xQ16x")  # type, flags, offset, vaddr, filesz
_DYN = struct.Struct("<qQ")
_RELA = struct.Struct("<QIIq")
_PT_DYNAMIC = 2
_ET_DYN = 3
_MAX_NAME = 256


@dataclass(frozen=True)
class Section:
    """One section header; offsets, addresses and sizes in bytes.

    Attributes:
        name: at most 256 bytes of it.
        kind: sh_type.
        flags: sh_flags.
        address: where it is in memory, 0 if it is not.
        offset, size: where it is in the file; checked to lie inside unless `kind` is NOBITS.
        align: sh_addralign.
        entry_size: of the entries of a table.
        link: sh_link.
    """

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    align: int
    entry_size: int
    link: int


@dataclass(frozen=True)
class Relocation:
    """An entry of a relocation table.

    Attributes:
        offset: the address to be relocated, from the image's start.
        kind: R_X86_64_* number.
        symbol: index in the dynamic symbol table.
        addend: signed.
    """

    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(frozen=True)
class EnclaveImage:
    """An enclave's ELF file.

    Attributes:
        name: how the file is called in error messages.
        elf: its segments.
        sections: all section headers, in file order.
        dynamic: the dynamic table by tag; the last entry counts.
    """

    name: str
    elf: Elf
    sections: tuple[Section, ...] = field(repr=False)
    dynamic: dict[int, int] = field(repr=False)

    @property
    def data(self) -> bytes:
        """The whole file."""
        return self.elf.data

    def section(self, name: str) -> Section | None:
        """Give the section of that name, None if there is none.

        Raises:
            InputError: there are two, so that two readers could see two things.
        """
        found = [section for section in self.sections if section.name == name]
        if len(found) > 1:
            raise InputError(f"{self.name}: there are {len(found)} sections {name}", HINT)
        return found[0] if found else None

    def file_offset(self, address: int, size: int) -> int | None:
        """Give where `size` bytes at an address stand in the file; None if they do not."""
        for segment in self.elf.segments:
            start = address - segment.vaddr
            if start >= 0 and start + size <= segment.filesz:
                return segment.offset + start
        return None

    def relocations(self) -> Iterator[Relocation]:
        """Give the entries of the two tables that the dynamic table names, without types 0.

        Raises:
            InputError: a table lies outside the file.
        """
        for table, length in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
            size = self.dynamic.get(length, 0)
            size -= size % _RELA.size
            if not size or table not in self.dynamic:
                continue
            offset = self.file_offset(self.dynamic[table], size)
            if offset is None:
                raise InputError(f"{self.name}: a relocation table lies outside the file", HINT)
            content = memoryview(self.data)[offset : offset + size]
            for place, kind, symbol, addend in _RELA.iter_unpack(content):
                if kind:
                    yield Relocation(place, kind, symbol, addend)

    def relocated_pages(self) -> frozenset[int]:
        """Give the addresses of the pages that the enclave itself must write to relocate its text.

        They are loaded writable, which the measurement holds. There are none without DT_TEXTREL.
        """
        if DT_TEXTREL not in self.dynamic:
            return frozenset()
        pages = set()
        for relocation in self.relocations():
            pages.add(page_floor(relocation.offset))
            pages.add(page_floor(relocation.offset + 7))  # 8 bytes may cross into the next page
        return frozenset(pages)


def read_image(data: bytes, name: str) -> EnclaveImage:
    """Read an enclave's ELF file.

    Args:
        data: the file's bytes.
        name: how the file is called in error messages.

    Raises:
        InputError: not an ELF64 shared object for x86-64 with section headers, or headers that
            contradict the file.
    """
    if data[:4] == b"\x7fELF" and data[4:5] == b"\x01":
        raise InputError(f"{name}: a 32-bit file; only 64-bit enclaves can be read", HINT)
    elf = parse_elf(data, name, HINT)
    (kind,) = struct.unpack_from("<H", data, 16)
    if kind != _ET_DYN:
        raise InputError(f"{name}: not a shared object, as every enclave is", HINT)
    return EnclaveImage(name, elf, _sections(data, name), _dynamic(data, name))


def _sections(data: bytes, name: str) -> tuple[Section, ...]:
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    if not table or not count:
        raise InputError(
            f"{name}: the file has no section headers, by which the enclave's metadata is found",
            "take the file before it was stripped of them (strip keeps them; sstrip does not)",
        )
    if size != _SHDR.size or table + count * _SHDR.size > len(data) or names >= count:
        raise InputError(f"{name}: broken section header table", HINT)
    headers = list(_SHDR.iter_unpack(memoryview(data)[table : table + count * _SHDR.size]))
    _, _, _, _, names_offset, names_size, *_ = headers[names]
    strings = data[names_offset : names_offset + names_size]
    sections = []
    for header in headers:
        label, kind, flags, address, offset, length, link, _, align, entry = header
        text = strings[label : label + _MAX_NAME].partition(b"\0")[0].decode("ascii", "replace")
        if kind not in (0, SHT_NOBITS) and offset + length > len(data):
            raise InputError(f"{name}: section {text!r} reaches beyond the file", HINT)
        sections.append(Section(text, kind, flags, address, offset, length, align, entry, link))
    return tuple(sections)


def _dynamic(data: bytes, name: str) -> dict[int, int]:
    (headers,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    dynamic: dict[int, int] = {}
    for kind, _, offset, _, size in _PHDR.iter_unpack(
        memoryview(data)[headers : headers + count * _PHDR.size]
    ):
        if kind != _PT_DYNAMIC:
            continue
        if dynamic or offset + size > len(data):
            raise InputError(f"{name}: broken dynamic table", HINT)
        size -= size % _DYN.size
        for tag, value in _DYN.iter_unpack(memoryview(data)[offset : offset + size]):
            if tag == 0:
                break
            dynamic[tag] = value
    return dynamic
