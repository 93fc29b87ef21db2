"""The command ``occlum``: init, new, build, run, print, package, status.

It fails as the real one does: a flag that it does not know is an error, and a configuration that it
cannot read is a line on the terminal, empty files, and an exit as if all were well.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import sdk_enclaves

from standin.protected import mac_text, protect
from standin.rules import BadConfig, enclave_xml, internal_config, wants_edmm
from standin.tree import NotAFile, pack

OCCLUM = Path(__file__).resolve().parents[3]
"""The toolchain: /opt/occlum, as this file is in build/bin/standin."""
LIBRARY = "libocclum-libos"
SIGNED = f"build/lib/{LIBRARY}.signed.so"
STATUS = Path(".__occlum_status")
MODE = Path(".sgx_mode")
SUFFIXES = {"HW": "", "SIM": "_sim", "HYPER": "_hyper"}
YES = ("Y", "YES", "Yes", "yes", "True", "true", "1")
IMAGE_FOLDERS = (
    *("bin", "lib", "lib64", "root", "host", "tmp", "dev", "proc", "etc", "sbin", "ext2"),
    *("opt/occlum/glibc/lib", "opt/occlum/glibc/etc"),
)
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
PACKAGED = (
    *("Occlum.json", "build/bin", SIGNED, "build/initfs", "build/mount"),
    *("build/.Occlum_sys.json.protected", "initfs", "run", str(STATUS), str(MODE)),
)


class Failure(Exception):
    """What ends a command, as it is printed."""


def version() -> tuple[int, int, int]:
    """Give the version of this Occlum: its library's name says it."""
    for path in sorted((OCCLUM / "build" / "lib").iterdir()):
        match = re.fullmatch(rf"{LIBRARY}\.so\.([0-9]+)\.([0-9]+)\.([0-9]+)", path.name)
        if match:
            major, minor, patch = (int(number) for number in match.groups())
            return major, minor, patch
    raise Failure("no library OS in the toolchain")


def options(words: list[str], known: dict[str, bool]) -> tuple[dict[str, str], list[str]]:
    """Split leading flags from the rest.

    Args:
        words: of the command.
        known: flags, and whether each takes a value.
    """
    found: dict[str, str] = {}
    while words and words[0].startswith("-"):
        flag, *words = words
        if flag not in known:
            raise Failure(f"Error: unknown option: {flag}")
        if known[flag]:
            if not words:
                raise Failure(f"Error: option {flag} needs a value")
            found[flag], *words = words
        else:
            found[flag] = ""
    return found, words


def none_left(words: list[str]) -> None:
    """Refuse words that nobody asked for."""
    if words:
        raise Failure(f"Error: unknown argument: {words[0]}")


def _status() -> str:
    if not STATUS.is_file():
        raise Failure("Error: the current directory is not an Occlum instance directory")
    return STATUS.read_text("ascii").strip()


def init(words: list[str]) -> None:
    """Make an instance of the current folder."""
    flags, words = options(words, {"--init-ra": True})
    none_left(words)
    if flags.get("--init-ra", "grpc_ratls") not in ("grpc_ratls", "aecs"):
        raise Failure("Error: --init-ra is neither grpc_ratls nor aecs")
    if STATUS.exists():
        raise Failure("Error: the Occlum instance has been initialized")
    STATUS.write_text("initialized\n", "ascii")
    for name in IMAGE_FOLDERS:
        Path("image", name).mkdir(parents=True, exist_ok=True)
    Path("initfs", "etc").mkdir(parents=True, exist_ok=True)
    if LOADER.exists():
        shutil.copy(str(LOADER), "image/lib64/")
        shutil.copy(str(LOADER), "image/opt/occlum/glibc/lib/")
    if Path("/etc/localtime").is_file():
        shutil.copy("/etc/localtime", "image/etc/")
    Path("image/etc/hosts").write_text("127.0.0.1   localhost\n", "ascii")
    config = Path("Occlum.json")
    shutil.copyfile(str(OCCLUM / "etc" / "template" / "Occlum.json"), str(config))
    config.chmod(0o644)
    say(f"{Path.cwd()} initialized as an Occlum instance")


def new(words: list[str]) -> None:
    """Make an instance in a new folder."""
    if not words or words[0].startswith("-"):
        raise Failure("Error: no path given")
    path = Path(words[0])
    if path.exists():
        raise Failure(f"Error: {path} exists already")
    path.mkdir(parents=True)
    os.chdir(str(path))
    init(words[1:])


BUILD_FLAGS = {
    **dict.fromkeys(("--sign-key", "--sign-tool", "--sgx-mode", "--enable-edmm"), True),
    "--image-key": True,
    **dict.fromkeys(("--buildin-image-key", "-f", "--force"), False),
}


def build(words: list[str]) -> None:
    """Build and sign."""
    flags, words = options(words, BUILD_FLAGS)
    none_left(words)
    _status()
    release = version()
    if "--enable-edmm" in flags and release < (0, 30, 0):
        raise Failure("Error: unknown option: --enable-edmm")
    if "--image-key" in flags or "--buildin-image-key" in flags:
        raise Failure("Error: this stand-in does not encrypt")
    mode = flags.get("--sgx-mode", os.environ.get("SGX_MODE") or "HW")
    if mode not in SUFFIXES:
        raise Failure(f"Error: invalid SGX mode {mode}")
    changed = MODE.is_file() and MODE.read_text("ascii").strip() != mode
    if changed or "-f" in flags or "--force" in flags:
        for name in ("lib", "bin", "initfs", *(["mount"] if Path("image").is_dir() else [])):
            shutil.rmtree(f"build/{name}", ignore_errors=True)
    if not Path("image").is_dir() and not Path("build/mount/.ROOT_MAC").is_file():
        raise Failure("Error: image directory: No such file or directory")
    # The flag counts against the variable, both for hardware alone.
    wanted = flags.get("--enable-edmm", "N")
    edmm = wanted != "N" or os.environ.get("ENABLE_EDMM") in YES
    _make(release, mode, edmm and mode == "HW" and release >= (0, 30, 0), flags)


def _make(release: tuple[int, int, int], mode: str, edmm: bool, flags: dict[str, str]) -> None:
    macs = _file_systems()
    if not _configure(release, edmm, *macs):
        return
    content = Path("build/.Occlum_sys.json").read_bytes()
    data, mac = protect(content, ".Occlum_sys.json.protected")
    Path("build/.Occlum_sys.json.protected").write_bytes(data)
    unsigned = _libraries(release, SUFFIXES[mode], mac_text(mac) + "\n")
    for name in ("occlum-run", "occlum_exec_client", "occlum_exec_server"):
        _link(f"build/bin/{name}", str(OCCLUM / "build" / "bin" / name))
    _sign(unsigned, mode, flags)
    for name in ("mount", "initfs"):
        Path("run", name, "__ROOT").mkdir(parents=True, exist_ok=True)
    MODE.write_text(f"{mode}\n", "ascii")
    STATUS.write_text("built\n", "ascii")
    say("Built the Occlum image and enclave successfully")


def _file_systems() -> tuple[str, str]:
    """Pack the image and the start-up file system; give their tags."""
    Path("build").mkdir(exist_ok=True)
    kind = json.dumps({"image_type": "integrity-only"})
    Path("build/image_config.json").write_text(kind, "ascii")
    Path("initfs/etc").mkdir(parents=True, exist_ok=True)
    shutil.copy("build/image_config.json", "initfs/etc/")
    macs = []
    for source, name in (("image", "mount"), ("initfs", "initfs")):
        target = Path("build", name)
        if Path(source).is_dir():
            shutil.rmtree(str(target), ignore_errors=True)
            try:
                mac = pack(Path(source), target / "__ROOT")
            except NotAFile as error:
                raise Failure(f"Error: {error}") from None
            (target / ".ROOT_MAC").write_text(f"{mac}\n", "ascii")
        macs.append((target / ".ROOT_MAC").read_text("ascii").strip())
    return macs[0], macs[1]


def _configure(release: tuple[int, int, int], edmm: bool, image_mac: str, initfs_mac: str) -> bool:
    """Write both configurations; on one that cannot be read say so and leave them empty."""
    outputs = ("build/.Occlum_sys.json", "build/.Occlum_sys.json.protected", "build/Enclave.xml")
    for name in (*outputs, SIGNED):
        if Path(name).exists():
            Path(name).unlink()
    try:
        document = json.loads(Path("Occlum.json").read_bytes().decode())
        edmm = edmm or wants_edmm(document, release)
        xml = enclave_xml(document, release, edmm)
        internal = internal_config(document, release, image_mac, initfs_mac)
    except (BadConfig, ValueError, OSError) as error:
        say(f"gen_internal_conf: {error}")
        for name in outputs:
            Path(name).write_bytes(b"")
        return False
    Path(outputs[0]).write_text(json.dumps(internal, indent=2) + "\n", "utf-8")
    Path(outputs[2]).write_text(xml, "ascii")
    return True


def _libraries(release: tuple[int, int, int], suffix: str, tag: str) -> str:
    """Put the libraries in place, the tag into the one that is signed; give its path."""
    name = ".".join(str(number) for number in release)
    source, target = OCCLUM / "build" / "lib", Path("build/lib")
    target.mkdir(parents=True, exist_ok=True)
    try:
        library = (source / f"{LIBRARY}{suffix}.so.{name}").read_bytes()
        pal = (source / f"libocclum-pal{suffix}.so.{name}").read_bytes()
    except OSError as error:
        raise Failure(f"Error: {error.filename}: {error.strerror}") from None
    patched = sdk_enclaves.patch_builtin_config(library, tag.encode("ascii"))
    for stem, content in ((f"{LIBRARY}{suffix}", patched), (f"libocclum-pal{suffix}", pal)):
        (target / f"{stem}.so.{name}").write_bytes(content)
        _link(f"build/lib/{stem}.so.0", f"{stem}.so.{name}")
        _link(f"build/lib/{stem}.so", f"{stem}.so.0")
    return f"build/lib/{LIBRARY}{suffix}.so.{name}"


def _link(path: str, target: str) -> None:
    link = Path(path)
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target)


def sign_tool() -> str:
    """Give the SDK's signing tool: the environment's, else the one beside this command."""
    sdk = os.environ.get("SGX_SDK")
    own = Path(sdk or "/", "bin", "x64", "sgx_sign")
    return str(own if sdk and own.exists() else OCCLUM / "build" / "bin" / "sgx_sign")


def _sign(unsigned: str, mode: str, flags: dict[str, str]) -> None:
    key = flags.get("--sign-key", str(OCCLUM / "etc" / "template" / "Enclave.pem"))
    tool = flags.get("--sign-tool", sign_tool())
    files = ["-config", "build/Enclave.xml", "-enclave", unsigned, "-out", SIGNED]
    try:
        done = subprocess.run([tool, "sign", "-key", key, *files], stdin=subprocess.DEVNULL)
    except OSError as error:
        raise Failure(f"Error: {tool}: {error.strerror}") from None
    if done.returncode:
        raise Failure(f"make: *** [{SIGNED}] Error {done.returncode}")


def run(words: list[str]) -> None:
    """Start a program in the enclave, by taking this process's place."""
    _, words = options(words, {"--config-id": True, "--config-svn": True})
    if not Path("run/mount/__ROOT").is_dir() or _status() != "built":
        raise Failure("Error: the Occlum image has not been built yet")
    if not words:
        raise Failure("Error: no program given")
    metadata = json.loads(Path("Occlum.json").read_bytes().decode())["metadata"]
    environment = dict(os.environ, LD_LIBRARY_PATH=str(Path("build/lib").resolve()))
    if metadata.get("debuggable") is False:
        environment["OCCLUM_RELEASE_ENCLAVE"] = "1"
    if metadata.get("enable_kss") is True:
        environment["OCCLUM_ENABLE_KSS"] = "1"
    sys.stdout.flush()
    try:
        os.execve("build/bin/occlum-run", ["build/bin/occlum-run", *words], environment)
    except OSError as error:
        raise Failure(f"Error: build/bin/occlum-run: {error.strerror}") from None


def show(words: list[str]) -> None:
    """Print a measurement."""
    if words not in (["mrenclave"], ["mrsigner"]):
        raise Failure("Error: print mrenclave, or print mrsigner")
    if not Path(SIGNED).is_file():
        raise Failure("Error: the Occlum enclave has not been built yet")
    dump = Path("build/.dump.txt")
    subprocess.run(
        [sign_tool(), "dump", "-enclave", SIGNED, "-dumpfile", str(dump)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    lines = dump.read_text("ascii").splitlines()
    dump.unlink()
    start = len(lines) - 2
    if words == ["mrenclave"]:
        start = lines.index("metadata->enclave_css.body.enclave_hash.m:") + 1
    print("".join(word[2:] for line in lines[start : start + 2] for word in line.split()))


def package(words: list[str]) -> None:
    """Put what is needed to run an instance into an archive."""
    names = [word for word in words if not word.startswith("-")]
    flags, rest = options([word for word in words if word.startswith("-")], {"--debug": False})
    none_left(rest + names[1:])
    if _status() != "built":
        raise Failure("Error: the Occlum image has not been built yet")
    metadata = json.loads(Path("Occlum.json").read_bytes().decode())["metadata"]
    mode = MODE.read_text("ascii").strip()
    if "--debug" not in flags and (metadata["debuggable"] or mode == "SIM"):
        raise Failure("Error: a debuggable or simulated instance is packaged with --debug alone")
    name = names[0] if names else Path.cwd().name
    name = name if name.endswith(".tar.gz") else f"{name}.tar.gz"
    top = Path(name).name[: -len(".tar.gz")]
    with tarfile.open(name, "w:gz") as archive:
        for path in (*PACKAGED, *map(str, sorted(Path("build/lib").glob("libocclum-pal*.so*")))):
            if Path(path).exists():
                archive.add(path, f"{top}/{path}")
    say(f"The package {name} is generated successfully")


def status(words: list[str]) -> None:
    """Print how far an instance is."""
    none_left(words)
    print(_status())


COMMANDS = {
    "init": init,
    "new": new,
    "build": build,
    "run": run,
    "print": show,
    "package": package,
    "status": status,
}


def say(line: str) -> None:
    """Print a line."""
    print(line, flush=True)


def main(words: list[str]) -> int:
    """Run the command line."""
    if not words or words[0] not in COMMANDS:
        print(f"usage: occlum {'|'.join(COMMANDS)}", file=sys.stderr)
        return 1
    try:
        COMMANDS[words[0]](words[1:])
    except Failure as error:
        print(error, file=sys.stderr)
        return 1
    return 0
