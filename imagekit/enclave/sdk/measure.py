"""MRENCLAVE of an Intel SGX SDK enclave from its signed file: no SGX machine, no SDK.

Source: Intel SGX SDK 2.2 to 2.26 (what its loader adds), Intel SDM vol. 3D (records). The loader
first copies the metadata's patches over the file: they hide the section headers and fill the
enclave's own table of its regions.
"""

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagekit.enclave.elf import PAGE_SIZE, Segment, page_ceil
from imagekit.enclave.layout import PT_TCS, W
from imagekit.enclave.sdk.image import EnclaveImage
from imagekit.enclave.sdk.load_plan import Copies, LoadPlan, Piece
from imagekit.enclave.sdk.metadata import Metadata
from imagekit.enclave.sdk.regions import plan_load
from imagekit.enclave.sdk.signed import SdkEnclave, unsigned
from imagekit.errors import CheckError, InputError

if TYPE_CHECKING:
    from imagekit.enclave.records import PageRecords

MAX_HASHED = 128 << 30
"""Most bytes that a measurement hashes unless told otherwise: 8 TiB of pages that are only added,
or 101 GiB of measured ones."""

_CHUNK = 960 * PAGE_SIZE
_TCS_ADDRESSES = (16, 48, 56)
"""Fields of a TCS that are relative to its own page in the file: OSSA, OFSBASE, OGSBASE."""


@dataclass(frozen=True)
class Measurement:
    """An enclave's measurement.

    Attributes:
        mr_enclave: 32 bytes, in the order in which every tool prints them.
        plan: what lies where; also the size, the threads and the EPC that loading takes.
        hashed_bytes: how many bytes went through SHA-256 for this measurement.
    """

    mr_enclave: bytes
    plan: LoadPlan
    hashed_bytes: int


def load_plan(enclave: SdkEnclave) -> LoadPlan:
    """Give what lies where in an enclave, without measuring it: of its first metadata block.

    Raises:
        InputError: the file has no metadata, or the metadata asks for what no loader would do.
    """
    return plan_load(enclave.image, enclave.metadata)


def measured_bytes(enclave: SdkEnclave) -> int:
    """Give how many bytes :func:`measure` hashes, before doing it (for a progress bar).

    Raises:
        InputError: as :func:`measure`.
    """
    return sum(plan_load(enclave.image, b.metadata).hashed_bytes for b in enclave.blocks)


def measure(
    enclave: SdkEnclave,
    progress: Callable[[int], None] | None = None,
    limit: int = MAX_HASHED,
) -> Measurement:
    """Measure an enclave by each of its metadata blocks, which must come to the same.

    Args:
        enclave: a file with metadata, signed or not yet.
        progress: called with the number of bytes hashed since the last call.
        limit: refuse to hash more bytes than that per block.

    Raises:
        InputError: the file has no metadata; the metadata asks for what no loader would do, or for
            more than `limit`.
        CheckError: the blocks give two measurements.
    """
    if not enclave.blocks:
        raise unsigned(enclave.name)
    results = [
        measure_block(enclave.image, block.metadata, progress, limit) for block in enclave.blocks
    ]
    if len({result.mr_enclave for result in results}) > 1:
        values = " and ".join(result.mr_enclave.hex() for result in results)
        raise CheckError(
            f"{enclave.name}: the two metadata blocks give two measurements, {values}",
            "one of them cannot start: sign the enclave again",
        )
    return results[0]


def measure_block(
    image: EnclaveImage,
    metadata: Metadata,
    progress: Callable[[int], None] | None = None,
    limit: int = MAX_HASHED,
) -> Measurement:
    """Measure an enclave by one metadata block; arguments and errors as for :func:`measure`."""
    from imagekit.enclave.records import Recorder  # brings numpy along

    plan = plan_load(image, metadata)
    if plan.hashed_bytes > limit:
        raise InputError(
            f"{image.name}: the metadata asks for {plan.hashed_bytes / (1 << 30):.1f} GiB of "
            f"records to be hashed; the limit is {limit / (1 << 30):.1f} GiB",
            "this is most likely a broken file; take it as sgx_sign (or imagekit) wrote it",
        )
    loader = _Loader(plan, image.relocated_pages(), PatchedFile(image, metadata))
    recorder = Recorder(metadata.ssa_frame_pages, plan.enclave_size, progress)
    for step in plan.steps:
        loader.add(recorder, step)
    return Measurement(recorder.digest(), plan, recorder.hashed_bytes)


class PatchedFile:
    """An enclave's file as it is loaded, the metadata's patches applied where it is read.

    Args:
        image: the file.
        metadata: whose patches.

    Raises:
        InputError: a patch reads outside the metadata or writes outside the file.
    """

    def __init__(self, image: EnclaveImage, metadata: Metadata) -> None:
        self._data = memoryview(image.data)
        self._patches: list[tuple[int, bytes]] = []
        for number, patch in enumerate(metadata.patches):
            end = patch.source + patch.size
            outside = end > metadata.size and "metadata"
            outside = outside or (patch.destination + patch.size > len(image.data) and "file")
            if outside:
                raise InputError(
                    f"{image.name}: patch {number} of the metadata reaches outside the {outside}",
                    "take the file as sgx_sign (or imagekit) wrote it",
                )
            self._patches.append((patch.destination, metadata.block[patch.source : end]))

    def __getitem__(self, place: slice) -> bytes | memoryview:
        """Give the bytes from `place.start` to `place.stop`."""
        start, stop = place.start, place.stop
        here = [(at, new) for at, new in self._patches if at < stop and start < at + len(new)]
        if not here:
            return self._data[start:stop]
        found = bytearray(self._data[start:stop])
        for at, new in here:
            low, high = max(at, start), min(at + len(new), stop)
            found[low - start : high - start] = new[low - at : high - at]
        return bytes(found)


class _Loader:
    """Adds pages as the SDK's loader does."""

    def __init__(self, plan: LoadPlan, relocated: frozenset[int], file: PatchedFile) -> None:
        self._shift = plan.image_offset
        self._relocated = sorted(relocated)
        self._file = file

    def add(self, records: "PageRecords", step: Piece | Copies) -> None:
        if isinstance(step, Piece):
            self._piece(records, step, 0)
            return

        def write(target: "PageRecords", move: int) -> None:
            for piece in step.pieces:
                self._piece(target, piece, move)

        size = sum(piece.hashed_bytes for piece in step.pieces)
        records.add_copies(write, size, step.times, step.step)

    def _piece(self, records: "PageRecords", piece: Piece, move: int) -> None:
        region = piece.region
        offset = region.start + move
        if not piece.hashed_bytes:
            return
        if not region.measured:
            records.add_pages(offset, region.pages, region.flags)
        elif piece.segment is None:
            records.measure_zeros(offset, region.pages, region.flags, piece.fill)
        elif region.flags == PT_TCS and piece.data is not None:
            # Counted from the image's start, even where the enclave starts before it.
            page = _tcs(piece.data, piece.segment, offset - self._shift)
            records.measure_bytes(offset, page, region.flags)
        else:
            data = self._file if piece.data is None else memoryview(piece.data)
            pages = self._relocated if piece.data is None else []
            for first, end, writable in _runs(piece.segment, pages):
                flags = region.flags | (W if writable else 0)
                _content(records, piece.segment, data, (first, end), self._shift + move, flags)


def _tcs(data: bytes, place: Segment, rva: int) -> bytes:
    page = bytearray(data[place.offset : place.offset + place.filesz].ljust(PAGE_SIZE, b"\0"))
    for position in _TCS_ADDRESSES:
        (value,) = struct.unpack_from("<Q", page, position)
        struct.pack_into("<Q", page, position, (value + rva) % (1 << 64))
    return bytes(page)


def _runs(segment: Segment, relocated: list[int]) -> Iterator[tuple[int, int, bool]]:
    """Cut a segment where pages become writable for relocations: start, end, writable or not."""
    at = segment.first_page
    for page in relocated[bisect_left(relocated, at) : bisect_left(relocated, segment.end_page)]:
        if at < page:
            yield at, page, False
        yield page, page + PAGE_SIZE, True
        at = page + PAGE_SIZE
    if at < segment.end_page:
        yield at, segment.end_page, False


def _content(
    records: "PageRecords",
    segment: Segment,
    data: PatchedFile | memoryview,
    pages: tuple[int, int],
    shift: int,
    flags: int,
) -> None:
    """Add some of a segment's pages, from the data as far as there is any."""
    at, end = pages
    data_end = segment.vaddr + segment.filesz
    content_end = min(end, page_ceil(data_end)) if segment.filesz else at
    while at < content_end:
        stop = min(at + _CHUNK, content_end)
        low, high = max(at, segment.vaddr), min(stop, data_end)
        start = segment.offset + low - segment.vaddr
        found = data[start : start + high - low]
        if (low, high) != (at, stop):
            found = bytes(low - at) + found + bytes(stop - high)
        records.measure_bytes(at + shift, found, flags)
        at = stop
    if at < end:
        records.measure_zeros(at + shift, (end - at) // PAGE_SIZE, flags)
