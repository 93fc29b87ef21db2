"""What takes the place of an enclave: a program in a folder with the enclave's tree, no more.

It reads what Occlum's library OS reads, refuses what that refuses (another tag than the library's,
a program outside of the entry points), and starts the program with the sealed environment in a
temporary folder that it has unpacked the tree into (chroot, so only as root). Nothing is protected.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import sdk_enclaves

from standin.protected import Damaged, mac_text, unprotect
from standin.tree import unpack

LEVELS = ("off", "error", "warn", "info", "debug", "trace")
_NAMES = {**dict.fromkeys(("panic", "fatal"), "error"), "warning": "warn"}
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
_LONGEST_LINE = 127


class Refused(Exception):
    """Why a program is not started."""


def log_level(config: dict[str, Any], environment: dict[str, str]) -> int:
    """Give how much is said: index in LEVELS."""
    name = environment.get("OCCLUM_LOG_LEVEL", "off").lower()
    name = _NAMES.get(name, name)
    level = LEVELS.index(name) if name in LEVELS else 0
    if environment.get("OCCLUM_RELEASE_ENCLAVE") == "1":
        level = min(level, 1)
    return 0 if config.get("disable_log") else level


def read_config(instance: Path) -> dict[str, Any]:
    """Give the configuration whose tag the signed library has.

    Raises:
        Refused, Damaged: it is another one, or damaged.
    """
    library = (instance / "build/lib/libocclum-libos.signed.so").read_bytes()
    offset, size = sdk_enclaves.section_range(library, sdk_enclaves.BUILTIN_CONFIG)
    wanted = library[offset : offset + size].rstrip(b"\0\n").decode("ascii", "replace")
    name = ".Occlum_sys.json.protected"
    content, mac = unprotect((instance / "build" / name).read_bytes(), name)
    if mac_text(mac) != wanted:
        raise Refused("Unexpected MAC of the configuration file")
    config: dict[str, Any] = json.loads(content.decode())
    return config


def environment_of(config: dict[str, Any], host: dict[str, str]) -> dict[str, str]:
    """Give the environment inside: what is sealed, and of the host's what is let in."""
    found = {}
    for entry in config["env"]["default"]:
        name, equals, value = entry.partition("=")
        if equals:
            found[name] = value
    found.update({name: host[name] for name in config["env"]["untrusted"] if name in host})
    return found


def check_entry(program: str, entry_points: list[str]) -> None:
    """Refuse a program that is not to be started from outside."""
    if not program.startswith("/") or ".." in program.split("/"):
        raise Refused(f"{program}: not an absolute path")
    if not any(f"{program}/".startswith(f"{entry.rstrip('/')}/") for entry in entry_points):
        raise Refused(f"{program}: the program is not allowed by entry_points")


def command_of(top: Path, words: list[str]) -> list[str]:
    """Give the words that are executed: a script's whole first line is its interpreter's path."""
    path = top / words[0].lstrip("/")
    if path.is_symlink() or not path.is_file():
        path = _inside(top, words[0])
    if not os.access(str(path), os.X_OK):
        raise Refused(f"{words[0]}: Permission denied")
    with path.open("rb") as file:
        line = file.read(_LONGEST_LINE).split(b"\n")[0]
    if not line.startswith(b"#!"):
        return words
    interpreter = os.fsdecode(line[2:].strip())
    if not _inside(top, interpreter).is_file():
        raise Refused(f"{words[0]}: the interpreter {interpreter}: No such file or directory")
    return [interpreter, *words]


def _inside(top: Path, path: str, left: int = 40) -> Path:
    """Give where a path of the tree is outside, its links followed inside."""
    place = top
    parts = [part for part in path.split("/") if part]
    for number, part in enumerate(parts):
        if part == "..":
            place = place if place == top else place.parent
            continue
        place = place / part
        if place.is_symlink():
            if not left:
                raise Refused(f"{path}: Too many levels of symbolic links")
            target = os.readlink(str(place))  # noqa: PTH115
            here = "/" if target.startswith("/") else f"/{place.parent.relative_to(top)}/"
            return _inside(top, "/".join([here + target, *parts[number + 1 :]]), left - 1)
    if not place.is_file():
        raise Refused(f"{path}: No such file or directory")
    return place


def _mounts(config: dict[str, Any], instance: Path) -> list[tuple[str, str]]:
    found = [("/proc", "proc")]
    for mount in config["app"][1]["mount"]:
        if mount.get("type") == "hostfs":
            found.append((str((instance / mount["source"]).resolve()), mount["target"].lstrip("/")))
    return found


def _prepare(top: str, mounts: list[tuple[str, str]], folder: str) -> None:
    """Between fork and exec: devices, mounts as far as it may, and into the folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) == 0:
        libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        for source, target in mounts:
            place = os.fsencode(f"{top}/{target}")
            libc.mount(os.fsencode(source), place, None, _MS_BIND | _MS_REC, None)
    for name, (major, minor) in _DEVICES.items():
        with contextlib.suppress(OSError):
            os.mknod(f"{top}/dev/{name}", 0o020666, os.makedev(major, minor))
    os.chroot(top)
    os.chdir(folder)


def start(instance: Path, words: list[str], host: dict[str, str]) -> int:
    """Run a program; give its exit code.

    Raises:
        Refused, Damaged: it is not started.
    """
    config = read_config(instance)
    level = log_level(config, host)
    app = config["app"][1]
    check_entry(words[0], app["entry_points"])
    if os.geteuid() != 0:
        raise Refused("this stand-in has to be root, for chroot")
    layers = next(m for m in app["mount"] if m["target"] == "/")["options"]["layers"]
    mac = next(layer["options"]["MAC"] for layer in layers if "MAC" in layer.get("options", {}))
    folder = tempfile.mkdtemp(prefix="occlum-standin-")
    try:
        top = Path(folder)
        unpack(instance / "build/mount/__ROOT", top, mac)
        environment = environment_of(config, host)
        mounts = _mounts(config, instance)
        for name in ("dev", "tmp", *(target for _, target in mounts)):
            (top / name).mkdir(parents=True, exist_ok=True)
        if level >= LEVELS.index("info"):
            print(f"[INFO] starts {words[0]}", file=sys.stderr, flush=True)
        command = command_of(top, words)
        return _wait(command, environment, lambda: _prepare(folder, mounts, "/"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(command: list[str], environment: dict[str, str], prepare: Any) -> int:
    """Run a program to its end; signals to this process go on to it."""
    stopped: list[int] = []
    child: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        stopped.append(number)
        if child:
            child[0].send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    # Signals are blocked until there is somebody to hand them to; the child undoes that.
    numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def before() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        prepare()

    try:
        child.append(subprocess.Popen(command, env=environment, preexec_fn=before))
    except (OSError, subprocess.SubprocessError) as error:
        raise Refused(f"{command[0]}: {error}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    code = child[0].wait()
    return code if code >= 0 else 128 - code


def main(words: list[str]) -> int:
    """Run the command line: program and arguments, in the instance's folder."""
    if not words:
        print("usage: occlum-run PROGRAM [ARGUMENT]...", file=sys.stderr)
        return 1
    try:
        return start(Path.cwd(), words, dict(os.environ))
    except (Refused, Damaged, OSError, ValueError, LookupError) as error:
        print(f"[ERROR] occlum-pal: {error}", file=sys.stderr)
        return 1
