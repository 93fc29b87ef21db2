"""Searching everything for a private key: by GNU grep, since it may be gigabytes."""

import base64
import gzip
import mmap
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

_WINDOW = 16
_GZIP = b"\x1f\x8b\x08\x00\x00\x00\x00"
"""The begin of a gzip member without a name, as layers have it."""
_STEP = 1 << 20


def private_needles(pem: Path, passphrase: bytes | None = None) -> list[bytes]:
    """What must be nowhere: lines of the PEM, its text in other line widths, its secret numbers.

    The modulus is public and stands in every SIGSTRUCT, so it is not among them. grep takes neither
    newlines nor NULs in a pattern; of a number, windows without them are taken.
    """
    text = pem.read_bytes()
    key = serialization.load_pem_private_key(text, passphrase)
    assert isinstance(key, rsa.RSAPrivateKey)
    found = {line for line in text.splitlines() if len(line) > 20 and not line.startswith(b"-")}
    for form in ("TraditionalOpenSSL", "PKCS8"):
        der = key.private_bytes(
            serialization.Encoding.DER,
            getattr(serialization.PrivateFormat, form),
            serialization.NoEncryption(),
        )
        body = base64.b64encode(der)
        found |= set(_windows(body[len(body) // 3 :]))  # what comes before is the same in all keys
    if passphrase:
        found.add(passphrase)
        body = b"".join(line for line in text.splitlines() if not line.startswith(b"-"))
        found |= set(_windows(body))
    numbers = key.private_numbers()
    for number in (numbers.p, numbers.q, numbers.d, numbers.dmp1, numbers.dmq1, numbers.iqmp):
        size = (number.bit_length() + 7) // 8
        for order in ("big", "little"):
            found |= set(list(_windows(number.to_bytes(size, order)))[:4])
        found.add(str(number)[:40].encode())
        found.add(f"{number:x}"[:40].encode())
    return sorted(found)


def _windows(data: bytes) -> Iterable[bytes]:
    for start in range(0, len(data) - _WINDOW, _WINDOW):
        window = data[start : start + _WINDOW]
        if not {0, 10} & set(window):
            yield window


def _inflate_all(path: Path, plain: IO[bytes]) -> None:
    """Write what all gzip members in a file unpack to, wherever they begin."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_GZIP)
        while at >= 0:
            decoder, end = zlib.decompressobj(wbits=31), at
            try:
                while end < len(data) and not decoder.eof:
                    plain.write(decoder.decompress(data[end : end + _STEP]))
                    end += _STEP
                end -= len(decoder.unused_data)
            except zlib.error:
                end = at + 1  # no gzip after all
            at = data.find(_GZIP, max(end, at + 1))


class KeySearch:
    """Looks for needles in files, folders and bytes; gzip is looked through.

    Args:
        needles: from :func:`private_needles`.
        folder: an empty folder for its own use, which is never searched.
    """

    def __init__(self, needles: list[bytes], folder: Path) -> None:
        assert len(needles) > 50
        self.patterns = folder / "patterns"
        self.patterns.write_bytes(b"\n".join(needles) + b"\n")
        self.folder = folder

    def in_bytes(self, data: bytes) -> bool:
        """Whether a needle is in the data."""
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        return self._grep(["-q", "-"], data).returncode == 0

    def in_files(self, *places: Path) -> list[str]:
        """The files, in any depth, that a needle is in."""
        names = [str(place) for place in places if place.exists()]
        assert names, places
        done = self._grep(["-r", "-l", "-D", "skip", *names])
        assert done.returncode < 2 or b"No such file" in done.stderr, done.stderr.decode()
        found = done.stdout.decode(errors="replace").splitlines()
        return sorted({*found, *self._in_compressed(places)})

    def _in_compressed(self, places: Iterable[Path]) -> Iterable[str]:
        for place in places:
            for root, _, names in os.walk(place):
                for name in names:
                    path = Path(root, name)
                    if self._is_gzip(path) and self._in_gzip(path):
                        yield str(path)

    @staticmethod
    def _is_gzip(path: Path) -> bool:
        try:
            if not path.is_file() or path.is_symlink():
                return False
            with path.open("rb") as file:
                return file.read(2) == b"\x1f\x8b"
        except OSError:
            return False

    def inside_streams(self, *places: Path) -> list[str]:
        """The files with a needle in a gzip stream that begins anywhere in them, as in a tar."""
        found = []
        for place in places:
            for path in sorted(item for item in place.rglob("*") if item.is_file()):
                with tempfile.NamedTemporaryFile(dir=self.folder) as plain:
                    _inflate_all(path, plain)
                    plain.flush()
                    if self._grep(["-q", plain.name]).returncode == 0:
                        found.append(str(path))
        return found

    def _in_gzip(self, path: Path) -> bool:
        with tempfile.NamedTemporaryFile(dir=self.folder) as plain:
            try:
                with gzip.open(path) as packed:
                    shutil.copyfileobj(packed, plain, 1 << 20)
            except (OSError, EOFError):
                pass  # only begins like gzip; grep has seen it as it is
            plain.flush()
            return self._grep(["-q", plain.name]).returncode == 0

    def _grep(
        self, arguments: list[str], data: bytes | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            ["grep", "-a", "-F", "-f", str(self.patterns), *arguments],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
            check=False,
        )
