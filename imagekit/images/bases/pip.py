"""Downloading a package from the user's Python package index through pip.

pip runs as a program of this interpreter, so that the user's mirrors, proxies, certificates and
credentials (pip's configuration files and PIP_* variables) count exactly as they do for pip itself.
"""

import importlib.metadata
import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from imagekit.errors import EngineError, InputError
from imagekit.files import disk_error
from imagekit.images.bases.download import NETWORK_HINT, wrong_hash
from imagekit.images.bases.process import one_line, run_program
from imagekit.images.bases.trust import with_system
from imagekit.images.progress import NO_PROGRESS, Advance, Progress

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_GOT = re.compile(r"Got\s+([0-9a-f]{64})")
_CA_HINT = (
    "the index's certificate is signed by a CA pip does not know: name its certificate in "
    "base.ca_bundle, in PIP_CERT, or with `pip config set global.cert FILE`"
)
_CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name the certificates pip trusts; the last two win over the first (requests)."""
_UNREACHABLE = (
    "Max retries exceeded",
    "Connection refused",
    "NewConnectionError",
    "NameResolutionError",
    "Temporary failure in name resolution",
    "ConnectTimeout",
    "ReadTimeout",
    "ProxyError",
    "Network is unreachable",
    "connection broken",
)


def pip_download(
    requirement: str,
    folder: Path,
    sha256: str | None,
    progress: Progress = NO_PROGRESS,
    ca_bundle: bytes | None = None,
) -> Path:
    """Download one distribution file (wheel or sdist) and give its path.

    With a hash pip runs in its hash-checking mode: a file with another hash is refused before any
    code in it runs. Dependencies are not fetched, also none for building metadata (a source
    package is asked for its metadata with this interpreter's own setuptools).

    Args:
        requirement: ``name==version``.
        folder: an empty scratch folder; the file is left in it.
        sha256: 64 hex digits, or None while a lock is made.
        progress: told the bytes (with pip 24.1 or later).
        ca_bundle: certificates (PEM) that pip trusts besides the system's and those of PIP_CERT.

    Raises:
        InputError: another hash. EngineError: the package or the index cannot be had.
    """
    folder = folder.absolute()  # pip runs in there
    target, wanted = folder / "pip", folder / "requirements.txt"
    hashes = f" --hash=sha256:{sha256}" if sha256 else ""
    try:
        for path in (target, folder / "tmp"):
            path.mkdir()
        wanted.write_text(f"{requirement}{hashes}\n", encoding="utf-8")
    except OSError as error:
        raise disk_error(error, folder, "write in") from None
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if ca_bundle is not None:
        env |= dict.fromkeys(_CERTIFICATES, str(_write_ca(folder / "ca.pem", ca_bundle)))
    env.update(TMPDIR=str(folder / "tmp"), PYTHONUNBUFFERED="1", LC_ALL="C.UTF-8")
    with _Watch(requirement, progress) as watch:
        done = run_program(
            _argv(target, wanted, sha256), env=env, folder=folder, on_line=watch.line
        )
    if done.code != 0:
        raise _failure(requirement, sha256, done.tail)
    found = sorted(path for path in target.iterdir() if path.is_file())
    if len(found) != 1:
        raise EngineError(f"pip delivered no file for {requirement}", "check pip's configuration")
    return found[0]


def _write_ca(path: Path, ca_bundle: bytes) -> Path:
    """Write what pip is to trust, in place of all that it would take else: so that is in it too."""
    parts = [with_system(ca_bundle)]
    named = {os.environ[name] for name in _CERTIFICATES if os.environ.get(name)}
    try:
        parts += [Path(name).read_bytes() for name in sorted(named) if Path(name).is_file()]
        path.write_bytes(b"\n".join(parts))
    except OSError as error:
        raise disk_error(error, path, "write") from None
    return path


def _argv(target: Path, wanted: Path, sha256: str | None) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-input",
        "--disable-pip-version-check",
        "--no-cache-dir",  # the file goes into our own cache
        "--no-deps",
        "--no-build-isolation",
        f"--progress-bar={'raw' if _pip_version() >= (24, 1) else 'off'}",
        *(["--require-hashes"] if sha256 else []),
        f"--dest={target}",
        f"--requirement={wanted}",
    ]


def _pip_version() -> tuple[int, ...]:
    try:
        text = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            "pip is missing in this Python installation", "install it: python3 -m ensurepip"
        ) from None
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


class _Watch:
    """Turns pip's raw progress lines into one task per file."""

    def __init__(self, requirement: str, progress: Progress) -> None:
        self.requirement, self.progress = requirement, progress
        self.stack = ExitStack()
        self.advance: Advance | None = None
        self.done = 0

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_details: object) -> None:
        self.stack.close()

    def line(self, text: str) -> None:
        match = _PROGRESS.fullmatch(text.strip())
        if match is None:
            return
        at, total = int(match[1]), int(match[2])
        if self.advance is None or at < self.done:
            self.stack.close()
            self.done = 0
            task = self.progress.task(f"download {self.requirement}", total or None)
            self.advance = self.stack.enter_context(task)
        self.advance(at - self.done)
        self.done = at


def _failure(requirement: str, sha256: str | None, tail: Sequence[str]) -> Exception:
    text = "\n".join(tail)
    got = _GOT.search(text)
    if "DO NOT MATCH THE HASHES" in text and got and sha256:
        return wrong_hash(f"pypi:{requirement}", sha256, got[1])
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        return EngineError(f"{requirement}: the package index's certificate was refused", _CA_HINT)
    if any(sign in text for sign in _UNREACHABLE):
        return EngineError(
            f"{requirement}: the package index cannot be reached",
            f"{NETWORK_HINT}; pip's own settings count too (pip config list)",
        )
    if "No matching distribution found" in text:
        return EngineError(
            f"{requirement}: the package index has no such package or version",
            "check name and version, and which index pip uses (pip config list)",
        )
    errors = [line for line in tail if line.lstrip().startswith(("ERROR:", "error:"))]
    return EngineError(
        f"{requirement}: pip failed: {one_line(errors[-3:] or tail[-3:])}",
        "try `python3 -m pip download` with the same package to see all of its output",
    )
