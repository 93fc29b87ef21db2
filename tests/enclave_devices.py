"""Device folders made of files, which answer as Gramine's and Linux's do.

What is not a file but an answer (a quote) is a named pipe with a thread behind it, so programs in
other processes see the same. Rules of Gramine 1.9: keys and encrypted mounts as measured in direct
mode, the attestation files as documented for SGX.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from imagekit.runtime import tdx
from imagekit.runtime.launch import OCCLUM
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
class TdxGuest:
    """``/dev/tdx_guest``, and the host's service that makes quotes of its reports.

    Both written from the formats' descriptions: Linux's ``linux/tdx-guest.h``, and the messages of
    Intel's quote generation service. The service answers at a Unix socket in place of vsock.

    Attributes:
        folder: where device and configuration are.
        report_data: what the CPU puts into its report, None for what it is given.
        report_type: first byte of the report.
        make: makes the quote for report data.
        ports: at which the service was asked for.
        requests: what was asked, without the length.
    """

    folder: Path
    report_data: bytes | None = None
    report_type: int = 0x81
    make: Callable[[bytes], bytes] = td_quote
    ports: list[int] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.device.touch()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.folder / "qgs"))
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    @property
    def device(self) -> Path:
        return self.folder / "tdx_guest"

    @property
    def conf(self) -> Path:
        return self.folder / "tdx-attest.conf"

    def ioctl(self, number: int, request: int, arg: bytearray) -> int:
        """_IOWR('T', 1, …) of 64 bytes of report data and 1024 of report."""
        assert Path(f"/proc/self/fd/{number}").readlink() == self.device
        assert (request, len(arg)) == (0xC4405401, 64 + 1024)
        report = bytearray(1024)
        report[0] = self.report_type
        report[128:192] = arg[:64] if self.report_data is None else self.report_data
        arg[64:] = report
        return 0

    def connect(self, port: int, deadline: float) -> socket.socket:
        self.ports.append(port)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.folder / "qgs"))
        return connection

    def answer(self, quote: bytes) -> bytes:
        size = 24 + len(quote)
        body = struct.pack("<HHIIIII", 1, 1, 1, size, 0, 0, len(quote)) + quote
        return struct.pack(">I", len(body)) + body

    def serve(self) -> None:
        ignored = contextlib.suppress(ConnectionError)
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream, ignored:
                (size,) = struct.unpack(">I", stream.read(4))
                message = stream.read(size)
                self.requests.append(message)
                connection.sendall(self.answer(self.make(message[24 + 128 : 24 + 192])))

    def end(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.fixture
def tdx_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TdxGuest]:
    """A guest without configfs-tsm, and its host."""
    made = TdxGuest(tmp_path / "tdx")
    monkeypatch.setattr(fcntl, "ioctl", made.ioctl)
    monkeypatch.setattr(tdx, "connect", made.connect)
    yield made
    made.end()


@dataclass
class Occlum:
    """``/dev/sgx`` as it is inside an enclave of Occlum, written from the requests' description.

    A request's argument holds addresses, so what it says is done to this process's own memory.

    Attributes:
        device: a file in its place.
        make: makes the quote for report data.
        announced: size that it says a quote has; None for the right one.
        given: length that it says the quote has; None for the right one.
        errors: request → error number that it fails with.
    """

    device: Path
    make: Callable[[bytes], bytes] = sgx_quote
    announced: int | None = None
    given: int | None = None
    errors: dict[int, int] = field(default_factory=dict)
    requests: list[int] = field(default_factory=list)

    def ioctl(self, number: int, request: int, arg: bytearray) -> int:
        assert Path(f"/proc/self/fd/{number}").readlink() == self.device
        self.requests.append(request)
        if request in self.errors:
            raise OSError(self.errors[request], os.strerror(self.errors[request]))
        if request == 0x80047307:
            size = len(self.make(bytes(64))) if self.announced is None else self.announced
            arg[:] = struct.pack("<I", size)
            return 0
        assert request == 0xC0187308
        data, length, buffer = struct.unpack("<QQQ", arg)
        quote = self.make(ctypes.string_at(data, 64))
        (room,) = struct.unpack("<I", ctypes.string_at(length, 4))
        assert room == (len(quote) if self.announced is None else self.announced)
        ctypes.memmove(buffer, quote[:room], min(room, len(quote)))
        given = len(quote) if self.given is None else self.given
        ctypes.memmove(length, struct.pack("<I", given), 4)
        return 0

    def place(self, quotes: bool = True) -> Place:
        return Place(ENCLAVE, quotes, 8 << 30, "/nonexistent/attestation", OCCLUM)


@pytest.fixture
def occlum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Occlum:
    """Occlum's device, in an enclave that can attest."""
    made = Occlum(tmp_path / "sgx")
    made.device.touch()
    monkeypatch.setattr(fcntl, "ioctl", made.ioctl)
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
    "Occlum",
    "TdxGuest",
    "Tsm",
    "gramine",
    "mount",
    "occlum",
    "sgx_quote",
    "td_quote",
    "tdx_guest",
    "tsm",
]
