"""What both parts of a start do, outside and inside: read files, become the next program.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH123
from __future__ import annotations

import os
import signal
import sys
from typing import Mapping, NoReturn, Sequence  # noqa: UP035 - Python 3.8

from .launch import Launch, parse_launch
from .stop import UNUSABLE, Stop

LONGEST_SPEC = 1 << 20
"""Bytes."""


def read_file(path: str, longest: int, what: str) -> bytes:
    """Read a file that somebody else has written.

    Args:
        path: of the file.
        longest: bytes that it may have.
        what: how a message names it.

    Raises:
        Stop: it cannot be read, or is larger.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(longest + 1)
    except OSError as error:
        raise Stop(UNUSABLE, f"{what}: {error.strerror}") from None
    if len(data) > longest:
        raise Stop(UNUSABLE, f"{what}: larger than {longest} bytes")
    return data


def read_launch(path: str) -> Launch:
    """Read ``launch.json``.

    Raises:
        Stop: it is missing or unusable.
    """
    data = read_file(path, LONGEST_SPEC, path)
    try:
        return parse_launch(data)
    except ValueError as error:
        line = " ".join(str(error).split())
        raise Stop(UNUSABLE, f"{path}: {line}") from None


def become(program: str, argv: Sequence[str], env: Mapping[bytes, bytes]) -> NoReturn:
    """Replace this process by a command.

    Args:
        program: path of what is executed.
        argv: its arguments, its own name first.
        env: its whole environment.

    Raises:
        Stop: it cannot be executed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores these two, and what is ignored stays ignored across execve.
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execve(program, list(argv), env)  # noqa: S606 - no shell is the point
    except OSError as error:
        raise Stop(UNUSABLE, f"{program}: cannot be started: {error.strerror}") from None
    raise AssertionError("execve came back")
