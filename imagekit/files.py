"""Writing to disk so that a kill at any time leaves nothing half-written that passes for good.

Every file is written aside under a name of its own, flushed to the disk and renamed. The writer
holds an exclusive flock on the temporary file while it lives. A process that is killed loses its
lock, so the next run can tell a dead writer's leftovers (lock free: removed) from a live one's
(kept).
"""

import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from imagekit.errors import InputError

TEMPORARY_PREFIX = ".imagekit-tmp-"
"""How the names of our temporary files begin; the process id and random digits follow."""

_HINTS = {
    errno.ENOSPC: "free some space on that file system, or choose a folder on another one",
    errno.EDQUOT: "free some of the quota on that file system, or choose another folder",
    errno.EFBIG: "raise the file size limit (ulimit -f), or choose another file system",
    errno.EACCES: "give this user the right to use it, or choose another folder",
    errno.EPERM: "give this user the right to use it, or choose another folder",
    errno.EROFS: "choose a folder on a file system that is mounted for writing",
    errno.ENOTDIR: "a file is in the way of the folder: move it, or choose another folder",
    errno.EEXIST: "a file is in the way of the folder: move it, or choose another folder",
    errno.EISDIR: "a folder is in the way of the file: move it, or choose another name",
    errno.ENOENT: "check the path",
    errno.ELOOP: "the path runs through symbolic links in a circle: correct them",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EIO: "the disk reports a fault: check it, or choose another one",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def disk_error(error: OSError, path: Path, doing: str) -> InputError:
    """The error for people that belongs to a failed operation on the disk.

    Args:
        error: what the operating system said.
        path: the file or folder the operation was about.
        doing: what was tried, as in "cannot <doing> <path>".
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = _HINTS.get(error.errno or 0, "check the path and the disk it is on")
    return InputError(f"cannot {doing} {path}: {reason}", hint)


class Aside:
    """A new file beside its final place; only :meth:`commit` gives it its name.

    Use it as a context manager: leaving without a commit removes the file. ``fd`` is open for
    reading and writing. Raises OSError; callers say which folder it was about.
    """

    def __init__(self, folder: Path, mode: int = 0o666) -> None:
        self.folder = folder
        while True:
            name = f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
            self.path = folder / name
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self.fd = os.open(self.path, flags, mode)  # less what the umask takes
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX)
                if _names_open_file(self.path, self.fd):
                    return
            except BaseException:
                self._discard()
                raise
            # A cleaner saw the file between open and flock and took it for a leftover: once more.
            os.close(self.fd)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of the data at the present position."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def commit(self, final: Path) -> None:
        """Flush to the disk and give the file its name, in place of a file that had it."""
        os.fsync(self.fd)
        self.path.rename(final)
        os.close(self.fd)
        self.fd = -1
        sync_folder(final.parent)

    def _discard(self) -> None:
        if self.fd >= 0:
            with suppress(OSError):
                self.path.unlink()
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> "Aside":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._discard()


def _names_open_file(path: Path, fd: int) -> bool:
    """Whether the path still names the file that is open as fd."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def sync_folder(folder: Path) -> None:
    """Flush a folder, so that a rename in it survives a power cut (where the system can)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some network file systems cannot flush folders
            os.fsync(fd)
    finally:
        os.close(fd)


def remove_stale(folder: Path) -> None:
    """Remove the temporaries that dead writers left in a folder; live writers' are kept.

    Never fails: what cannot be removed now is left to a later run.
    """
    with suppress(OSError):
        names = [name for name in os.listdir(folder) if name.startswith(TEMPORARY_PREFIX)]  # noqa: PTH208
        for name in names:
            with suppress(OSError):
                _remove_if_dead(folder / name)


def _remove_if_dead(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its writer lives
        if _names_open_file(path, fd):
            path.unlink()
    finally:
        os.close(fd)


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a whole file: afterwards it has the old content or the new one, never a mixture.

    What is no regular file (``/dev/stdout``, a pipe) is written to as it is; a symbolic link is
    followed.

    Args:
        path: the file.
        data: its new content.
        mode: its permissions, less what the umask takes; from the first byte on.

    Raises:
        InputError: the folder cannot be written to; nothing is left behind.
    """
    write_together({path: data}, mode)


def write_together(files: Mapping[Path, bytes], mode: int = 0o666) -> None:
    """Write several files: none is touched unless the contents of all are on the disk.

    Each is written as by :func:`write_atomically`.

    Raises:
        InputError: a folder cannot be written to; nothing is left behind.
    """
    where = Path()
    try:
        with ExitStack() as stack:
            ready: list[tuple[Aside, Path]] = []
            for path, data in files.items():
                where = path
                target = path.resolve() if path.is_symlink() else path
                if target.exists() and not target.is_file() and not target.is_dir():
                    stack.enter_context(path.open("wb", buffering=0)).write(data)
                    continue
                remove_stale(target.parent)
                aside = stack.enter_context(Aside(target.parent, mode))
                aside.write(data)
                ready.append((aside, target))
            for aside, where in ready:
                aside.commit(where)
    except OSError as error:
        raise disk_error(error, where, "write") from error


def write_new(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file that must not exist yet: whole or not at all, and never over another one.

    Args:
        path: the file; a dangling link counts as existing.
        data: its content.
        mode: permissions, less what the umask takes; from the first byte on.

    Raises:
        FileExistsError: the name is taken.
        InputError: the folder cannot be written to; nothing is left behind.
    """
    remove_stale(path.parent)
    try:
        with Aside(path.parent, mode) as aside:
            aside.write(data)
            os.fsync(aside.fd)
            try:
                os.link(aside.path, path)  # unlike a rename it fails when the name is taken
                sync_folder(path.parent)
            except PermissionError:  # the file system has no links
                if os.path.lexists(path):
                    raise FileExistsError(path) from None
                aside.commit(path)
    except FileExistsError:
        raise
    except OSError as error:
        raise disk_error(error, path, "write") from error


def check_private(path: Path, fd: int) -> None:
    """Refuse a file with a secret that others than its owner can get at; pipes are let through.

    Args:
        path: its name, for the message.
        fd: the open file.

    Raises:
        InputError: its mode lets group or others in.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o077:
        raise InputError(
            f"{path}: others than its owner can get at it (mode {stat.S_IMODE(mode):04o})",
            f"run: chmod 600 {path}; if others had access, take a new secret",
        )


def read_document(path: Path, kind: str, schema: int, hint: str) -> dict[str, Any] | None:
    """Read a JSON file that imagekit wrote; None if there is no file.

    Args:
        path: the file.
        kind: what it should be, for messages.
        schema: that its ``schema`` has to be.
        hint: what to do about a damaged one.

    Raises:
        InputError: unreadable, or not such a document.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: {reason}", "check the file") from None
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {str(error).splitlines()[0]}", hint) from None
    if not isinstance(document, dict) or document.get("schema") != schema:
        raise InputError(f"{path}: not {kind} of schema {schema}", hint)
    return document


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder and its parents where missing.

    Raises:
        InputError: something is in the way or may not be written to.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path, "make the folder") from error


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock between processes on a folder, or on a file that is never replaced.

    A file is made if it is missing; in a folder nothing is left behind.

    Args:
        path: the folder or file.
        waiting: called if somebody else holds the lock, before it is waited for.

    Raises:
        InputError: the file cannot be opened for writing, or the folder for reading.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise disk_error(error, path, "lock") from error
    try:
        try:
            _lock(fd, waiting)
        except OSError as error:
            raise disk_error(error, path, "lock") from error
        yield
    finally:
        os.close(fd)


def _lock(fd: int, waiting: Callable[[], None] | None) -> None:
    if waiting is not None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
        else:
            return
    fcntl.flock(fd, fcntl.LOCK_EX)
