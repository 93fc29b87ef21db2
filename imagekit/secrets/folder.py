"""Folders of secrets: made as a whole, replaced as a whole.

A folder holds what one command made, and nothing else. It is written aside, 0700 with files of mode
0600, flushed to the disk, and gets its name by one rename; ``--force`` exchanges it for the old one
in one step of the kernel (``renameat2`` with RENAME_EXCHANGE), which is then removed. So the name
stands for the old files or the new ones at any time, never for some of each.

Like the files of :mod:`imagekit.files` a folder aside is locked while its writer lives, and the
next run removes what dead writers left.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imagekit.errors import InputError, UsageError
from imagekit.files import TEMPORARY_PREFIX, disk_error, make_folder, sync_folder

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_OWN = "give a folder of its own with --output"


class SecretFiles(dict[str, bytes]):
    """Files of a folder, name → content; no representation shows the contents."""

    def __repr__(self) -> str:
        """Names alone."""
        return f"SecretFiles({', '.join(sorted(self))})"


def check_folder(folder: Path, names: Collection[str], force: bool) -> None:
    """Make sure that a folder can be written, before anything is made for it.

    Args:
        folder: where to.
        names: all files that the command may ever write.
        force: whether such files may be replaced.

    Raises:
        UsageError: it has files already, or with `force` other files than these.
        InputError: it cannot be looked at, or is no folder.
    """
    target = folder.resolve()
    if target == Path.cwd() or target in Path.cwd().parents:
        raise UsageError(f"{folder}: the current folder is not written to as a whole", _OWN)
    try:
        found = set(os.listdir(target))  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(error, folder, "look into") from error
    if found and not force:
        raise UsageError(
            f"{folder}: exists already, with {_some(found)}",
            "secrets are never overwritten: give another --output, or replace them with --force",
        )
    if others := found - set(names):
        raise UsageError(
            f"{folder}: --force replaces the folder as a whole, {_some(others)} with it", _OWN
        )


def _some(names: Collection[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def write_folder(folder: Path, files: SecretFiles, force: bool) -> None:
    """Write a folder that :func:`check_folder` has let pass: all of it or nothing.

    Raises:
        UsageError: files have come into it meanwhile.
        InputError: it cannot be written; what was there is as it was.
    """
    target = folder.resolve()
    make_folder(target.parent)
    _remove_stale(target.parent)
    try:
        with _aside(target.parent) as aside:
            for name, data in files.items():
                _write(aside / name, data)
            sync_folder(aside)
            if force and target.exists():
                _exchange(aside, target)
            else:
                aside.rename(target)  # fails if there is one that is not empty
            sync_folder(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise UsageError(f"{folder}: files have come into it meanwhile", _OWN) from None
        if force and error.errno in (errno.EINVAL, errno.ENOSYS, errno.EBUSY):
            raise InputError(
                f"cannot replace {folder} in one step: {os.strerror(error.errno)}",
                "this file system does not exchange folders: remove it yourself, then run again",
            ) from error
        raise disk_error(error, folder, "write") from error


@contextmanager
def _aside(parent: Path) -> Iterator[Path]:
    """Give a new folder, locked; whatever has its name at the end is removed."""
    while True:
        path = parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        path.mkdir(0o700)
        try:
            if (fd := _lock(path)) is not None:
                break
        except FileNotFoundError:  # a cleaner saw it between the two and took it for a leftover
            continue
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _lock(path: Path) -> int | None:
    """Lock a folder; gives its descriptor, or None if its writer lives or it has gone."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there, here = path.stat(), os.fstat(fd)
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            return fd
    except BlockingIOError:
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _remove_stale(parent: Path) -> None:
    """Remove the folders that dead writers left; what cannot be removed is left to a later run."""
    with suppress(OSError):
        for name in os.listdir(parent):  # noqa: PTH208 - names, not paths
            if name.startswith(TEMPORARY_PREFIX):
                with suppress(OSError):
                    if (fd := _lock(parent / name)) is not None:
                        shutil.rmtree(parent / name, ignore_errors=True)
                        os.close(fd)


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(fd)


def _exchange(one: Path, other: Path) -> None:
    """Exchange the names of two folders, in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "renameat2", None)
    if call is None:  # a C library older than the system call
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
