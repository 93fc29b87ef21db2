"""``occlum-run``: starts a program of the image natively, in a folder of its own. No enclave.

What the library OS would check of the instance is checked: the MAC that is built in, the
configuration, the file systems, the entry points. Python 3.8, standard library.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path

from occlum_sefs import SefsError, entries_of, opened, unpack
from sdk_enclaves import section_range

SYSTEM = ".Occlum_sys.json.protected"
_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
_FROM_HOST = ("hostname", "hosts", "resolv.conf")
"""Files of ``/etc`` that a host gives an enclave at the start, where the tree has none."""
_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class StartError(Exception):
    """Why nothing is started."""


def configuration() -> dict:
    """Give the configuration that the signed library stands for."""
    library = Path("build/lib/libocclum-libos.signed.so").read_bytes()
    offset, size = section_range(library, ".builtin_config")
    mac = library[offset : offset + size].rstrip(b"\0\n").decode("ascii", "replace")
    return dict(json.loads(opened(SYSTEM, Path("build", SYSTEM).read_bytes(), mac)))


def root_mac(app: dict) -> str:
    """Give the MAC of the file system at the root."""
    for mount in app["mount"]:
        for layer in mount.get("options", {}).get("layers", []):
            mac = layer.get("options", {}).get("MAC")
            if mount["target"] == "/" and mac is not None:
                return str(mac)
    raise StartError("the configuration has no file system at /")


def check_entry(program: str, entry_points: list) -> None:
    """Refuse a program that a host may not start."""
    parts = program.split("/")
    for point in entry_points:
        wanted = point.rstrip("/").split("/")
        if program.startswith("/") and ".." not in parts and parts[: len(wanted)] == wanted:
            return
    raise StartError(f"{program} is below none of the entry points {', '.join(entry_points)}")


def environment(env: dict) -> dict:
    """Give the variables of the enclave: its own, and those that the host may set."""
    found = dict(text.partition("=")[::2] for text in env["default"] if text)
    found.update({name: os.environ[name] for name in env["untrusted"] if name in os.environ})
    return found


def check_script(root: Path, program: str) -> None:
    """Refuse a script as Occlum does, which takes the whole first line for a path.

    The program itself may be a link; one of the folders above it that is one is not followed.
    """
    path = root / program.lstrip("/")
    if path.is_symlink() or not path.is_file():
        return
    with path.open("rb") as stream:
        line = stream.readline(4096)
    if line.startswith(b"#!"):
        interpreter = os.fsdecode(line[2:].strip())
        if not os.path.lexists(root / interpreter.lstrip("/")):
            raise StartError(f"{program}: no interpreter {interpreter!r}")


def prepare(root: Path, program: str) -> None:
    """Put in what the library OS has by itself: devices, a little of /proc, files of the host."""
    for name, mode in (("dev", 0o755), ("dev/shm", 0o1777), ("proc", 0o755), ("tmp", 0o1777)):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(mode)
    for name, minor in _DEVICES.items():
        try:
            os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
            (root / "dev" / name).chmod(0o666)
        except OSError:  # not permitted: something that can be read and written all the same
            (root / "dev" / name).write_bytes(os.urandom(1 << 16) if "random" in name else b"")
    (root / "proc/self").mkdir(exist_ok=True)
    (root / "proc/self/exe").symlink_to(program)
    for name in ("cpuinfo", "meminfo"):
        source = Path("/proc", name)
        (root / "proc" / name).write_bytes(source.read_bytes() if source.exists() else b"")
    (root / "etc").mkdir(exist_ok=True)
    for name in _FROM_HOST:
        place = root / "etc" / name
        if Path("/etc", name).is_file() and not os.path.lexists(place):
            shutil.copyfile(Path("/etc", name), place)


def start(root: Path, arguments: list, env: dict) -> int:
    """Run a program with another root; gives its exit code."""
    child = os.fork()
    if child == 0:
        code = 126
        try:
            os.chroot(root)
            os.chdir("/")
            os.execve(arguments[0], arguments, env)
        except PermissionError as error:
            say(f"{arguments[0]}: {error.strerror}; a stand-in needs root and CAP_SYS_CHROOT")
        except OSError as error:
            say(f"{arguments[0]}: {error.strerror}")
            code = 127
        finally:
            os._exit(code)
    for number in _FORWARDED:
        signal.signal(number, lambda received, _: os.kill(child, received))
    _, status = os.waitpid(child, 0)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def say(line: str) -> None:
    """Say something on stderr."""
    print(f"occlum stand-in: {line}", file=sys.stderr, flush=True)


def main(arguments: list) -> int:
    """Run the command; gives the exit code."""
    say("no enclave")
    if not arguments:
        say("usage: occlum-run PROGRAM [ARGUMENT…]")
        return 1
    try:
        system = configuration()
        init, app = system["app"]
        check_entry(arguments[0], app["entry_points"])
        entries_of(Path("build/initfs/__ROOT"), root_mac(init))
        for mount in app["mount"]:
            if mount["type"] in ("hostfs", "ext2"):
                say(f"{mount['target']} is left empty")
        if os.geteuid() != 0:
            raise StartError("it has to be root to start a program")
        with tempfile.TemporaryDirectory(prefix="occlum-standin-") as folder:
            root = Path(folder, "root")
            root.mkdir()
            unpack(Path("build/mount/__ROOT"), root_mac(app), root)
            check_script(root, arguments[0])
            prepare(root, arguments[0])
            return start(root, arguments, environment(system["env"]))
    except (StartError, SefsError) as error:
        say(str(error))
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")
    except (KeyError, ValueError) as error:
        say(f"the instance is damaged: {error}")
    return 1
