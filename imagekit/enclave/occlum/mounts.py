"""Rules about the file systems of an ``Occlum.json`` (``mount``)."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from imagekit.enclave.findings import WARNING, Finding, shown
from imagekit.enclave.manifest_values import array_at, table_at
from imagekit.enclave.occlum.entries import is_inside_path
from imagekit.enclave.occlum.keys import MOUNT_TYPES
from imagekit.enclave.occlum.limits import heap_limit
from imagekit.enclave.occlum.sizes import UNITS, occlum_size, read_size
from imagekit.enclave.occlum.versions import OcclumVersion

LEAST_CACHE = 192 * UNITS["KB"]
"""Smallest cache of a file system, in bytes."""
LEAST_DISK = 5 * UNITS["GB"]
"""Smallest disk of an ext2, in bytes."""

_MAC = re.compile(r"(?:[0-9a-f]{2}(?:-[0-9a-f]{2}){15})?", re.ASCII)
# Options that one type has alone.
_OWN_OPTIONS = {"MAC": "sefs", "layers": "unionfs", "disk_size": "ext2"}
_WITH_SOURCE = ("sefs", "hostfs")
_ADDED = {"/proc": "procfs", "/dev": "devfs"}


def mount_findings(
    document: Mapping[str, Any], version: OcclumVersion, edmm: bool
) -> Iterator[Finding]:
    """Give what is wrong with the mounts, and what a host could do with them."""
    mounts = document.get("mount")
    if not isinstance(mounts, list):
        return
    yield from _root(mounts)
    yield from _covered(mounts, array_at(document, "entry_points"))
    heap = heap_limit(document, version, edmm)
    seen: dict[str, int] = {}
    for number, mount in enumerate(mounts):
        key = f"mount[{number}]"
        if not isinstance(mount, Mapping):
            continue
        yield from _mount(key, mount, version, heap)
        for index, layer in enumerate(array_at(mount, "options.layers")):
            if isinstance(layer, Mapping):
                inner = f"{key}.options.layers[{index}]"
                yield from _mount(inner, layer, version, heap)
                if layer.get("type") in ("unionfs", "ext2", "devfs", "procfs"):
                    problem = f"{shown(layer['type'])} cannot be a layer"
                    yield Finding(f"{inner}.type", problem, "a layer is a sefs")
        target = mount.get("target")
        if isinstance(target, str):
            if target in seen:
                problem = f"{shown(target)} is the target of mount[{seen[target]}] already"
                yield Finding(f"{key}.target", problem, "mount one file system there")
            seen.setdefault(target, number)


def _covered(mounts: list[Any], entry_points: list[Any]) -> Iterator[Finding]:
    """Find entry points whose program would come from the host instead of the measured files."""
    hosts = {
        mount["target"]: number
        for number, mount in enumerate(mounts)
        if isinstance(mount, Mapping)
        and mount.get("type") == "hostfs"
        and isinstance(mount.get("target"), str)
    }
    for path in entry_points:
        if not isinstance(path, str) or not is_inside_path(path):
            continue
        for folder in (PurePosixPath(path), *PurePosixPath(path).parents):
            if str(folder) in hosts:
                yield Finding(
                    f"mount[{hosts[str(folder)]}].target",
                    f"the host chooses the program of the entry point {shown(path)}",
                    "mount it beside the programs",
                    loads=True,
                )


def _root(mounts: list[Any]) -> Iterator[Finding]:
    roots = [m for m in mounts if isinstance(m, Mapping) and m.get("target") == "/"]
    unions = [m for m in roots if m.get("type") == "unionfs"]
    hint = "keep the root of Occlum's template: a unionfs with ./build/mount/__ROOT as a sefs"
    if not unions:
        yield Finding("mount", "no unionfs is mounted at /", hint, stock=True)
        return
    layers = array_at(unions[0], "options.layers")
    measured = [
        layer
        for layer in layers
        if isinstance(layer, Mapping)
        and (layer.get("type"), layer.get("target")) == ("sefs", "/")
        and "MAC" in table_at(layer, "options")
    ]
    if len(measured) != 1:
        count = "no layer" if not measured else "more than one layer"
        problem = f"{count} of / is a sefs at / with the option MAC, which pins the files"
        yield Finding(f"mount[{mounts.index(unions[0])}].options.layers", problem, hint, stock=True)


def _mount(
    key: str, mount: Mapping[str, Any], version: OcclumVersion, heap: int | None
) -> Iterator[Finding]:
    kind, target, source = (mount.get(name) for name in ("type", "target", "source"))
    if isinstance(target, str) and not is_inside_path(target):
        problem = f"{shown(target)} is not an absolute path without detours"
        yield Finding(f"{key}.target", problem, "begin with /, without . or ..", stock=True)
    if not isinstance(kind, str):
        return
    if MOUNT_TYPES.get(kind, (99, 0, 0)) > version.number:
        yield _wrong_type(key, kind, version)
        return
    if kind in _WITH_SOURCE and source in (None, ""):
        yield Finding(f"{key}.source", f"a {kind} needs one", "name a path", stock=True)
    yield from _options(key, kind, mount, heap)
    if kind == "hostfs":
        yield Finding(
            key,
            f"the host chooses and changes the files below {shown(target)}",
            "leave it out, or have the program check what it reads there",
            WARNING,
        )
    if version.adds_proc_and_dev and _ADDED.get(str(target)) == kind:
        problem = f"Occlum {version.name} mounts {target} by itself"
        yield Finding(key, problem, "leave it out", WARNING)


def _wrong_type(key: str, kind: str, version: OcclumVersion) -> Finding:
    if kind in MOUNT_TYPES:
        since = ".".join(map(str, MOUNT_TYPES[kind]))
        problem, hint = f"{kind} came with Occlum {since}", "take that version, or another type"
    else:
        known = [name for name, since in MOUNT_TYPES.items() if since <= version.number]
        problem, hint = f"{shown(kind)} is no type of file system", f"known: {', '.join(known)}"
    return Finding(f"{key}.type", problem, hint, stock=True)


def _options(key: str, kind: str, mount: Mapping[str, Any], heap: int | None) -> Iterator[Finding]:
    options = table_at(mount, "options")
    for name, owner in _OWN_OPTIONS.items():
        if name in options and kind != owner:
            problem = f"is an option of {owner}, not of {kind}"
            yield Finding(f"{key}.options.{name}", problem, "leave it out", loads=True)
    mac = options.get("MAC")
    if isinstance(mac, str) and not _MAC.fullmatch(mac):
        hint = 'write "", which the build fills in; or 16 bytes in hexadecimal with dashes'
        yield Finding(f"{key}.options.MAC", f"{shown(mac)} is no tag", hint)
    if kind == "unionfs" and not array_at(mount, "options.layers"):
        yield Finding(f"{key}.options.layers", "a unionfs needs layers", "add them", stock=True)
    yield from _cache(f"{key}.options.cache_size", options, heap)
    disk = f"{key}.options.disk_size"
    if kind == "ext2":
        size = read_size(options.get("disk_size"))
        if "disk_size" not in options:
            yield Finding(disk, "an ext2 needs one", f'at least "{occlum_size(LEAST_DISK)}"')
        elif isinstance(size, int) and size < LEAST_DISK:
            hint = f'at least "{occlum_size(LEAST_DISK)}"'
            yield Finding(disk, f"{shown(options['disk_size'])} is too small", hint, stock=True)


def _cache(key: str, options: Mapping[str, Any], heap: int | None) -> Iterator[Finding]:
    size = read_size(options.get("cache_size"))
    if not isinstance(size, int):
        return
    if 0 < size < LEAST_CACHE:
        hint = f'at least "{occlum_size(LEAST_CACHE)}"'
        yield Finding(key, f"{occlum_size(size)} is too small", hint, stock=True)
    if heap is not None and size > heap:
        problem = f"{occlum_size(size)} is more than the kernel's heap, {occlum_size(heap)}"
        yield Finding(key, problem, "lower it, or raise the heap", stock=True)
