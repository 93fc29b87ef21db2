"""A folder of blobs named by their SHA-256 (OCI image-layout.md: ``blobs/sha256/<hex>``).

Blobs come in through a temporary file beside the folder and get their name only when their digest
is known and right, so a file with a digest for a name was complete when it got that name.
"""

import errno
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from imagekit.errors import InputError
from imagekit.files import Aside, disk_error, make_folder, remove_stale, sync_folder
from imagekit.images.oci import (
    OCTET_STREAM,
    BlobChain,
    BlobSource,
    Descriptor,
    check_digest,
    digest_of,
)
from imagekit.images.progress import Advance

BLOCK = 1 << 20
"""Bytes read or written at once."""

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}


class BlobWriter:
    """A blob that is being written; used as a context manager.

    Leaving it without :meth:`commit` leaves nothing behind.
    """

    def __init__(self, store: "BlobStore") -> None:
        self._store = store
        self._hash = hashlib.sha256()
        self.size = 0
        try:
            self._aside = Aside(store.folder.parent)
        except OSError as error:
            raise disk_error(error, store.folder, "write in") from error

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; gives their number.

        Raises:
            InputError: the disk refuses them.
        """
        self._hash.update(data)
        try:
            self._aside.write(data)
        except OSError as error:
            raise disk_error(error, self._store.folder, "write in") from error
        self.size += len(data)
        return len(data)

    def commit(
        self, media_type: str = OCTET_STREAM, digest: str | None = None, size: int | None = None
    ) -> Descriptor:
        """Check what was written against what was expected and take it into the store.

        Raises:
            InputError: digest or size differ, or the disk refuses.
        """
        found = Descriptor(media_type, "sha256:" + self._hash.hexdigest(), self.size)
        if (digest is not None and digest != found.digest) or (
            size is not None and size != found.size
        ):
            raise InputError(
                f"blob {digest or found.digest}: the content has digest {found.digest} "
                f"and {found.size} bytes" + ("" if size is None else f", not {size}"),
                "it was damaged or cut short on the way: fetch or copy it anew",
            )
        if not self._store.has(found.digest, found.size):
            try:
                self._aside.commit(self._store.path(found.digest))
            except OSError as error:
                raise disk_error(error, self._store.folder, "write in") from error
        return found

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._aside.__exit__(kind, error, trace)


class BlobStore:
    """Blobs in one folder.

    Args:
        folder: the folder with the blobs themselves (``…/blobs/sha256``). It is made on the first
            write; temporaries live in its parent, so that tools which list blobs never see one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ready = False

    def path(self, digest: str) -> Path:
        """Where the blob is or would be.

        Raises:
            InputError: not a SHA-256 digest.
        """
        return self.folder / check_digest(digest, "blob").removeprefix("sha256:")

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is there, with that many bytes when a size is given."""
        try:
            found = self.path(digest).stat()
        except OSError:
            return False
        return size is None or found.st_size == size

    def open_blob(self, digest: str) -> BinaryIO:
        """Open a blob for reading.

        Raises:
            InputError: it is missing or unreadable.
        """
        path = self.path(digest)
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            raise InputError(
                f"blob {digest} is missing in {self.folder}",
                "the image was copied in part: copy or build it anew",
            ) from error
        except OSError as error:
            raise disk_error(error, path, "read the blob") from error

    def clean(self) -> None:
        """Remove what writers that were killed left behind; live writers' files are kept."""
        remove_stale(self.folder.parent)

    def writer(self) -> BlobWriter:
        """Begin a new blob.

        Raises:
            InputError: the folder cannot be written to.
        """
        if not self._ready:
            make_folder(self.folder)
            self.clean()
            self._ready = True
        return BlobWriter(self)

    def add_bytes(self, data: bytes, media_type: str = OCTET_STREAM) -> Descriptor:
        """Add a small blob; a blob that is there already is not written again.

        Raises:
            InputError: the disk refuses.
        """
        found = Descriptor(media_type, digest_of(data), len(data))
        if not self.has(found.digest, found.size):
            with self.writer() as writer:
                writer.write(data)
                writer.commit(media_type)
        return found

    def add_stream(
        self,
        stream: BinaryIO,
        media_type: str = OCTET_STREAM,
        *,
        digest: str | None = None,
        size: int | None = None,
        advance: Advance | None = None,
    ) -> Descriptor:
        """Add a blob from a stream, read to its end in blocks.

        Args:
            stream: open for reading; not closed.
            media_type: for the descriptor that comes back.
            digest: the digest the content must have, if known.
            size: the number of bytes it must have, if known; a longer stream is given up early.
            advance: told the bytes as they are written.

        Raises:
            InputError: digest or size differ, the stream cannot be read, or the disk refuses;
                nothing is left behind.
        """
        with self.writer() as writer:
            while True:
                try:
                    block = stream.read(BLOCK)
                except OSError as error:
                    source = Path(str(getattr(stream, "name", "the stream")))
                    raise disk_error(error, source, "read") from error
                if not block:
                    break
                writer.write(block)
                if advance:
                    advance(len(block))
                if size is not None and writer.size > size:
                    break
            return writer.commit(media_type, digest, size)

    def add_file(
        self,
        path: Path,
        media_type: str = OCTET_STREAM,
        *,
        digest: str | None = None,
        size: int | None = None,
        move: bool = False,
    ) -> Descriptor:
        """Add a blob from a file, which is read and hashed.

        With ``move`` the file's place in the file system is given up: it is removed when its
        content is in the store.

        Raises:
            InputError: as for :meth:`add_stream`.
        """
        try:
            stream = path.open("rb")
        except OSError as error:
            raise disk_error(error, path, "read") from error
        with stream:
            descriptor = self.add_stream(stream, media_type, digest=digest, size=size)
        if move:
            try:
                path.unlink()
            except OSError as error:
                raise disk_error(error, path, "remove") from error
        return descriptor

    def add_from(
        self, descriptor: Descriptor, source: BlobSource, advance: Advance | None = None
    ) -> Descriptor:
        """Take over a blob from another source.

        From a store on the same file system it becomes a hard link: that store has checked the
        digest when the blob came in, here its size is compared. All else is copied and hashed.

        Raises:
            InputError: the blob is missing there, is not what the descriptor says, or the disk
                refuses.
        """
        if self.has(descriptor.digest, descriptor.size):
            if advance:
                advance(descriptor.size)
            return descriptor
        store = _store_with(source, descriptor)
        if store is not None and self._link(store, descriptor):
            if advance:
                advance(descriptor.size)
            return descriptor
        with source.open_blob(descriptor.digest) as stream:
            self.add_stream(
                stream,
                descriptor.media_type,
                digest=descriptor.digest,
                size=descriptor.size,
                advance=advance,
            )
        return descriptor

    def _link(self, other: "BlobStore", descriptor: Descriptor) -> bool:
        """Try a hard link; False where the file systems cannot."""
        make_folder(self.folder)
        target = self.path(descriptor.digest)
        try:
            os.link(other.path(descriptor.digest), target)
            sync_folder(self.folder)
        except FileExistsError:
            # Another process was quicker, or a damaged file has the name: then copy over it.
            return self.has(descriptor.digest, descriptor.size)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise disk_error(error, self.folder, "write in") from error
        return True


def _store_with(source: BlobSource, descriptor: Descriptor) -> BlobStore | None:
    """The store inside the source that has the whole blob, if one has."""
    if isinstance(source, BlobChain):
        for part in source.sources:
            found = _store_with(part, descriptor)
            if found is not None:
                return found
    if isinstance(source, BlobStore) and source.has(descriptor.digest, descriptor.size):
        return source
    return None
