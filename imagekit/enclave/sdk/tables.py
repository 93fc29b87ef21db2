"""The tables in the metadata of an Intel SGX SDK enclave: regions, repetitions, patches.

Source: the files that Intel SGX SDK 2.2 to 2.26 write. All integers are little-endian, nothing is
padded; an entry of either table has 32 bytes.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

ENTRY_SIZE = 32
"""Bytes of an entry of the patch table and of the layout table."""
GROUP = 0x1000
"""Bit of a layout id: not a region, but a repetition of the entries before it."""
STACK_FILL = 0xCCCC_CCCC
"""The word that fresh stack pages are filled with."""

_ENTRY = struct.Struct("<HHIQIIQ")
_GROUP = struct.Struct("<HHIQ")
_PATCH = struct.Struct("<QII")
_ELRANGE = struct.Struct("<QQQ")


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
        packed = _GROUP.pack(self.id, self.entries, self.times, self.step)
        return packed.ljust(ENTRY_SIZE, b"\0")


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
        return _PATCH.pack(self.destination, self.source, self.size).ljust(ENTRY_SIZE, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> "Patch":
        """Read the 32 bytes of the table."""
        return cls(*_PATCH.unpack_from(data))


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

    @classmethod
    def unpack(cls, data: bytes) -> "ElRange":
        """Read the 24 bytes of the directory's data."""
        return cls(*_ELRANGE.unpack(data))


def unpack_layout_item(data: bytes) -> LayoutEntry | LayoutGroup:
    """Read the 32 bytes of the layout table: an entry or a group, as its id says."""
    if int.from_bytes(data[:2], "little") & GROUP:
        return LayoutGroup(*_GROUP.unpack_from(data))
    return LayoutEntry(*_ENTRY.unpack_from(data))
