"""What all tests share: field data, trees made from descriptions, a clean command line."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees, or writes to, what the user of this machine has."""
    monkeypatch.setenv("IMAGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
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
