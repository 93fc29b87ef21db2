"""Scratch folders that no killed run leaves behind for long."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imagekit.images.files import disk_error, make_folder

_LOCK = ".lock"


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """Make a scratch folder below ``parent`` and remove it in the end, whatever happened.

    The folder's owner holds a flock on a file in it: a folder whose lock is free belongs to a run
    that was killed, and the next run removes it.

    Raises:
        InputError: the folder cannot be made.
    """
    make_folder(parent)
    _remove_abandoned(parent)
    path = parent / f"{os.getpid()}-{secrets.token_hex(8)}"
    descriptor = -1
    try:
        try:
            path.mkdir(mode=0o700)
            descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise disk_error(error, path, "make the folder") from error
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if descriptor >= 0:
            os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of dead runs; what cannot be removed is left to a later one."""
    with suppress(OSError):
        for path in list(parent.iterdir()):
            with suppress(OSError):
                _remove_if_dead(path)


def _remove_if_dead(path: Path) -> None:
    # A folder without a lock file is just being made; it is left for a later run.
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its owner lives
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)
