"""Values of the OCI image format: descriptors, images, media types, digests.

Sources: OCI image specification 1.0 (descriptor.md, manifest.md, config.md, media-types.md) and the
Docker image manifest version 2, schema 2, which bases pulled from Docker Hub still use.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, Protocol

from imagekit.errors import InputError

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
OCTET_STREAM = "application/octet-stream"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
TO_OCI = {
    DOCKER_LIST: OCI_INDEX,
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    DOCKER_LAYER_ZSTD: OCI_LAYER_ZSTD,
}
"""Docker's media types and the OCI types with the same content."""

PLAIN_LAYERS = frozenset({OCI_LAYER, DOCKER_LAYER})
GZIP_LAYERS = frozenset({OCI_LAYER_GZIP, DOCKER_LAYER_GZIP})
ZSTD_LAYERS = frozenset({OCI_LAYER_ZSTD, DOCKER_LAYER_ZSTD})
LAYER_TYPES = PLAIN_LAYERS | GZIP_LAYERS | ZSTD_LAYERS

DOCUMENT_LIMIT = 16 << 20
"""Largest manifest, index or config (bytes) that is read; registries allow 4 MiB."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def check_digest(text: object, where: str) -> str:
    """A digest as it was given, when it is one: ``sha256:`` and 64 lower-case hex digits.

    Args:
        text: the claimed digest.
        where: the document it stands in, for the error.

    Raises:
        InputError: it is something else. Other algorithms that OCI permits (sha512) are refused.
    """
    if isinstance(text, str) and _DIGEST.fullmatch(text):
        return text
    raise InputError(
        f"{where}: not a SHA-256 digest: {str(text)[:100]!r}",
        "the image is damaged or uses another digest algorithm: copy it anew with sha256 digests",
    )


def digest_of(data: bytes) -> str:
    """``sha256:<64 lower-case hex>`` of the data."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compact_json(value: object) -> bytes:
    """JSON text with sorted keys, no spaces and plain UTF-8: one text for one value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def json_value(data: bytes, where: str) -> Any:
    """Parse JSON.

    Raises:
        InputError: not JSON; names ``where``.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: not valid JSON", "the file is damaged: copy or build the image anew"
        ) from error


def json_object(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        InputError: not JSON, or not an object; names ``where``.
    """
    value = json_value(data, where)
    if not isinstance(value, dict):
        raise InputError(
            f"{where}: a JSON object was expected",
            "the file is damaged: copy or build the image anew",
        )
    return value


@dataclass(frozen=True)
class Descriptor:
    """What points to a blob (OCI descriptor.md).

    ``digest`` is ``sha256:<hex>``, ``size`` is in bytes, ``annotations`` may be empty.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def hex(self) -> str:
        """The 64 hex digits of the digest."""
        return self.digest.removeprefix("sha256:")

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the descriptor."""
        value: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value

    @classmethod
    def from_json(cls, value: object, where: str) -> "Descriptor":
        """Read a descriptor out of a parsed JSON value.

        Raises:
            InputError: a field is missing or of the wrong type; names ``where``.
        """
        if not isinstance(value, dict):
            raise _bad(where, "a descriptor must be an object")
        media_type, size = value.get("mediaType"), value.get("size")
        annotations = value.get("annotations") or {}
        if not isinstance(media_type, str):
            raise _bad(where, "a descriptor has no mediaType")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise _bad(where, "a descriptor has no valid size")
        if not _is_string_map(annotations):
            raise _bad(where, "annotations must map strings to strings")
        return cls(media_type, check_digest(value.get("digest"), where), size, annotations)


class BlobSource(Protocol):
    """Something that holds blobs and opens them by digest."""

    def open_blob(self, digest: str) -> BinaryIO:
        """Open a blob for reading from its first byte.

        Raises:
            InputError: the blob is not there or cannot be read.
        """
        ...


@dataclass(frozen=True)
class BlobChain:
    """Several sources as one: the first that has a blob gives it."""

    sources: tuple[BlobSource, ...]

    def open_blob(self, digest: str) -> BinaryIO:
        """Open a blob in the first source that has it.

        Raises:
            InputError: none has it (the last one's error).
        """
        for source in self.sources[:-1]:
            try:
                return source.open_blob(digest)
            except InputError:
                continue
        return self.sources[-1].open_blob(digest)


@dataclass(frozen=True)
class Image:
    """One image for one platform.

    Attributes:
        descriptor: of the manifest.
        manifest: the manifest's bytes as they stand in the store.
        config: the config's bytes as they stand in the store.
        layers: the layers' descriptors, lowest first.
        blobs: where the layers can be opened.
    """

    descriptor: Descriptor
    manifest: bytes = field(repr=False)
    config: bytes = field(repr=False)
    layers: tuple[Descriptor, ...]
    blobs: BlobSource = field(repr=False, compare=False)

    @property
    def digest(self) -> str:
        """The image's digest: that of its manifest."""
        return self.descriptor.digest

    @cached_property
    def manifest_json(self) -> dict[str, Any]:
        """The manifest, parsed. Not to be changed."""
        return json_object(self.manifest, f"manifest {self.digest}")

    @cached_property
    def config_json(self) -> dict[str, Any]:
        """The config, parsed. Not to be changed."""
        return json_object(self.config, f"config of image {self.digest}")

    @property
    def config_descriptor(self) -> Descriptor:
        """The descriptor of the config."""
        return Descriptor.from_json(self.manifest_json.get("config"), f"manifest {self.digest}")

    @property
    def run_config(self) -> dict[str, Any]:
        """The ``config`` object inside the config (Env, Entrypoint, Labels …), {} if absent."""
        value = self.config_json.get("config") or {}
        if not isinstance(value, dict):
            raise _bad(f"config of image {self.digest}", "its config field must be an object")
        return value

    @property
    def labels(self) -> dict[str, str]:
        """The labels."""
        value = self.run_config.get("Labels") or {}
        if not _is_string_map(value):
            raise _bad(f"config of image {self.digest}", "Labels must map strings to strings")
        return dict(value)

    @property
    def env(self) -> dict[str, str]:
        """The environment in the image's order, name to value; the last of two equal names wins."""
        result: dict[str, str] = {}
        for item in self._strings("Env"):
            name, _, value = item.partition("=")
            result[name] = value
        return result

    @property
    def entrypoint(self) -> tuple[str, ...]:
        """The entry point's words; () if none."""
        return self._strings("Entrypoint")

    @property
    def command(self) -> tuple[str, ...]:
        """The words of Cmd; () if none."""
        return self._strings("Cmd")

    @property
    def created(self) -> str | None:
        """The creation time as it is written in the config (RFC 3339), or None."""
        value = self.config_json.get("created")
        return value if isinstance(value, str) else None

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The digests of the uncompressed layers, lowest first, as many as there are layers."""
        where = f"config of image {self.digest}"
        rootfs = self.config_json.get("rootfs")
        found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        if not isinstance(found, list):
            raise _bad(where, "rootfs.diff_ids is missing")
        if len(found) != len(self.layers):
            raise _bad(where, f"{len(found)} diff_ids for {len(self.layers)} layers")
        return tuple(check_digest(item, where) for item in found)

    def _strings(self, name: str) -> tuple[str, ...]:
        value = self.run_config.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _bad(f"config of image {self.digest}", f"{name} must be a list of strings")
        return tuple(value)


def read_image(descriptor: Descriptor, blobs: BlobSource) -> Image:
    """Read an image's manifest and config, and check their sizes and digests.

    Raises:
        InputError: a document is missing, altered, of an unknown type, or inconsistent in itself.
    """
    if descriptor.media_type not in MANIFEST_TYPES:
        raise InputError(
            f"{descriptor.digest} is no image manifest but {descriptor.media_type!r}",
            "name an image in OCI or Docker schema 2 form (skopeo copy converts older ones)",
        )
    manifest = read_document(descriptor, blobs, "manifest")
    where = f"manifest {descriptor.digest}"
    value = json_object(manifest, where)
    config_descriptor = Descriptor.from_json(value.get("config"), where)
    if config_descriptor.media_type not in CONFIG_TYPES:
        raise InputError(
            f"{where}: its config is {config_descriptor.media_type!r}, not that of an image",
            "this is another kind of artifact: name a container image",
        )
    listed = value.get("layers")
    if not isinstance(listed, list):
        raise _bad(where, "the list of layers is missing")
    layers = tuple(Descriptor.from_json(item, where) for item in listed)
    config = read_document(config_descriptor, blobs, "config")
    image = Image(descriptor, manifest, config, layers, blobs)
    _ = image.diff_ids  # says now, not later, when the two documents disagree
    return image


def read_document(descriptor: Descriptor, blobs: BlobSource, what: str) -> bytes:
    """Read a small blob whole and check its size and digest.

    Raises:
        InputError: it is missing, larger than DOCUMENT_LIMIT, or not what the descriptor says.
    """
    where = f"{what} {descriptor.digest}"
    if descriptor.size > DOCUMENT_LIMIT:
        raise _bad(where, f"{descriptor.size} bytes are too many for a {what}")
    with blobs.open_blob(descriptor.digest) as stream:
        try:
            data = stream.read(descriptor.size + 1)
        except OSError as error:
            raise _bad(where, "the blob cannot be read") from error
    if len(data) != descriptor.size or digest_of(data) != descriptor.digest:
        raise _bad(where, "the blob's content does not have this digest and size")
    return data


def _is_string_map(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(item, str) for key, item in value.items()
    )


def _bad(where: str, problem: str) -> InputError:
    return InputError(f"{where}: {problem}", "the image is damaged: copy or build it anew")
