"""Which processes a program starts, and how it does where it may start none.

:func:`no_processes` gives a command that runs a program as Gramine does with
``sys.disallow_subprocesses``: fork, vfork and clone of a process answer EAGAIN, clone3 is not
there, threads and execve work. A filter of the kernel does that (seccomp(2)); this file is the
program that sets it.

:func:`trace` gives a command that runs a program under ``strace``, and :func:`started_processes`
then lists the processes that it, and those, started.
"""

import ctypes
import errno
import os
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

# linux/audit.h, linux/filter.h, linux/seccomp.h, linux/sched.h, linux/prctl.h and the table of
# system calls of x86-64
_ARCH_X86_64 = 0xC000003E
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_AT_NUMBER, _AT_ARCH, _AT_FIRST_ARGUMENT = 0, 4, 16
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_CLONE, _FORK, _VFORK, _CLONE3 = 56, 57, 58, 435
_CLONE_THREAD = 0x00010000
_PR_SET_NO_NEW_PRIVS, _SECCOMP, _SET_MODE_FILTER, _FLAG_SPEC_ALLOW = 38, 317, 1, 4

_FILTER = (
    (_LOAD, 0, 0, _AT_ARCH),
    (_JUMP_IF_EQUAL, 1, 0, _ARCH_X86_64),
    (_RETURN, 0, 0, _KILL),
    (_LOAD, 0, 0, _AT_NUMBER),
    (_JUMP_IF_EQUAL, 6, 0, _FORK),
    (_JUMP_IF_EQUAL, 5, 0, _VFORK),
    (_JUMP_IF_EQUAL, 5, 0, _CLONE3),
    (_JUMP_IF_EQUAL, 0, 2, _CLONE),
    (_LOAD, 0, 0, _AT_FIRST_ARGUMENT),  # the lower half of the flags
    (_JUMP_IF_ANY_BIT, 0, 1, _CLONE_THREAD),
    (_RETURN, 0, 0, _ALLOW),
    (_RETURN, 0, 0, _ERRNO | errno.EAGAIN),
    (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),  # glibc takes clone instead
)

_HEX = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)")
_STARTS = ("fork", "vfork", "clone", "clone3")
_SPAWN_HELPER = "jspawnhelper"  # Java's own, becomes the program that was asked for


def no_processes(command: Sequence[str | Path]) -> list[str]:
    """Give the command that runs this one where no process can be started."""
    return [sys.executable, "-I", __file__, *map(str, command)]


def trace(command: Sequence[str | Path], log: Path) -> list[str]:
    """Give the command that runs this one under ``strace``; ends the test where that cannot be.

    Args:
        command: what to run.
        log: the file for :func:`started_processes`. Where starts are refused it lists none.
    """
    import shutil
    import subprocess

    import pytest

    strace = [
        *("strace", "-f", "--seccomp-bpf", "-qq", "-xx", "-s", "4096", "-e", "signal=none"),
        *("-e", f"trace=execve,{','.join(_STARTS)}", "-o"),
    ]
    end = pytest.fail if os.environ.get("CI") else pytest.skip
    if shutil.which("strace") is None:
        end("missing on this machine: strace")
    tried = [*strace, os.devnull, "true"]
    done = subprocess.run(tried, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        end(f"strace does not work on this machine: {done.stderr.strip()[-200:]}")
    return [*strace, str(log), *map(str, command)]


def started_processes(log: Path) -> list[list[str]]:
    """Give the arguments of each process that was started, in order.

    A process counts by the first program that it became or tried to become; one that did not has
    no arguments.

    Args:
        log: what :func:`trace` had written.
    """
    unfinished: dict[str, str] = {}
    children: list[str] = []
    programs: dict[str, list[str]] = {}
    for line in log.read_text(encoding="ascii").splitlines():
        found = _LINE.fullmatch(line)
        if found is None:  # of a process that ended
            continue
        pid, resumed, begun, text = found.groups()
        if text.endswith("<unfinished ...>"):
            unfinished[pid] = text
            if begun != "execve":
                continue
        call = resumed or begun
        whole = unfinished.pop(pid, "") + text if resumed else text
        if call == "execve":
            _note_program(programs, pid, whole)
        elif (child := re.search(r"= (\d+)$", whole)) and "CLONE_THREAD" not in whole:
            children.append(child[1])
    return [programs.get(child, []) for child in children]


def _note_program(programs: dict[str, list[str]], pid: str, text: str) -> None:
    inside = text.partition("[")[2].partition("]")[0]
    words = [bytes.fromhex(word.replace("\\x", "")).decode() for word in _HEX.findall(inside)]
    if words and not words[0].endswith(_SPAWN_HELPER):
        programs.setdefault(pid, words)


def _set_filter() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("=HBBI", kind, yes, no, value) for kind, yes, no, value in _FILTER)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(_FILTER), ctypes.addressof(buffer))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(value) for value in (1, 0, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    # Without the flag, old kernels make everything under a filter slower, against Spectre.
    arguments = (_SECCOMP, _SET_MODE_FILTER, _FLAG_SPEC_ALLOW)
    if libc.syscall(*(ctypes.c_long(value) for value in arguments), program) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    _set_filter()
    os.execvp(sys.argv[1], sys.argv[1:])
