"""``occlum build``: what becomes of an instance's tree and ``Occlum.json``.

Python 3.8, standard library.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from occlum_config import BadConfig, Config
from occlum_sefs import SefsError, pack
from protected_files import protected_file
from sdk_enclaves import patch_builtin_config

LIBOS = re.compile(r"libocclum-libos\.so\.([0-9]+)\.([0-9]+)\.([0-9]+)")
PROGRAMS = ("occlum-run", "occlum_exec_client", "occlum_exec_server")
SYSTEM = "build/.Occlum_sys.json"
_YES = ("Y", "YES", "Yes", "yes", "True", "true", "1")


class BuildError(Exception):
    """Why it stops; the second argument is the exit code."""


def standin_home() -> Path:
    """Where the toolchain is."""
    default = Path(__file__).resolve().parent.parent.parent
    return Path(os.environ.get("OCCLUM_STANDIN_HOME") or default)


def toolchain_library() -> tuple:
    """Give the library OS of the toolchain and its version."""
    folder = standin_home() / "build/lib"
    for path in sorted(folder.glob("libocclum-libos.so.*")):
        match = LIBOS.fullmatch(path.name)
        if match is not None:
            return path, tuple(map(int, match.groups()))
    raise BuildError(f"no libocclum-libos.so.VERSION in {folder}", 1)


def sign_tool(given: object = None) -> str:
    """Give the signing tool: the SDK's if there is one, else the one beside this command."""
    sdk = os.environ.get("SGX_SDK")
    if given is None and sdk and (Path(sdk) / "bin/x64/sgx_sign").exists():
        return f"{sdk}/bin/x64/sgx_sign"
    return str(given or standin_home() / "build/bin/sgx_sign")


def build(options: dict) -> None:
    """Build the instance in the current folder.

    Args:
        options: ``--sign-key``, ``--sign-tool``, ``--sgx-mode``, ``--enable-edmm``, ``-f``.

    Raises:
        BuildError: it failed.
    """
    library, version = toolchain_library()
    mode = options.get("--sgx-mode") or os.environ.get("SGX_MODE") or "HW"
    if mode not in ("HW", "SIM", "HYPER"):
        raise BuildError(f"invalid SGX mode: {mode}", 1)
    if mode != "HW":
        suffix = {"SIM": "_sim", "HYPER": "_hyper"}[mode]
        raise BuildError(f"the toolchain has no libocclum-libos{suffix}.so", 1)
    if "--enable-edmm" in options and version < (0, 30, 0):
        raise BuildError("Unknown option: --enable-edmm", 1)
    edmm = os.environ.get("ENABLE_EDMM") in _YES
    if "--enable-edmm" in options:
        edmm = options["--enable-edmm"] != "N"
    key = Path(options.get("--sign-key") or standin_home() / "etc/template/Enclave.pem")
    if not key.is_file():
        raise BuildError(f"The signing key {key} does not exist", 1)
    if not Path("Occlum.json").is_file():
        raise BuildError("No Occlum.json", 1)
    if "-f" in options or (Path(".sgx_mode").exists() and _text(".sgx_mode") != mode):
        shutil.rmtree("build", ignore_errors=True)
    _make(library, version, edmm, key, sign_tool(options.get("--sign-tool")))
    Path(".sgx_mode").write_text("HW\n")
    Path(".__occlum_status").write_text("built\n")
    say("The Occlum image and signed-off enclave were built")


def _make(library: Path, version: tuple, edmm: bool, key: Path, tool: str) -> None:
    """What the makefile does."""
    os.umask(0o022)
    for folder in ("build/bin", "build/lib", "run/mount/__ROOT", "run/initfs/__ROOT"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    Path("build/image_config.json").write_text('{"image_type":"integrity-only"}\n')
    if Path("initfs").is_dir():
        Path("initfs/etc").mkdir(parents=True, exist_ok=True)
        shutil.copyfile("build/image_config.json", "initfs/etc/image_config.json")
    root_mac = _file_system("image", "build/mount")
    initfs_mac = _file_system("initfs", "build/initfs")
    text, xml = _generate(version, edmm, root_mac, initfs_mac)
    Path(SYSTEM).write_text(text)
    Path("build/Enclave.xml").write_text(xml)
    data, mac = protected_file(".Occlum_sys.json.protected", text.encode())
    Path(f"{SYSTEM}.protected").write_bytes(data)
    for name in PROGRAMS:
        _link(f"build/bin/{name}", str(standin_home() / "build/bin" / name))
    target = Path("build/lib") / library.name
    patched = patch_builtin_config(library.read_bytes(), f"{mac.strip()}\n".encode())
    target.write_bytes(patched)
    _link("build/lib/libocclum-libos.so.0", library.name)
    _link("build/lib/libocclum-libos.so", "libocclum-libos.so.0")
    shutil.copyfile(library.parent / "libocclum-pal.so.0", "build/lib/libocclum-pal.so.0")
    _sign(tool, key, target)


def _file_system(tree: str, target: str) -> str:
    """Pack a tree; without one, what was packed before stays."""
    if Path(tree).is_dir():
        say(f"Building {target}")
        try:
            return pack(Path(tree), Path(target))
        except SefsError as error:
            raise BuildError(str(error), 2) from None
    if not Path(target, "__ROOT/metadata").is_file():
        raise BuildError(f"No rule to make target '{target}': there is no {tree}/", 2)
    return _text(f"{target}/.ROOT_MAC")


def _generate(version: tuple, edmm: bool, root_mac: str, initfs_mac: str) -> tuple:
    """Give internal configuration and ``Enclave.xml``.

    As Occlum's tool, this ends well whatever it finds: it says what is wrong, and gives nothing.
    """
    try:
        config = Config(json.loads(Path("Occlum.json").read_bytes()), version, edmm)
        system = config.system(root_mac, initfs_mac)
        return f"{json.dumps(system, indent=2, sort_keys=True)}\n", config.enclave_xml()
    except (BadConfig, ValueError, RecursionError) as error:
        say(f"gen_internal_conf: {error}")
        return "", ""


def _sign(tool: str, key: Path, library: Path) -> None:
    signed = Path("build/lib/libocclum-libos.signed.so")
    if signed.exists():
        signed.unlink()
    command = [tool, "sign", "-key", str(key), "-config", "build/Enclave.xml"]
    command += ["-enclave", str(library), "-out", str(signed)]
    say("Signing the enclave...")
    sys.stdout.flush()
    try:
        code = subprocess.run(command, check=False).returncode
    except OSError as error:
        raise BuildError(f"{tool}: {error.strerror}", 2) from None
    if code != 0 or not signed.exists():
        raise BuildError(f"make: *** [{signed}] Error {code}", 2)


def _link(path: str, target: str) -> None:
    if os.path.lexists(path):
        Path(path).unlink()
    Path(path).symlink_to(target)


def _text(path: str) -> str:
    return Path(path).read_text().strip()


def say(line: str) -> None:
    """Say something to people."""
    print(line, flush=True)
