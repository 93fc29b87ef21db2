"""The section ``occlum`` of a project file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from imagekit.enclave.manifest_schema import Wrong
from imagekit.enclave.occlum.environment import EnvironmentSettings, environment_settings
from imagekit.enclave.occlum.mounts import LEAST_CACHE, LEAST_DISK
from imagekit.enclave.occlum.sizes import occlum_size, read_size
from imagekit.enclave.occlum.versions import occlum_version
from imagekit.errors import UsageError
from imagekit.spec.fields import Node, shown
from imagekit.spec.keys import KEYS, OCCLUM_MOUNTS, names, required
from imagekit.spec.options import (
    OcclumFeatures,
    OcclumKss,
    OcclumMount,
    OcclumOptions,
    OcclumProcess,
)
from imagekit.spec.quantities import parse_quantity
from imagekit.spec.readers import axis, host_path, inside_path, variables

_PAGE = 4096
_TMP = OcclumMount("hostfs", "/tmp", "./shuffle")  # noqa: S108 - a path inside the enclave
_LAUNCHER = "/opt/imagekit"
_OWN = ("/", "/proc", "/dev")
_T = TypeVar("_T")


class OcclumSection(NamedTuple):
    """The section as read."""

    options: OcclumOptions = OcclumOptions()
    """With what BigDL's variables say about them."""
    settings: EnvironmentSettings = EnvironmentSettings()
    """What BigDL's variables say."""
    environment: Mapping[str, Node] = {}
    """Where each of these variables stands."""


def parse_occlum(node: Node, folder: Path) -> OcclumSection:
    """Read the section ``occlum``.

    Args:
        node: the section.
        folder: where relative paths start from.

    Raises:
        UsageError: anything that is not allowed there.
    """
    keys = node.mapping(names("occlum"))
    settings, places = EnvironmentSettings(), dict[str, Node]()
    if "environment" in keys:  # first: what is no setting may be a secret, and is not looked at
        settings, places = _environment(keys["environment"])
    values: dict[str, Any] = {
        name: reader(keys[name]) for name, reader in _READERS.items() if name in keys
    }
    if "template" in keys:
        values["template"] = host_path(keys["template"], folder)
    options = _with_settings(OcclumOptions(**values), settings, places, keys)
    if options.kernel_heap_max is not None and options.kernel_heap_max < options.kernel_heap:
        raise keys["kernel_heap_max"].error(
            f"{occlum_size(options.kernel_heap_max)} is less than kernel_heap, "
            f"{occlum_size(options.kernel_heap)}",
            "a maximum is not below the size at start",
        )
    return OcclumSection(options, settings, places)


def _size(node: Node) -> int:
    size = read_size(node.string(what="a size such as 1GB"))
    if isinstance(size, Wrong):
        raise node.error(size.problem, size.hint)
    if size == 0 or size % _PAGE:
        up = occlum_size(size + -size % _PAGE or _PAGE)
        raise node.error(f"{shown(node.raw)} is not whole pages of 4KB", f"the next is {up}")
    return size


def _version(node: Node) -> str:
    try:
        return occlum_version(node.string(what="a version such as 0.29.7")).name
    except UsageError as error:
        raise node.error(error.problem, error.hint) from None


def _integer(node: Node, path: str) -> int:
    return node.integer(minimum=KEYS[path].least, maximum=KEYS[path].most)


def _process(node: Node) -> OcclumProcess:
    keys = node.mapping(names("occlum.process"))
    return OcclumProcess(**{name: _size(child) for name, child in keys.items()})


def _mounts(node: Node) -> tuple[OcclumMount, ...]:
    found: dict[str, int] = {}
    mounts = []
    for item in node.sequence():
        mount = _mount(item)
        if mount.target in found:
            raise item.error(
                f"{mount.target} is a target already", f"it stands on line {found[mount.target]}"
            )
        found[mount.target] = item.line
        mounts.append(mount)
    return tuple(mounts)


def _mount(node: Node) -> OcclumMount:
    keys = node.mapping(names("occlum.mounts[]"), required("occlum.mounts[]"))
    kind = keys["type"].choice(OCCLUM_MOUNTS)
    target = keys["target"].string()
    if target in _OWN or any(
        f"{below}/".startswith(f"{above}/")
        for below, above in ((target, _LAUNCHER), (_LAUNCHER, target))
    ):
        raise keys["target"].error(
            f"{shown(target)} is where the image has its own files", "take another folder"
        )
    inside_path(keys["target"], target)
    source = keys["source"].string(what="a path") if "source" in keys else None
    if source is None and kind in ("hostfs", "sefs"):
        raise node.error(f"a {kind} needs a source", "add source: with a folder of the container")
    if source is not None and not source.isprintable():
        raise keys["source"].error(f"{shown(source)} holds characters that do not print", "rename")
    options = _mount_options(keys["options"], kind) if "options" in keys else ()
    if kind == "ext2" and "disk_size" not in dict(options):
        raise node.error("an ext2 needs options.disk_size", f"{occlum_size(LEAST_DISK)} at least")
    return OcclumMount(kind, target, source, options)


def _mount_options(node: Node, kind: str) -> tuple[tuple[str, str | bool], ...]:
    found: dict[str, str | bool] = {}
    for name, child in node.mapping(names("occlum.mounts[].options")).items():
        if name == "temporary":
            found[name] = child.boolean()
            continue
        size, least = _size(child), LEAST_CACHE if name == "cache_size" else LEAST_DISK
        if name == "disk_size" and kind != "ext2":
            raise child.error(f"is an option of ext2, not of {kind}", "leave it out")
        if size < least:
            raise child.error(f"{shown(child.raw)} is too small", f"{occlum_size(least)} at least")
        found[name] = occlum_size(size)
    return tuple(sorted(found.items()))


def _features(node: Node) -> OcclumFeatures:
    keys = node.mapping(names("occlum.features"))
    found: dict[str, Any] = {}
    for name, child in keys.items():
        path = f"occlum.features.{name}"
        boolean = KEYS[path].kind == "boolean"
        found[name] = child.boolean() if boolean else _integer(child, path)
    return OcclumFeatures(**found)


def _kss(node: Node) -> OcclumKss:
    keys = node.mapping(names("occlum.kss"))
    what = "a number of 32 hex digits"
    ids = {
        name: child.string(pattern="[0-9a-fA-F]{32}", what=what).lower()
        for name, child in keys.items()
    }
    return OcclumKss(**ids)


def _quantity(node: Node) -> int:
    try:
        return parse_quantity(node.string(what="a quantity such as 16Gi"))
    except UsageError as error:
        raise node.error(error.problem, error.hint) from None


def _entry_points(node: Node) -> tuple[str, ...]:
    return axis(node, lambda item: inside_path(item, item.string(what="a path")), shown, 0)


_READERS: dict[str, Callable[[Node], Any]] = {
    "version": _version,
    "define": variables,
    "kernel_heap": _size,
    "kernel_heap_max": _size,
    "kernel_stack": _size,
    "user_space_max": _size,
    "init_threads": lambda node: _integer(node, "occlum.init_threads"),
    "process": _process,
    "entry_points": _entry_points,
    "mounts": _mounts,
    "features": _features,
    "kss": _kss,
    "disable_log": Node.boolean,
    "epc_request": _quantity,
    "environment": variables,
}


def _environment(node: Node) -> tuple[EnvironmentSettings, dict[str, Node]]:
    places = dict(node.mapping())
    settings, findings = environment_settings({n: child.raw for n, child in places.items()})
    for finding in sorted(findings, key=lambda found: places[found.key].line):
        raise places[finding.key].error(finding.problem, finding.hint)
    return settings, places


def _with_settings(
    options: OcclumOptions,
    settings: EnvironmentSettings,
    places: Mapping[str, Node],
    keys: Mapping[str, Node],
) -> OcclumOptions:
    heap = settings.kernel_heap
    if heap is not None:
        for name in ("kernel_heap", "kernel_heap_max"):
            given = getattr(options, name) if name in keys else None
            agree(places["SGX_KERNEL_HEAP"], f"occlum.{name}", given, heap, occlum_size)
        options = options._replace(kernel_heap=heap, kernel_heap_max=heap)
    if settings.tmp_hostfs is not None:
        given = [mount for mount in options.mounts if mount.target == _TMP.target]
        if given and (given != [_TMP] or not settings.tmp_hostfs):
            raise places["USING_TMP_HOSTFS"].error(
                "occlum.mounts says something else about /tmp", "say it in one of the two places"
            )
        if settings.tmp_hostfs and not given:
            options = options._replace(mounts=(*options.mounts, _TMP))
    return options


def agree(place: Node, key: str, given: _T | None, wanted: _T, show: Callable[[_T], str]) -> None:
    """Refuse a variable that contradicts another key.

    Args:
        place: the variable's value.
        key: the other key.
        given: what it says; None if it is not there.
        wanted: what the variable says.
        show: how a value is written.

    Raises:
        UsageError: they differ.
    """
    if given is not None and given != wanted:
        raise place.error(
            f"{shown(place.raw)} contradicts {key}, which is {show(given)}",
            "say it in one of the two places",
        )
