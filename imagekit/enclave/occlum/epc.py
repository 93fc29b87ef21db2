"""How much protected memory (EPC) an Occlum enclave takes, and whether a pod asks for enough.

The formula is the one behind ``sgx_sign``'s "required memory": what is added before the enclave
starts. Guard pages cost address space only, and so does rounding up to a power of two.
"""

from dataclasses import dataclass

from imagekit.enclave.elf import PAGE_SIZE, page_ceil
from imagekit.enclave.findings import WARNING, Finding
from imagekit.enclave.sdk.body import save_area
from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.enclave.sdk.image import EnclaveImage
from imagekit.enclave.sdk.program import tls_size

RESOURCE = "sgx.intel.com/epc"
"""Kubernetes' name of the EPC that a container may use, in bytes (Intel's device plugin)."""

_TCS_PAGES, _SSA_FRAMES = 1, 2


@dataclass(frozen=True)
class CommittedEpc:
    """The parts of an enclave's EPC, in bytes.

    Attributes:
        user_space: memory of the processes inside.
        kernel_heap: heap of the library OS.
        threads: how many threads.
        thread: of one thread: stack, TCS, save area and thread data.
        program: the library OS itself, 0 where it is not known.
    """

    user_space: int
    kernel_heap: int
    threads: int
    thread: int
    program: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.user_space + self.kernel_heap + self.threads * self.thread + self.program


def committed_epc(
    enclave: EnclaveConfig, *, elf_pages: int = 0, thread_data_pages: int = 1
) -> CommittedEpc:
    """Give what is committed when the enclave starts; without EDMM that is all there will be.

    Args:
        enclave: from :func:`imagekit.enclave.occlum.enclave_xml.enclave_config`.
        elf_pages: pages of 4096 bytes of the library OS's segments, 0 where it is not known.
        thread_data_pages: 1 and what the library's thread-local data takes, in pages.
    """
    return CommittedEpc(
        user_space=enclave.reserved_init,
        kernel_heap=enclave.heap_init,
        threads=enclave.tcs_num,
        thread=_thread(enclave, thread_data_pages),
        program=elf_pages * PAGE_SIZE,
    )


def most_epc(
    enclave: EnclaveConfig, *, elf_pages: int = 0, thread_data_pages: int = 1
) -> CommittedEpc:
    """Give what the enclave may grow to where the CPU can add pages later; at least at start's.

    Args:
        enclave: as for :func:`committed_epc`.
        elf_pages: as there.
        thread_data_pages: as there.
    """
    return CommittedEpc(
        user_space=enclave.reserved_max + enclave.user_region_size,
        kernel_heap=enclave.heap_max,
        threads=enclave.tcs_max_num,
        thread=_thread(enclave, thread_data_pages),
        program=elf_pages * PAGE_SIZE,
    )


def _thread(enclave: EnclaveConfig, thread_data_pages: int) -> int:
    save = _SSA_FRAMES * save_area(enclave).frame_pages
    return enclave.stack_max + PAGE_SIZE * (_TCS_PAGES + save + thread_data_pages)


def library_pages(image: EnclaveImage) -> tuple[int, int]:
    """Give the pages that the library OS brings: ``elf_pages`` and ``thread_data_pages``.

    Args:
        image: the library, signed or not.

    Raises:
        InputError: its program headers do not hold together.
    """
    elf_pages = sum(s.end_page - s.first_page for s in image.elf.segments) // PAGE_SIZE
    return elf_pages, 1 + page_ceil(tls_size(image)) // PAGE_SIZE


def request_finding(
    enclave: EnclaveConfig, request: int, *, elf_pages: int = 0, thread_data_pages: int = 1
) -> Finding | None:
    """Compare an enclave with the EPC that its pod asks for.

    Args:
        enclave: as for :func:`committed_epc`.
        request: bytes of ``sgx.intel.com/epc``.
        elf_pages: as for :func:`committed_epc`.
        thread_data_pages: as for :func:`committed_epc`.

    Returns:
        An error if the enclave does not even start within it, a warning if it may outgrow it, None
        if it is enough.
    """
    pages = {"elf_pages": elf_pages, "thread_data_pages": thread_data_pages}
    least = committed_epc(enclave, **pages).total
    most = max(least, most_epc(enclave, **pages).total)
    asked = f"a pod asks for {request} bytes ({gib(request)})"
    if request < least:
        return Finding(
            RESOURCE,
            f"{asked}, the enclave commits {least} ({gib(least)})",
            f"ask for {least} at least, or lower user space, kernel heap or threads",
            loads=True,
        )
    if enclave.user_region_size and request < most:
        return Finding(
            RESOURCE,
            f"{asked}, the enclave may grow to {most} ({gib(most)})",
            f"ask for {most}, or lower the maximum of user space, kernel heap or threads",
            WARNING,
        )
    return None


def gib(size: int) -> str:
    """Give bytes in GiB for people, rounded up to two digits: no size looks smaller than it is."""
    hundredths = -(-size * 100 >> 30)
    return f"{hundredths // 100}.{hundredths % 100:02} GiB"
