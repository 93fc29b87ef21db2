"""Device folders made of files, which answer as Gramine's and Linux's do.

What is not a file but an answer (a quote) is a named pipe with a thread behind it, so programs in
other processes see the same. Rules of Gramine 1.9: keys and encrypted mounts as measured in direct
mode, the attestation files as documented for SGX.
"""

import contextlib
import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from imagekit.runtime.place import DIRECT, ENCLAVE, NATIVE, Place

MR_ENCLAVE, MR_SIGNER, MR_TD = "a1" * 32, "b2" * 32, "c3" * 48


def sgx_quote(
    report_data: bytes,
    *,
    mr_enclave: str = MR_ENCLAVE,
    mr_signer: str = MR_SIGNER,
    debug: bool = False,
    version: int = 3,
) -> bytes:
    """A quote without a valid signature."""
    header = struct.pack("<HHI40x", version, 2, 0)
    flags = 0x5 | (0x2 if debug else 0)  # INIT, MODE64BIT
    body = bytearray(384)
    body[48:64] = struct.pack("<QQ", flags, 3)
    body[64:96] = bytes.fromhex(mr_enclave)
    body[128:160] = bytes.fromhex(mr_signer)
    body[320:384] = report_data.ljust(64, b"\0")
    return header + bytes(body) + struct.pack("<I", 100) + bytes(100)


def td_quote(report_data: bytes, *, debug: bool = False) -> bytes:
    """A TDX quote without a valid signature."""
    body = bytearray(584)
    body[120:128] = struct.pack("<Q", 1 if debug else 0)
    body[136:184] = bytes.fromhex(MR_TD)
    body[520:584] = report_data.ljust(64, b"\0")
    return struct.pack("<HHI40x", 4, 2, 0x81) + bytes(body) + struct.pack("<I", 100) + bytes(100)


@dataclass
class Pipe:
    """A file whose content is made anew for each reader."""

    path: Path
    make: Callable[[], bytes]
    ended: bool = False

    def __post_init__(self) -> None:
        os.mkfifo(self.path)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            number = os.open(self.path, os.O_WRONLY)
            if self.ended:
                os.close(number)
                return
            # The next reader gets another pipe, so that no two answers run together.
            following = self.path.with_name(f"{self.path.name}.next")
            os.mkfifo(following)
            following.rename(self.path)
            with contextlib.suppress(BrokenPipeError), os.fdopen(number, "wb") as file:
                file.write(self.make())

    def end(self) -> None:
        self.ended = True
        while self.thread.is_alive():
            reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
            self.thread.join(0.1)
            os.close(reader)


@dataclass
class Gramine:
    """``/dev/attestation``.

    Attributes:
        folder: where it is.
        make: makes the quote for report data.
    """

    folder: Path
    make: Callable[[bytes], bytes] = sgx_quote
    keys: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "keys").mkdir(parents=True)
        (self.folder / "attestation_type").write_text("dcap")
        (self.folder / "user_report_data").write_bytes(bytes(64))

    def quote(self) -> bytes:
        return self.make((self.folder / "user_report_data").read_bytes())

    def key(self, name: str) -> Path:
        """The file of a key, made empty for a mount that has one of this name."""
        path = self.folder / "keys" / name
        path.touch()
        return path

    def place(self, kind: str = ENCLAVE, quotes: bool = True) -> Place:
        return Place(kind, quotes and kind == ENCLAVE, None, str(self.folder))


NATIVELY = Place(NATIVE, False, None, "/nonexistent/attestation")


@pytest.fixture
def gramine(tmp_path: Path) -> Iterator[Gramine]:
    """Gramine's folder, in an enclave that can attest."""
    made = Gramine(tmp_path / "attestation")
    pipe = Pipe(made.folder / "quote", made.quote)
    yield made
    pipe.end()


@dataclass
class Tsm:
    """configfs-tsm: a folder made in it comes with its files.

    Attributes:
        folder: where it is.
        make: makes the quote for report data.
        provider: what stands in that file.
        disturb: writes of somebody else to each entry.
    """

    folder: Path
    make: Callable[[bytes], bytes] = td_quote
    provider: bytes = b"tdx_guest\n"
    disturb: int = 0
    pipes: list[Pipe] = field(default_factory=list)

    def mkdir(self, path: str, mode: int = 0o777, **more: Any) -> None:
        self.real_mkdir(path, mode, **more)
        entry = Path(path)
        if entry.parent != self.folder:
            return
        (entry / "provider").write_bytes(self.provider)
        (entry / "generation").write_text("0\n")
        (entry / "inblob").touch()

        def answer() -> bytes:
            (entry / "generation").write_text(f"{1 + self.disturb}\n")
            return self.make((entry / "inblob").read_bytes())

        self.pipes.append(Pipe(entry / "outblob", answer))

    def rmdir(self, path: str, **more: Any) -> None:
        """The kernel's files go with the folder."""
        if Path(path).parent == self.folder:
            for pipe in self.pipes:
                pipe.end()
            self.pipes.clear()
            for file in Path(path).iterdir():
                file.unlink()
        self.real_rmdir(path, **more)

    real_mkdir = staticmethod(os.mkdir)
    real_rmdir = staticmethod(os.rmdir)


@pytest.fixture
def tsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tsm:
    """A guest's folder of reports."""
    made = Tsm(tmp_path / "report")
    made.folder.mkdir()
    monkeypatch.setattr(os, "mkdir", made.mkdir)
    monkeypatch.setattr(os, "rmdir", made.rmdir)
    return made


@dataclass
class Mount:
    """An encrypted mount: a file opens with the key that it was written with alone.

    Before the key is set, an open for writing fails and leaves an empty file behind.
    """

    path: Path
    key: Path
    written: dict[Path, bytes] = field(default_factory=dict)

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        file = Path(os.fsdecode(path))
        if self.path not in file.parents:
            return self.real_open(path, flags, mode, **more)
        key, new = self.key.read_bytes(), not file.exists()
        if new and flags & os.O_CREAT:
            os.close(self.real_open(file, os.O_WRONLY | os.O_CREAT, mode))
            if len(key) == 16:
                self.written[file] = key
        if not new and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        if file.exists() and (len(key) != 16 or self.written.get(file) != key):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return self.real_open(path, flags & ~os.O_EXCL, mode, **more)

    def rename(self, old: Any, new: Any, **more: Any) -> None:
        self.real_rename(old, new, **more)
        if Path(old) in self.written:
            self.written[Path(new)] = self.written.pop(Path(old))

    real_open = staticmethod(os.open)
    real_rename = staticmethod(os.rename)


@pytest.fixture
def mount(tmp_path: Path, gramine: Gramine, monkeypatch: pytest.MonkeyPatch) -> Mount:
    """A mount whose key is called ``warehouse``."""
    made = Mount(tmp_path / "data", gramine.key("warehouse"))
    made.path.mkdir()
    monkeypatch.setattr(os, "open", made.open)
    monkeypatch.setattr(os, "rename", made.rename)
    return made


__all__ = [
    "DIRECT",
    "MR_ENCLAVE",
    "MR_SIGNER",
    "MR_TD",
    "NATIVELY",
    "Gramine",
    "Mount",
    "Tsm",
    "gramine",
    "mount",
    "sgx_quote",
    "td_quote",
    "tsm",
]
