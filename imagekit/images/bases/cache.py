"""What the assembler remembers: which layer and which image belong to which inputs.

Records are small JSON files in the cache, named by the hash of the inputs and written atomically. A
record whose blobs are gone, or that is damaged, counts as absent: the work is done again.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imagekit.errors import InputError
from imagekit.files import remove_stale, write_atomically
from imagekit.images.bases.lock import package_from_json, package_json
from imagekit.images.bases.packages import Package
from imagekit.images.bases.repack import Node
from imagekit.images.cache import Cache
from imagekit.images.layers import Layer
from imagekit.images.oci import (
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    BlobChain,
    Descriptor,
    Image,
    check_digest,
    compact_json,
    read_image,
)
from imagekit.images.tarwrite import DIRECTORY

_SCHEMA = 1


@dataclass(frozen=True)
class LayerRecord:
    """A layer in the cache and what the layers above need to know of it.

    Attributes:
        layer: the layer.
        packages: its packages (distribution only).
        special: directories that are not root's with mode 0755, by path without leading slash.
        links: symbolic links, path without leading slash to target.
        standin: whether a stand-in for Gramine is in it.
    """

    layer: Layer
    packages: tuple[Package, ...] = ()
    special: dict[str, Node] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    standin: bool = False


class BaseCache:
    """The assembler's records in one cache."""

    def __init__(self, cache: Cache) -> None:
        self.blobs = cache.blobs
        self.folder = cache.folder("bases")
        remove_stale(self.folder)

    def key(self, kind: str, inputs: dict[str, object]) -> str:
        """Give the name of a record: its kind and the SHA-256 of the inputs' canonical JSON."""
        return f"{kind}-{hashlib.sha256(compact_json(inputs)).hexdigest()}"

    def lock_path(self, key: str) -> Path:
        """Give the file that processes lock while they make what ``key`` names."""
        return self.folder / f"{key}.lock"

    def layer(self, key: str) -> LayerRecord | None:
        """Give the layer recorded under ``key``, if its blob is still there."""
        value = self._load(key)
        with suppress(KeyError, TypeError, ValueError, InputError, AttributeError):
            digest, size = check_digest(value["digest"], key), int(value["size"])
            diff_id = check_digest(value["diff_id"], key)
            if self.blobs.has(digest, size):
                return LayerRecord(
                    Layer(Descriptor(OCI_LAYER_GZIP, digest, size), diff_id),
                    tuple(package_from_json(item) for item in value["packages"]),
                    {
                        path: Node(DIRECTORY, mode, uid, gid)
                        for path, (mode, uid, gid) in value["special"].items()
                    },
                    dict(value["links"]),
                    bool(value["standin"]),
                )
        return None

    def save_layer(self, key: str, record: LayerRecord) -> None:
        """Record a layer.

        Raises:
            InputError: the disk refuses.
        """
        descriptor = record.layer.descriptor
        value = {
            "diff_id": record.layer.diff_id,
            "digest": descriptor.digest,
            "links": record.links,
            "packages": [package_json(package) for package in record.packages],
            "size": descriptor.size,
            "special": {
                path: [node.mode, node.uid, node.gid] for path, node in record.special.items()
            },
            "standin": record.standin,
        }
        self._save(key, value)

    def image(self, key: str, below: Image | None = None) -> Image | None:
        """Give the image recorded under ``key``, if all of its blobs are still there.

        Args:
            key: its name.
            below: the image it is made on, which has its own blobs.
        """
        value = self._load(key)
        known = {layer.digest for layer in below.layers} if below is not None else set()
        with suppress(KeyError, TypeError, ValueError, InputError):
            descriptor = Descriptor(OCI_MANIFEST, value["digest"], value["size"])
            image = read_image(descriptor, self.blobs)
            own = [layer for layer in image.layers if layer.digest not in known]
            if all(self.blobs.has(layer.digest, layer.size) for layer in own):
                if below is None:
                    return image
                return replace(image, blobs=BlobChain((self.blobs, below.blobs)))
        return None

    def save_image(self, key: str, image: Image) -> None:
        """Record an image.

        Raises:
            InputError: the disk refuses.
        """
        self._save(key, {"digest": image.descriptor.digest, "size": image.descriptor.size})

    def _load(self, key: str) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            value = json.loads((self.folder / f"{key}.json").read_bytes())
            if isinstance(value, dict) and value.get("schema") == _SCHEMA:
                return value
        return {}

    def _save(self, key: str, value: dict[str, Any]) -> None:
        text = json.dumps({**value, "schema": _SCHEMA}, sort_keys=True)
        write_atomically(self.folder / f"{key}.json", text.encode())
