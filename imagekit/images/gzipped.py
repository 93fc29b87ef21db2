"""Gzip with always the same bytes: libdeflate of one pinned version, in members of one size.

What zlib writes depends on its version and on which library stands in for it, and then the digest
of an image would depend on the machine. libdeflate's output depends on its version alone. It
compresses whole buffers, so a blob becomes a series of gzip members (RFC 1952, section 2.2: a gzip
file is one or more of them), which also lets several threads compress one blob.
"""

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version

from deflate import gzip_compress

MEMBER = 4 << 20
"""Bytes of content in one gzip member; part of what the compressed bytes depend on."""

LEVEL = 6
"""Level of compression; part of what the compressed bytes depend on."""

COMPRESSION = f"libdeflate of deflate {version('deflate')}, level {LEVEL}, members of {MEMBER}"
"""Everything the compressed bytes depend on besides the content."""


class GzipStream:
    """Compresses what is written to it, in several threads.

    Args:
        threads: how many; by default one per processor.
    """

    def __init__(self, threads: int | None = None) -> None:
        workers = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="gzip")
        self._ahead = workers + 1
        self._pending: deque[Future[bytes]] = deque()
        self._rest = bytearray()
        self._begun = False

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """Take content; give compressed bytes that are ready, in order."""
        self._rest += data
        ready: list[bytes] = []
        while len(self._rest) >= MEMBER:
            self._submit(bytes(self._rest[:MEMBER]))
            del self._rest[:MEMBER]
            if len(self._pending) > self._ahead:
                ready.append(self._pending.popleft().result())
        return ready

    def finish(self) -> list[bytes]:
        """Give the rest of the compressed bytes, in order; empty content becomes one member."""
        if self._rest or not self._begun:
            self._submit(bytes(self._rest))
            self._rest.clear()
        ready = [future.result() for future in self._pending]
        self._pending.clear()
        return ready

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, data: bytes) -> None:
        self._begun = True
        self._pending.append(self._pool.submit(_compress, data))


def _compress(data: bytes) -> bytes:
    return bytes(gzip_compress(data, LEVEL))
