"""Symbols, alignments and thread-local data of an enclave's ELF file: what only signing asks for.

Source: System V ABI, "Object Files" and "Program Loading and Dynamic Linking", and the x86-64
psABI.
"""

import struct
from dataclasses import dataclass

from imagekit.enclave.sdk.image import HINT, EnclaveImage
from imagekit.errors import InputError, printable

_PHDR = struct.Struct("<I28xQQQ")  # type, filesz, memsz, align
_SYM = struct.Struct("<IBBHQQ")
_PT_LOAD, _PT_TLS = 1, 7
_SHT_DYNSYM = 11
_MAX_NAME = 4096
_MAX_TLS = 1 << 32


@dataclass(frozen=True)
class Symbol:
    """One dynamic symbol.

    Attributes:
        name: at most 4096 characters of it.
        value: its address.
        size: bytes.
        binding: STB_* number.
        section: index of its section; 0 if it is not defined in this file.
    """

    name: str
    value: int
    size: int
    binding: int
    section: int


def dynamic_symbols(image: EnclaveImage) -> tuple[Symbol, ...]:
    """Give the dynamic symbols, the empty first one left out.

    Raises:
        InputError: there is no table of them, or one without names.
    """
    tables = [section for section in image.sections if section.kind == _SHT_DYNSYM]
    if len(tables) != 1 or tables[0].link >= len(image.sections):
        raise InputError(f"{image.name}: {len(tables)} usable tables of dynamic symbols", HINT)
    table, strings = tables[0], image.sections[tables[0].link]
    text = image.data[strings.offset : strings.offset + strings.size]
    end = table.offset + table.size - table.size % _SYM.size
    entries = memoryview(image.data)[table.offset + _SYM.size : end]
    return tuple(
        Symbol(_text(text, name), value, size, info >> 4, section)
        for name, info, _, section, value, size in _SYM.iter_unpack(entries)
    )


def _text(strings: bytes, start: int) -> str:
    return printable(
        strings[start : start + _MAX_NAME].partition(b"\0")[0].decode("utf-8", "replace")
    )


def load_alignments(image: EnclaveImage) -> tuple[int, ...]:
    """Give p_align of each loadable segment that has memory, in the order of the segments."""
    return tuple(align for kind, _, memsz, align in _headers(image) if kind == _PT_LOAD and memsz)


def tls_size(image: EnclaveImage) -> int:
    """Give the bytes of thread-local data of one thread, rounded up to their alignment.

    Raises:
        InputError: more than a thread can have.
    """
    found = [(memsz, align or 1) for kind, _, memsz, align in _headers(image) if kind == _PT_TLS]
    if not found:
        return 0
    memsz, align = found[0]
    size = -(-memsz // align) * align
    if len(found) > 1 or size > _MAX_TLS:
        raise InputError(f"{image.name}: unusable thread-local data ({size:#x} bytes)", HINT)
    return size


def _headers(image: EnclaveImage) -> "list[tuple[int, int, int, int]]":
    (start,) = struct.unpack_from("<Q", image.data, 32)
    (count,) = struct.unpack_from("<H", image.data, 56)
    return list(_PHDR.iter_unpack(image.data[start : start + count * _PHDR.size]))
