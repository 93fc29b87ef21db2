"""New images: one from layers alone, and one that puts a layer on top of a base.

Manifest and config are written as compact JSON with sorted keys, so the same inputs give the same
digest.
"""

import copy
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from imagekit.errors import InputError
from imagekit.images.layers import Layer
from imagekit.images.oci import (
    LAYER_TYPES,
    OCI_CONFIG,
    OCI_MANIFEST,
    TO_OCI,
    BlobChain,
    Descriptor,
    Image,
    compact_json,
)
from imagekit.images.store import BlobStore

OS, ARCHITECTURE = "linux", "amd64"
"""The one platform SGX enclaves run on."""

_BUILDER_FIELDS = ("container", "container_config", "docker_version")
"""What Docker's config says of the container a base was made in; no part of an OCI config."""


def rfc3339(epoch: int) -> str:
    """Seconds since 1970 as ``2024-01-31T12:00:00Z``.

    Raises:
        InputError: before 1970 or after the year 9999.
    """
    try:
        if epoch < 0:
            raise ValueError(epoch)
        return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"the epoch {epoch} is no usable time", "set SOURCE_DATE_EPOCH to seconds since 1970"
        ) from error


def new_image(
    layers: Sequence[Layer],
    store: BlobStore,
    *,
    created: int,
    history: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] | None = None,
    command: Sequence[str] | None = None,
    user: str | None = None,
    workdir: str | None = None,
) -> Image:
    """An image of these layers, lowest first; manifest and config go into the store.

    Args:
        layers: written layers, in the store.
        store: where manifest and config go.
        created: seconds since 1970.
        history: one line per layer saying how it was made; missing ones stay empty.
        labels: the labels.
        env: environment variables, in this order.
        entrypoint: words of the entry point.
        command: words of Cmd.
        user: as in ``user``, ``uid`` or ``uid:gid``.
        workdir: the working directory.

    Raises:
        InputError: the store cannot be written to, or the time is unusable.
    """
    config: dict[str, Any] = {
        "architecture": ARCHITECTURE,
        "os": OS,
        "created": rfc3339(created),
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [
            _history(created, history[index] if index < len(history) else "")
            for index in range(len(layers))
        ],
    }
    _configure(config, labels, env, entrypoint, command, user, workdir)
    return _store_image(config, tuple(layer.descriptor for layer in layers), {}, store, None)


def append(
    base: Image,
    layer: Layer,
    store: BlobStore,
    *,
    created: int,
    history: str,
    under: Sequence[tuple[Layer, str]] = (),
    labels: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] | None = None,
    command: Sequence[str] | None = None,
    user: str | None = None,
    workdir: str | None = None,
) -> Image:
    """The base with one more layer on top, or several.

    Args:
        base: the image below.
        layer: a written layer, in the store.
        store: where manifest and config go; the base's blobs stay where they are.
        created: seconds since 1970, the creation time of the new image.
        history: one line saying how the layer was made.
        under: further layers between base and layer, lowest first, each with such a line.
        labels: labels to add or replace.
        env: environment variables to add or replace.
        entrypoint: words of the new entry point.
        command: words of the new Cmd.
        user: the new user.
        workdir: the new working directory.

    Raises:
        InputError: as for :func:`derive_image`, which says how the two are put together.
    """
    return derive_image(
        base,
        [*under, (layer, history)],
        store,
        created=created,
        labels=labels,
        env=env,
        entrypoint=entrypoint,
        command=command,
        user=user,
        workdir=workdir,
    )


def derive_image(
    base: Image,
    added: Sequence[tuple[Layer, str]],
    store: BlobStore,
    *,
    created: int,
    labels: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    entrypoint: Sequence[str] | None = None,
    command: Sequence[str] | None = None,
    user: str | None = None,
    workdir: str | None = None,
) -> Image:
    """The base with further layers, or with other settings alone.

    The base's layers keep their digests. Labels and environment are merged into the base's, the
    others replace the base's where given. As with Docker, a new entry point clears the base's Cmd.
    A base in Docker's schema 2 form becomes an OCI image (same layers, other media types).

    Args:
        base: the image below.
        added: written layers, in the store, lowest first, each with a line saying how it was made.
        store: as for :func:`append`, as are the others.
        created: seconds since 1970, the creation time of the new image.
        labels: labels to add or replace.
        env: environment variables to add or replace.
        entrypoint: words of the new entry point.
        command: words of the new Cmd.
        user: the new user.
        workdir: the new working directory.

    Raises:
        InputError: the base is not for linux/amd64 or inconsistent, or the store cannot be written.
    """
    config = copy.deepcopy(base.config_json)
    check_platform(base, f"base {base.digest}")
    for field in _BUILDER_FIELDS:
        config.pop(field, None)
    config["created"] = rfc3339(created)
    diff_ids = [*base.diff_ids, *(new.diff_id for new, _ in added)]
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    config["history"] = [*_base_history(base), *(_history(created, line) for _, line in added)]
    config["config"] = dict(base.run_config)
    _configure(config, labels, env, entrypoint, command, user, workdir)
    annotations = base.manifest_json.get("annotations") or {}
    layers = (
        *(_to_oci(item) for item in base.layers),
        *(new.descriptor for new, _ in added),
    )
    return _store_image(config, layers, annotations, store, base)


def check_platform(image: Image, where: str) -> None:
    """Refuse an image that is not for :data:`OS` and :data:`ARCHITECTURE`.

    Args:
        image: which.
        where: what it is called in errors.

    Raises:
        InputError: it is for another platform.
    """
    platform = (image.config_json.get("os"), image.config_json.get("architecture"))
    if platform != (OS, ARCHITECTURE):
        raise InputError(
            f"{where} is for {platform[0]}/{platform[1]}, not {OS}/{ARCHITECTURE}",
            "name a base for linux/amd64",
        )


def _configure(
    config: dict[str, Any],
    labels: Mapping[str, str] | None,
    env: Mapping[str, str] | None,
    entrypoint: Sequence[str] | None,
    command: Sequence[str] | None,
    user: str | None,
    workdir: str | None,
) -> None:
    run = config["config"]
    if labels:
        run["Labels"] = {**(run.get("Labels") or {}), **labels}
    if env:
        run["Env"] = _merge_env(run.get("Env") or [], env)
    if entrypoint is not None:
        run["Entrypoint"] = list(entrypoint)
        run.pop("Cmd", None)
    if command is not None:
        run["Cmd"] = list(command)
    if user is not None:
        run["User"] = user
    if workdir is not None:
        run["WorkingDir"] = workdir


def _merge_env(present: list[str], changes: Mapping[str, str]) -> list[str]:
    """Changed variables keep their place, new ones follow in the order given."""
    merged = dict(item.partition("=")[::2] for item in present)
    merged.update(changes)
    return [f"{name}={value}" for name, value in merged.items()]


def _history(created: int, made_by: str) -> dict[str, Any]:
    return {"created": rfc3339(created), "created_by": made_by}


def _base_history(base: Image) -> list[Any]:
    """The base's history, one entry per layer even when it kept none.

    Tools match history entries with layers by counting: ours must not slide down to a base layer.
    """
    history = base.config_json.get("history")
    entries = list(history) if isinstance(history, list) else []
    made_layers = sum(
        1 for entry in entries if not (isinstance(entry, dict) and entry.get("empty_layer"))
    )
    entries += [{"comment": "layer of the base"}] * (len(base.layers) - made_layers)
    return entries


def _to_oci(descriptor: Descriptor) -> Descriptor:
    media_type = TO_OCI.get(descriptor.media_type, descriptor.media_type)
    if media_type not in LAYER_TYPES:
        raise InputError(
            f"layer {descriptor.digest} has the media type {media_type!r}, which is not supported",
            "copy the base with plain, gzip or zstd layers",
        )
    return Descriptor(media_type, descriptor.digest, descriptor.size, descriptor.annotations)


def _store_image(
    config: dict[str, Any],
    layers: tuple[Descriptor, ...],
    annotations: Mapping[str, str],
    store: BlobStore,
    base: Image | None,
) -> Image:
    config_bytes = compact_json(config)
    config_descriptor = store.add_bytes(config_bytes, OCI_CONFIG)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config_descriptor.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    manifest_bytes = compact_json(manifest)
    descriptor = store.add_bytes(manifest_bytes, OCI_MANIFEST)
    blobs = BlobChain((store, base.blobs)) if base else store
    return Image(descriptor, manifest_bytes, config_bytes, layers, blobs)
