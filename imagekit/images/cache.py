"""What is kept between runs: blobs of images, indexes of layers, files out of them, artifacts.

Everything in it can be made again. Entries are named by digest and written atomically, so several
runs may use one cache at once, and a damaged entry is thrown away and redone.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from imagekit.errors import InputError
from imagekit.files import make_folder, remove_stale, write_atomically
from imagekit.images.oci import check_digest
from imagekit.images.store import BlobStore


def default_cache_folder() -> Path:
    """``$IMAGEKIT_CACHE``, else ``$XDG_CACHE_HOME/imagekit``, else ``~/.cache/imagekit``.

    Raises:
        InputError: none of them is known.
    """
    own, xdg = os.environ.get("IMAGEKIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).absolute()
    if xdg and Path(xdg).is_absolute():  # the XDG base directory specification: ignore others
        return Path(xdg) / "imagekit"
    try:
        return Path.home() / ".cache" / "imagekit"
    except RuntimeError as error:
        raise InputError(
            "no folder for the cache: this user has no home folder",
            "set IMAGEKIT_CACHE to a folder",
        ) from error


class Cache:
    """One cache folder.

    Args:
        root: the folder; by default :func:`default_cache_folder`. It is made on the first write.

    Attributes:
        root: the folder.
        blobs: blobs of images that were unpacked from archives.
        artifacts: files that were fetched for base images, named by their SHA-256.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = default_cache_folder() if root is None else root
        self.blobs = BlobStore(self.root / "blobs" / "sha256")
        self.artifacts = BlobStore(self.root / "artifacts" / "sha256")
        self._contents = BlobStore(self.root / "contents" / "sha256")

    def folder(self, name: str) -> Path:
        """A folder of the cache for some other use, made if missing.

        Raises:
            InputError: it cannot be made.
        """
        path = self.root / name
        make_folder(path)
        return path

    def layer_index(self, digest: str) -> bytes | None:
        """The saved index of the layer blob with that digest, or None."""
        with suppress(OSError):
            return self._index_path(digest).read_bytes()
        return None

    def save_layer_index(self, digest: str, data: bytes) -> None:
        """Save the index of a layer.

        Raises:
            InputError: the cache cannot be written to.
        """
        remove_stale(self.folder("layers"))
        write_atomically(self._index_path(digest), data)

    def forget_layer_index(self, digest: str) -> None:
        """Remove the index of a layer, if there is one."""
        with suppress(OSError):
            self._index_path(digest).unlink()

    def content(self, sha256: str) -> bytes | None:
        """The saved content with that SHA-256 (64 hex digits) if there is one; else None."""
        path = self._contents.path(f"sha256:{sha256}")
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
        with suppress(OSError):
            path.unlink()
        return None

    def save_content(self, data: bytes) -> None:
        """Save a file's content that was costly to read.

        Raises:
            InputError: the cache cannot be written to.
        """
        self._contents.add_bytes(data)

    def _index_path(self, digest: str) -> Path:
        return self.root / "layers" / check_digest(digest, "layer").removeprefix("sha256:")
