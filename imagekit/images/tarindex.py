"""What one layer holds: one pass over the blob gives entries, hashes, checks and private keys.

The blob's digest and the diff_id are verified in the same pass. The result depends on the blob
alone, so it is kept in the cache under its digest and the next run reads the blob no more.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from imagekit.errors import InputError
from imagekit.images.cache import Cache
from imagekit.images.keyforms import Found
from imagekit.images.keyscan import KeyScanner
from imagekit.images.oci import (
    GZIP_LAYERS,
    PLAIN_LAYERS,
    ZSTD_LAYERS,
    BlobSource,
    Descriptor,
    check_digest,
)
from imagekit.images.progress import Advance
from imagekit.images.streams import Prefetch, Worker, decompress, read_blocks
from imagekit.images.tarread import TarReader

_VERSION = 2
_KIND = {"0": "file", "1": "hardlink", "2": "symlink", "5": "dir", "6": "other"}
_KINDS = frozenset(_KIND.values())
_ELF = b"\x7fELF"  # how a program or library begins (System V ABI, "ELF Header")


class IndexEntry(NamedTuple):
    """One entry of a layer, in the tar's order.

    Attributes:
        path: without leading slash, "" for the root; surrogate-escaped where it is no UTF-8.
        kind: "file", "hardlink", "symlink", "dir" or "other" (fifo, overlay whiteout device).
        size: bytes of content.
        target: of a symlink as it stands; of a hard link a path like ``path``; else "".
        offset: of the content in the uncompressed tar (bytes).
        sha256: hex digest of a file's content, else "".
    """

    path: str
    kind: str
    size: int
    mode: int
    uid: int
    gid: int
    target: str
    offset: int
    sha256: str


class LayerKey(NamedTuple):
    """A private key in a layer: absolute path ("" between files), offset in the file, kind.

    ``program``, ``sgx`` and ``signer`` are those of :class:`imagekit.images.keyscan.KeyFinding`.
    """

    path: str
    offset: int
    kind: str
    program: bool
    sgx: bool
    signer: str


@dataclass(frozen=True)
class LayerIndex:
    """What a layer holds: the digest of its uncompressed tar, its entries and keys.

    ``problems`` are lines about what is wrong with it; only a lenient reader gets to see any.
    """

    diff_id: str
    entries: tuple[IndexEntry, ...]
    keys: tuple[LayerKey, ...]
    problems: tuple[str, ...] = ()


def layer_form(descriptor: Descriptor) -> str:
    """The compression a layer's media type names: plain, gzip or zstd.

    Raises:
        InputError: another media type.
    """
    for types, form in ((PLAIN_LAYERS, "plain"), (GZIP_LAYERS, "gzip"), (ZSTD_LAYERS, "zstd")):
        if descriptor.media_type in types:
            return form
    raise InputError(
        f"layer {descriptor.digest} has the media type {descriptor.media_type!r}, "
        "which is not supported",
        "copy the image with plain or gzip layers",
    )


def load_index(
    descriptor: Descriptor,
    diff_id: str,
    blobs: BlobSource,
    cache: Cache | None,
    advance: Advance,
    lenient: bool = False,
) -> LayerIndex:
    """The index of a layer, from the cache or by reading the blob.

    Args:
        descriptor: of the layer.
        diff_id: what the image's config says the uncompressed tar's digest is.
        blobs: where the layer can be opened.
        cache: where indexes are kept; None reads and verifies the blob and keeps nothing.
        advance: told the bytes of the blob as they are done.
        lenient: give an index with ``problems`` in place of an error.

    Raises:
        InputError: the blob is missing, damaged, no tar, or has another diff_id.
    """
    index = _from_cache(descriptor, cache) if cache else None
    if index is None:
        try:
            index = build_index(descriptor, blobs, advance, lenient)
        except InputError as error:
            if not lenient:
                raise
            return LayerIndex("", (), (), (error.problem,))
        if cache and not index.problems:
            cache.save_layer_index(descriptor.digest, dump_index(index))
    else:
        advance(descriptor.size)
    if index.diff_id != diff_id:
        problem = (
            f"layer {descriptor.digest} unpacks to {index.diff_id}, "
            f"but the image's config says {diff_id}"
        )
        if not lenient:
            raise InputError(problem, "the image is damaged: copy or build it anew")
        index = replace(index, problems=(*index.problems, problem))
    return index


def build_index(
    descriptor: Descriptor, blobs: BlobSource, advance: Advance, lenient: bool = False
) -> LayerIndex:
    """Read a layer's blob once and verify its digest and size.

    One thread reads, hashes and decompresses the blob, the calling one parses the tar and hashes
    the files. Keys are searched where the bytes are in the processor's cache: by the first thread,
    or for a compressed layer by one more, which hashes the tar.

    Raises:
        InputError: as for :func:`load_index`.
    """
    where = f"layer {descriptor.digest}"
    form = layer_form(descriptor)
    blob = _BlobHash(descriptor.size, advance)
    tar_hash, scanner = hashlib.sha256(), KeyScanner()
    with ExitStack() as stack:
        stream = stack.enter_context(blobs.open_blob(descriptor.digest))
        blocks = blob.blocks(read_blocks(stream, where))
        if form == "plain":
            ahead = stack.enter_context(Prefetch(_passing(blocks, scanner.feed)))
            tar, worker = iter(ahead), None
        else:

            def search(block: bytes) -> None:
                tar_hash.update(block)
                scanner.feed(block)

            ahead = stack.enter_context(Prefetch(decompress(blocks, form, where)))
            worker = stack.enter_context(Worker(search))
            tar = _passing(ahead, worker.feed)
        total = descriptor.size if form == "plain" else None
        try:
            entries, programs = _entries(TarReader(tar, where, total=total), where)
        except InputError:
            # A wrong digest is the better answer than what it did to the tar.
            blob.check_after(ahead, descriptor)
            raise
        problems: tuple[str, ...] = ()
        try:
            blob.check(descriptor)
        except InputError as error:
            if not lenient:
                raise
            problems = (error.problem,)
        if worker:
            worker.finish()
        diff_id = blob.hexdigest() if form == "plain" else tar_hash.hexdigest()
        keys = _keys(scanner.finish(), entries, programs)
        return LayerIndex("sha256:" + diff_id, tuple(entries), keys, problems)


def _passing(blocks: Iterator[bytes], use: Callable[[bytes], object]) -> Iterator[bytes]:
    for block in blocks:
        use(block)
        yield block


class _BlobHash:
    """Hashes a blob's bytes as they pass by."""

    def __init__(self, expected: int, advance: Advance) -> None:
        self._hash = hashlib.sha256()
        self._expected = expected
        self._size = 0
        self._advance = advance

    def blocks(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self._hash.update(block)
            self._size += len(block)
            self._advance(len(block))
            yield block

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def check(self, descriptor: Descriptor) -> None:
        if self._size != descriptor.size or self.hexdigest() != descriptor.hex:
            raise InputError(
                f"layer {descriptor.digest}: the blob's content does not have this digest and size",
                "the image is damaged: copy or build it anew",
            )

    def check_after(self, rest: Iterator[bytes], descriptor: Descriptor) -> None:
        """Read the rest and check; a stream that itself is broken proves nothing new."""
        try:
            for _ in rest:
                pass
        except InputError:
            return
        self.check(descriptor)


def _entries(reader: TarReader, where: str) -> tuple[list[IndexEntry], set[int]]:
    """The entries, and the offsets of those contents that are ELF files."""
    entries: list[IndexEntry] = []
    programs: set[int] = set()
    new_hash = hashlib.sha256
    for path, kind_code, size, mode, uid, gid, _, link, offset, device, _ in reader:
        kind = _KIND.get(kind_code) or _device(path, kind_code, device, where)
        sha256 = ""
        if kind == "file":
            digest, head = new_hash(), b""
            for piece in reader.content():
                if len(head) < 4:
                    head += piece[:4]
                digest.update(piece)
            sha256 = digest.hexdigest()
            if head.startswith(_ELF):
                programs.add(offset)
        entries.append(IndexEntry(path, kind, size, mode, uid, gid, link, offset, sha256))
    return entries, programs


def _device(path: str, kind: str, device: tuple[int, int], where: str) -> str:
    # overlayfs marks deleted files by character devices 0/0; some builders leave them in layers.
    if kind == "3" and device == (0, 0):
        return "other"
    raise InputError(
        f"{where}: {'/' + path!r} is a device node",
        "an enclave's base has none: build the base without device nodes",
    )


def _keys(
    found: list[Found], entries: list[IndexEntry], programs: set[int]
) -> tuple[LayerKey, ...]:
    files = [entry for entry in entries if entry.kind == "file" and entry.size]
    offsets = [entry.offset for entry in files]
    keys = []
    for at, kind, sgx, signer in found:
        index = bisect_right(offsets, at) - 1
        if index >= 0 and at < files[index].offset + files[index].size:
            start = files[index].offset
            path, program = "/" + files[index].path, start in programs
            keys.append(LayerKey(path, at - start, kind, program, sgx, signer))
        else:
            keys.append(LayerKey("", at, kind, False, sgx, signer))
    return tuple(keys)


# -- the saved form: a line with the SHA-256 of what follows, then JSON


def dump_index(index: LayerIndex) -> bytes:
    """The bytes an index is saved as."""
    body = json.dumps(
        {
            "version": _VERSION,
            "diff_id": index.diff_id,
            "entries": index.entries,
            "keys": index.keys,
        },
        separators=(",", ":"),
    ).encode("ascii")
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def parse_index(data: bytes) -> LayerIndex | None:
    """The index that was saved as these bytes; None when they are damaged or of another version."""
    body = memoryview(data)[65:]
    if data[64:65] != b"\n" or hashlib.sha256(body).hexdigest().encode() != data[:64]:
        return None
    try:
        value: dict[str, Any] = json.loads(bytes(body))
        if value["version"] != _VERSION:
            return None
        make: Callable[[Any], IndexEntry] = IndexEntry._make
        entries = tuple(map(make, value["entries"]))
        keys = tuple(LayerKey(*item) for item in value["keys"])
        return LayerIndex(check_digest(value["diff_id"], "index"), entries, keys)
    except (ValueError, KeyError, TypeError, RecursionError, InputError):
        return None


def _from_cache(descriptor: Descriptor, cache: Cache) -> LayerIndex | None:
    data = cache.layer_index(descriptor.digest)
    if data is None:
        return None
    index = parse_index(data)
    if index is None:
        cache.forget_layer_index(descriptor.digest)
    return index
