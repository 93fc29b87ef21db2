"""Scratch folders that no killed run leaves behind for long."""

import fcntl
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imagekit.files import disk_error, make_folder

_LOCK = ".lock"
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """Make a scratch folder below ``parent`` and remove it in the end, whatever happened.

    The folder's owner, and the programs it starts there (:func:`hold`), share a flock on a file in
    it: a folder whose lock is free belongs to a run that was killed, and the next run removes it.

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
            descriptor = hold(path)
        except OSError as error:
            raise disk_error(error, path, "make the folder") from error
        yield path
    finally:
        remove_tree(path)
        if descriptor >= 0:
            os.close(descriptor)


def hold(folder: Path) -> int:
    """Open a work folder's lock file and hold it; the folder stays until all holders are gone.

    Returns:
        A descriptor for the owner or for a child process. Raises OSError.
    """
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def remove_tree(path: Path) -> None:
    """Remove a folder; what cannot be removed is left.

    mmdebstrap mounts /proc, /sys and parts of /dev in the root it makes. If it was killed they may
    still be there, and a removal would run on into the machine's own files. So mounts are undone
    first, and a folder that keeps one is not touched.
    """
    for mount in sorted(_mounts_below(path), key=lambda found: len(str(found)), reverse=True):
        with suppress(OSError):
            subprocess.run(["umount", "--", mount], check=False, capture_output=True)
    if not _mounts_below(path):
        shutil.rmtree(path, ignore_errors=True)


def _mounts_below(path: Path) -> list[Path]:
    """Give the mount points in or below a folder (proc(5), mountinfo, field 5)."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        folder = path.resolve()
    except OSError:
        return []
    points = [
        Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4])) for line in lines
    ]
    return [point for point in points if point.is_relative_to(folder)]


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
        # BlockingIOError: its owner, or a program it started, lives
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(path)
    finally:
        os.close(descriptor)
