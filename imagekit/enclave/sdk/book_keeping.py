"""How much of an SGX2 enclave the SDK's memory manager needs for its own records.

Source: the SDK 2.26's memory manager: a region has a node of 72 bytes; one that has pages also a
bit array of 24 bytes with a bit per page; its allocator adds a header of 8 bytes, rounds up to 8
and gives 16 at least; 32 bytes head its first chunk. The signing tool reserves that in steps of 64
KiB. The sum fits every recorded enclave. How exactly the tool counts the user region cannot be seen
in them, so for other sizes it may lie a step off, which would be another measurement.
"""

from collections.abc import Sequence

from imagekit.enclave.elf import PAGE_SIZE
from imagekit.enclave.sdk.tables import LayoutEntry, LayoutGroup

_NODE, _BIT_ARRAY, _CHUNK_HEAD = 72, 24, 32


def _allocated(size: int) -> int:
    return max(16, -(-(size + 8) // 8) * 8)


def _records(pages: int) -> int:
    """Bytes for a region; without pages there is only the node."""
    if not pages:
        return _allocated(_NODE)
    return _allocated(_NODE) + _allocated(_BIT_ARRAY) + _allocated(-(-pages // 8))


def book_keeping_of(layout: Sequence[LayoutEntry | LayoutGroup], user_size: int) -> int:
    """Give the bytes of the records of all regions and of the user region, not rounded up.

    Args:
        layout: the regions before the user region.
        user_size: bytes that the program manages.
    """
    total = 0
    costs: list[int] = []
    for item in layout:
        if isinstance(item, LayoutGroup):
            total += item.times * sum(costs[-item.entries :])
        else:
            costs.append(_records(item.pages if item.flags else 0))
            total += costs[-1]
    return total + _records(user_size // PAGE_SIZE) + _CHUNK_HEAD
