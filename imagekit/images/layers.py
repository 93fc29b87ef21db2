"""Deterministic layers: a set of files becomes one tar with always the same bytes.

Layers are compressed (``application/vnd.oci.image.layer.v1.tar+gzip``) so that the bytes do not
depend on the machine: see :mod:`imagekit.images.gzipped`.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from imagekit.errors import InputError
from imagekit.files import disk_error
from imagekit.images.gzipped import GzipStream
from imagekit.images.oci import OCI_LAYER_GZIP, Descriptor
from imagekit.images.store import BLOCK, BlobStore
from imagekit.images.tarwrite import DIRECTORY, END, REGULAR, SYMLINK, Member, header, padding


@dataclass(frozen=True)
class LayerFile:
    """One entry of a layer to write.

    Attributes:
        path: absolute inside the image, as in ``/ppml/bash.manifest``.
        data: the content, or the file on disk that has it; None for links and directories.
        mode: permission bits (with set-id and sticky bits).
        link: target of a symbolic link, else None.
        directory: whether it is a directory.
        uid: numeric owner.
        gid: numeric group.
    """

    path: str
    data: bytes | Path | None = None
    mode: int = 0o644
    link: str | None = None
    directory: bool = False
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class Layer:
    """A written layer: its descriptor, and the digest of its uncompressed tar (diff_id)."""

    descriptor: Descriptor
    diff_id: str


class LayerWriter:
    """A layer that is being written; used as a context manager.

    Leaving it without :meth:`commit` leaves nothing behind.

    Args:
        store: where the layer goes.
    """

    def __init__(self, store: BlobStore) -> None:
        self._blob = store.writer()
        self._gzip = GzipStream()
        self._tar_hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes of the tar.

        Raises:
            InputError: the disk refuses them.
        """
        self._tar_hash.update(data)
        for piece in self._gzip.feed(data):
            self._blob.write(piece)

    def commit(self) -> Layer:
        """End the tar and take the layer into the store.

        Raises:
            InputError: the disk refuses.
        """
        self.write(END)
        for piece in self._gzip.finish():
            self._blob.write(piece)
        descriptor = self._blob.commit(OCI_LAYER_GZIP)
        return Layer(descriptor, "sha256:" + self._tar_hash.hexdigest())

    def __enter__(self) -> "LayerWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._gzip.close()
        self._blob.__exit__(kind, error, trace)


Parents = Callable[[str], LayerFile | None]


def write_layer(
    entries: Iterable[LayerFile], store: BlobStore, epoch: int, *, parents: Parents | None = None
) -> Layer:
    """Write entries as one layer.

    The tar is sorted by path (byte order), every mtime is the epoch, names of users are empty, and
    parent directories that are not among the entries are added.

    Args:
        entries: in any order; one per path.
        store: where the layer goes.
        epoch: seconds since 1970, not negative.
        parents: says what a missing parent directory looks like in the image below (see
            :meth:`imagekit.images.rootfs.Rootfs.directory`), so that /tmp keeps its mode;
            where it says None, and without it, parents are root's with mode 0755.

    Raises:
        InputError: two entries contradict each other, a path is not fit for an image, a file on
            disk cannot be read, or the store cannot be written to.
    """
    if epoch < 0:
        raise InputError(
            f"the epoch {epoch} lies before 1970", "set SOURCE_DATE_EPOCH to 0 or more"
        )
    sorted_entries = complete(entries, parents)
    with LayerWriter(store) as writer:
        for entry in sorted_entries:
            _write_entry(writer, entry, epoch)
        return writer.commit()


def complete(entries: Iterable[LayerFile], parents: Parents | None = None) -> list[LayerFile]:
    """The entries with missing parent directories, checked and sorted as they stand in the tar.

    Raises:
        InputError: as for :func:`write_layer`.
    """
    by_path: dict[str, LayerFile] = {}
    for entry in entries:
        _check(entry)
        if by_path.setdefault(entry.path, entry) != entry:
            raise InputError(
                f"layer: {entry.path} is given twice with different content",
                "give each path of a layer once",
            )
    for path in list(by_path):
        _add_parents(path, by_path, parents)
    return sorted(by_path.values(), key=lambda entry: _encode(entry.path))


def _add_parents(path: str, by_path: dict[str, LayerFile], parents: Parents | None) -> None:
    parent = path.rpartition("/")[0]
    while parent:
        known = by_path.get(parent)
        if known is None:
            found = parents(parent) if parents else None
            known = found or LayerFile(parent, mode=0o755, directory=True)
            by_path[parent] = known
        if not known.directory:
            raise InputError(
                f"layer: {path} lies below {parent}, which is no directory",
                "give the path without symbolic links, or leave one of the two out",
            )
        parent = parent.rpartition("/")[0]


def _check(entry: LayerFile) -> None:
    parts = entry.path.split("/")
    if parts[0] or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]):
        problem = "a path in an image must be absolute, without '.', '..' and double slashes"
    elif "\0" in entry.path or "\0" in (entry.link or ""):
        problem = "a path holds a zero byte"
    elif (entry.data is not None) + (entry.link is not None) + entry.directory != 1:
        problem = "an entry is either a file with data, a link or a directory"
    elif entry.link == "":
        problem = "a symbolic link needs a target"
    elif min(entry.uid, entry.gid, entry.mode) < 0:
        problem = "mode, uid and gid must not be negative"
    else:
        return
    raise InputError(f"layer: {entry.path!r}: {problem}", "correct this entry")


def _encode(path: str) -> bytes:
    return path.lstrip("/").encode("utf-8", "surrogateescape")


def _write_entry(writer: LayerWriter, entry: LayerFile, epoch: int) -> None:
    name, link = _encode(entry.path), b""
    if entry.directory:
        kind = DIRECTORY
    elif entry.link is not None:
        kind, link = SYMLINK, entry.link.encode("utf-8", "surrogateescape")
    else:
        kind = REGULAR

    def head(size: int) -> bytes:
        mode = 0o777 if kind == SYMLINK else entry.mode
        return header(Member(name, kind, size, mode, entry.uid, entry.gid, epoch, link))

    if isinstance(entry.data, Path):
        _write_file(writer, entry.data, head)
    else:
        data = entry.data or b""
        writer.write(head(len(data)) + data + padding(len(data)))


def _write_file(writer: LayerWriter, path: Path, head: Callable[[int], bytes]) -> None:
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path} is no regular file", "give the path of a file")
            writer.write(head(status.st_size))
            left = status.st_size
            while left and (block := stream.read(min(BLOCK, left))):
                writer.write(block)
                left -= len(block)
            if left or stream.read(1):
                raise InputError(
                    f"{path} changed while it was read", "let nothing write to it, then try again"
                )
            writer.write(padding(status.st_size))
    except OSError as error:
        raise disk_error(error, path, "read") from error
