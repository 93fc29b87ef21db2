"""MRENCLAVE of a Gramine enclave from its manifest and PAL: no SGX machine, no Gramine.

The measurement depends on five things: manifest text, PAL bytes, enclave size, number of threads
and EDMM. Page contents (TCS, TLS) are those of Gramine 1.0 to 1.9.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from imagekit.enclave.elf import PAGE_SIZE, Elf, page_ceil
from imagekit.enclave.layout import (
    ADDED_PAGE_BYTES,
    MEASURED_PAGE_BYTES,
    RECORD_BYTES,
    SIGNAL_STACK_SIZE,
    SSA_FRAME_PAGES,
    SSA_FRAMES,
    SSA_PER_THREAD,
    THREAD_STACK_SIZE,
    Area,
    Layout,
    lay_out,
)
from imagekit.enclave.parameters import EnclaveParameters

_CANARY = 0xBADBADBADBAD
_GPR_RECORD_SIZE = 0xB8


@dataclass(frozen=True)
class Measurement:
    """An enclave's measurement.

    Attributes:
        mr_enclave: 32 bytes, in the order in which every tool prints them.
        layout: what was measured where.
        hashed_bytes: how many bytes went through SHA-256.
    """

    mr_enclave: bytes
    layout: Layout
    hashed_bytes: int


def measured_bytes(layout: Layout) -> int:
    """Give how many bytes a measurement of this layout hashes, before doing it."""
    sizes = {True: MEASURED_PAGE_BYTES, False: ADDED_PAGE_BYTES}
    return RECORD_BYTES + sum(area.pages * sizes[area.measured] for area in layout.areas)


def _tcs_pages(layout: Layout, pal: Elf) -> bytes:
    """TCS pages of all threads (Intel SDM vol. 3D, "TCS"); offsets are relative to the base."""
    ssa, tls = layout.area("ssa").start, layout.area("tls").start
    pages = bytearray(layout.threads * PAGE_SIZE)
    for thread in range(layout.threads):
        page = thread * PAGE_SIZE
        struct.pack_into(
            "<QIIQQQQII",
            pages,
            page + 0x10,
            ssa + thread * SSA_PER_THREAD - layout.base,  # OSSA
            0,  # CSSA
            SSA_FRAMES,  # NSSA
            layout.pal + pal.entry - layout.base,  # OENTRY
            0,  # reserved
            0,  # OFSBASE
            tls + page - layout.base,  # OGSBASE
            0xFFF,  # FSLIMIT
            0xFFF,  # GSLIMIT
        )
    return bytes(pages)


def _tls_pages(layout: Layout, manifest_size: int) -> bytes:
    """Gramine's per-thread control block; addresses are absolute."""
    ssa, tcs, tls = (layout.area(name).start for name in ("ssa", "tcs", "tls"))
    stacks, signal_stacks = layout.area("stack"), layout.area("sig_stack")
    pages = bytearray(layout.threads * PAGE_SIZE)
    for thread in range(layout.threads):
        page = thread * PAGE_SIZE
        frame = ssa + thread * SSA_PER_THREAD
        signal_top = signal_stacks.end - thread * SIGNAL_STACK_SIZE
        fields = {
            0x000: tls + page,
            0x008: _CANARY,
            0x110: layout.size,
            0x118: tcs + page - layout.base,
            0x120: stacks.end - thread * THREAD_STACK_SIZE,
            0x130: signal_top - SIGNAL_STACK_SIZE,
            0x138: signal_top,
            0x148: frame,
            0x150: frame + SSA_FRAME_PAGES * PAGE_SIZE - _GPR_RECORD_SIZE,
            0x1A0: manifest_size,
            0x1A8: layout.heap_min,
            0x1B0: layout.heap_max,
        }
        for offset, value in fields.items():
            struct.pack_into("<Q", pages, page + offset, value)
    return bytes(pages)


def measure(
    manifest: bytes,
    pal: Elf,
    parameters: EnclaveParameters,
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Measure a Gramine enclave.

    Args:
        manifest: the bytes of the ``.manifest.sgx`` file, without the NUL that the loader adds.
        pal: the release's ``libpal.so``.
        parameters: what the manifest says about the enclave.
        progress: called with the number of bytes hashed since the last call.

    Raises:
        SigningError: the enclave is too small for its threads and PAL.
    """
    from imagekit.enclave.records import Recorder  # brings numpy along

    text = manifest + b"\0"
    layout = plan_layout(manifest, pal, parameters)
    content = {
        "manifest": text.ljust(page_ceil(len(text)), b"\0"),
        "tcs": _tcs_pages(layout, pal),
        "tls": _tls_pages(layout, len(text)),
    }
    recorder = Recorder(SSA_FRAME_PAGES, layout.size, progress)
    segments = iter(pal.segments)
    for area in layout.areas:
        if area.name in ("code", "data"):
            _measure_area(recorder, layout, area, pal.segment_pages(next(segments)))
        else:
            _measure_area(recorder, layout, area, content.get(area.name))
    return Measurement(recorder.digest(), layout, recorder.hashed_bytes)


def _measure_area(recorder: Any, layout: Layout, area: Area, content: bytes | None) -> None:
    offset = area.start - layout.base
    if content is not None:
        recorder.measure_bytes(offset, content, area.flags)
    elif not area.measured:
        recorder.add_pages(offset, area.pages, area.flags)
    elif area.count == 1:
        recorder.measure_zeros(offset, area.pages, area.flags)
    elif area.count:
        size = area.size // area.count
        recorder.measure_zero_runs(
            area.end - size - layout.base, size // PAGE_SIZE, area.flags, area.count, -size
        )


def plan_layout(manifest: bytes, pal: Elf, parameters: EnclaveParameters) -> Layout:
    """Give the layout that :func:`measure` measures; arguments and errors are the same."""
    return lay_out(
        len(manifest) + 1,
        pal,
        enclave_size=parameters.enclave_size,
        max_threads=parameters.max_threads,
        edmm=parameters.edmm,
        base_follows_size=parameters.base_follows_size,
    )
