"""What goes into an enclave when it is loaded, as values: regions, their content, their copies."""

from dataclasses import dataclass, field

from imagekit.enclave.elf import PAGE_SIZE, Segment
from imagekit.enclave.layout import (
    ADDED_PAGE_BYTES,
    MEASURED_PAGE_BYTES,
    PT_TCS,
    RECORD_BYTES,
    R,
    W,
    X,
)


@dataclass(frozen=True)
class Region:
    """A run of enclave pages for people to read about.

    Attributes:
        name: code or data for segments, else the layout id's name in lower case.
        start: offset of the first page from the enclave's start, bytes.
        pages: how many, in one copy.
        flags: SECINFO flags; 0 for regions without pages (guards).
        added: whether the pages are added when the enclave is loaded (EADD).
        measured: whether their content is measured too (EEXTEND).
        count: how many equal copies this stands for.
        step: bytes from one copy to the next.
    """

    name: str
    start: int
    pages: int
    flags: int
    added: bool
    measured: bool
    count: int = 1
    step: int = 0

    @property
    def total_pages(self) -> int:
        """Pages of all copies."""
        return self.pages * self.count

    @property
    def permissions(self) -> str:
        """Like ``RW-``; ``---`` for TCS pages and guards."""
        return "".join(
            letter if self.flags & bit else "-" for letter, bit in (("R", R), ("W", W), ("X", X))
        )


@dataclass(frozen=True)
class Piece:
    """A region with what is in it.

    Attributes:
        region: where and how.
        segment: the content's place in `data` and in the enclave (from the image's start).
        data: what `segment` points into; None for the (patched) file.
        fill: the word that pages without content are filled with.
    """

    region: Region
    segment: Segment | None = None
    data: bytes | None = field(default=None, repr=False)
    fill: int = 0

    @property
    def hashed_bytes(self) -> int:
        """Bytes of the records of one copy."""
        if not self.region.added:
            return 0
        size = MEASURED_PAGE_BYTES if self.region.measured else ADDED_PAGE_BYTES
        return self.region.pages * size


@dataclass(frozen=True)
class Copies:
    """Pieces that are added again and again, moved on by `step` bytes each time.

    Attributes:
        pieces: what is repeated; they themselves stand in the plan before.
        times: how many further copies.
        step: bytes.
    """

    pieces: tuple[Piece, ...]
    times: int
    step: int

    @property
    def hashed_bytes(self) -> int:
        """Bytes of the records of all copies."""
        return self.times * sum(piece.hashed_bytes for piece in self.pieces)


@dataclass(frozen=True)
class LoadPlan:
    """All that goes into an enclave.

    Attributes:
        enclave_size: what ECREATE gets, bytes.
        image_offset: where the image starts in it, bytes; 0 without ELRANGE.
        steps: in the order in which pages are added.
    """

    enclave_size: int
    image_offset: int
    steps: tuple[Piece | Copies, ...]

    @property
    def hashed_bytes(self) -> int:
        """Bytes that a measurement hashes."""
        return RECORD_BYTES + sum(step.hashed_bytes for step in self.steps)

    @property
    def regions(self) -> tuple[Region, ...]:
        """All regions, in order; copies are summed up."""
        found = []
        for step in self.steps:
            if isinstance(step, Piece):
                found.append(step.region)
            elif step.times:
                found += [_moved(piece.region, step) for piece in step.pieces]
        return tuple(found)

    @property
    def required_memory(self) -> int:
        """Bytes of EPC that loading the enclave takes: all pages that are added."""
        return PAGE_SIZE * sum(region.total_pages for region in self.regions if region.added)

    @property
    def threads(self) -> int:
        """TCS pages that are added when the enclave is loaded."""
        return sum(r.total_pages for r in self.regions if r.added and r.flags == PT_TCS)


def _moved(region: Region, copies: Copies) -> Region:
    return Region(
        region.name,
        region.start + copies.step,
        region.pages,
        region.flags,
        region.added,
        region.measured,
        copies.times,
        copies.step,
    )
