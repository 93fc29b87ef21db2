"""The launcher inside the enclave: check what the host passed in, then become the sealed command.

It is the first program in the enclave. The manifest fixes its arguments, its code and
``launch.json`` are trusted files; the values of passed-through variables are all that the host can
choose, and each must match its pattern. There is no shell, nothing is expanded, and nothing of this
program stays behind: ``execve`` replaces it, so signals and the exit code are the command's own.

Steps that need the enclave (attestation, keys for encrypted mounts) belong between
:func:`environment` and :func:`become`.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH123
from __future__ import annotations

import os
import signal
import sys
from typing import Mapping, NoReturn, Sequence  # noqa: UP035 - Python 3.8

from . import launch

REFUSED = 2
UNUSABLE = 3
"""Exit codes: a value from outside is refused; something that is needed is missing or unusable."""

LONGEST_SPEC = 1 << 20
LONGEST_VALUE = 1 << 13
"""Bytes. A regular expression is not run on more than that."""


class Stop(Exception):
    """The launcher cannot go on.

    Attributes:
        code: exit code.
        line: what is wrong, one line, without any value from outside.
    """

    def __init__(self, code: int, line: str) -> None:
        super().__init__(line)
        self.code = code
        self.line = line


def read_launch(path: str) -> launch.Launch:
    """Read ``launch.json``.

    Raises:
        Stop: it is missing or unusable.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST_SPEC + 1)
    except OSError as error:
        raise Stop(UNUSABLE, f"{path}: {error.strerror}") from None
    if len(data) > LONGEST_SPEC:
        raise Stop(UNUSABLE, f"{path}: larger than {LONGEST_SPEC} bytes")
    try:
        return launch.parse_launch(data)
    except ValueError as error:
        line = " ".join(str(error).split())
        raise Stop(UNUSABLE, f"{path}: {line}") from None


def environment(spec: launch.Launch, host: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Make the command's environment: the fixed values and what the host may pass through.

    A variable that the host has not set is simply absent.

    Args:
        spec: the launch specification.
        host: the environment that came in, as bytes.

    Raises:
        Stop: a value that does not match its pattern, is too long or not UTF-8. The variable is
            named, its value never shown.
    """
    env = {name.encode(): value.encode() for name, value in spec.env.items()}
    for name, pattern in sorted(spec.passthrough.items()):
        value = host.get(name.encode())
        if value is None:
            continue
        if len(value) > LONGEST_VALUE:
            raise Stop(REFUSED, f"{name}: refused, its value is longer than {LONGEST_VALUE} bytes")
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            raise Stop(REFUSED, f"{name}: refused, its value is not UTF-8 text") from None
        if pattern.fullmatch(text) is None:
            raise Stop(REFUSED, f"{name}: refused, its value does not match the sealed pattern")
        env[name.encode()] = value
    return env


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


def run(spec_path: str, host: Mapping[bytes, bytes]) -> NoReturn:
    """Read the specification, check the host's values, become the sealed command.

    Raises:
        Stop: see the functions above.
    """
    spec = read_launch(spec_path)
    env = environment(spec, host)
    become(spec.argv[0], spec.argv, env)
