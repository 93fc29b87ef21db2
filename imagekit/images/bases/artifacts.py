"""Fetching the files a base is made of: packages of a Python index, URLs, local files.

Fetched files are kept in the cache under their SHA-256 and hashed again whenever they are used; a
damaged one is thrown away and fetched anew. Nothing is used, and no code of a package runs, before
its hash was compared. (The exception is ``base lock`` of a source package without a hash: pip asks
every source package for its metadata, and nobody can say yet what the right hash would be.)
"""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imagekit.errors import InputError
from imagekit.files import disk_error, make_folder
from imagekit.images.bases.download import download, wrong_hash
from imagekit.images.bases.pip import pip_download
from imagekit.images.bases.workdir import work_folder
from imagekit.images.cache import Cache
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.spec.base import Artifact

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Fetched:
    """A file that is here and has that hash: its path, 64 hex digits, its size in bytes."""

    path: Path
    sha256: str
    size: int


def fetch(
    artifact: Artifact,
    project_dir: Path,
    cache: Cache,
    sha256: str | None,
    progress: Progress = NO_PROGRESS,
    ca_bundle: bytes | None = None,
) -> Fetched:
    """Bring an artifact here and check it.

    Args:
        artifact: what to fetch.
        project_dir: the folder local paths are relative to.
        cache: where fetched files are kept (``cache.artifacts``).
        sha256: the hash it must have (64 hex digits); None only while a lock is made.
        progress: told the bytes.
        ca_bundle: certificates (PEM) to be trusted besides the system's.

    Raises:
        InputError: the wrong hash, or a local file that is missing or unreadable.
        EngineError: the server, the package index or the network failed.
    """
    if artifact.kind == "path":
        return _local(artifact, project_dir, sha256, progress)
    if sha256 is not None:
        found = _cached(artifact, cache, sha256, progress)
        if found is not None:
            return found
    with work_folder(cache.folder("work")) as folder:
        if artifact.kind == "url":
            path = download(artifact.source, folder / "download", sha256, progress, ca_bundle)
        else:
            path = pip_download(artifact.source, folder, sha256, progress, ca_bundle)
        found_hash = hash_file(path, None, progress)
        if sha256 is not None and found_hash != sha256:
            raise wrong_hash(artifact.name, sha256, found_hash)
        return _keep(path, found_hash, cache)


def fetch_url(
    name: str,
    url: str,
    sha256: str,
    cache: Cache,
    progress: Progress = NO_PROGRESS,
    ca_bundle: bytes | None = None,
) -> Fetched:
    """Fetch a URL with a known hash, for what is no artifact (an archive's public key).

    Raises:
        InputError: the wrong hash; EngineError: the server or network failed.
    """
    artifact = Artifact("url", url, sha256, where=name)
    return fetch(artifact, Path(), cache, sha256, progress, ca_bundle)


def hash_file(path: Path, label: str | None, progress: Progress) -> str:
    """Give a file's SHA-256 as 64 hex digits; with a label, the bytes are shown as a task.

    Raises:
        InputError: missing or unreadable.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if label is None:
                return hashlib.file_digest(stream, "sha256").hexdigest()
            return _hash_stream(stream, label, size, progress)
    except OSError as error:
        raise disk_error(error, path, "read") from None


def _hash_stream(stream: BinaryIO, label: str, size: int, progress: Progress) -> str:
    digest = hashlib.sha256()
    with progress.task(label, size) as advance:
        while block := stream.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _local(
    artifact: Artifact, project_dir: Path, sha256: str | None, progress: Progress
) -> Fetched:
    path = project_dir / artifact.source
    if not path.is_file():
        raise InputError(
            f"{artifact.where or artifact.name}: {path}: no such file",
            "make or fetch the file first; the path is relative to the project file",
        )
    found = hash_file(path, f"check {artifact.filename}", progress)
    if sha256 is not None and found != sha256:
        raise wrong_hash(artifact.name, sha256, found)
    return Fetched(path, found, path.stat().st_size)


def _cached(artifact: Artifact, cache: Cache, sha256: str, progress: Progress) -> Fetched | None:
    path = cache.artifacts.path("sha256:" + sha256)
    if not path.is_file():
        return None
    with suppress(InputError):
        if hash_file(path, f"check {artifact.filename} in the cache", progress) == sha256:
            return Fetched(path, sha256, path.stat().st_size)
    with suppress(OSError):
        path.unlink()
    return None


def _keep(path: Path, sha256: str, cache: Cache) -> Fetched:
    """Give the checked file its name in the cache, on the disk before it has that name."""
    target = cache.artifacts.path("sha256:" + sha256)
    make_folder(target.parent)
    try:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        size = path.stat().st_size
        path.rename(target)
    except OSError as error:
        raise disk_error(error, target.parent, "write in") from None
    return Fetched(target, sha256, size)
