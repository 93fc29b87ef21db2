"""The metadata of an Intel SGX SDK enclave: what ``.note.sgxmeta`` holds once it is signed.

Source: the files that Intel SGX SDK 2.2 to 2.26 write. All integers are little-endian, nothing is
padded. One block is a head (SIGSTRUCT at byte 64, directories at 1872), then data that the
directories and tables point into by offsets from the block's start. A file holds one block or two,
the second right behind the first.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from imagekit.enclave.sdk.tables import (
    ENTRY_SIZE,
    GROUP,
    STACK_FILL,
    ElRange,
    LayoutAttribute,
    LayoutEntry,
    LayoutGroup,
    LayoutId,
    Patch,
    unpack_layout_item,
)
from imagekit.enclave.sigstruct import SIZE as SIGSTRUCT_SIZE
from imagekit.errors import InputError

__all__ = [
    "DIRECTORY_OFFSET",
    "ELRANGE_MAJOR",
    "ELRANGE_STEP",
    "ENTRY_SIZE",
    "GROUP",
    "MAGIC",
    "SIGSTRUCT_OFFSET",
    "STACK_FILL",
    "Directory",
    "DirectoryId",
    "ElRange",
    "LayoutAttribute",
    "LayoutEntry",
    "LayoutGroup",
    "LayoutId",
    "Metadata",
    "Patch",
    "head_size",
    "parse_metadata",
]

MAGIC = 0x86A8_0294_635D_0E4C
SIGSTRUCT_OFFSET = 64
DIRECTORY_OFFSET = SIGSTRUCT_OFFSET + SIGSTRUCT_SIZE
ELRANGE_STEP = 10
"""By how much the major version is higher in a file whose enclave range is set apart."""
ELRANGE_MAJOR = 1 + ELRANGE_STEP
"""Lowest major version of such a file."""


_HEAD = struct.Struct("<QIIIIIIIIQQQ")
_DIRECTORY = struct.Struct("<II")
_MAJORS = (1, 2, 3, ELRANGE_MAJOR, 3 + ELRANGE_STEP)
_MAX_ITEMS = 1024  # the SDK has 43 slots; a note of 0x6000 bytes has room for 700
_HINT = "take the file as sgx_sign (or imagekit) wrote it"


class DirectoryId(IntEnum):
    """Index in the list of directories; the last two exist from SDK 2.24 on."""

    PATCH = 0
    LAYOUT = 1
    ELRANGE = 2
    EXTEND = 3


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
        elrange: only with major versions from 11 on.
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
    magic, minor, major, size, policy, ssa_frame, *rest = _HEAD.unpack_from(data)
    save_buffer, misc, pool, enclave_size, flags, xfrm = rest
    if magic != MAGIC:
        raise _bad(name, f"the metadata's magic number is {magic:#x}, not {MAGIC:#x}")
    version = (major, minor)
    if major not in _MAJORS:
        raise InputError(
            f"{name}: metadata version {major}.{minor} is not known",
            "known are major versions 1, 2, 3, 11 and 13, those of Intel SGX SDK 1.9 to 2.26",
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
        max_save_buffer_size=save_buffer,
        desired_misc_select=misc,
        tcs_min_pool=pool,
        enclave_size=enclave_size,
        flags=flags,
        xfrm=xfrm,
        sigstruct=block[SIGSTRUCT_OFFSET:DIRECTORY_OFFSET],
        directories=directories,
        patches=tuple(map(Patch.unpack, _items(block, directories, DirectoryId.PATCH, name))),
        layout=tuple(map(unpack_layout_item, _items(block, directories, DirectoryId.LAYOUT, name))),
        elrange=_elrange(block, directories, name) if major >= ELRANGE_MAJOR else None,
        block=block,
    )


def _bad(name: str, what: str) -> InputError:
    return InputError(f"{name}: {what}", _HINT)


def _table(index: int) -> str:
    return ("patch table", "layout table", "ELRANGE entry", "table of extended data")[index]


def _items(block: bytes, directories: tuple[Directory, ...], index: int, name: str) -> list[bytes]:
    place = directories[index]
    if place.size % ENTRY_SIZE or place.size > _MAX_ITEMS * ENTRY_SIZE:
        raise _bad(name, f"the {_table(index)} has {place.size} bytes: not entries of 32 bytes")
    return [
        block[offset : offset + ENTRY_SIZE]
        for offset in range(place.offset, place.offset + place.size, ENTRY_SIZE)
    ]


def _elrange(block: bytes, directories: tuple[Directory, ...], name: str) -> ElRange:
    place = directories[DirectoryId.ELRANGE]
    if place.size != 24:
        raise _bad(name, f"the ELRANGE entry has {place.size} bytes, not 24")
    return ElRange.unpack(block[place.offset : place.offset + place.size])
