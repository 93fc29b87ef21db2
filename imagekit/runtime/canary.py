"""The canary of an encrypted mount: a small file by which a wrong key is told at once.

It is the file :data:`CANARY` in the mount's top folder, with a fixed text, written at the first
start and read at each later one. Without it a wrong key shows in what the program makes of files
that it cannot open: Derby takes half a minute to give up, with a message about something else.

For whatever it cannot decrypt Gramine answers EACCES, to open and to stat alike: files of another
key, and the empty ones that an open without any key leaves behind. Inside, the two cannot be told
apart, so nothing is deleted; the canary is written aside and renamed, so it is never such a
leftover itself. It detects mistakes, not attacks: a host can delete it, or put back an old mount.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH104, PTH108, PTH118
from __future__ import annotations

import os
from contextlib import suppress

from .stop import FAILED, UNUSABLE, Stop

CANARY = ".imagekit-canary"
_TEXT = b"imagekit: this mount was written with the right key\n"
_SAMPLE = 32  # files of a mount that are tried when it has no canary


def check_canary(mount: str) -> None:
    """Read the canary, or write it at first use.

    Args:
        mount: path of an encrypted mount whose key is set.

    Raises:
        Stop: the key is not that of the files there (FAILED), or nothing can be written.
    """
    path = os.path.join(mount, CANARY)
    try:
        text = _read(path)
    except FileNotFoundError:
        _first_use(mount, path)
        return
    except OSError:
        text = b""
    if text != _TEXT:
        raise Stop(
            FAILED,
            f"{mount}: wrong data key: {CANARY} cannot be read with it; give the key of the first "
            "start, or empty the folder",
        )


def _first_use(mount: str, path: str) -> None:
    """Write the canary; not where there are files already that this key does not open."""
    if not _opens_something(mount):
        raise Stop(
            FAILED,
            f"{mount}: wrong data key, or leftovers: it has files, and none can be opened with "
            "this key; give the key they were written with, or empty the folder",
        )
    aside = f"{path}.{os.urandom(4).hex()}"
    try:
        number = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(number, _TEXT)
        finally:
            os.close(number)
        os.rename(aside, path)
        text = _read(path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(aside)
        raise Stop(UNUSABLE, f"{mount}: cannot be written: {error.strerror}") from None
    if text != _TEXT:
        raise Stop(FAILED, f"{mount}: what was written to it reads back as something else")


def _opens_something(mount: str) -> bool:
    """Whether one of the mount's files can be opened, or it has none.

    Canaries that another enclave is writing on a shared folder right now do not count.
    """
    tried = 0
    for folder, folders, names in os.walk(mount):
        folders.sort()
        for name in sorted(names):
            if name.startswith(CANARY):
                continue
            with suppress(OSError):
                os.close(os.open(os.path.join(folder, name), os.O_RDONLY))
                return True
            tried += 1
            if tried == _SAMPLE:
                return False
    return not tried


def _read(path: str) -> bytes:
    number = os.open(path, os.O_RDONLY)
    try:
        return os.read(number, 4096)
    finally:
        os.close(number)
