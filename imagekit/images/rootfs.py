"""The files of an image as a container sees them, without unpacking it."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from imagekit.errors import InputError
from imagekit.files import disk_error
from imagekit.images.cache import Cache
from imagekit.images.keyscan import KeyFinding
from imagekit.images.layers import LayerFile, complete
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.streams import BLOCK, decompress, read_blocks
from imagekit.images.tarindex import IndexEntry, LayerIndex, layer_form, load_index
from imagekit.images.tree import Node, Tree, at_real, real_parts

READ_LIMIT = 256 << 20
"""Largest file (bytes) that :meth:`Rootfs.read` takes into memory unless told otherwise."""

Kind = Literal["file", "dir", "symlink", "other"]


@dataclass(frozen=True)
class Entry:
    """What stands at a path of the image.

    Attributes:
        path: canonical and absolute.
        kind: "file", "dir", "symlink" or "other" (fifo, whiteout device).
        size: bytes of content, 0 unless it is a file.
        mode: permission bits with set-id and sticky bits.
        uid: numeric owner.
        gid: numeric group.
        target: a symlink's target as it stands, else "".
        layer: index of the layer that put it there, 0 the lowest.
    """

    path: str
    kind: Kind
    size: int
    mode: int
    uid: int
    gid: int
    target: str
    layer: int


class Rootfs:
    """The merged view of an image's layers. Made by :meth:`from_image`; never changes.

    Paths are absolute inside the image. Symbolic links are followed inside it and never lead above
    its root. May be used by several threads at once.
    """

    def __init__(
        self,
        root: Node,
        image: Image,
        keys: tuple[KeyFinding, ...],
        problems: tuple[str, ...],
        unwritten: Mapping[tuple[int, str], bytes | Path],
        top: int,
        cache: Cache | None,
    ) -> None:
        self._root = root
        self._image = image
        self._keys = keys
        self._problems = problems
        self._unwritten = unwritten
        self._top = top
        self._cache = cache

    @classmethod
    def from_image(
        cls,
        image: Image,
        cache: Cache | None,
        progress: Progress = NO_PROGRESS,
        *,
        lenient: bool = False,
    ) -> "Rootfs":
        """Merge an image's layers.

        A layer's blob is read and verified once; after that its index comes from the cache.

        Args:
            image: the image.
            cache: where indexes of layers, and files read from compressed layers, are kept; None
                reads and verifies every blob anew.
            progress: told the bytes of the layers.
            lenient: what is wrong with a layer goes to :attr:`problems` in place of an error, and
                the view shows what is there in truth. For checks that want to say all at once.

        Raises:
            InputError: a layer is missing, damaged or unfit; names it and the entry.
        """
        total = sum(layer.size for layer in image.layers)
        with (
            progress.task("reading layers", total) as advance,
            ThreadPoolExecutor(max_workers=2) as pool,
        ):
            pending = [
                pool.submit(load_index, layer, diff_id, image.blobs, cache, advance, lenient)
                for layer, diff_id in zip(image.layers, image.diff_ids, strict=True)
            ]
            try:
                indexes = [future.result() for future in pending]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        tree = Tree()
        problems = [problem for index in indexes for problem in index.problems]
        for number, (layer, index) in enumerate(zip(image.layers, indexes, strict=True)):
            try:
                tree.apply(index.entries, number, f"layer {layer.digest}")
            except InputError as error:
                if not lenient:
                    raise
                problems.append(error.problem)
        return cls(tree.root, image, _findings(indexes), tuple(problems), {}, len(indexes), cache)

    def with_files(self, files: Iterable[LayerFile]) -> "Rootfs":
        """The view with one more layer on top that is not written yet; this view stays as it is.

        Args:
            files: what :func:`imagekit.images.layers.write_layer` would get.

        Raises:
            InputError: the files contradict each other or this view, or one cannot be read.
        """
        entries: list[IndexEntry] = []
        unwritten = dict(self._unwritten)
        for file in complete(files, self.directory):
            entry = _unwritten_entry(file)
            entries.append(entry)
            if file.data is not None:
                unwritten[self._top, entry.path] = file.data
        tree = Tree(self._root)
        tree.apply(tuple(entries), self._top, "the new layer")
        top = self._top + 1
        return Rootfs(
            tree.root, self._image, self._keys, self._problems, unwritten, top, self._cache
        )

    @property
    def key_findings(self) -> tuple[KeyFinding, ...]:
        """Private keys in any layer of the image, in files that a higher layer hides too."""
        return self._keys

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the layers, one line each; always empty unless made lenient."""
        return self._problems

    def kind(self, path: str) -> Literal["file", "dir"] | None:
        """What is at a path, links followed; None if absent, dangling, circular or special."""
        try:
            found = self._find(path)
        except InputError:
            return None
        kinds: dict[str, Literal["file", "dir"]] = {"file": "file", "dir": "dir"}
        return kinds.get(found[1].entry.kind) if found else None

    def entry(self, path: str, follow: bool = True) -> Entry | None:
        """What stands at a path, or None.

        Args:
            path: absolute path.
            follow: whether a link at the end of the path is followed.

        Raises:
            InputError: links lead in a circle, or the path goes through a file.
        """
        found = self._find(path, follow)
        if found is None:
            return None
        names, node = found
        kind: Kind = node.entry.kind  # type: ignore[assignment]  # hard links are resolved
        entry = node.entry
        return Entry(
            "/" + "/".join(names),
            kind,
            entry.size,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.target,
            node.layer,
        )

    def resolve(self, path: str) -> str:
        """The canonical absolute path of what is at a path, all links followed.

        Raises:
            InputError: nothing is there, links lead in a circle, or the path goes through a file.
        """
        return "/" + "/".join(self._need(path)[0])

    def children(self, path: str) -> list[str]:
        """The names in a folder, sorted by code point.

        Raises:
            InputError: no folder is there.
        """
        node = self._need(path)[1]
        if node.children is None:
            raise self._error(path, "is no folder")
        return sorted(node.children)

    def sha256(self, path: str) -> str:
        """The SHA-256 of a file's content, links followed: 64 lower-case hex digits.

        Raises:
            InputError: no file is there.
        """
        return self._file(path).entry.sha256

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """A file's content, links followed, checked against its SHA-256.

        Args:
            path: absolute path.
            limit: the largest size (bytes) to take.

        Raises:
            InputError: no file is there, it is larger, or the layer's blob is damaged.
        """
        node = self._file(path)
        entry = node.entry
        if entry.size > limit:
            raise self._error(path, f"has {entry.size} bytes, more than {limit}")
        data = self._content(node)
        if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise InputError(
                f"{path} in image {self._image.digest}: "
                "its content changed since the layer was checked",
                "the image's files are damaged: copy or build it anew",
            )
        return data

    def directory(self, path: str) -> LayerFile | None:
        """What stands at a path, as a layer entry: for ``write_layer(parents=…)``.

        A folder comes back with its mode and owner, so that a layer which repeats it changes
        nothing. A link or file comes back too, so that a layer which would replace it by a folder
        is refused. None if nothing is there.
        """
        found = self.entry(path, follow=False)
        if found is None:
            return None
        if found.kind == "dir":
            return LayerFile(path, None, found.mode, None, True, found.uid, found.gid)
        return LayerFile(path, None, found.mode, found.target or "?", False, found.uid, found.gid)

    def _find(self, path: str, follow: bool = True) -> tuple[list[str], Node] | None:
        names = real_parts(
            self._root, path.split("/"), lambda problem: self._error(path, problem), follow=follow
        )
        if names is None:
            return None
        node = at_real(self._root, names)
        return None if node is None else (names, node)

    def _need(self, path: str) -> tuple[list[str], Node]:
        found = self._find(path)
        if found is None:
            raise self._error(path, "is not there")
        return found

    def _file(self, path: str) -> Node:
        node = self._need(path)[1]
        if node.entry.kind != "file":
            raise self._error(path, "is no regular file")
        return node

    def _content(self, node: Node) -> bytes:
        entry = node.entry
        if node.source >= len(self._image.layers):
            return _load(self._unwritten[node.source, entry.path])
        layer = self._image.layers[node.source]
        where = f"layer {layer.digest}"
        form = layer_form(layer)
        with self._image.blobs.open_blob(layer.digest) as stream:
            if form == "plain":
                try:
                    stream.seek(entry.offset)
                    return stream.read(entry.size)
                except OSError as error:
                    raise InputError(
                        f"{where}: cannot be read: {error.strerror}", "check the disk it is on"
                    ) from error
            # A compressed layer can only be read from its begin: what was read is kept.
            kept = self._cache.content(entry.sha256) if self._cache else None
            if kept is not None:
                return kept
            data = _slice(stream, form, where, entry.offset, entry.size)
        if self._cache:
            self._cache.save_content(data)
        return data

    def _error(self, path: str, problem: str) -> InputError:
        return InputError(
            f"{path} in image {self._image.digest}: {problem}", "check the path and the base image"
        )


def _slice(stream: BinaryIO, form: str, where: str, offset: int, size: int) -> bytes:
    """Part of a compressed stream, which can only be read from its begin."""
    pieces: list[bytes] = []
    at = 0
    for block in decompress(read_blocks(stream, where), form, where):
        pieces.append(block[max(0, offset - at) : max(0, offset + size - at)])
        at += len(block)
        if at >= offset + size:
            break
    return b"".join(pieces)


def _findings(indexes: list[LayerIndex]) -> tuple[KeyFinding, ...]:
    return tuple(
        KeyFinding(number, *key) for number, index in enumerate(indexes) for key in index.keys
    )


def _unwritten_entry(file: LayerFile) -> IndexEntry:
    path, owner = file.path.lstrip("/"), (file.uid, file.gid)
    if file.directory:
        return IndexEntry(path, "dir", 0, file.mode, *owner, "", 0, "")
    if file.link is not None:
        return IndexEntry(path, "symlink", 0, 0o777, *owner, file.link, 0, "")
    size, sha256 = _measure(file.data or b"")
    return IndexEntry(path, "file", size, file.mode, *owner, "", 0, sha256)


def _measure(data: bytes | Path) -> tuple[int, str]:
    if isinstance(data, bytes):
        return len(data), hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    try:
        with data.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
            return os.fstat(stream.fileno()).st_size, digest.hexdigest()
    except OSError as error:
        raise disk_error(error, data, "read") from error


def _load(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        return data.read_bytes()
    except OSError as error:
        raise disk_error(error, data, "read") from error
