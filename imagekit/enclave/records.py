"""MRENCLAVE as SHA-256 over ECREATE, EADD and EEXTEND records, hashed in large blocks.

Record formats: Intel SDM vol. 3D, "ECREATE", "EADD", "EEXTEND" (operation sections). All integers
are little-endian. Per page: one 64-byte EADD record; if the page is measured, 16 EEXTEND records of
64 bytes, each followed by the 256 bytes it covers. That makes 5184 bytes per measured page and 64
per other page.

Speed comes from never building a record on its own: a block of records is laid out once in a numpy
array of 64-bit words, and from block to block only the columns that hold offsets are moved on.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagekit.enclave.elf import PAGE_SIZE
from imagekit.enclave.layout import MEASURED_PAGE_BYTES

_ECREATE = int.from_bytes(b"ECREATE\0", "little")
_EADD = int.from_bytes(b"EADD\0\0\0\0", "little")
_EEXTEND = int.from_bytes(b"EEXTEND\0", "little")

_ADDED_BLOCK = 4096  # records; 256 KiB stay in the L2 cache
_MEASURED_BLOCK = 48  # pages; 243 KiB
_COPIES_BLOCK = 1 << 20  # bytes of copies that are hashed at once
_LARGEST_COPY = 1 << 22  # bytes; larger ones are made one by one, which then costs little
_FEW_COPIES = 3
_CHUNKS = 16
_CHUNK_WORDS = 40  # 8 of the record, 32 of the content
_PAGE_WORDS = MEASURED_PAGE_BYTES // 8

Words = NDArray[np.uint64]
_WORD = np.dtype("<u8")


class PageRecords(ABC):
    """Makes the records of pages, in the order in which they are added."""

    def add_pages(self, offset: int, pages: int, flags: int) -> None:
        """Add pages whose content is not measured.

        Args:
            offset: of the first page from the enclave's base, bytes.
            pages: how many.
            flags: SECINFO flags.
        """
        rows = min(pages, _ADDED_BLOCK)
        block = np.zeros((rows, 8), _WORD)
        block[:, 0] = _EADD
        block[:, 1] = offset + PAGE_SIZE * np.arange(rows, dtype=_WORD)
        block[:, 2] = flags
        column = block[:, 1]
        for _ in range(pages // rows if rows else 0):
            self._update(block)
            column += np.uint64(rows * PAGE_SIZE)
        if rows and pages % rows:
            self._update(block[: pages % rows])

    def measure_zeros(self, offset: int, pages: int, flags: int, fill: int = 0) -> None:
        """Add and measure pages that are all zero, or all the same word.

        Args:
            offset: of the first page from the enclave's base, bytes.
            pages: how many.
            flags: SECINFO flags.
            fill: the word, u32.
        """
        for block, _ in self._blocks(offset, pages, flags, _MEASURED_BLOCK):
            if fill:
                _contents(block)[:] = fill << 32 | fill
                fill = 0  # from block to block only offsets change

    def measure_zero_runs(self, offset: int, pages: int, flags: int, count: int, step: int) -> None:
        """Add and measure `count` equal runs of zero pages, each `step` bytes from the one before.

        `step` may be negative: Gramine adds thread stacks from high to low addresses.
        """
        if count <= 0:
            return
        block, offsets = _measured_block(offset, pages, flags)
        # Unsigned words wrap, so adding step modulo 2**64 also walks downwards.
        delta = np.uint64(step % (1 << 64))
        for _ in range(count):
            self._update(block)
            for column in offsets:
                column += delta

    def measure_bytes(self, offset: int, content: bytes | memoryview, flags: int) -> None:
        """Add and measure pages with content.

        Args:
            offset: of the first page from the enclave's base, bytes.
            content: the pages, a multiple of 4096 bytes; need not be aligned.
            flags: SECINFO flags.
        """
        pages = len(content) // PAGE_SIZE
        data = np.frombuffer(content, _WORD).reshape(pages, _CHUNKS, 32)
        done = 0
        for block, size in self._blocks(offset, pages, flags, _MEASURED_BLOCK):
            _contents(block[:size])[:] = data[done : done + size]
            done += size

    def add_copies(
        self, write: Callable[["PageRecords", int], None], size: int, count: int, step: int
    ) -> None:
        """Add what `write` adds `count` times, each copy `step` bytes behind the one before.

        Args:
            write: makes the records of one copy; called with where to make them and with how many
                bytes to move them. What depends on that must be 64-bit words that grow evenly.
            size: bytes that the records of one copy have.
            count: how many copies; they are moved by `step`, 2 · `step` and so on.
            step: bytes; may be negative.
        """
        if size == 0 or count <= 0:
            return
        if size > _LARGEST_COPY or count <= _FEW_COPIES:
            for number in range(1, count + 1):
                write(self, number * step)
            return
        first, second = _Tape(), _Tape()
        write(first, step)
        write(second, 2 * step)
        copy = first.words()
        change = second.words() - copy  # modulo 2**64, so that it also works downwards
        rows = min(count, max(1, _COPIES_BLOCK // size))
        numbers = np.arange(rows, dtype=_WORD)
        block = copy[None, :] + numbers[:, None] * change[None, :]
        moving = np.flatnonzero(change)
        delta = change[moving] * np.uint64(rows)
        for start in range(0, count, rows):
            self._update(block[: min(rows, count - start)])
            block[:, moving] += delta

    def _blocks(
        self, offset: int, pages: int, flags: int, block_pages: int
    ) -> Iterator[tuple[Words, int]]:
        """Yield each block for filling before it is hashed, with its number of pages."""
        if pages <= 0:
            return
        rows = min(pages, block_pages)
        block, offsets = _measured_block(offset, rows, flags)
        for start in range(0, pages, rows):
            size = min(rows, pages - start)
            yield block, size
            self._update(block[:size])
            for column in offsets:
                column += np.uint64(rows * PAGE_SIZE)

    @abstractmethod
    def _update(self, words: NDArray[Any]) -> None:
        """Take finished records; the array is used again afterwards."""


class _Tape(PageRecords):
    """Keeps the records."""

    def __init__(self) -> None:
        self._parts: list[Words] = []

    def words(self) -> Words:
        return np.concatenate(self._parts)

    def _update(self, words: NDArray[Any]) -> None:
        self._parts.append(words.flatten())


class Recorder(PageRecords):
    """Takes pages in the order in which they are added and gives MRENCLAVE.

    Args:
        ssa_frame_pages: pages of one SSA frame (ECREATE's SSAFRAMESIZE).
        enclave_size: bytes.
        progress: called with the number of bytes hashed since the last call.
    """

    def __init__(
        self,
        ssa_frame_pages: int,
        enclave_size: int,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._sha256 = hashlib.sha256()
        self._progress = progress
        self.hashed_bytes = 0
        record = np.zeros(8, _WORD)
        record[0] = _ECREATE
        # SSAFRAMESIZE is a u32 at byte 8, SIZE a u64 at byte 12: it straddles two words.
        record.view(np.uint8)[8:12] = np.frombuffer(ssa_frame_pages.to_bytes(4, "little"), np.uint8)
        record.view(np.uint8)[12:20] = np.frombuffer(enclave_size.to_bytes(8, "little"), np.uint8)
        self._update(record)

    def digest(self) -> bytes:
        """Give MRENCLAVE, 32 bytes."""
        return self._sha256.digest()

    def _update(self, words: NDArray[Any]) -> None:
        self._sha256.update(words.data)
        self.hashed_bytes += words.nbytes
        if self._progress is not None:
            self._progress(words.nbytes)


def _measured_block(offset: int, pages: int, flags: int) -> tuple[Words, tuple[Words, Words]]:
    """Lay out the records of `pages` zero pages; give the block and views on its offsets."""
    block = np.zeros((pages, _PAGE_WORDS), _WORD)
    first = offset + PAGE_SIZE * np.arange(pages, dtype=_WORD)
    block[:, 0] = _EADD
    block[:, 1] = first
    block[:, 2] = flags
    chunks = block[:, 8:].reshape(pages, _CHUNKS, _CHUNK_WORDS)
    chunks[:, :, 0] = _EEXTEND
    chunks[:, :, 1] = first[:, None] + 256 * np.arange(_CHUNKS, dtype=_WORD)
    return block, (block[:, 1], chunks[:, :, 1])


def _contents(block: Words) -> Words:
    """Give the view on the 16 by 32 content words of each page of a block."""
    return block[:, 8:].reshape(len(block), _CHUNKS, _CHUNK_WORDS)[:, :, 8:]
