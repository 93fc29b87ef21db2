"""The command ``occlum``: init, new, build, run, print, package, status (Occlum 0.26 to 0.31).

Makes the files of Occlum's own command, but no enclave that runs. Python 3.8, standard library.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from occlum_build import BuildError, build, say, sign_tool, standin_home

FOLDERS = (
    *("bin", "lib", "lib64", "root", "host", "tmp", "dev", "proc", "etc", "sbin", "ext2"),
    *("opt/occlum/glibc/lib", "opt/occlum/glibc/etc"),
)
"""What ``occlum init`` makes in ``image/``."""

SIGNED = "build/lib/libocclum-libos.signed.so"
PACKAGED = (
    *("Occlum.json", "build/bin", SIGNED, "build/lib/libocclum-pal.so.0", "build/initfs"),
    *("build/mount", "build/.Occlum_sys.json.protected", "initfs", "run", ".__occlum_status"),
    ".sgx_mode",
)
"""What ``occlum package`` takes."""

STATUS = Path(".__occlum_status")


def _options(words: list, flags: tuple, switches: tuple = ()) -> tuple:
    """Give the options at the start, and what stands behind them."""
    found, rest = {}, list(words)
    while rest and rest[0].startswith("-"):
        name = rest.pop(0)
        if name in switches:
            found["-f" if name == "--force" else name] = ""
        elif name not in flags:
            raise BuildError(f"Unknown option: {name}", 1)
        elif not rest:
            raise BuildError(f"{name} needs a value", 1)
        else:
            found[name] = rest.pop(0)
    return found, rest


def _no_more(rest: list) -> None:
    if rest:
        raise BuildError(f"Unknown argument: {rest[0]}", 1)


def _instance() -> None:
    if not STATUS.is_file():
        raise BuildError(f"{Path.cwd()} is not an Occlum instance: run occlum init first", 1)


def new(words: list) -> None:
    """Make an instance in a new folder."""
    options, rest = _options(words, ("--init-ra",))
    if len(rest) != 1:
        raise BuildError("usage: occlum new <path>", 1)
    try:
        Path(rest[0]).mkdir()
    except OSError as error:
        raise BuildError(f"{rest[0]}: {error.strerror}", 1) from None
    os.chdir(rest[0])
    _init(options)


def init(words: list) -> None:
    """Make an instance in the current folder."""
    options, rest = _options(words, ("--init-ra",))
    _no_more(rest)
    _init(options)


def _init(options: dict) -> None:
    if "--init-ra" in options:
        raise BuildError("the stand-in has no attestation before the start (--init-ra)", 1)
    if STATUS.exists():
        raise BuildError("The current folder is an Occlum instance already", 1)
    os.umask(0o022)
    for name in FOLDERS:
        Path("image", name).mkdir(parents=True, exist_ok=True)
    Path("initfs/etc").mkdir(parents=True, exist_ok=True)
    libc = standin_home() / "glibc/lib"
    for path in sorted(libc.glob("*")) if libc.is_dir() else []:
        shutil.copy(path, Path("image/opt/occlum/glibc/lib", path.name))
    if Path("/etc/localtime").is_file():
        shutil.copyfile("/etc/localtime", "image/etc/localtime")
    Path("image/etc/hosts").write_text("127.0.0.1   localhost\n")
    shutil.copyfile(standin_home() / "etc/template/Occlum.json", "Occlum.json")
    Path("Occlum.json").chmod(0o644)
    STATUS.write_text("initialized\n")
    say(f"{Path.cwd()} initialized as an Occlum instance")


def make(words: list) -> None:
    """Build the instance."""
    values = ("--sign-key", "--sign-tool", "--sgx-mode", "--enable-edmm", "--image-key")
    options, rest = _options(words, values, ("-f", "--force", "--buildin-image-key"))
    _no_more(rest)
    for name in ("--image-key", "--buildin-image-key"):
        if name in options:
            raise BuildError(f"the stand-in makes no encrypted image ({name})", 1)
    _instance()
    build(options)


def run(words: list) -> None:
    """Start a program of the image."""
    _, rest = _options(words, ("--config-id", "--config-svn"))
    _instance()
    if not Path("run/mount/__ROOT").is_dir() or not Path(SIGNED).is_file():
        raise BuildError("The instance is not built: run occlum build first", 1)
    if not rest:
        raise BuildError("usage: occlum run <program> [<argument>…]", 1)
    metadata = _document().get("metadata", {})
    environment = dict(os.environ, LD_LIBRARY_PATH="build/lib")
    if metadata.get("debuggable") is False:
        environment["OCCLUM_RELEASE_ENCLAVE"] = "1"
    if metadata.get("enable_kss") is True:
        environment["OCCLUM_ENABLE_KSS"] = "1"
    sys.stdout.flush()
    try:
        os.execve("build/bin/occlum-run", ["occlum-run", *rest], environment)
    except OSError as error:
        raise BuildError(f"build/bin/occlum-run: {error.strerror}", 1) from None


def _document() -> dict:
    try:
        document = json.loads(Path("Occlum.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BuildError(f"Occlum.json: {error}", 1) from None
    return document if isinstance(document, dict) else {}


def show(words: list) -> None:
    """Print mr_enclave or mr_signer."""
    if len(words) != 1 or words[0] not in ("mrenclave", "mrsigner"):
        raise BuildError("usage: occlum print mrenclave|mrsigner", 1)
    _instance()
    if not Path(SIGNED).is_file():
        raise BuildError(f"No {SIGNED}: run occlum build first", 1)
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder, "dump")
        command = [sign_tool(), "dump", "-enclave", SIGNED, "-dumpfile", str(dump)]
        code = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        if code != 0:
            raise BuildError(f"{command[0]} failed ({code})", 1)
        lines = dump.read_text().splitlines()
    at = len(lines) - 2
    if words[0] == "mrenclave":
        at = 1 + next(n for n, line in enumerate(lines) if "enclave_hash.m:" in line)
    print("".join(re.findall("0x([0-9a-f]{2})", " ".join(lines[at : at + 2]))))


def package(words: list) -> None:
    """Pack what an instance needs to run."""
    options, rest = _options(words, (), ("--debug",))
    name = rest.pop(0) if rest else "occlum_instance"
    _no_more(rest)
    _instance()
    if STATUS.read_text().strip() != "built":
        raise BuildError("The instance is not built: run occlum build first", 1)
    if _document().get("metadata", {}).get("debuggable") is not False and "--debug" not in options:
        raise BuildError("The enclave is debuggable; --debug packs it all the same", 1)
    target = name if name.endswith(".tar.gz") else f"{name}.tar.gz"
    top = Path(target).name[: -len(".tar.gz")]
    with tarfile.open(target, "w:gz") as out:
        for path in PACKAGED:
            out.add(path, f"{top}/{path}")
    say(f"{target} was made")


def status(words: list) -> None:
    """Print what was done last."""
    _no_more(words)
    _instance()
    print(STATUS.read_text().strip())


COMMANDS = {
    "init": init,
    "new": new,
    "build": make,
    "run": run,
    "print": show,
    "package": package,
    "status": status,
}


def main(arguments: list) -> int:
    """Run the command; gives its exit code."""
    try:
        if not arguments or arguments[0] not in COMMANDS:
            raise BuildError(f"usage: occlum {'|'.join(COMMANDS)}; a stand-in has no more", 1)
        COMMANDS[arguments[0]](arguments[1:])
    except BuildError as error:
        print(f"[ERROR] {error.args[0]}", file=sys.stderr)
        return int(error.args[1])
    return 0
