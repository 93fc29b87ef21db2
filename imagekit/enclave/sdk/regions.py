"""What the loader of the Intel SGX SDK puts where, in its order, checked before a byte is hashed.

Source: Intel SGX SDK 2.2 to 2.26, read from the files that it writes. First come the segments of
the file, then the regions of the layout table. Everything is bounded here: pages lie inside the
enclave and do not overlap, so no more of them can be hashed than the enclave has.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from imagekit.enclave.elf import PAGE_SIZE, Segment, page_ceil
from imagekit.enclave.layout import PT_REG, PT_TCS, R, W, X
from imagekit.enclave.sdk.image import EnclaveImage
from imagekit.enclave.sdk.load_plan import Copies, LoadPlan, Piece, Region
from imagekit.enclave.sdk.metadata import (
    DirectoryId,
    LayoutAttribute,
    LayoutEntry,
    LayoutGroup,
    LayoutId,
    Metadata,
)
from imagekit.errors import InputError

_HINT = "take the file as sgx_sign (or imagekit) wrote it"
_MEASURED = LayoutAttribute.EADD | LayoutAttribute.EEXTEND
_EXTRA_PAGE_VERSION = (1, 3)


def plan_load(image: EnclaveImage, metadata: Metadata) -> LoadPlan:
    """Give what the loader would do.

    Args:
        image: the enclave's file.
        metadata: one of its metadata blocks.

    Raises:
        InputError: the metadata asks for what no loader would do: pages outside the enclave, or one
            page twice.
    """
    if metadata.elrange is None:
        size, shift = metadata.enclave_size, 0
    else:
        size = metadata.elrange.size
        shift = metadata.elrange.image_address - metadata.elrange.start
    if size & (size - 1) or size < 2 * PAGE_SIZE:
        raise _bad(image, f"the enclave's size {size:#x} is not a power of two (8192 or more)")
    if shift < 0 or shift % PAGE_SIZE:
        raise _bad(image, "the image does not start at a page of the enclave's range")
    if len(metadata.directories) > 2 and metadata.directories[DirectoryId.EXTEND].size:
        raise InputError(
            f"{image.name}: the metadata has extended data (a FIPS build), which is not supported",
            "measure and sign it with the Intel SGX SDK's own sgx_sign",
        )
    segments = list(_segments(image, metadata.version, shift))
    plan = LoadPlan(size, shift, (*segments, *_regions(image, metadata, shift)))
    _check_places(image, plan)
    return plan


def _bad(image: EnclaveImage, what: str) -> InputError:
    return InputError(f"{image.name}: {what}", _HINT)


def _segments(image: EnclaveImage, version: tuple[int, int], shift: int) -> Iterator[Piece]:
    segments = image.elf.segments
    for segment, follower in zip(segments, (*segments[1:], None), strict=True):
        flags = PT_REG
        for elf_bit, sgx_bit in ((4, R), (2, W), (1, X)):
            flags |= sgx_bit if segment.flags & elf_bit else 0
        name = "code" if flags & X else "data"
        pages = (segment.end_page - segment.first_page) // PAGE_SIZE
        start = segment.first_page + shift
        yield Piece(Region(name, start, pages, flags, True, True), segment)
        # Metadata 1.3 only: one page more, where the size alone, rounded up, would need it.
        end = segment.end_page
        wide = page_ceil(segment.vaddr + page_ceil(segment.memsz))
        has_room = follower is None or end < follower.first_page
        if version == _EXTRA_PAGE_VERSION and end < wide and has_room:
            yield Piece(Region(name, end + shift, 1, flags, True, True))


def _regions(image: EnclaveImage, metadata: Metadata, shift: int) -> Iterator[Piece | Copies]:
    before: list[Piece | None] = []
    for item in metadata.layout:
        if isinstance(item, LayoutGroup):
            if not 0 < item.entries <= len(before):
                raise _bad(image, "a group in the layout table repeats more than there is")
            repeated = before[-item.entries :]
            pieces = tuple(piece for piece in repeated if piece is not None)
            if len(pieces) != len(repeated):
                raise _bad(image, "a group in the layout table repeats another group")
            before.append(None)
            yield Copies(pieces, item.times, item.step)
        else:
            piece = _piece(image, metadata, item, shift)
            before.append(piece)
            yield piece


def _piece(image: EnclaveImage, metadata: Metadata, entry: LayoutEntry, shift: int) -> Piece:
    name = _NAMES.get(entry.id, f"region {entry.id}")
    attributes = entry.attributes
    added = bool(attributes & LayoutAttribute.EADD) and bool(entry.content_offset or entry.flags)
    measured = added and attributes & _MEASURED == _MEASURED
    if not entry.content_offset:
        region = Region(name, entry.rva + shift, entry.pages, entry.flags, added, measured)
        return Piece(region, fill=entry.content_size)
    size, is_tcs = entry.content_size, entry.flags == PT_TCS
    if added and entry.content_offset + size > metadata.size:
        raise _bad(image, f"the content of {name} lies outside the metadata")
    if added and (size > entry.pages * PAGE_SIZE or (is_tcs and entry.pages != 1)):
        raise _bad(image, f"{name} has {entry.pages} pages, which its content does not fit")
    # Other content than that of a TCS is loaded as a segment is, so it is always measured.
    measured = measured if is_tcs else added
    region = Region(name, entry.rva + shift, entry.pages, entry.flags, added, measured)
    place = Segment(entry.content_offset, entry.rva, size, entry.pages * PAGE_SIZE, 0)
    return Piece(region, place, metadata.block)


_NAMES = {int(member): member.name.lower() for member in LayoutId}


def _check_places(image: EnclaveImage, plan: LoadPlan) -> None:
    """Refuse pages outside the enclave and pages that are added twice."""
    spans: list[tuple[int, int, str]] = []
    for step in plan.steps:
        pieces = (step,) if isinstance(step, Piece) else step.pieces
        added = [_span(image, piece.region) for piece in pieces if piece.hashed_bytes]
        if isinstance(step, Piece):
            spans += added
        elif step.hashed_bytes:
            spans.append(_span_of_copies(image, added, step))
    spans.sort()
    for (_, end, name), (start, _, follower) in pairwise(spans):
        if start < end:
            raise _bad(image, f"{name} and {follower} overlap at {start:#x}")
    for start, end, name in spans:
        if end > plan.enclave_size:
            raise _bad(
                image,
                f"{name} at {start:#x} reaches to {end:#x}, beyond the enclave's "
                f"{plan.enclave_size:#x} bytes",
            )


def _span(image: EnclaveImage, region: Region) -> tuple[int, int, str]:
    if region.start % PAGE_SIZE:
        raise _bad(image, f"{region.name} starts at {region.start:#x}, which is no page")
    return region.start, region.start + region.pages * PAGE_SIZE, region.name


def _span_of_copies(
    image: EnclaveImage, spans: Sequence[tuple[int, int, str]], copies: Copies
) -> tuple[int, int, str]:
    """Give what all copies span; they must lie one behind the other, each as a whole."""
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    if copies.step % PAGE_SIZE or copies.step < high - low:
        raise _bad(image, f"copies of {spans[0][2]} are only {copies.step:#x} bytes apart")
    return low + copies.step, high + copies.times * copies.step, f"copies of {spans[0][2]}"
