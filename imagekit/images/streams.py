"""Streams of blocks: decompressed, fetched ahead in a thread, worked on in a thread."""

import bz2
import lzma
import queue
import threading
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from imagekit.errors import InputError

BLOCK = 1 << 20
"""Bytes per block."""

_AHEAD = 4
_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
)


def sniff(head: bytes) -> str:
    """The format a file's first bytes tell: gzip, xz, bzip2, zstd, zip, or plain."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "plain")


def read_blocks(stream: BinaryIO, where: str) -> Iterator[bytes]:
    """A stream's bytes in blocks.

    Raises:
        InputError: it cannot be read.
    """
    while True:
        try:
            block = stream.read(BLOCK)
        except OSError as error:
            raise InputError(
                f"{where}: cannot be read: {error.strerror}", "check the disk it is on"
            ) from error
        if not block:
            return
        yield block


class _Decoder(Protocol):
    """What bz2, lzma and zstandard decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _Gzip:
    """One gzip member with the interface of the other decompressors."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        result = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        self.eof = self._decoder.eof
        self.unused_data = self._decoder.unused_data
        # A full result may mean that more is held back inside, even without unconsumed input.
        self.needs_input = not self._decoder.unconsumed_tail and len(result) < max_length
        return result


def decompress(blocks: Iterator[bytes], form: str, where: str) -> Iterator[bytes]:
    """Decompress a stream block by block; several members in a row are one stream.

    Args:
        blocks: compressed bytes.
        form: as :func:`sniff` gives it, but not zip.
        where: what the stream is called in errors.

    Raises:
        InputError: damaged or cut short, or this Python lacks the format.
    """
    if form == "plain":
        return blocks
    return _decompress(blocks, _decoders(form, where), form, where)


def _decoders(form: str, where: str) -> Callable[[], _Decoder]:
    if form == "gzip":
        return _Gzip
    if form == "xz":
        return lambda: lzma.LZMADecompressor(memlimit=256 << 20)
    if form == "bzip2":
        return bz2.BZ2Decompressor
    if form == "zstd":
        try:
            module: Any = import_module("compression.zstd")  # Python 3.14 and later
        except ImportError as error:
            raise InputError(
                f"{where} is compressed with zstd, which this Python cannot read",
                "use Python 3.14, or copy the image with gzip layers "
                "(skopeo copy --dest-compress-format gzip)",
            ) from error
        decoder: Callable[[], _Decoder] = module.ZstdDecompressor
        return decoder
    raise InputError(f"{where}: {form} is no compressed tar", "give a tar archive")


def _decompress(
    blocks: Iterator[bytes], new: Callable[[], _Decoder], form: str, where: str
) -> Iterator[bytes]:
    decoder = new()
    fresh = True  # nothing was read into this decoder yet
    try:
        for block in blocks:
            data = block
            while data or not (decoder.needs_input or decoder.eof):
                if decoder.eof:
                    data = data.lstrip(b"\0")  # members may be padded with zeros
                    if not data:
                        break
                    decoder, fresh = new(), True
                result = decoder.decompress(data, BLOCK)
                fresh = False
                data = decoder.unused_data if decoder.eof else b""
                if result:
                    yield result
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{where}: damaged {form} data", "fetch or build it anew") from error
    if fresh or not decoder.eof:
        raise InputError(f"{where}: the {form} data is cut short", "fetch or build it anew")


class Prefetch:
    """Runs an iterator in a thread, a few blocks ahead of whoever iterates over this.

    A context manager: leaving it stops the thread. What the iterator raises is raised here.
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            for block in self._blocks:
                if not self._put(block):
                    return
            self._put(None)
        except BaseException as error:  # handed over to the iterating thread
            self._put(error)

    def _put(self, item: bytes | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._done:
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, bytes):
            return item
        self._done = True
        if item is None:
            raise StopIteration
        raise item

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()


class Worker:
    """Gives blocks to a function in a thread of its own (hashlib and numpy let others run).

    A context manager: leaving it ends the thread.
    """

    def __init__(self, consume: Callable[[bytes], object]) -> None:
        self._consume = consume
        self._queue: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while (block := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._consume(block)
                except BaseException as error:  # raised again by finish(), in the caller's thread
                    self._error = error

    def feed(self, block: bytes) -> None:
        """Add a block; waits while the thread is several blocks behind."""
        self._queue.put(block)

    def finish(self) -> None:
        """Wait until all blocks are done; no block may follow. Raises what the function raised."""
        self._end()
        if self._error is not None:
            raise self._error

    def _end(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def __enter__(self) -> "Worker":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
