"""Images into an engine (``--load``), without the layers that it has.

Docker reads a layer's file only if it does not know the layer's chain id (moby, image/tarexport/
load.go), so the file may be missing. Podman and Docker's containerd store are given an OCI layout
and look a layer up by its digest before they read it. An engine that refuses, or takes an image
with a hole, gets everything.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from imagekit.errors import EngineError, InputError
from imagekit.images.daemon.connect import Daemon
from imagekit.images.daemon.faults import NO_SPACE, RefusedError, engine_text, hint_for
from imagekit.images.daemon.images import (
    expected_id,
    inspect_image,
    known_prefix,
    layers_of,
    tag_image,
)
from imagekit.images.oci import OCI_INDEX, ZSTD_LAYERS, Descriptor, Image, compact_json
from imagekit.images.progress import Advance, Progress
from imagekit.images.streams import read_blocks
from imagekit.images.tarwrite import END, REGULAR, Member, header, padding

_ZSTD_API = (1, 42)  # Docker Engine 23


class Loaded(NamedTuple):
    """What became of an image.

    Attributes:
        image_id: the id the engine has for it.
        sent: bytes sent to the engine.
        present: bytes of layers that the engine had.
        already: whether nothing had to be done.
        note: what went otherwise than it should, one line, or "".
    """

    image_id: str
    sent: int
    present: int
    already: bool
    note: str = ""


def load_image(daemon: Daemon, image: Image, names: Sequence[str], progress: Progress) -> Loaded:
    """Bring an image into an engine and give it names.

    A name moves only when the whole image is there and has the id it must have.

    Args:
        daemon: the engine.
        image: the image.
        names: its names, with tags.
        progress: told the bytes that are sent.

    Raises:
        EngineError: the engine refuses, has no room, or makes another image of it.
        InputError: a blob is missing or unreadable.
    """
    total = sum(layer.size for layer in image.layers)
    wanted = expected_id(daemon, image)
    with daemon.talk(f"take the image {names[0] if names else wanted}", patient=True) as client:
        if _complete(daemon, client, image, wanted) is None:
            others = [name for name in names if not _has_name(client, name, wanted)]
            for name in others:
                tag_image(client, wanted, name)
            return Loaded(wanted, 0, total, not others)
        known = known_prefix(client, image)
    sent, note = 0, ""
    if known:
        sent, problem = _try(daemon, image, known, wanted, progress)
        if problem is not None:
            note = f"{daemon.name} wants all layers: {problem}"
            known = 0
    if not known:
        more, problem = _send(daemon, image, 0, wanted, progress)
        sent += more
        if problem is not None:
            raise EngineError(
                f"{daemon} made another image of {names[0] if names else wanted}: {problem}",
                "check the engine, or push the image to a registry and pull it there",
            )
    with daemon.talk("name the image") as client:
        for name in names:
            tag_image(client, wanted, name)
    return Loaded(wanted, sent, sum(layer.size for layer in image.layers[:known]), False, note)


def _has_name(client: Any, name: str, wanted: str) -> bool:
    found = inspect_image(client, name)
    return found is not None and found["Id"] == wanted


def _complete(daemon: Daemon, client: Any, image: Image, wanted: str) -> str | None:
    """What keeps the engine's image from being ours; None if it is."""
    found = inspect_image(client, wanted)
    if found is None:
        return f"there is no {wanted}"
    if found["Id"] != wanted:
        return f"it has the id {found['Id']}, not {wanted}"
    if layers_of(found) != image.diff_ids:
        return "it has other layers"
    return None


def _try(
    daemon: Daemon, image: Image, known: int, wanted: str, progress: Progress
) -> tuple[int, str | None]:
    """Send without the known layers; an engine's refusal is told, not raised."""
    try:
        return _send(daemon, image, known, wanted, progress)
    except RefusedError as error:
        if NO_SPACE.search(error.problem):
            raise
        return 0, error.problem


def _send(
    daemon: Daemon, image: Image, known: int, wanted: str, progress: Progress
) -> tuple[int, str | None]:
    """Send the image; gives the bytes and what is wrong with what arrived."""
    layers = image.layers[known:]
    layout = daemon.podman or daemon.containerd_store
    count = _Count()
    label = f"loading into {daemon.name}"
    with (
        progress.task(label, sum(layer.size for layer in layers)) as advance,
        daemon.talk("load the image", patient=True) as client,
    ):
        parts = _oci_layout(image, layers) if layout else _docker_archive(daemon, image, known)
        engine: Any = client  # docker-py leaves load_image without types
        for line in engine.load_image(count.passing(parts, advance)):
            if "error" in line or "errorDetail" in line:
                raise _refusal(daemon, line)
        return count.bytes, _complete(daemon, client, image, wanted)


def _refusal(daemon: Daemon, line: Any) -> RefusedError:
    """The error an engine writes into its answer, after a status that says all is well."""
    detail = line.get("errorDetail")
    text = engine_text(detail.get("message") if isinstance(detail, dict) else line.get("error"))
    return RefusedError(
        f"{daemon} cannot load the image: {text}",
        hint_for(text, daemon.known_root, "look at the engine's log"),
    )


class _Count:
    """Counts the bytes of a stream that passes by."""

    def __init__(self) -> None:
        self.bytes = 0

    def passing(self, blocks: Iterator[bytes], advance: Advance) -> Iterator[bytes]:
        for block in blocks:
            self.bytes += len(block)
            yield block
            advance(len(block))


def _docker_archive(daemon: Daemon, image: Image, known: int) -> Iterator[bytes]:
    """The image as ``docker save`` writes it, without the files of the lowest layers."""
    config = image.config_descriptor.hex + ".json"
    files = [f"{layer.hex}.tar" for layer in image.layers]
    listed = [{"Config": config, "RepoTags": None, "Layers": files}]
    yield from _file("manifest.json", json.dumps(listed).encode())
    yield from _file(config, image.config)
    sent = set[str]()
    for layer, name in list(zip(image.layers, files, strict=True))[known:]:
        if layer.media_type in ZSTD_LAYERS and _version(daemon) < _ZSTD_API:
            raise EngineError(
                f"{daemon.name} cannot read layer {layer.digest}, which is compressed with zstd",
                "use Docker Engine 23 or later, or a base with gzip layers",
            )
        if name not in sent:
            yield from _blob(name, layer, image)
        sent.add(name)
    yield END


def _oci_layout(image: Image, layers: Sequence[Descriptor]) -> Iterator[bytes]:
    """The image as an OCI layout in a tar, with these layers alone."""
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [image.descriptor.to_json()]}
    yield from _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    yield from _file("index.json", compact_json(index))
    yield from _file(f"blobs/sha256/{image.descriptor.hex}", image.manifest)
    yield from _file(f"blobs/sha256/{image.config_descriptor.hex}", image.config)
    for layer in {layer.digest: layer for layer in layers}.values():
        yield from _blob(f"blobs/sha256/{layer.hex}", layer, image)
    yield END


def _file(name: str, data: bytes) -> Iterator[bytes]:
    yield header(Member(name.encode(), REGULAR, len(data))) + data + padding(len(data))


def _blob(name: str, layer: Descriptor, image: Image) -> Iterator[bytes]:
    yield header(Member(name.encode(), REGULAR, layer.size))
    left = layer.size
    with image.blobs.open_blob(layer.digest) as stream:
        for block in read_blocks(stream, f"layer {layer.digest}"):
            left -= len(block)
            yield block
    if left:
        raise InputError(
            f"layer {layer.digest} does not have {layer.size} bytes",
            "the image is damaged: copy or build it anew",
        )
    yield padding(layer.size)


def _version(daemon: Daemon) -> tuple[int, ...]:
    return tuple(int(part) for part in daemon.api.split("."))
