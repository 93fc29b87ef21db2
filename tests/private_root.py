"""A root folder that looks like this machine's and may be written to without changing it.

An image's files stand at fixed places (``/opt/imagekit``, ``/ppml``, ``/opt/spark``). To run the
very same bytes natively, a process gets mount, network and host name spaces of its own and a root
that is an overlay over ``/``: what it writes is gone with it, only ``lo`` is on its network, and
its ``/dev`` has what a container's has. Needs root, and the commands of :data:`COMMANDS`.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

__all__ = ["COMMANDS", "SPACES", "enter", "in_network", "nsenter", "private_root"]

COMMANDS = ("unshare", "nsenter", "mount")
"""What a test that uses this needs, for its mark."""
SPACES = ("unshare", "--mount", "--net", "--uts", "--ipc")
"""Start a program that calls :func:`enter` with these words in front."""

_SCRATCH = "/mnt"
_DEVICES = ("full", "null", "random", "tty", "urandom", "zero", "shm", "pts")
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1

Given = TypeVar("Given")


def enter(host: str) -> None:
    """Move this process, which was started with :data:`SPACES`, into such a root."""
    socket.sethostname(host)
    scratch = Path(_SCRATCH)
    _run("mount", "-t", "tmpfs", "-o", "size=8g,mode=755", "tmpfs", scratch)
    upper, work, root = (scratch / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir(mode=0o755)
    layers = f"lowerdir=/,upperdir={upper},workdir={work}"
    _run("mount", "-t", "overlay", "-o", layers, "overlay", root)
    for name in ("proc", "sys"):
        _run("mount", "--rbind", f"/{name}", root / name)
    _make_devices(root / "dev")
    os.chroot(root)
    os.chdir("/")
    _set_up_loopback()
    # Nobody answers here, and a question to a name server would wait for its time limit.
    Path("/etc/resolv.conf").unlink(missing_ok=True)
    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost {host}\n")


def _set_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        fcntl.ioctl(asked, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def _make_devices(folder: Path) -> None:
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    for name in _DEVICES:
        here, there = Path("/dev", name), folder / name
        if here.is_dir():
            there.mkdir()
        elif here.exists():
            there.touch()
        else:
            continue
        _run("mount", "--bind", here, there)
    for name in ("stdin", "stdout", "stderr"):
        (folder / name).symlink_to(f"/proc/self/fd/{('stdin', 'stdout', 'stderr').index(name)}")
    (folder / "fd").symlink_to("/proc/self/fd")


def nsenter(process: int) -> list[str]:
    """Give the words that run a program in the root of a process."""
    spaces = ("--mount", "--net", "--uts", "--ipc", "--root")
    return ["nsenter", f"--target={process}", *spaces, "--", "env", "--chdir=/"]


def in_network(process: int, function: Callable[[], Given]) -> Given:
    """Call `function` in the network of a process; sockets that it makes stay in there."""
    found: list[Given] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            with Path(f"/proc/{process}/ns/net").open() as space:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(space.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            found.append(function())
        except BaseException as error:  # of an assertion, too: it is raised again below
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


@contextmanager
def private_root() -> Iterator[int]:
    """Have such a root; gives the process that holds it, for :func:`nsenter`."""
    hold = [*SPACES, sys.executable, "-I", __file__]
    process = subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line == "ready\n", "no private root"
        yield process.pid
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    enter("image")
    print("ready", flush=True)
    sys.stdin.read()
