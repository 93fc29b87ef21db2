"""Images in one tar: ``oci-archive`` (a layout), ``docker-archive`` and a stream (docker save).

One pass streams every file of the archive into the cache's blob store. What was where in a file is
remembered under its path, size and times, so an archive that did not change is not unpacked again.
"""

import hashlib
import json
import posixpath
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagekit.errors import InputError
from imagekit.files import disk_error, write_atomically
from imagekit.images.cache import Cache
from imagekit.images.compose import ARCHITECTURE, OS
from imagekit.images.layout import OciLayout
from imagekit.images.oci import (
    DOCUMENT_LIMIT,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Image,
    compact_json,
    json_value,
    read_document,
    read_image,
)
from imagekit.images.streams import decompress, read_blocks, sniff
from imagekit.images.tarread import TarReader

_LAYER_TYPES = {"plain": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}
_MEMBERS = 1_000_000
_LINKS = 8


def open_oci_archive(path: Path, tag: str | None, cache: Cache) -> Image:
    """The image in a tar of an OCI layout.

    Raises:
        InputError: the file is missing, damaged or holds no such image.
    """
    members, where = _unpack(path, cache), str(path)
    _need(members, "oci-layout", where, "an OCI archive")
    return _from_layout(members, tag, where, cache)


def open_docker_archive(path: Path, tag: str | None, cache: Cache) -> Image:
    """The image in a file that ``docker save`` wrote, of an old Docker or a new one.

    Its layers may be plain or compressed tars, and links to one another. The image gets an OCI
    manifest, because such a file has none.

    Raises:
        InputError: the file is missing, damaged or holds no such image.
    """
    members, where = _unpack(path, cache), str(path)
    _need(members, "manifest.json", where, "a docker archive")
    return _from_manifest(members, tag, where, cache)


def read_docker_stream(blocks: Iterator[bytes], image_id: str, where: str, cache: Cache) -> Image:
    """The one image in what an engine saves, read as it comes.

    An engine names an image by the digest of its config, or, where containerd keeps the images, by
    that of its manifest or index. Then the archive has that manifest, and the image keeps it.

    Args:
        blocks: the tar, in pieces of any size.
        image_id: the id the engine has for the image.
        where: what the image is called in errors.
        cache: where its blobs go.

    Raises:
        InputError: the stream is damaged, ends too early or holds another image.
    """
    members = _take(TarReader(blocks, where, require_end=True), where, cache)
    _need(members, "manifest.json", where, "an image")
    if "index.json" in members.files:
        index = json_value(_document(members, "index.json", where, cache), where)
        listed = index.get("manifests") if isinstance(index, dict) else None
        items = listed if isinstance(listed, list) else []
        if any(isinstance(item, dict) and item.get("digest") == image_id for item in items):
            return _from_layout(members, image_id, where, cache)
    image = _from_manifest(members, None, where, cache)
    if image.config_descriptor.digest != image_id:
        raise _damaged(where, f"the image {image.config_descriptor.digest} came instead")
    return image


def _from_layout(members: "_Members", tag: str | None, where: str, cache: Cache) -> Image:
    index = _document(members, "index.json", where, cache)
    for name, digest in sorted(members.files.items()):
        folder, _, hexdigits = name.rpartition("/")
        if folder == "blobs/sha256" and digest.hex != hexdigits:
            raise InputError(
                f"{where}: blob sha256:{hexdigits} has the digest {digest.digest}",
                "the archive is damaged: copy or build it anew",
            )
    return OciLayout.from_archive(Path(where), index, cache.blobs).image(tag)


def _from_manifest(members: "_Members", tag: str | None, where: str, cache: Cache) -> Image:
    text = _document(members, "manifest.json", where, cache)
    chosen = _choose(json_value(text, f"{where}: manifest.json"), tag, where)
    config = members.find(chosen.get("Config"), where)
    name = posixpath.basename(str(chosen["Config"])).removesuffix(".json")
    if len(name) == 64 and name != config.hex:
        raise InputError(
            f"{where}: the config {name} has the digest {config.digest}",
            "the archive is damaged: save the image anew",
        )
    paths = chosen.get("Layers")
    if not isinstance(paths, list):
        raise _damaged(where, "manifest.json lists no layers")
    layers = [_layer(members.find(item, where), cache) for item in paths]
    config = Descriptor(OCI_CONFIG, config.digest, config.size)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    image = read_image(cache.blobs.add_bytes(compact_json(manifest), OCI_MANIFEST), cache.blobs)
    for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
        if layer.media_type == OCI_LAYER and layer.digest != diff_id:
            raise InputError(
                f"{where}: a layer has the digest {layer.digest}, its config says {diff_id}",
                "the archive is damaged: save the image anew",
            )
    platform = (image.config_json.get("os"), image.config_json.get("architecture"))
    if platform != (OS, ARCHITECTURE):
        raise InputError(
            f"{where}: the image is for {platform[0]}/{platform[1]}",
            f"name an image for {OS}/{ARCHITECTURE}",
        )
    return image


class _Members:
    """An archive's files as descriptors, and its links."""

    def __init__(self, files: dict[str, Descriptor], links: dict[str, str]) -> None:
        self.files = files
        self.links = links

    def find(self, name: object, where: str) -> Descriptor:
        """The file with that name, links followed.

        Raises:
            InputError: it is not in the archive.
        """
        here = name if isinstance(name, str) else ""
        for _ in range(_LINKS):
            here = posixpath.normpath(here)
            if here in self.files:
                return self.files[here]
            if here not in self.links:
                break
            here = self.links[here]
        raise _damaged(where, f"{str(name)[:200]!r} is not in the archive")


def _unpack(path: Path, cache: Cache) -> _Members:
    """The archive's files, all of them in the cache's blob store."""
    try:
        status = path.stat()
        where = f"{path.absolute()}\n{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        stamp = hashlib.sha256(f"{where} {status.st_ino}".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise disk_error(error, path, "read") from error
    memory = cache.folder("archives") / stamp.hexdigest()
    members = _remembered(memory, cache)
    if members is None:
        members = _stream(path, cache)
        files = {name: [item.digest, item.size] for name, item in members.files.items()}
        write_atomically(memory, compact_json({"files": files, "links": members.links}))
    return members


def _remembered(memory: Path, cache: Cache) -> _Members | None:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        value: dict[str, Any] = json.loads(memory.read_bytes())
        files = {
            name: Descriptor("", digest, size) for name, (digest, size) in value["files"].items()
        }
        if all(cache.blobs.has(item.digest, item.size) for item in files.values()):
            return _Members(files, value["links"])
    return None


def _stream(path: Path, cache: Cache) -> _Members:
    where = str(path)
    try:
        with path.open("rb") as stream:
            blocks = _uncompressed(read_blocks(stream, where), where)
            return _take(TarReader(blocks, where), where, cache)
    except OSError as error:
        raise disk_error(error, path, "read") from error


def _take(reader: TarReader, where: str, cache: Cache) -> _Members:
    """Take every file of a tar into the blob store."""
    files: dict[str, Descriptor] = {}
    links: dict[str, str] = {}
    for count, member in enumerate(reader):
        if count > _MEMBERS:
            raise _damaged(where, f"more than {_MEMBERS} files")
        if member.kind == "0":
            with cache.blobs.writer() as writer:
                for piece in reader.content():
                    writer.write(piece)
                files[member.path] = writer.commit("")
        elif member.kind == "1":
            links[member.path] = member.link
        elif member.kind == "2":
            folder = posixpath.dirname(member.path)
            links[member.path] = posixpath.join(folder, member.link)
    return _Members(files, links)


def _uncompressed(blocks: Iterator[bytes], where: str) -> Iterator[bytes]:
    first = next(blocks, b"")

    def whole() -> Iterator[bytes]:
        yield first
        yield from blocks

    return decompress(whole(), sniff(first), where)


def _layer(found: Descriptor, cache: Cache) -> Descriptor:
    with cache.blobs.open_blob(found.digest) as stream:
        form = sniff(stream.read(8))
    return Descriptor(_LAYER_TYPES.get(form, OCI_LAYER), found.digest, found.size)


def _choose(listed: Any, tag: str | None, where: str) -> dict[str, Any]:
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise _damaged(where, "manifest.json is no list of images")
    names: dict[str, dict[str, Any]] = {}
    for item in listed:
        tags = item.get("RepoTags") or []
        if not isinstance(tags, list) or not all(isinstance(name, str) for name in tags):
            raise _damaged(where, "RepoTags in manifest.json is no list of names")
        names |= dict.fromkeys(tags, item)
    if tag is None and len(listed) == 1:
        only: dict[str, Any] = listed[0]
        return only
    wanted = [item for name, item in names.items() if tag in (name, name.rpartition(":")[2])]
    exact = [item for name, item in names.items() if tag and _short(tag) == _short(name)]
    wanted = exact or wanted
    if len(wanted) != 1:
        known = ", ".join(sorted(names)) or "none"
        problem = f"no image {where}:{tag}" if tag else f"{where} holds several images"
        raise InputError(problem, f"name one as docker-archive:FILE:NAME; names: {known}")
    return wanted[0]


def _short(name: str) -> str:
    """A name as people write it: tools differ in whether they spell Docker Hub out."""
    return name.removeprefix("docker.io/").removeprefix("library/")


def _document(members: _Members, name: str, where: str, cache: Cache) -> bytes:
    found = members.find(name, where)
    if found.size > DOCUMENT_LIMIT:
        raise _damaged(where, f"{name} has {found.size} bytes")
    return read_document(found, cache.blobs, name)


def _need(members: _Members, name: str, where: str, what: str) -> None:
    if name not in members.files and name not in members.links:
        raise InputError(
            f"{where} is not {what}: {name} is missing",
            "check the file, or name its true transport",
        )


def _damaged(where: str, problem: str) -> InputError:
    return InputError(f"{where}: {problem}", "the archive is damaged: save or copy the image anew")
