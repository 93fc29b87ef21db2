"""Reading what registries say an image is: manifests, indexes, platforms, layers."""

import json
from typing import Any

from imagekit.errors import InputError
from imagekit.images.compose import ARCHITECTURE, OS
from imagekit.images.oci import (
    INDEX_TYPES,
    LAYER_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Image,
    json_object,
)

_OURS = f"{OS}/{ARCHITECTURE}"
_KNOWN = INDEX_TYPES | MANIFEST_TYPES
_AGAIN = "the registry's copy is damaged or altered: push the image anew"


def document_type(content_type: str, data: bytes, where: str) -> str:
    """Give the media type of a manifest or index.

    The header, the document's own ``mediaType`` and its fields must agree: a document that can be
    read in two ways may show each reader another image (CVE-2021-41190).

    Args:
        content_type: the header; what is no manifest type counts as not given.
        data: the document.
        where: the reference, for errors.

    Raises:
        InputError: no manifest or index, one of schema 1, or one that contradicts itself.
    """
    value = json_object(data, where)
    if value.get("schemaVersion") == 1 or "fsLayers" in value:
        raise InputError(
            f"{where} is an image of the outdated schema 1",
            "convert it: pull and push it with a current tool, such as skopeo copy --format v2s2",
        )
    is_index, is_manifest = "manifests" in value, "config" in value or "layers" in value
    named = (str(value.get("mediaType")), content_type.partition(";")[0].strip().lower())
    said = _KNOWN.intersection(named)
    if not said and is_index != is_manifest:
        said = frozenset({OCI_INDEX if is_index else OCI_MANIFEST})
    if len(said) != 1 or is_index == is_manifest or is_index != bool(said & INDEX_TYPES):
        raise InputError(f"{where}: the registry gives no image manifest or index", _AGAIN)
    return next(iter(said))


def choose_platform(index: bytes, where: str) -> Descriptor:
    """Give the entry of an index that is for linux/amd64.

    Raises:
        InputError: there is none, or several that differ.
    """
    listed = json_object(index, where).get("manifests")
    if not isinstance(listed, list):
        raise InputError(f"{where}: the index lists no manifests", _AGAIN)
    entries = [
        (_platform(item), Descriptor.from_json(item, where))
        for item in listed
        if isinstance(item, dict) and str(item.get("mediaType")) in _KNOWN
    ]
    found = [item for name, item in entries if name in (_OURS, f"{_OURS}/v1")]
    if not found and len(entries) == 1 and entries[0][0] == "":
        found = [entries[0][1]]
    if not found:
        there = ", ".join(sorted({name for name, _ in entries if name and "unknown" not in name}))
        raise InputError(
            f"{where} has no image for {_OURS}",
            f"name an image for {_OURS}; this one is for: {json.dumps(there)[1:-1] or 'nothing'}",
        )
    if len({item.digest for item in found}) > 1:
        raise InputError(
            f"{where} stands for several different images for {_OURS}",
            "name the one by its digest",
        )
    return found[0]


def check_usable(image: Image, where: str) -> None:
    """Refuse an image of another platform, or one with layers that registries do not hold.

    Raises:
        InputError: it is such an image.
    """
    config = image.config_json
    platform = f"{config.get('os')}/{config.get('architecture')}"
    if platform != _OURS:
        raise InputError(
            f"{where} is an image for {json.dumps(platform)[1:-1]}", f"name an image for {_OURS}"
        )
    for layer in image.layers:
        if "foreign" in layer.media_type or "nondistributable" in layer.media_type:
            raise InputError(
                f"{where}: layer {layer.digest} is not in the registry but at another address, as "
                "its owner permits no copies",
                "use an image without non-distributable layers",
            )
        if layer.media_type not in LAYER_TYPES:
            raise InputError(
                f"{where}: layer {layer.digest} has the media type "
                f"{json.dumps(layer.media_type[:100])}, which is not supported",
                "use an image with plain, gzip or zstd layers",
            )


def _platform(entry: dict[str, Any]) -> str:
    value = entry.get("platform")
    if not isinstance(value, dict):
        return ""
    parts = (value.get("os"), value.get("architecture"), value.get("variant"))
    return "/".join(str(part) for part in parts if part)
