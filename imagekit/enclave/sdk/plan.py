"""Forward layout: from a configuration to the regions of an enclave, as the SDK 2.26 lays them out.

Source: what sgx_sign of the Intel SGX SDK 2.26 writes. Regions follow the image in the order heap,
threads, reserved memory, user region, and a last guard fills up to a power of two. A thread is a
run of regions; further threads are written as one copy and a repetition of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from imagekit.enclave.elf import PAGE_SIZE
from imagekit.enclave.sdk.book_keeping import book_keeping_of
from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.enclave.sdk.tables import (
    STACK_FILL,
    LayoutAttribute,
    LayoutEntry,
    LayoutGroup,
    LayoutId,
)
from imagekit.errors import InputError

RW, RWX, TCS_PAGE = 0x203, 0x207, 0x100
"""SECINFO flags of ordinary pages and of thread control structures."""

GUARD_PAGES = 16
TCS_BYTES = 72
"""Bytes of the template of a thread control structure that are not zero padding."""
SSA_FRAMES = 2

_CHUNK = 64 << 10  # what the SDK's memory manager reserves at a time
_MAX_ENCLAVE = 1 << 46
_MAX_PAGES = (1 << 32) - 1

_ADDED = LayoutAttribute.EADD
_MEASURED = LayoutAttribute.EADD | LayoutAttribute.EEXTEND
_LATER = LayoutAttribute.POST_ADD
_SHRINKS = LayoutAttribute.POST_ADD | LayoutAttribute.POST_REMOVE
_DYNAMIC = _SHRINKS | LayoutAttribute.EREMOVE | LayoutAttribute.DYN_THREAD
_DYN_THREAD = LayoutAttribute.POST_ADD | LayoutAttribute.DYN_THREAD
_TO_DYN = LayoutId.TCS_DYN - LayoutId.TCS

Layout = tuple[LayoutEntry | LayoutGroup, ...]


@dataclass(frozen=True)
class Plan:
    """Where everything goes; offsets and sizes in bytes from the image's start.

    Attributes:
        layout: all regions, as the enclave itself gets to know them.
        sgx2: whether there is a metadata block for machines with SGX2.
        sgx1: whether there is one for machines without.
        enclave_size: a power of two.
        book_keeping: bytes of the user region that the SDK's memory manager takes for itself.
        tls_size: thread-local data of one thread, rounded up to its alignment.
    """

    layout: Layout
    sgx2: bool
    sgx1: bool
    enclave_size: int
    book_keeping: int
    tls_size: int

    def first(self, *ids: LayoutId) -> LayoutEntry | None:
        """Give the first region that has one of the ids."""
        entries = (item for item in self.layout if isinstance(item, LayoutEntry))
        return next((entry for entry in entries if entry.id in ids), None)


class _Cursor:
    """Appends regions one behind the other."""

    def __init__(self, start: int) -> None:
        self.items: list[LayoutEntry | LayoutGroup] = []
        self.rva = start

    def add(self, entries: Iterable[LayoutEntry]) -> int:
        """Append entries, leaving out empty ones; give how many bytes they cover."""
        start = self.rva
        for entry in entries:
            if entry.pages:
                self.items.append(replace(entry, rva=self.rva))
                self.rva += entry.pages * PAGE_SIZE
        return self.rva - start

    def repeat(self, entries: Sequence[LayoutEntry], group: LayoutId, times: int) -> None:
        """Append entries once, and a group for what is beyond `times` = 1."""
        if times <= 0:
            return
        step = self.add(entries)
        if times > 1:
            self.items.append(LayoutGroup(group, len(entries), times - 1, step))
            self.rva += step * (times - 1)


def plan_layout(
    config: EnclaveConfig, image_end: int, tls_size: int, frame_pages: int, tcs_offset: int
) -> Plan:
    """Lay an enclave out.

    Args:
        config: its settings.
        image_end: where the last segment ends, a page border.
        tls_size: thread-local data of one thread, rounded up to its alignment.
        frame_pages: pages of an SSA frame.
        tcs_offset: where the template of a TCS stands in the metadata block.

    Raises:
        InputError: the enclave would be larger than an address space.
    """
    cursor = _Cursor(image_end)
    cursor.add(_heap(config))
    thread = _thread(config, tls_size, frame_pages, tcs_offset)
    _threads(cursor, config, thread)
    cursor.add(_reserved(config))
    sgx2, sgx1 = _versions(config, cursor.items)
    book_keeping = 0
    if sgx2:
        book_keeping = _round_up(book_keeping_of(cursor.items, config.user_region_size), _CHUNK)
        size = config.user_region_size + book_keeping + _CHUNK
        cursor.add([_region(LayoutId.USER_REGION, _LATER, size)])
    if cursor.rva > _MAX_ENCLAVE:
        raise InputError(
            f"the enclave would have {cursor.rva:#x} bytes", "lower its heap, stacks or threads"
        )
    enclave_size = 1 << (cursor.rva - 1).bit_length()
    cursor.add([_region(LayoutId.GUARD, 0, enclave_size - cursor.rva, flags=0)])
    for item in cursor.items:
        if isinstance(item, LayoutEntry) and item.pages > _MAX_PAGES:
            raise InputError(
                f"an area of {item.pages * PAGE_SIZE:#x} bytes is larger than the metadata can say",
                "lower the enclave's heap, reserved memory or user region",
            )
    return Plan(tuple(cursor.items), sgx2, sgx1, enclave_size, book_keeping, tls_size)


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _region(id: LayoutId, attributes: int, size: int, flags: int = RW) -> LayoutEntry:
    return LayoutEntry(id, attributes, size // PAGE_SIZE, 0, flags=flags)


def _heap(config: EnclaveConfig) -> list[LayoutEntry]:
    return [
        _region(LayoutId.HEAP_MIN, _ADDED, config.heap_min),
        _region(LayoutId.HEAP_INIT, _ADDED | _SHRINKS, config.heap_init - config.heap_min),
        _region(LayoutId.HEAP_MAX, _LATER, config.heap_max - config.heap_init),
    ]


def _reserved(config: EnclaveConfig) -> list[LayoutEntry]:
    low, start, high = config.reserved_min, config.reserved_init, config.reserved_max
    flags = RWX if config.reserved_executable else RW
    return [
        _region(LayoutId.RSRV_MIN, _ADDED, low, flags),
        _region(LayoutId.RSRV_INIT, _ADDED | _SHRINKS, start - low, flags),
        _region(LayoutId.RSRV_MAX, _LATER, high - start),
    ]


def _thread(
    config: EnclaveConfig, tls_size: int, frame_pages: int, tcs_offset: int
) -> list[LayoutEntry]:
    """Give the regions of one thread that is there from the start."""
    guard = LayoutEntry(LayoutId.GUARD, 0, GUARD_PAGES, 0)
    low, high = config.stack_min // PAGE_SIZE, config.stack_max // PAGE_SIZE
    grows = _MEASURED | LayoutAttribute.GROW_DOWN
    tls_pages = _round_up(tls_size, PAGE_SIZE) // PAGE_SIZE
    regions = [
        guard,
        LayoutEntry(LayoutId.STACK_MAX, grows, high - low, 0, STACK_FILL, 0, RW),
        LayoutEntry(LayoutId.STACK_MIN, _MEASURED, low, 0, STACK_FILL, 0, RW),
        guard,
        LayoutEntry(LayoutId.TCS, _MEASURED, 1, 0, TCS_BYTES, tcs_offset, TCS_PAGE),
        LayoutEntry(LayoutId.SSA, _MEASURED, SSA_FRAMES * frame_pages, 0, flags=RW),
        guard,
        LayoutEntry(LayoutId.TD, _MEASURED, 1 + tls_pages, 0, flags=RW),
    ]
    return [region for region in regions if region.pages]


def _threads(cursor: _Cursor, config: EnclaveConfig, thread: Sequence[LayoutEntry]) -> None:
    """Append the utility thread, the pool, the threads that go at load, and those that may come."""
    pool = min(config.tcs_min_pool, config.tcs_num - 1)
    cursor.add(
        replace(region, attributes=region.attributes | _SHRINKS)
        if region.id == LayoutId.STACK_MAX
        else region
        for region in thread
    )
    cursor.repeat(thread, LayoutId.THREAD_GROUP, pool)
    removed = [
        replace(region, attributes=region.attributes | LayoutAttribute.EREMOVE)
        if region.flags
        else region
        for region in thread
    ]
    cursor.repeat(removed, LayoutId.THREAD_GROUP, config.tcs_num - 1 - pool)
    # One more than can ever run: the SDK counts the utility thread twice.
    coming = config.tcs_max_num - pool
    if coming > 1:
        dynamic = [_dynamic(region) for region in thread]
        cursor.repeat(dynamic, LayoutId.THREAD_GROUP_DYN, coming)


def _dynamic(region: LayoutEntry) -> LayoutEntry:
    if not region.flags:
        return region
    stack = region.id == LayoutId.STACK_MAX
    attributes = _LATER | LayoutAttribute.GROW_DOWN if stack else _DYN_THREAD
    return replace(region, id=region.id + _TO_DYN, attributes=attributes)


def _versions(
    config: EnclaveConfig, layout: Iterable[LayoutEntry | LayoutGroup]
) -> tuple[bool, bool]:
    """Say whether there is a block for SGX2, and one for SGX1."""
    if config.user_region_size:
        return True, False
    dynamic = any(item.attributes & _DYNAMIC for item in layout if isinstance(item, LayoutEntry))
    if not dynamic or not config.misc_select & 1:
        return False, True
    return True, not config.misc_mask & 1


def for_sgx1(plan: Plan, config: EnclaveConfig) -> Layout:
    """Give the layout table for machines without SGX2: nothing comes later, all threads alike."""
    heap = [item for item in plan.layout if item.id in _HEAP]
    reserved = [item for item in plan.layout if item.id in _RESERVED]
    start = len(heap)
    end = next(n for n, item in enumerate(plan.layout) if item.id == LayoutId.TD) + 1
    thread = plan.layout[start:end]
    step = sum(item.pages for item in thread if isinstance(item, LayoutEntry)) * PAGE_SIZE
    group = LayoutGroup(LayoutId.THREAD_GROUP, len(thread), config.tcs_num - 1, step)
    return tuple(_static(item) for item in (*heap, *thread, group, *reserved))


_HEAP = (LayoutId.HEAP_MIN, LayoutId.HEAP_INIT, LayoutId.HEAP_MAX)
_RESERVED = (LayoutId.RSRV_MIN, LayoutId.RSRV_INIT, LayoutId.RSRV_MAX)


def _static(item: LayoutEntry | LayoutGroup) -> LayoutEntry | LayoutGroup:
    if isinstance(item, LayoutGroup):
        return item
    flags = 0 if item.id in (LayoutId.HEAP_MAX, LayoutId.RSRV_MAX) else item.flags
    return replace(item, attributes=item.attributes & ~LayoutAttribute.POST_ADD, flags=flags)
