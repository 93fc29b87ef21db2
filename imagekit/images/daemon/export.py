"""Images out of an engine: what ``docker save`` gives, streamed into the cache once."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagekit.errors import EngineError, ImagekitError, InputError
from imagekit.files import locked, remove_stale, write_atomically
from imagekit.images.archives import read_docker_stream
from imagekit.images.cache import Cache
from imagekit.images.compose import ARCHITECTURE, OS
from imagekit.images.daemon.connect import Daemon
from imagekit.images.daemon.faults import engine_text
from imagekit.images.daemon.images import inspect_image, unknown_image
from imagekit.images.oci import Descriptor, Image, check_digest, compact_json, read_image
from imagekit.images.progress import Advance, Progress
from imagekit.images.references import DaemonReference
from imagekit.images.store import BLOCK

_TAIL = 4096
_ERROR = b'{"errorDetail":'


def export_image(
    daemon: Daemon, reference: DaemonReference, cache: Cache, progress: Progress
) -> Image:
    """Bring an image of an engine into the cache.

    It is read once, without a copy on the way, and remembered by its id: as long as its blobs are
    in the cache the engine is only asked for the id. Of several runs at once one reads.

    Args:
        daemon: the engine.
        reference: name and tag, name and digest, or id.
        cache: where its blobs go.
        progress: told the bytes that come.

    Raises:
        EngineError: the engine has no such image, or fails; nothing half-written is left.
        InputError: the image is for another platform or damaged, or the cache cannot be written.
    """
    with daemon.talk(f"look at the image {reference.name}") as client:
        found = inspect_image(client, reference.name)
        if found is None:
            raise unknown_image(client, daemon, reference.name)
    platform = (found.get("Os"), found.get("Architecture"))
    if platform != (OS, ARCHITECTURE):
        raise InputError(
            f"{reference}: the image is for {platform[0]}/{platform[1]}",
            f"name an image for {OS}/{ARCHITECTURE} (docker pull --platform {OS}/{ARCHITECTURE})",
        )
    image_id = check_digest(found["Id"], str(reference))
    memory = cache.folder("engines") / image_id.removeprefix("sha256:")
    image = _remembered(memory, cache)
    if image is not None:
        return image
    with locked(memory.with_suffix(".lock")):
        image = _remembered(memory, cache)  # another run may have been quicker
        if image is None:
            label = f"reading {reference} from {daemon.name}"
            with progress.task(label, found.get("Size")) as advance:
                image = _save(daemon, image_id, str(reference), cache, advance)
            remove_stale(memory.parent)
            write_atomically(memory, compact_json(image.descriptor.to_json()))
    return image


def _remembered(memory: Path, cache: Cache) -> Image | None:
    """The image that was exported before, if all of its blobs are still there."""
    with suppress(OSError, ValueError, InputError):
        value: Any = json.loads(memory.read_bytes())
        image = read_image(Descriptor.from_json(value, str(memory)), cache.blobs)
        if all(cache.blobs.has(layer.digest, layer.size) for layer in image.layers):
            return image
    return None


def _save(daemon: Daemon, image_id: str, where: str, cache: Cache, advance: Advance) -> Image:
    last = _Last()
    with daemon.talk(f"save {where}", patient=True) as client:
        blocks = last.passing(client.get_image(image_id, chunk_size=BLOCK), advance)
        try:
            return read_docker_stream(blocks, image_id, where, cache)
        except ImagekitError:
            said = last.error()
            if said is None:
                raise
            # moby writes an error that comes in the middle into the archive
            raise EngineError(
                f"{daemon} cannot save {where}: {said}", "look at the engine's log"
            ) from None


class _Last:
    """Remembers the end of a stream that passes by."""

    def __init__(self) -> None:
        self._tail = b""

    def passing(self, blocks: Iterator[bytes], advance: Advance) -> Iterator[bytes]:
        for block in blocks:
            self._tail = (self._tail + block)[-_TAIL:] if len(block) < _TAIL else block[-_TAIL:]
            advance(len(block))
            yield block

    def error(self) -> str | None:
        """The error the engine wrote at the end, if it did."""
        _, mark, rest = self._tail.rpartition(_ERROR)
        with suppress(ValueError, AttributeError):
            value = json.loads(_ERROR + rest) if mark else {}
            message = value.get("error") or (value.get("errorDetail") or {}).get("message")
            return engine_text(message) if message else None
        return None
