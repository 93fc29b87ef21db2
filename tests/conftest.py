"""What all tests share: field data, trees made from descriptions, a clean command line."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from engine_parts import *  # noqa: F403 - fixtures
from registry_parts import *  # noqa: F403 - fixtures

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "imagekit",
    hypothesis.settings.default,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("imagekit")

GOLDEN = Path(__file__).parent / "golden"


def _stream(seed: str, size: int) -> bytes:
    """SHA-256 in counter mode over a seed."""
    out = bytearray()
    counter = 0
    while len(out) < size:
        out += hashlib.sha256(f"{seed}:{counter}".encode()).digest()
        counter += 1
    return bytes(out[:size])


def make_tree(description: list[dict[str, Any]], target: Path) -> Path:
    """Make the files of a ``*.tree.json`` below `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in description:
        if "fill" in entry:
            fill = entry["fill"]
            for number in range(fill["count"]):
                folder = target / fill["prefix"] / f"d{number % fill['dirs']:02d}"
                folder.mkdir(parents=True, exist_ok=True)
                content = _stream(f"{fill['prefix']}/{number}", (number * 37 + 5) % fill["max"])
                (folder / f"f{number:05d}.dat").write_bytes(content)
            continue
        path = target / entry["path"]
        if entry["type"] == "dir":
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry["type"] == "symlink":
            path.symlink_to(entry["target"])
        elif "text" in entry:
            path.write_bytes(entry["text"].encode())
        else:
            path.write_bytes(_stream(entry["seed"], entry["size"]))
    return target


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where a real part is missing, fail in CI and skip with the reason elsewhere.

    Use: ``@pytest.mark.integration("skopeo", "umoci", root=True)``.
    """
    for mark in item.iter_markers("integration"):
        missing = [command for command in mark.args if shutil.which(command) is None]
        if mark.kwargs.get("root") and os.geteuid() != 0:
            missing.append("root rights")
        if missing:
            end = pytest.fail if os.environ.get("CI") else pytest.skip
            end(f"missing on this machine: {', '.join(missing)}")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees, or writes to, what the user of this machine has."""
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for name in ("SOURCE_DATE_EPOCH", "IMAGEKIT_KEY_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def golden() -> Path:
    """Folder with data of the field's own tools."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden_key() -> Path:
    """A throw-away signing key, readable by its owner alone."""
    path = GOLDEN / "gramine" / "test-only-enclave-key.pem"
    path.chmod(0o600)
    return path


@pytest.fixture
def in_folder(tmp_path: Path) -> Iterator[Path]:
    """An empty current folder."""
    before = Path.cwd()
    folder = tmp_path / "work"
    folder.mkdir()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def tree_of(golden: Path) -> Callable[[str, Path], Path]:
    """Makes the tree of a description by its file name."""

    def make(name: str, target: Path) -> Path:
        return make_tree(json.loads((golden / "gramine" / name).read_text()), target)

    return make


@pytest.fixture
def imagekit(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process; gives exit code, stdout, stderr."""
    from imagekit.cli.main import app, run
    from imagekit.cli.ui import ui

    def call(*arguments: object) -> tuple[int, str, str]:
        ui.quiet = ui.verbose = False
        code = run(app, [str(argument) for argument in arguments], "imagekit")
        out, err = capfd.readouterr()
        return code, out, err

    return call


def _enclave_elf(marker: bytes) -> bytes:
    """A two-segment ELF64 file that stands for a PAL."""
    import struct

    def segment(flags: int, offset: int, size: int, memory: int) -> bytes:
        return struct.pack("<IIQQQQQQ", 1, flags, offset, offset, offset, size, memory, 4096)

    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    # fmt: off
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, 0x1100, 64, 0, 0,
                       64, 56, 2, 64, 0, 0)
    # fmt: on
    head += segment(5, 0, 0x3000, 0x3000) + segment(6, 0x3000, 0x1000, 0x4000)
    return head + marker + _stream("pal", 0x4000 - len(head) - len(marker))


GRAMINE = "/usr/lib/x86_64-linux-gnu/gramine"
JAVA = "/usr/lib/jvm/java-17"


def base_files(marker: bytes = b"imagekit stand-in PAL") -> list[Any]:
    """The files of a tiny base with Gramine, Python, Java and Spark."""
    from imagekit.images.layers import LayerFile

    status = "Package: libc6\nVersion: 2.36-9\n\nPackage: gramine\nVersion: 1.9-1\n"
    return [
        LayerFile("/lib", link="usr/lib"),
        LayerFile(f"{GRAMINE}/libsysdb.so", b"libos"),
        LayerFile(f"{GRAMINE}/sgx/libpal.so", _enclave_elf(marker)),
        LayerFile(f"{GRAMINE}/runtime/glibc/libc.so.6", b"libc"),
        LayerFile("/usr/bin/python3.11", b"python", 0o755),
        LayerFile("/usr/bin/python3", link="python3.11"),
        LayerFile("/usr/bin/bash", b"bash", 0o755),
        LayerFile("/usr/lib/python3.11/os.py", b"os"),
        LayerFile(f"{JAVA}/bin/java", b"java", 0o755),
        LayerFile(f"{JAVA}/lib/modules", _stream("modules", 50_000)),
        LayerFile(f"{JAVA}/conf/net.properties", link="/etc/java-17/net.properties"),
        LayerFile("/etc/java-17/net.properties", b"networkaddress.cache=no\n"),
        LayerFile("/opt/spark/jars/spark-core.jar", _stream("core", 30_000)),
        LayerFile("/var/lib/dpkg/status", status.encode()),
        LayerFile("/tmp", directory=True, mode=0o1777),
    ]


def write_base(folder: Path, files: list[Any], *more: list[Any]) -> Path:
    """Write an image of these layers as an OCI layout; gives the layout's folder."""
    from imagekit.images.compose import new_image
    from imagekit.images.layers import write_layer
    from imagekit.images.layout import OciLayout

    layout = OciLayout.create(folder)
    layers = [write_layer(layer, layout.blobs, 1_700_000_000) for layer in (files, *more)]
    image = new_image(
        layers,
        layout.blobs,
        created=1_700_000_000,
        env={"JAVA_HOME": JAVA, "SPARK_HOME": "/opt/spark"},
    )
    layout.put(image, "base")
    return folder


PROJECT = """\
schema: 1
image: registry.example:5000/team/tiny
tag: "1.0"
libos: gramine
profile: strict
base: {image: "oci:base:base"}
matrix:
  epc: [64m, 128m]
  log: [error, debug]
  attestation: [dcap, none]
  default: {epc: 64m, log: error, attestation: dcap}
enclave: {max_threads: 8}
signing: {key: ./key.pem}
launch: {command: [/usr/lib/jvm/java-17/bin/java, -version], passthrough: [POD_NAME]}
"""
TAG = "tiny-gramine-reference-64m:1.0"


@pytest.fixture
def project(in_folder: Path, golden_key: Path) -> Path:
    """The current folder, with a project on a tiny base; nothing built yet."""
    write_base(in_folder / "base", base_files(), [])
    (in_folder / "imagekit.yaml").write_text(PROJECT)
    shutil.copy(golden_key, in_folder / "key.pem")
    return in_folder


def error_lines(err: str) -> tuple[str, str]:
    """The two lines that an error must end in; fails if there is more, or a traceback."""
    assert "Traceback" not in err, err
    lines = err.rstrip("\n").splitlines()
    assert len(lines) >= 2, err
    assert lines[-2].startswith("error: "), err
    assert lines[-1].startswith("hint: "), err
    assert sum(line.startswith("error: ") for line in lines) == 1, err
    return lines[-2].removeprefix("error: "), lines[-1].removeprefix("hint: ")
