"""What an unsigned enclave library has to be, before it can be laid out and measured.

Sources: System V ABI and its x86-64 supplement (section headers, dynamic section, symbols,
relocations, thread-local storage); the demands are those of sgx_sign 2.26. A loader inside an
enclave does little: what it cannot do has to be found here.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imagekit.enclave.elf import PAGE_SIZE, page_ceil
from imagekit.enclave.sdk.image import HINT, EnclaveImage, read_image
from imagekit.enclave.sdk.program import Symbol, dynamic_symbols, load_alignments, tls_size
from imagekit.errors import InputError

GLOBAL_DATA = "g_global_data"
"""Symbol of the data that the signing tool fills in."""
ENTRY = "enclave_entry"
"""Symbol of the place where the CPU enters."""

_SHF_ALLOC, _SHF_EXECINSTR = 2, 4
_PF_W = 2
_DT_REL, _DT_PLTREL = 17, 20
_STB_WEAK = 2
# R_X86_64_*: 64, GLOB_DAT, JUMP_SLOT, RELATIVE, DTPMOD64, DTPOFF64, TPOFF64
_RELOCATIONS = frozenset((1, 6, 7, 8, 16, 17, 18))
_LINK = "link it with the linker script and the flags of the SDK's samples"


@dataclass(frozen=True)
class UnsignedEnclave:
    """A library that can be made an enclave; offsets and sizes in bytes.

    Attributes:
        image: the file.
        entry: address of the enclave's entry.
        image_end: where the last segment ends, a page border.
        tls_size: thread-local data of one thread, rounded up to its alignment.
        global_data: file offset of the SDK's ``g_global_data``.
        global_data_size: its size.
        sdk_version: major, minor and revision that the library was linked with.
        warnings: what was let pass.
    """

    image: EnclaveImage
    entry: int
    image_end: int
    tls_size: int
    global_data: int
    global_data_size: int
    sdk_version: tuple[int, int, int]
    warnings: tuple[str, ...] = ()

    @property
    def sdk(self) -> str:
        """The SDK's version, as ``2.26.100``."""
        return ".".join(map(str, self.sdk_version))


def read_unsigned(
    data: bytes, name: str, *, ignore_relocations: bool = False, ignore_init: bool = False
) -> UnsignedEnclave:
    """Read an enclave library and check what the SDK's loader needs.

    Args:
        data: the file.
        name: how it is called in messages.
        ignore_relocations: warn of relocations in code instead of refusing them.
        ignore_init: the same of an ``.init`` section.

    Raises:
        InputError: it is no such library.
    """
    image = read_image(data, name)
    _check_segments(image)
    if not image.dynamic:
        raise InputError(f"{name}: no dynamic section", _LINK)
    warnings = [
        *_check_sections(image, ignore_init),
        *_check_relocations(image, ignore_relocations),
    ]
    symbols = dynamic_symbols(image)
    _check_symbols(name, symbols)
    offset, size = _global_data(image, symbols)
    entries = [symbol.value for symbol in symbols if symbol.name == ENTRY and symbol.section]
    return UnsignedEnclave(
        image=image,
        entry=entries[0] if entries else image.elf.entry,
        image_end=page_ceil(max(s.vaddr + s.memsz for s in image.elf.segments)),
        tls_size=tls_size(image),
        global_data=offset,
        global_data_size=size,
        sdk_version=_version(image, offset),
        warnings=tuple(warnings),
    )


def sdk_version(image: EnclaveImage) -> tuple[int, int, int] | None:
    """Give the SDK that a file was linked with; None if it does not say.

    Works on every file that can be read, also on one that :func:`read_unsigned` would refuse.
    """
    try:
        offset, _ = _global_data(image, dynamic_symbols(image))
    except InputError:
        return None
    return _version(image, offset)


def _version(image: EnclaveImage, offset: int) -> tuple[int, int, int]:
    number = int.from_bytes(image.data[offset : offset + 8], "little")
    return number >> 32, number >> 16 & 0xFFFF, number & 0xFFFF


def _check_segments(image: EnclaveImage) -> None:
    end = 0
    for index, align in enumerate(load_alignments(image)):
        segment = image.elf.segments[index]
        if align == 0 or align % PAGE_SIZE:
            raise InputError(
                f"{image.name}: loadable segment {index} is aligned to {align:#x}, not to pages",
                "link it with -z max-page-size=0x1000",
            )
        if segment.first_page < end:
            raise InputError(
                f"{image.name}: loadable segment {index} shares a page with one before it", _LINK
            )
        end = segment.end_page


def _check_sections(image: EnclaveImage, ignore_init: bool) -> Iterator[str]:
    name = image.name
    names = {section.name for section in image.sections if section.size}
    if ".ctors" in names:
        raise InputError(
            f"{name}: has a .ctors section, which no enclave runs",
            "compile it with -fuse-init-array",
        )
    if ".init" in names:
        line = f"{name}: has an .init section, which no enclave runs"
        if not ignore_init:
            raise InputError(line, "link it with -nostartfiles, or give -ignore-init-sec-error")
        yield line


def _check_relocations(image: EnclaveImage, ignore: bool) -> Iterator[str]:
    name = image.name
    if _DT_REL in image.dynamic or image.dynamic.get(_DT_PLTREL) == _DT_REL:
        raise InputError(f"{name}: has relocations without addends (REL)", _LINK)
    code = _code(image)
    text: list[int] = []
    for relocation in image.relocations():
        address = relocation.offset
        if relocation.kind not in _RELOCATIONS:
            raise InputError(
                f"{name}: has a relocation of type {relocation.kind} at {address:#x}, which no "
                "enclave does",
                _LINK,
            )
        if bisect_right(code, address) % 2:
            text.append(address)
    if text:
        more = f" and {len(text) - 1} more places" if len(text) > 1 else ""
        line = f"{name}: has text relocations, at {text[0]:#x}{more}"
        if not ignore:
            raise InputError(line, "compile all of it with -fPIC, or give -ignore-rel-error")
        yield line


def _code(image: EnclaveImage) -> list[int]:
    """Give where code begins and ends, in turns, by address."""
    borders: list[int] = []
    for start, end in sorted(
        (section.address, section.address + section.size)
        for section in image.sections
        if section.flags & _SHF_ALLOC and section.flags & _SHF_EXECINSTR and section.size
    ):
        if borders and start <= borders[-1]:
            borders[-1] = max(borders[-1], end)
        else:
            borders += [start, end]
    return borders


def _check_symbols(name: str, symbols: Sequence[Symbol]) -> None:
    missing = [s.name for s in symbols if not s.section and s.binding != _STB_WEAK]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{name}: symbol {missing[0]!r}{more} is not defined",
            "link it with -Wl,--no-undefined and the library that has it",
        )


def _global_data(image: EnclaveImage, symbols: Sequence[Symbol]) -> tuple[int, int]:
    """Give file offset and size of the SDK's data that the signing tool fills in."""
    found = [symbol for symbol in symbols if symbol.name == GLOBAL_DATA and symbol.section]
    if not found:
        raise InputError(
            f"{image.name}: no symbol {GLOBAL_DATA}, so it is no enclave of the Intel SGX SDK", HINT
        )
    symbol = found[0]
    for segment in image.elf.segments:
        start = symbol.value - segment.vaddr
        if segment.flags & _PF_W and 0 <= start <= segment.filesz - max(symbol.size, 8):
            return segment.offset + start, symbol.size
    raise InputError(f"{image.name}: {GLOBAL_DATA} is not in a data segment", _LINK)
