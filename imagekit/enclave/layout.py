"""Where Gramine puts what inside the enclave: the list of areas in the order of their EADDs.

Constants and order are those of Gramine 1.0 to 1.9. Addresses are absolute; the offset that is
measured is the address minus the enclave's base.
"""

from dataclasses import dataclass

from imagekit.enclave.elf import PAGE_SIZE, Elf, page_ceil
from imagekit.errors import SigningError

SSA_FRAME_PAGES = 4
SSA_FRAMES = 2
THREAD_STACK_SIZE = 64 * PAGE_SIZE
SIGNAL_STACK_SIZE = 16 * PAGE_SIZE
LOWEST_ADDRESS = 0x10000

R, W, X = 1, 2, 4
PT_TCS, PT_REG = 0x100, 0x200
"""SECINFO flag bits (Intel SDM vol. 3D, "SECINFO.FLAGS")."""

RECORD_BYTES = 64
ADDED_PAGE_BYTES = RECORD_BYTES
MEASURED_PAGE_BYTES = RECORD_BYTES + 16 * (RECORD_BYTES + 256)
"""Bytes hashed: per record (ECREATE, EADD, EEXTEND), per added page, per measured page."""

SSA_PER_THREAD = SSA_FRAMES * SSA_FRAME_PAGES * PAGE_SIZE


@dataclass(frozen=True)
class Area:
    """A run of enclave pages with the same permissions.

    Attributes:
        name: manifest, ssa, tcs, tls, stack, sig_stack, code, data or free.
        start: absolute address of the first page.
        size: bytes, whole pages.
        flags: SECINFO flags as measured.
        measured: whether the content is measured (EEXTEND), not only its place (EADD).
        count: how many equal areas this one stands for, laid from high to low addresses and added
            in that order (thread stacks).
    """

    name: str
    start: int
    size: int
    flags: int
    measured: bool = True
    count: int = 1

    @property
    def end(self) -> int:
        """Address just behind the last page."""
        return self.start + self.size

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.size // PAGE_SIZE

    @property
    def permissions(self) -> str:
        """Permissions as Gramine's signer prints them, like ``RW-``; ``---`` for TCS pages."""
        return "".join(
            letter if self.flags & bit else "-" for letter, bit in (("R", R), ("W", W), ("X", X))
        )

    @property
    def page_type(self) -> str:
        """``TCS`` or ``REG``."""
        return "TCS" if self.flags & PT_TCS else "REG"


@dataclass(frozen=True)
class Layout:
    """The whole enclave.

    Attributes:
        base: the enclave's base address.
        size: bytes.
        threads: number of TCS pages.
        areas: in the order in which pages are added; the PAL's area is one entry per segment.
        pal: address at which the PAL's lowest page is placed.
        heap_min, heap_max: the free memory's borders, as written into each thread's TLS page.
    """

    base: int
    size: int
    threads: int
    areas: tuple[Area, ...]
    pal: int
    heap_min: int
    heap_max: int

    def area(self, name: str) -> Area:
        """Give the (first) area of that name."""
        return next(area for area in self.areas if area.name == name)


def _segment_areas(pal: Elf, address: int) -> list[Area]:
    # A PAL whose lowest page is 0 is moved to `address`; any other one stays where it was linked.
    shift = address - pal.first_page
    areas = []
    for segment in pal.segments:
        flags = PT_REG
        for elf_bit, sgx_bit in ((4, R), (2, W), (1, X)):
            if segment.flags & elf_bit:
                flags |= sgx_bit
        name = "code" if flags & X else "data"
        size = segment.end_page - segment.first_page
        areas.append(Area(name, segment.first_page + shift, size, flags))
    return areas


def lay_out(
    manifest_size: int,
    pal: Elf,
    *,
    enclave_size: int,
    max_threads: int,
    edmm: bool = False,
    base_follows_size: bool = False,
) -> Layout:
    """Place all areas from the top of the enclave downwards.

    Args:
        manifest_size: bytes of the manifest including the NUL behind it.
        pal: Gramine's PAL.
        enclave_size: bytes, a multiple of 4096.
        max_threads: number of threads.
        edmm: leave free memory out (``sgx.edmm_enable``).
        base_follows_size: base the enclave at its own size, free memory from offset 0.

    Raises:
        SigningError: the enclave is too small for what must be in it.
    """
    base = enclave_size if base_follows_size else 0
    heap_min = base if base_follows_size else LOWEST_ADDRESS
    fixed = [
        ("manifest", page_ceil(manifest_size), PT_REG | R, 1),
        ("ssa", max_threads * SSA_PER_THREAD, PT_REG | R | W, 1),
        ("tcs", max_threads * PAGE_SIZE, PT_TCS, 1),
        ("tls", max_threads * PAGE_SIZE, PT_REG | R | W, 1),
        ("stack", max_threads * THREAD_STACK_SIZE, PT_REG | R | W, max_threads),
        ("sig_stack", max_threads * SIGNAL_STACK_SIZE, PT_REG | R | W, max_threads),
    ]
    bottom = base + enclave_size
    areas = []
    for name, size, flags, count in fixed:
        bottom -= size
        areas.append(Area(name, bottom, size, flags, True, count))
    span = pal.end_page - pal.first_page
    moved = pal.first_page == 0
    pal_start = bottom - span if moved else pal.first_page
    if not moved and pal_start < heap_min:
        raise SigningError(
            f"the PAL is linked to {pal_start:#x}, below the lowest address {heap_min:#x}",
            "take a position-independent PAL, or sgx.nonpie_binary = true (Gramine 1.3)",
        )
    if bottom < heap_min or pal_start < heap_min or pal_start + span > bottom:
        need = base + enclave_size - bottom + span + heap_min - base
        raise SigningError(
            f"enclave size {enclave_size:#x} is too small for {max_threads} threads and the PAL "
            f"(at least {need / (1 << 20):.1f} MiB are needed)",
            "take a larger enclave size or fewer threads",
        )
    areas += _segment_areas(pal, pal_start)
    if not edmm:
        free = [(heap_min, pal_start)]
        if not moved:
            free.insert(0, (pal_start + span, bottom))
        areas += [
            Area("free", start, end - start, PT_REG | R | W | X, False)
            for start, end in free
            if end > start
        ]
    return Layout(base, enclave_size, max_threads, tuple(areas), pal_start, heap_min, pal_start)
