"""Running the programs the assembler needs, line by line, leaving none behind."""

import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import EngineError, printable
from imagekit.files import disk_error
from imagekit.images.bases.workdir import hold

TAIL_LINES = 200
"""How many of a program's last lines are kept for error messages."""

_GRACE_SECONDS = 20.0


@dataclass(frozen=True)
class Finished:
    """How a program ended: its exit code (negative: the signal) and its last lines."""

    code: int
    tail: tuple[str, ...]


def run_program(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    folder: Path,
    on_line: Callable[[str], None] = lambda _line: None,
) -> Finished:
    """Run a program to its end and pass on its output.

    Standard input is empty; both outputs are read as one stream of lines (undecodable bytes are
    replaced). If anything interrupts the wait, the program gets SIGTERM, time to clean up, then
    SIGKILL, and the interruption goes on.

    Args:
        argv: program and arguments.
        env: its whole environment.
        folder: its working directory, a work folder; it is kept while the program or a child of it
            lives (see :mod:`imagekit.images.bases.workdir`).
        on_line: called with every line, without the line break.

    Raises:
        EngineError: the program cannot be started. InputError: no such folder.
    """
    try:
        held = hold(folder)
    except OSError as error:
        raise disk_error(error, folder, "lock") from None
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=folder,
            pass_fds=(held,),
            process_group=0,  # so that its children can be told to stop too
            umask=0o022,  # what package scripts write must not depend on the caller's umask
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise EngineError(
            f"{argv[0]} cannot be started: {reason}", "check its installation"
        ) from None
    finally:
        os.close(held)
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                text = line.rstrip("\r\n")
                tail.append(text)
                on_line(text)
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
    return Finished(code, tuple(tail))


def one_line(lines: Sequence[str], limit: int = 400) -> str:
    """Join the last lines of a program for a message: printable, one line, the end kept."""
    text = " / ".join(line.strip() for line in lines if line.strip())
    text = printable(text)
    return text if len(text) <= limit else "…" + text[-limit:]


def _stop(process: "subprocess.Popen[str]") -> None:
    """End the program and its children: mmdebstrap itself waits for a child and ignores signals."""
    _signal_group(process, signal.SIGTERM)
    try:
        # its output has to be drained, or a program that talks while cleaning up would block
        process.communicate(timeout=_GRACE_SECONDS)
    except (subprocess.TimeoutExpired, ValueError, OSError):
        pass
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
