"""The metadata of an Intel SGX SDK enclave: what ``.note.sgxmeta`` holds once it is signed.

Source: the files that Intel SGX SDK 2.2 to 2.26 write. All integers are little-endian, nothing is
padded. One block is a head (SIGSTRUCT at byte 64, directories at 1872), then data that the
directories and tables point into by offsets from the block's start. A file holds one block or two,
the second right behind the first.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from imagekit.enclave.sigstruct import SIZE as SIGSTRUCT_SIZE
from imagekit.errors import InputError

MAGIC = 0x86A8_0294_635D_0E4C
SIGSTRUCT_OFFSET = 64
DIRECTORY_OFFSET = SIGSTRUCT_OFFSET + SIGSTRUCT_SIZE
ENTRY_SIZE = 32
"""Bytes of an entry of the patch table and of the layout table."""
ELRANGE_MAJOR = 11
"""Lowest major version of a file whose enclave range is set apart from its image."""

GROUP = 0x1000
"""Bit of a layout id: not a region, but a repetition of the entries before it."""
STACK_FILL = 0xCCCC_CCCC
"""The word that fresh stack pages are filled with."""

_HEAD = struct.Struct("<QIIIIIIIIQQQ")
_DIRECTORY = struct.Struct("<II")
_ENTRY = struct.Struct("<HHIQIIQ")
_GROUP = struct.Struct("<HHIQQQ")
_PATCH = struct.Struct("<QIIQQ")
_ELRANGE = struct.Struct("<QQQ")
_MAX_ITEMS = 1024  # the SDK has 43 slots; a note of 0x6000 bytes has room for 700
_HINT = "take the file as sgx_sign (or imagekit) wrote it"


class LayoutId(IntEnum):
    """What a region of the layout table is for; groups carry :data:`GROUP` as well."""

    HEAP_MIN = 1
    HEAP_INIT = 2
    HEAP_MAX = 3
    TCS = 4
    TD = 5
    SSA = 6
    STACK_MAX = 7
    STACK_MIN = 8
    THREAD_GROUP = GROUP | 9
    GUARD = 10
    TCS_DYN = 14
    TD_DYN = 15
    SSA_DYN = 16
    STACK_DYN_MAX = 17
    STACK_DYN_MIN = 18
    THREAD_GROUP_DYN = GROUP | 19
    RSRV_MIN = 20
    RSRV_INIT = 21
    RSRV_MAX = 22
    USER_REGION = 23


class LayoutAttribute(IntFlag):
    """What happens with a region's pages: at load (EADD, EEXTEND), and later."""

    EADD = 1
    EEXTEND = 2
    EREMOVE = 4
    POST_ADD = 8
    POST_REMOVE = 16
    DYN_THREAD = 32
    GROW_DOWN = 64


class DirectoryId(IntEnum):
    """Index in the list of directories; the last two exist from SDK 2.24 on."""

    PATCH = 0
    LAYOUT = 1
    ELRANGE = 2
    EXTEND = 3


@dataclass(frozen=True)
class LayoutEntry:
    """One region of the enclave.

    Attributes:
        id: a :class:`LayoutId`, or a number that is not known.
        attributes: :class:`LayoutAttribute` bits.
        pages: how many.
        rva: of the first page, bytes from the image's start.
        content_size: bytes at `content_offset`; without content the u32 that pages are filled with.
        content_offset: bytes from the metadata block's start, or 0 for none.
        flags: SECINFO flags; 0 for regions that have no pages (guards).
    """

    id: int
    attributes: int
    pages: int
    rva: int
    content_size: int = 0
    content_offset: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        """Give the 32 bytes of the table."""
        return _ENTRY.pack(
            self.id,
            self.attributes,
            self.pages,
            self.rva,
            self.content_size,
            self.content_offset,
            self.flags,
        )


@dataclass(frozen=True)
class LayoutGroup:
    """A repetition of the entries before it.

    Attributes:
        id: a :class:`LayoutId` with :data:`GROUP`.
        entries: how many entries right before this one are repeated.
        times: how many further copies there are.
        step: bytes from one copy to the next.
    """

    id: int
    entries: int
    times: int
    step: int

    def pack(self) -> bytes:
        """Give the 32 bytes of the table."""
        return _GROUP.pack(self.id, self.entries, self.times, self.step, 0, 0)


@dataclass(frozen=True)
class Patch:
    """Bytes of the metadata that the loader copies over the file before it loads it.

    Attributes:
        destination: file offset.
        source: bytes from the metadata block's start.
        size: bytes.
    """

    destination: int
    source: int
    size: int

    def pack(self) -> bytes:
        """Give the 32 bytes of the table."""
        return _PATCH.pack(self.destination, self.source, self.size, 0, 0)


@dataclass(frozen=True)
class ElRange:
    """Where image and enclave lie when they are set apart (SDK 2.24 and later); bytes.

    Attributes:
        image_address: absolute address of the image's start.
        start: absolute address of the enclave's start.
        size: the enclave's size.
    """

    image_address: int
    start: int
    size: int

    def pack(self) -> bytes:
        """Give the 24 bytes of the directory's data."""
        return _ELRANGE.pack(self.image_address, self.start, self.size)


@dataclass(frozen=True)
class Directory:
    """Where a table lies in the block.

    Attributes:
        offset: bytes from the block's start.
        size: bytes; 0 for a table that is not there.
    """

    offset: int
    size: int


def head_size(version: tuple[int, int]) -> int:
    """Give the bytes of the head: two directories up to SDK 2.23, four from 2.24 on.

    SDK 2.24 came with metadata 1.5, 3.2 and 11.5.
    """
    four = version[0] >= ELRANGE_MAJOR or version >= (3, 2) or (1, 5) <= version < (2, 0)
    return DIRECTORY_OFFSET + (4 if four else 2) * _DIRECTORY.size


@dataclass(frozen=True)
class Metadata:
    """One metadata block.

    Attributes:
        version: major and minor.
        size: bytes of the block with all that its directories point to.
        tcs_policy: 0 threads bound to a TCS, 1 not bound.
        ssa_frame_pages: pages of one SSA frame.
        max_save_buffer_size: bytes.
        desired_misc_select: MISCSELECT that the loader asks for.
        tcs_min_pool: threads kept ready.
        enclave_size: bytes from the image's start, a power of two.
        flags, xfrm: ATTRIBUTES that the loader asks for.
        sigstruct: 1808 bytes; all zero when not signed.
        directories: two or four.
        patches, layout: the tables, in file order.
        elrange: only with major version 11.
        block: the whole block, `size` bytes; empty when it has not been laid out yet.
    """

    version: tuple[int, int]
    size: int
    tcs_policy: int
    ssa_frame_pages: int
    max_save_buffer_size: int
    desired_misc_select: int
    tcs_min_pool: int
    enclave_size: int
    flags: int
    xfrm: int
    sigstruct: bytes = field(repr=False, default=bytes(SIGSTRUCT_SIZE))
    directories: tuple[Directory, ...] = ()
    patches: tuple[Patch, ...] = ()
    layout: tuple[LayoutEntry | LayoutGroup, ...] = ()
    elrange: ElRange | None = None
    block: bytes = field(repr=False, default=b"")

    @property
    def is_signed(self) -> bool:
        """Whether there is a SIGSTRUCT at all (not: whether it is right)."""
        return any(self.sigstruct)

    def pack_head(self) -> bytes:
        """Give the head, :func:`head_size` bytes; tables and data are not in it."""
        head = _HEAD.pack(
            MAGIC,
            self.version[1],
            self.version[0],
            self.size,
            self.tcs_policy,
            self.ssa_frame_pages,
            self.max_save_buffer_size,
            self.desired_misc_select,
            self.tcs_min_pool,
            self.enclave_size,
            self.flags,
            self.xfrm,
        )
        directories = b"".join(_DIRECTORY.pack(d.offset, d.size) for d in self.directories)
        return (head + self.sigstruct + directories).ljust(head_size(self.version), b"\0")


def parse_metadata(data: bytes, name: str = "metadata") -> Metadata:
    """Read one metadata block.

    Args:
        data: the note's content from the block's start on; what stands behind the block is ignored.
        name: how the block is called in error messages.

    Raises:
        InputError: wrong magic, unknown version, or offsets that point out of the block.
    """
    if len(data) < head_size((1, 3)):
        raise _bad(name, "the metadata is cut off")
    magic, minor, major, size, policy, ssa_frame, buffer, misc, pool, *rest = _HEAD.unpack_from(data)
    enclave_size, flags, xfrm = rest
    if magic != MAGIC:
        raise _bad(name, f"the metadata's magic number is {magic:#x}, not {MAGIC:#x}")
    version = (major, minor)
    if major not in (1, 2, 3, ELRANGE_MAJOR):
        raise InputError(
            f"{name}: metadata version {major}.{minor} is not known",
            "known are major versions 1, 2, 3 and 11, those of Intel SGX SDK 1.9 to 2.26",
        )
    head = head_size(version)
    if not head <= size <= len(data):
        raise _bad(name, f"the metadata says it has {size} bytes, which its note has no room for")
    block = data[:size]
    directories = tuple(
        Directory(*_DIRECTORY.unpack_from(block, offset))
        for offset in range(DIRECTORY_OFFSET, head, _DIRECTORY.size)
    )
    for index, place in enumerate(directories):
        if place.size and not head <= place.offset <= size - place.size:
            raise _bad(name, f"the {_table(index)} lies outside the metadata")
    return Metadata(
        version,
        size,
        tcs_policy=policy,
        ssa_frame_pages=ssa_frame,
        max_save_buffer_size=buffer,
        desired_misc_select=misc,
        tcs_min_pool=pool,
        enclave_size=enclave_size,
        flags=flags,
        xfrm=xfrm,
        sigstruct=block[SIGSTRUCT_OFFSET:DIRECTORY_OFFSET],
        directories=directories,
        patches=tuple(Patch(*item[:3]) for item in _items(block, directories, 0, _PATCH, name)),
        layout=tuple(map(_layout_item, _items(block, directories, 1, _ENTRY, name))),
        elrange=_elrange(block, directories, name) if major >= ELRANGE_MAJOR else None,
        block=block,
    )


def _bad(name: str, what: str) -> InputError:
    return InputError(f"{name}: {what}", _HINT)


def _table(index: int) -> str:
    return ("patch table", "layout table", "ELRANGE entry", "table of extended data")[index]


def _items(
    block: bytes, directories: tuple[Directory, ...], index: int, form: struct.Struct, name: str
) -> list[tuple[int, ...]]:
    place = directories[index]
    if place.size % ENTRY_SIZE or place.size > _MAX_ITEMS * ENTRY_SIZE:
        raise _bad(name, f"the {_table(index)} has {place.size} bytes: not entries of 32 bytes")
    if not place.size:
        return []
    return list(form.iter_unpack(block[place.offset : place.offset + place.size]))


def _layout_item(item: tuple[int, ...]) -> LayoutEntry | LayoutGroup:
    if item[0] & GROUP:
        return LayoutGroup(*item[:4])
    return LayoutEntry(*item)


def _elrange(block: bytes, directories: tuple[Directory, ...], name: str) -> ElRange:
    place = directories[DirectoryId.ELRANGE]
    if place.size != _ELRANGE.size:
        raise _bad(name, f"the ELRANGE entry has {place.size} bytes, not {_ELRANGE.size}")
    return ElRange(*_ELRANGE.unpack_from(block, place.offset))
