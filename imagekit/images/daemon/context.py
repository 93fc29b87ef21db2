"""A folder as the build context that is sent to an engine: always the same bytes.

Sorted, owned by root, times zero: an engine that has seen the same files takes its cached steps.
``.dockerignore`` counts, as with the docker command.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from docker.utils import exclude_paths

from imagekit.errors import InputError
from imagekit.files import disk_error
from imagekit.images.streams import BLOCK
from imagekit.images.tarwrite import DIRECTORY, END, REGULAR, SYMLINK, Member, header, padding


def context_tar(folder: Path, dockerfile: str) -> Iterator[bytes]:
    """The tar of a build context.

    Args:
        folder: the folder.
        dockerfile: the Dockerfile's path in it, which goes along even if it is to be ignored.

    Raises:
        InputError: something in it cannot be read, or is no file, link or directory.
    """
    for name in sorted(_names(folder, dockerfile), key=os.fsencode):
        try:
            yield from _entry(folder / name, os.fsencode(name))
        except OSError as error:
            raise disk_error(error, folder / name, "read") from error
    yield END


def _names(folder: Path, dockerfile: str) -> set[str]:
    try:
        ignored = (folder / ".dockerignore").read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        ignored = ""
    except OSError as error:
        raise disk_error(error, folder / ".dockerignore", "read") from error
    lines = (line.strip() for line in ignored.splitlines())
    patterns = [line for line in lines if line and not line.startswith("#")]
    return set(exclude_paths(str(folder), patterns, dockerfile=dockerfile))


def _entry(path: Path, name: bytes) -> Iterator[bytes]:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        yield header(Member(name, DIRECTORY, mode=mode))
    elif stat.S_ISLNK(status.st_mode):
        link = os.fsencode(path.readlink())
        yield header(Member(name, SYMLINK, mode=0o777, link=link))
    elif stat.S_ISREG(status.st_mode):
        yield header(Member(name, REGULAR, status.st_size, mode))
        yield from _content(path, status.st_size)
    else:
        raise InputError(
            f"{path} is no file, link or directory", "take it out of the folder, or ignore it"
        )


def _content(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb") as stream:
        while left and (block := stream.read(min(BLOCK, left))):
            left -= len(block)
            yield block
        if left or stream.read(1):
            raise InputError(
                f"{path} changed while it was read", "let nothing write to it, then try again"
            )
    yield padding(size)
