"""Makes small enclave libraries of the Intel SGX SDK's shape, unsigned, byte by byte.

No compiler, no SDK, nothing but the standard library: this file also runs alone where only python3
(3.8 or later) is. What it makes cannot run (the code is filler), but it has all that signing and
measuring look at: three loadable segments, dynamic symbols ``enclave_entry`` and ``g_global_data``,
relocations, the empty note ``.note.sgxmeta``, and Occlum's ``.builtin_config``.

usage: python3 sdk_enclaves.py make OUT.so
       python3 sdk_enclaves.py patch IN.so MAC_FILE OUT.so
"""

import hashlib
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

PAGE = 4096
SYMBOLS = ("enclave_entry", "g_global_data", "g_peak_heap_used")
NOTE_NAME = b"sgx_metadata\0"
BUILTIN_CONFIG = ".builtin_config"
BUILTIN_CONFIG_SIZE = 48
"""A MAC as 16 pairs of digits with dashes, and the line end that Occlum's tool writes behind it."""

R_RELATIVE = 8
SHT_PROGBITS, SHT_STRTAB, SHT_RELA, SHT_HASH, SHT_DYNAMIC, SHT_NOTE, SHT_NOBITS, SHT_DYNSYM = (
    *(1, 3, 4, 5, 6, 7, 8),
    11,
)
SHF_WRITE, SHF_ALLOC, SHF_EXEC, SHF_TLS = 1, 2, 4, 0x400
DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_RELAENT = 4, 5, 6, 7, 8, 9
DT_STRSZ, DT_SYMENT, DT_TEXTREL = 10, 11, 22

_SHDR = struct.Struct("<IIQQQQIIQQ")
_PHDR = struct.Struct("<IIQQQQQQ")
_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_STRINGS = b"\0" + b"".join(name.encode() + b"\0" for name in SYMBOLS)
_DYNAMIC_SIZE = 16 * 12


@dataclass(frozen=True)
class Recipe:
    """What the enclave is like; sizes in bytes.

    Attributes:
        code_size: of the text.
        data_size: of the writable data before ``g_global_data``.
        bss_size: of what is zero behind it.
        tls: file and memory size of the thread-local data; None for none.
        relocations: how many words of the data are relocated.
        text_relocations: addresses in the text that are relocated too, from its start.
        hole: pages between code and data that belong to no segment.
        note_size: room for the metadata.
        sdk: major, minor, revision of the SDK that it claims to be linked with.
        global_data_size: of ``g_global_data``.
        builtin_config: 48 bytes; None leaves the section out.
        debug_size: of a section that is not loaded, before the note.
        seed: what the filler is made from.
    """

    code_size: int = 0x1234
    data_size: int = 0x800
    bss_size: int = 0x5000
    tls: "tuple[int, int] | None" = None
    relocations: int = 2
    text_relocations: "tuple[int, ...]" = ()
    hole: int = 0
    note_size: int = 0x6000
    sdk: "tuple[int, int, int]" = (2, 26, 100)
    global_data_size: int = 1768
    builtin_config: "bytes | None" = bytes(BUILTIN_CONFIG_SIZE)
    debug_size: int = 0
    seed: str = "enclave"


@dataclass
class _Section:
    name: str
    kind: int
    flags: int
    content: bytes
    align: int = 1
    size: int = -1  # of sections without content
    link: str = ""
    entry_size: int = 0
    address: int = 0
    offset: int = 0

    @property
    def length(self) -> int:
        return len(self.content) if self.size < 0 else self.size


@dataclass
class _Writer:
    """Lays sections out, one behind the other, in file and memory."""

    offset: int
    address: int
    sections: "list[_Section]" = field(default_factory=list)

    def add(self, section: _Section) -> _Section:
        if section.flags & SHF_ALLOC:
            skip = -self.address % section.align
            self.address += skip
            section.address = self.address
            self.address += 0 if section.flags & SHF_TLS and section.size >= 0 else section.length
        else:
            skip = -self.offset % section.align
        self.offset += skip
        section.offset = self.offset
        self.offset += len(section.content)
        self.sections.append(section)
        return section

    def __getitem__(self, name: str) -> _Section:
        return next(section for section in self.sections if section.name == name)

    def skip(self, size: int) -> "tuple[int, int]":
        """Leave bytes out; give where it goes on: offset and address."""
        self.offset += size
        self.address += size
        return self.offset, self.address

    def next_segment(self, hole: int = 0) -> "tuple[int, int]":
        """Go on at the next page; addresses and offsets stay equal modulo a page."""
        self.address += -self.address % PAGE + hole * PAGE
        self.offset += -self.offset % PAGE
        return self.offset, self.address


def _filler(seed: str, size: int) -> bytes:
    return hashlib.shake_128(seed.encode()).digest(size)


def _hash_table(symbols: int) -> bytes:
    """The System V hash table with a single chain."""
    count = symbols + 1
    return struct.pack(f"<II{1 + count}I", 1, count, 1, 0, *range(2, count), 0)


def make_enclave(recipe: "Recipe | None" = None) -> bytes:
    """Make an unsigned enclave library; the same recipe gives the same bytes."""
    recipe = recipe or Recipe()
    headers = 4 + (recipe.tls is not None)
    out = _Writer(*(2 * [64 + headers * _PHDR.size]))
    starts, ends = [(0, 0)], []
    for add_sections in (_read_only, _code, _data):
        if add_sections is not _read_only:
            starts.append(out.next_segment(recipe.hole if add_sections is _data else 0))
        if add_sections is _data:
            starts[-1] = out.skip(_before_data(recipe))
        add_sections(out, recipe)
        ends.append((out.offset, out.address))
    entry = _fill_tables(out, recipe)
    if recipe.debug_size:
        out.add(_Section(".debug_info", SHT_PROGBITS, 0, _filler("debug", recipe.debug_size)))
    note = struct.pack("<III", len(NOTE_NAME), recipe.note_size, 1) + NOTE_NAME
    note += bytes(recipe.note_size)
    out.add(_Section(".note.sgxmeta", SHT_NOTE, 0, note + bytes(-len(note) % 4), 4))
    return _file(out, entry, _program_headers(out, recipe, starts, ends))


def _read_only(out: _Writer, recipe: Recipe) -> None:
    count = recipe.relocations + len(recipe.text_relocations)
    symbols, relocations = bytes(_SYM.size * (len(SYMBOLS) + 1)), bytes(_RELA.size * count)
    flags = SHF_ALLOC
    out.add(_Section(".hash", SHT_HASH, flags, _hash_table(len(SYMBOLS)), 8, link=".dynsym"))
    out.add(_Section(".dynsym", SHT_DYNSYM, flags, symbols, 8, -1, ".dynstr", _SYM.size))
    out.add(_Section(".dynstr", SHT_STRTAB, flags, _STRINGS))
    out.add(_Section(".rela.dyn", SHT_RELA, flags, relocations, 8, -1, ".dynsym", _RELA.size))
    if recipe.builtin_config is not None:
        if len(recipe.builtin_config) != BUILTIN_CONFIG_SIZE:
            raise ValueError("the built-in configuration has another size")
        out.add(_Section(BUILTIN_CONFIG, SHT_PROGBITS, flags, recipe.builtin_config, 16))


def _code(out: _Writer, recipe: Recipe) -> None:
    code = _filler(recipe.seed, recipe.code_size)
    out.add(_Section(".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXEC, code, 16))


def _before_data(recipe: Recipe) -> int:
    """As linkers do: data starts inside a page, where what will be read-only ends with the page."""
    size = _DYNAMIC_SIZE + 8 * recipe.relocations + (recipe.tls[0] if recipe.tls else 0)
    return int(-size % PAGE // 16 * 16)


def _data(out: _Writer, recipe: Recipe) -> None:
    flags = SHF_ALLOC | SHF_WRITE
    if recipe.tls is not None:
        size, whole = recipe.tls
        content = _filler(recipe.seed + "tls", size)
        out.add(_Section(".tdata", SHT_PROGBITS, flags | SHF_TLS, content, 4))
        out.add(_Section(".tbss", SHT_NOBITS, flags | SHF_TLS, b"", 4, whole - size))
    out.add(_Section(".data.rel.ro", SHT_PROGBITS, flags, bytes(8 * recipe.relocations), 8))
    out.add(_Section(".dynamic", SHT_DYNAMIC, flags, bytes(_DYNAMIC_SIZE), 8, -1, ".dynstr", 16))
    major, minor, revision = recipe.sdk
    head = struct.pack("<QQ", major << 32 | minor << 16 | revision, 1)
    data = _filler(recipe.seed + "data", recipe.data_size)
    data += bytes(-len(data) % 32) + head + bytes(recipe.global_data_size - len(head))
    out.add(_Section(".data", SHT_PROGBITS, flags, data, 32))
    end = out.offset
    out.add(_Section(".bss", SHT_NOBITS, flags, b"", 32, recipe.bss_size))
    out.offset = end


def _fill_tables(out: _Writer, recipe: Recipe) -> int:
    """Fill symbols, relocations and dynamic table, now that addresses are known; give the entry."""
    text, data, bss = out[".text"], out[".data"], out[".bss"]
    entry = text.address + 8
    global_data = data.address + data.length - recipe.global_data_size
    out[".dynsym"].content = bytes(_SYM.size)
    for name, place, value, size, kind in (
        (SYMBOLS[0], text, entry, recipe.code_size - 8, 2),
        (SYMBOLS[1], data, global_data, recipe.global_data_size, 1),
        (SYMBOLS[2], bss, bss.address, 8, 1),
    ):
        start = _STRINGS.index(b"\0" + name.encode() + b"\0") + 1
        index = out.sections.index(place) + 1
        out[".dynsym"].content += _SYM.pack(start, 1 << 4 | kind, 0, index, value, size)
    places = [text.address + place for place in recipe.text_relocations]
    places += [out[".data.rel.ro"].address + 8 * n for n in range(recipe.relocations)]
    out[".rela.dyn"].content = b"".join(_RELA.pack(place, R_RELATIVE, entry) for place in places)
    tags = [
        (DT_HASH, out[".hash"].address),
        (DT_STRTAB, out[".dynstr"].address),
        (DT_SYMTAB, out[".dynsym"].address),
        (DT_STRSZ, len(_STRINGS)),
        (DT_SYMENT, _SYM.size),
        (DT_RELA, out[".rela.dyn"].address),
        (DT_RELASZ, out[".rela.dyn"].length),
        (DT_RELAENT, _RELA.size),
        *([(DT_TEXTREL, 0)] if recipe.text_relocations else []),
    ]
    table = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    out[".dynamic"].content = table.ljust(_DYNAMIC_SIZE, b"\0")
    return entry


def _program_headers(
    out: _Writer, recipe: Recipe, starts: "list[tuple[int, int]]", ends: "list[tuple[int, int]]"
) -> "list[bytes]":
    headers = []
    for number, flags in enumerate((4, 5, 6)):  # R, R and X, R and W
        (offset, address), (end, memory_end) = starts[number], ends[number]
        sizes = (end - offset, memory_end - address)
        headers.append(_PHDR.pack(1, flags, offset, address, address, *sizes, PAGE))
    dynamic = out[".dynamic"]
    place = (dynamic.offset, dynamic.address, dynamic.address, dynamic.length, dynamic.length)
    headers.append(_PHDR.pack(2, 6, *place, 8))
    if recipe.tls is not None:
        tdata = out[".tdata"]
        place = (tdata.offset, tdata.address, tdata.address, *recipe.tls)
        headers.append(_PHDR.pack(7, 4, *place, 4))
    return headers


def _file(out: _Writer, entry: int, headers: "list[bytes]") -> bytes:
    names = b"\0" + b"".join(s.name.encode() + b"\0" for s in out.sections) + b".shstrtab\0"
    out.add(_Section(".shstrtab", SHT_STRTAB, 0, names))
    table = out.offset + -out.offset % 8
    image = bytearray(table)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    # fmt: off
    image[:64] = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, entry, 64, table, 0,
                             64, 56, len(headers), 64, len(out.sections) + 1, len(out.sections))
    # fmt: on
    image[64 : 64 + len(headers) * _PHDR.size] = b"".join(headers)
    indices = {section.name: number for number, section in enumerate(out.sections, 1)}
    table_bytes = bytes(_SHDR.size)
    for section in out.sections:
        image[section.offset : section.offset + len(section.content)] = section.content
        label = names.index(b"\0" + section.name.encode() + b"\0") + 1
        table_bytes += _SHDR.pack(
            label,
            section.kind,
            section.flags,
            section.address,
            section.offset,
            section.length,
            indices.get(section.link, 0),
            1 if section.kind == SHT_DYNSYM else 0,
            section.align,
            section.entry_size,
        )
    return bytes(image) + table_bytes


def section_range(data: bytes, name: str) -> "tuple[int, int]":
    """Give file offset and size of a section; KeyError if there is none."""
    (table,) = struct.unpack_from("<Q", data, 40)
    _, count, strings = struct.unpack_from("<HHH", data, 58)
    headers = [_SHDR.unpack_from(data, table + number * _SHDR.size) for number in range(count)]
    start = headers[strings][4]
    for header in headers:
        label = data[start + header[0] :].partition(b"\0")[0]
        if label == name.encode():
            return header[4], header[5]
    raise KeyError(name)


def patch_builtin_config(data: bytes, content: bytes) -> bytes:
    """Give the library with another ``.builtin_config``, as Occlum's build puts its MAC in.

    Args:
        data: an unsigned library.
        content: at most 48 bytes; what is missing stays zero.
    """
    offset, size = section_range(data, BUILTIN_CONFIG)
    if len(content) > size:
        raise ValueError(f"{BUILTIN_CONFIG} has {size} bytes, the content {len(content)}")
    return data[:offset] + content.ljust(size, b"\0") + data[offset + size :]


def main(arguments: "list[str]") -> int:
    """Run the command line."""
    if len(arguments) == 2 and arguments[0] == "make":
        result, target = make_enclave(), arguments[1]
    elif len(arguments) == 4 and arguments[0] == "patch":
        data, content = (Path(name).read_bytes() for name in arguments[1:3])
        result, target = patch_builtin_config(data, content), arguments[3]
    else:
        print(__doc__, file=sys.stderr)
        return 2
    Path(target).write_bytes(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
