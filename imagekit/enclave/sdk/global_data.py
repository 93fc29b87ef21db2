"""What the SDK 2.26's runtime gets to know about its enclave: ``global_data_t``, 1768 bytes.

Source: what sgx_sign of the Intel SGX SDK 2.26 writes. The signing tool puts it into the metadata,
and the loader patches it over ``g_global_data`` before it measures. All integers are little-endian.
``sdk_version`` at byte 0 is left 0. Addresses in the two templates count from a thread's TCS.
"""

import struct
from dataclasses import dataclass

from imagekit.enclave.elf import PAGE_SIZE
from imagekit.enclave.sdk.body import GPR_BYTES, SaveArea
from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.enclave.sdk.plan import SSA_FRAMES, Plan
from imagekit.enclave.sdk.tables import ENTRY_SIZE, LayoutEntry, LayoutId

SIZE = 1768
SLOTS = 43
"""Entries that the table of regions has room for."""

_HEAD = struct.Struct("<9QQ")
# self, last_sp, stack_base, stack_limit, first_ssa_gpr, stack_guard, flags, xsave_size, …
_THREAD = struct.Struct("<QqqqQQQQ24xQ8xQQ72x")
_TLS_POINTER = 104  # of the thread's data: where its tls_addr stands
_TCS = struct.Struct("<8xQQIIQQQQII")
_AEX_NOTIFY = 2  # bit of TCS.FLAGS
_TAIL = struct.Struct("<5Q")


@dataclass(frozen=True)
class Thread:
    """Where the parts of one thread lie, in bytes from its TCS.

    Attributes:
        stack_limit, stack_base: lowest and highest end of the stack; negative.
        ssa: the first SSA frame.
        data: the thread's data, behind its thread-local variables.
    """

    stack_limit: int
    stack_base: int
    ssa: int
    data: int


def thread_of(plan: Plan) -> Thread:
    """Give how a thread of the plan is laid out; all are alike."""
    tcs, ssa = _find(plan, LayoutId.TCS), _find(plan, LayoutId.SSA)
    stack, low = (
        _find(plan, LayoutId.STACK_MIN),
        _find(plan, LayoutId.STACK_MAX, LayoutId.STACK_MIN),
    )
    td = _find(plan, LayoutId.TD)
    return Thread(
        stack_limit=low.rva - tcs.rva,
        stack_base=stack.rva + stack.pages * PAGE_SIZE - tcs.rva,
        ssa=ssa.rva - tcs.rva,
        data=td.rva + (td.pages - 1) * PAGE_SIZE - tcs.rva,
    )


def _find(plan: Plan, *ids: LayoutId) -> LayoutEntry:
    found = plan.first(*ids)
    if found is None:
        raise AssertionError(f"a plan without {ids}")  # every plan has a whole thread
    return found


def tcs_template(thread: Thread, entry: int, shift: int, aex_notify: bool) -> bytes:
    """Give the 72 bytes of a thread control structure that are not zero padding.

    Source: Intel SDM vol. 3D, "Thread Control Structure".

    Args:
        thread: how it is laid out.
        entry: address of the enclave's entry.
        shift: bytes from the enclave's start to the image's.
        aex_notify: whether the thread is told of asynchronous exits.
    """
    data = thread.data + shift
    none = 0xFFFF_FFFF  # no limit of FS and GS in 64-bit mode
    flags = _AEX_NOTIFY if aex_notify else 0
    return _TCS.pack(
        flags, thread.ssa + shift, 0, SSA_FRAMES, entry + shift, 0, data, data, none, none
    )


def global_data(config: EnclaveConfig, plan: Plan, area: SaveArea, tcs: bytes) -> bytes:
    """Give the 1768 bytes.

    Args:
        config: the enclave's settings.
        plan: where everything is.
        area: its save area.
        tcs: :func:`tcs_template`.
    """
    thread = thread_of(plan)
    reserved = plan.first(LayoutId.RSRV_MIN, LayoutId.RSRV_INIT, LayoutId.RSRV_MAX)
    head = _HEAD.pack(
        0,  # sdk_version
        plan.enclave_size,
        _find(plan, LayoutId.HEAP_MIN).rva,
        config.heap_init,
        reserved.rva if reserved else 0,
        config.reserved_init,
        config.reserved_executable,
        config.tcs_policy,
        config.tcs_max_num,
        config.tcs_num,
    )
    data = _THREAD.pack(
        thread.data,
        thread.stack_base,
        thread.stack_base,
        thread.stack_limit,
        thread.ssa + area.frame_pages * PAGE_SIZE - GPR_BYTES,
        0,
        0,
        area.xsave_bytes,
        thread.ssa,
        thread.data - plan.tls_size,
        thread.data + _TLS_POINTER,
    )
    table = b"".join(item.pack() for item in plan.layout).ljust(SLOTS * ENTRY_SIZE, b"\0")
    tail = _TAIL.pack(
        config.image_address, config.elrange_start, config.elrange_size, plan.book_keeping, 0
    )
    count = struct.pack("<Q", len(plan.layout))
    return b"".join((head, data, tcs, count, table, tail))
