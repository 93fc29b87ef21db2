"""Blobs from a registry into the cache, going on where an earlier try was cut off.

What has arrived stands in ``partial/<hex>`` in the cache, locked while somebody writes to it: after
a cut, or a kill, the next try asks for the rest alone (distribution-spec 1.1, "Pulling blobs";
RFC 9110, 14). The file becomes a blob when size and digest are right.
"""

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imagekit.errors import EngineError, InputError
from imagekit.files import disk_error, make_folder, sync_folder
from imagekit.images.cache import Cache
from imagekit.images.oci import Descriptor
from imagekit.images.progress import Advance
from imagekit.images.registry.auth import pull_scope
from imagekit.images.registry.client import RegistryClient
from imagekit.images.registry.retry import PassingError, Retries
from imagekit.images.registry.transport import Download

_FOLDER = "partial"
_BLOCK = 1 << 20
_ROUNDS = 2
_LOOK_SECONDS = 0.1
_OLD_SECONDS = 7 * 86400


def fetch_blob(
    client: RegistryClient,
    repository: str,
    descriptor: Descriptor,
    cache: Cache,
    advance: Advance,
) -> None:
    """Bring a blob into the cache's blobs, unless it is there.

    Args:
        client: the registry; its ``stop`` ends the work.
        repository: where the blob is.
        descriptor: the digest and size it must have.
        cache: where it goes.
        advance: told the bytes, also those that were there.

    Raises:
        EngineError: the registry failed, or has no such blob.
        InputError: the content is another one, or the disk refuses.
    """
    if cache.blobs.has(descriptor.digest, descriptor.size):
        advance(descriptor.size)
        return
    path = cache.folder(_FOLDER) / descriptor.hex
    _remove_old(path)
    with _held(path, client.stop) as fd:
        if cache.blobs.has(descriptor.digest, descriptor.size):  # another process was quicker
            advance(descriptor.size)
            path.unlink(missing_ok=True)
            return
        try:
            _Fetch(client, repository, descriptor, fd, advance).run()
            make_folder(cache.blobs.folder)
            os.fsync(fd)
            path.rename(cache.blobs.path(descriptor.digest))
            sync_folder(cache.blobs.folder)
        except OSError as error:
            raise disk_error(error, path, "write") from error


@contextmanager
def _held(path: Path, stop: threading.Event) -> Iterator[int]:
    """The partial file, ours alone until the end; a wait for others ends with ``stop``."""
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise disk_error(error, path, "write") from error
        try:
            while not _lock(fd):
                if stop.wait(_LOOK_SECONDS):
                    raise EngineError("the wait for another download was given up", "try again")
            try:
                same = os.path.samestat(path.lstat(), os.fstat(fd))
            except FileNotFoundError:
                same = False
            if same:  # else whoever held it has finished and renamed it meanwhile
                yield fd
                return
        finally:
            os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_old(own: Path) -> None:
    """Remove what nobody went on with for a week, except our own; never fails."""
    with suppress(OSError):
        for path in sorted(own.parent.iterdir()):
            with suppress(OSError):
                if path != own and path.is_file() and _is_old(path.lstat()):
                    _remove_free(path)


def _is_old(status: os.stat_result) -> bool:
    return time.time() - status.st_mtime > _OLD_SECONDS


def _remove_free(path: Path) -> None:
    """Remove a file unless somebody took it up meanwhile."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if _lock(fd) and _is_old(os.fstat(fd)) and os.path.samestat(path.lstat(), os.fstat(fd)):
            path.unlink()
    finally:
        os.close(fd)


class _Fetch:
    """One blob on its way into an open file."""

    def __init__(
        self,
        client: RegistryClient,
        repository: str,
        descriptor: Descriptor,
        fd: int,
        advance: Advance,
    ) -> None:
        self._client = client
        self._repository = repository
        self._descriptor = descriptor
        self._fd = fd
        self._advance = advance
        self._hash = hashlib.sha256()
        self._position = 0
        self._told = 0
        self._ranges = True

    def run(self) -> None:
        """Complete the file; a content that does not fit is fetched anew once.

        Raises:
            EngineError: the registry failed.
            InputError: the content is another one.
            OSError: the disk refuses.
        """
        size = self._descriptor.size
        self._take_up()
        for _ in range(_ROUNDS):
            retries = Retries(self._client.stop)
            while self._position < size:
                before = self._told
                try:
                    self._attempt()
                except PassingError as error:
                    if self._told > before:
                        retries.progressed()
                    retries.wait(error)
            found = "sha256:" + self._hash.hexdigest()
            if self._position == size and found == self._descriptor.digest:
                return
            wrong = f"{self._position} bytes" if self._position != size else found
            self._restart()
        name = f"{self._client.host}/{self._repository}"
        raise InputError(
            f"{name}: blob {self._descriptor.digest} ({size} bytes) came as {wrong}, twice",
            "the registry's copy is damaged or altered: push the image anew",
        )

    def _take_up(self) -> None:
        """Take in what an earlier try left in the file."""
        if os.fstat(self._fd).st_size > self._descriptor.size:
            self._restart()
        while block := os.read(self._fd, _BLOCK):
            self._hash.update(block)
            self._position += len(block)
        self._tell()

    def _restart(self) -> None:
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self._position = 0

    def _attempt(self) -> None:
        """Ask for what is missing and write what comes."""
        headers = {}
        if self._position and self._ranges:
            headers["Range"] = f"bytes={self._position}-"
        elif self._position:
            self._restart()
        path = f"{self._repository}/blobs/{self._descriptor.digest}"
        with self._client.download(path, (pull_scope(self._repository),), headers) as download:
            if not self._fits(download):
                return
            for block in download.blocks():
                self._write(block)
                if self._position > self._descriptor.size:
                    return
        if self._position < self._descriptor.size:
            raise PassingError(
                f"{self._client.host}/{self._repository}: blob {self._descriptor.digest} was cut "
                f"after {self._position} of {self._descriptor.size} bytes",
                "try again; what has arrived is kept",
            )

    def _fits(self, download: Download) -> bool:
        """Whether the answer begins where the file ends; otherwise the next try is a new start."""
        answer = download.answer
        if answer.status == 200:
            if self._position:  # the server knows no ranges and sends everything
                self._restart()
            return True
        if answer.status == 206:
            start = answer.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
            if start == str(self._position):
                return True
        if self._position and answer.status in (206, 416):
            self._ranges = False
            return False
        raise self._client.failure(answer, f"pull a blob of {self._client.host}/{self._repository}")

    def _write(self, block: bytes) -> None:
        if self._client.stop.is_set():
            raise EngineError(f"{self._client.host}: the download was given up", "try again")
        view = memoryview(block)
        # Never more on the disk than was announced, however much the server sends.
        view = view[: self._descriptor.size - self._position]
        while view:
            view = view[os.write(self._fd, view) :]
        self._hash.update(block)
        self._position += len(block)
        self._tell()

    def _tell(self) -> None:
        """Report progress, each byte once, however often it is fetched."""
        reached = min(self._position, self._descriptor.size)
        if reached > self._told:
            self._advance(reached - self._told)
            self._told = reached
