"""What Occlum makes of an ``Occlum.json``: ``Enclave.xml`` and its own configuration."""

from __future__ import annotations

from typing import Any, Mapping  # noqa: UP035 - Python 3.8

Version = "tuple[int, int, int]"
MIB, GIB = 1 << 20, 1 << 30
UNITS = (("KB", 1 << 10), ("MB", MIB), ("GB", GIB), ("TB", 1 << 40), ("B", 1))


class BadConfig(Exception):
    """A document that Occlum stops at, with what it says."""


def size_of(text: object) -> int:
    """Read a size."""
    if not isinstance(text, str):
        raise BadConfig(f"invalid type: {text!r}, expected a string")
    for unit, factor in UNITS:
        if text.strip().endswith(unit):
            digits = text.strip()[: -len(unit)].strip()
            if not (digits.isascii() and digits.isdigit()):
                raise BadConfig(f"{text!r}: No number")
            return int(digits) * factor
    raise BadConfig(f"{text!r}: No unit")


class Table:
    """An object of the document; asking for a key that is not there says so."""

    def __init__(self, values: object, name: str) -> None:
        if not isinstance(values, Mapping):
            raise BadConfig(f"{name}: expected an object")
        self._values, self._name = values, name

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            raise BadConfig(f"missing field `{self._name}{key}`")
        return self._values[key]

    def table(self, key: str) -> Table:
        """Give an object in it."""
        return Table(self[key], f"{self._name}{key}.")

    def size(self, key: str) -> int:
        """Give a size in it, in bytes."""
        return size_of(self[key])

    def number(self, key: str, default: int | None = None) -> int:
        """Give a number in it."""
        value = self[key] if default is None or key in self else default
        if not isinstance(value, int) or value < 0:
            raise BadConfig(f"{self._name}{key}: invalid value {value!r}, expected a number")
        return value

    def truth(self, key: str, default: bool | None = None) -> bool:
        """Give a truth value in it."""
        value = self[key] if default is None or key in self else default
        if not isinstance(value, bool):
            raise BadConfig(f"{self._name}{key}: invalid value {value!r}, expected a boolean")
        return value

    def texts(self, key: str) -> list[str]:
        """Give a list of texts in it."""
        value = self[key]
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise BadConfig(f"{self._name}{key}: expected a list of strings")
        return value


def wants_edmm(document: Mapping[str, Any], version: Version) -> bool:
    """Say whether the document itself asks for EDMM."""
    if version < (0, 30, 1):
        return False
    return Table(document, "").table("feature").truth("enable_edmm", False)


def enclave_xml(document: Mapping[str, Any], version: Version, edmm: bool) -> str:
    """Give ``Enclave.xml``."""
    top = Table(document, "")
    limits, metadata = top.table("resource_limits"), top.table("metadata")
    values = [("ProdID", metadata.number("product_id"))]
    values += [("ISVSVN", metadata.number("version_number"))]
    stack = limits.size("kernel_space_stack_size")
    values += [("StackMaxSize", stack), ("StackMinSize", stack)]
    user, heap, heap_max, region = _memory(limits, version, edmm)
    values += [("HeapInitSize", heap), ("HeapMaxSize", heap_max), ("HeapMinSize", heap)]
    values += _threads(limits, version, edmm)
    debuggable = metadata.truth("debuggable")
    values += [("TCSPolicy", 0), ("DisableDebug", int(not debuggable))]
    if version < (0, 29, 5):
        values += [("MiscSelect", 0), ("MiscMask", "0xFFFFFFFF")]
    elif version < (0, 30, 0):
        values += [("MiscSelect", 1), ("MiscMask", 0)]
    else:
        values += [("MiscSelect", int(edmm)), ("MiscMask", "0xFFFFFFFF" if edmm else 0)]
    values += [(f"ReservedMem{which}Size", user) for which in ("Max", "Min", "Init")]
    values += [("ReservedMemExecutable", 1)]
    values += [("UserRegionSize", region)] if region else []
    kss = metadata.truth("enable_kss")
    values += [("EnableKSS", int(kss))]
    for name, key in (("ISVEXTPRODID", "ext_prod_id"), ("ISVFAMILYID", "family_id")):
        for letter, half in (("H", "high"), ("L", "low")):
            text = metadata.table(key)[half]
            values += [(f"{name}_{letter}", _hex(text) if kss else 0)]
    place = top.table("feature") if version >= (0, 30, 1) else metadata
    values += [("PKRU", place.number("pkru", 0))] if version >= (0, 28, 0) else []
    values += [("AMX", place.number("amx", 0))] if version >= (0, 30, 0) else []
    lines = "".join(f"  <{name}>{value}</{name}>\n" for name, value in values)
    return f"<EnclaveConfiguration>\n{lines}</EnclaveConfiguration>\n"


def _hex(text: object) -> int:
    try:
        return int(str(text), 16)
    except ValueError:
        raise BadConfig(f"{text!r}: invalid digit found in string") from None


def _memory(limits: Table, version: Version, edmm: bool) -> tuple[int, int, int, int]:
    """User space, heap at start, heap at most, user region; in bytes."""
    user, heap = limits.size("user_space_size"), limits.size("kernel_space_heap_size")
    heap_key, user_key = "kernel_space_heap_max_size", "user_space_max_size"
    if version < (0, 29, 5):
        return user, heap, heap, 0
    if version < (0, 30, 0):
        return user, heap, limits.size(heap_key) if heap_key in limits else 1024 * MIB, 0
    if not edmm:
        heap = limits.size(heap_key) if heap_key in limits else heap
        return limits.size(user_key) if user_key in limits else user, heap, heap, 0
    heap_max = limits.size(heap_key) if heap_key in limits else max(heap, 1024 * MIB)
    user_max = limits.size(user_key) if user_key in limits else max(user, 16 * GIB)
    return user, heap, heap_max, user_max + (GIB if user_max != user else 0)


def _threads(limits: Table, version: Version, edmm: bool) -> list[tuple[str, int]]:
    most = limits.number("max_num_of_threads")
    if version < (0, 29, 5):
        return [("TCSNum", most)]
    first, top = most, most
    if version < (0, 30, 0):
        top = max(most, 4096)
    elif edmm:
        first = limits.number("init_num_of_threads", min(16, most))
        top = max(most, 4096)
    return [("TCSNum", first), ("TCSMaxNum", top), ("TCSMinPool", first)]


def internal_config(
    document: Mapping[str, Any], version: Version, image_mac: str, initfs_mac: str
) -> dict[str, Any]:
    """Give Occlum's own configuration."""
    top = Table(document, "")
    limits, process, env = (top.table(key) for key in ("resource_limits", "process", "env"))
    for key in ("default_stack_size", "default_heap_size", "default_mmap_size"):
        process.size(key)
    user = limits["user_space_size"]
    size_of(user)
    found = {
        "resource_limits": {
            "user_space_init_size": user,
            "user_space_max_size": document["resource_limits"].get("user_space_max_size", user),
        },
        "process": dict(document["process"]),
        "env": {key: env.texts(key) for key in ("default", "untrusted")},
        "app": [
            {"stage": "init", "entry_points": ["/bin"], "mount": [_initfs(initfs_mac)]},
            {
                "stage": "app",
                "entry_points": top.texts("entry_points"),
                "mount": _mounts(top["mount"], version, image_mac),
            },
        ],
    }
    if version >= (0, 30, 1):
        metadata = top.table("metadata")
        silent = not metadata.truth("debuggable")
        found["disable_log"] = metadata.truth("disable_log", silent)
        found["feature"] = dict(document["feature"])
    return found


def _initfs(mac: str) -> dict[str, Any]:
    layers = [
        {
            "target": "/",
            "type": "sefs",
            "source": "./build/initfs/__ROOT",
            "options": {"MAC": mac},
        },
        {"target": "/", "type": "sefs", "source": "./run/initfs/__ROOT"},
    ]
    return {"target": "/", "type": "unionfs", "options": {"layers": layers}}


def _mounts(mounts: object, version: Version, mac: str) -> list[dict[str, Any]]:
    if not isinstance(mounts, list) or not all(isinstance(mount, dict) for mount in mounts):
        raise BadConfig("mount: expected a list of objects")
    found, roots = [], 0
    for mount in mounts:
        layers = mount.get("options", {}).get("layers")
        if mount.get("type") == "unionfs" and mount.get("target") == "/" and layers:
            filled = [_with_mac(layer, mac) for layer in layers]
            roots += sum(one is not other for one, other in zip(filled, layers))  # noqa: B905
            mount = dict(mount, options=dict(mount["options"], layers=filled))
        found.append(mount)
    if roots != 1:
        raise BadConfig("the root UnionFS is not valid")
    if version >= (0, 29, 6):
        targets = {mount.get("target") for mount in mounts}
        for target, kind in (("/proc", "procfs"), ("/dev", "devfs")):
            found += [{"target": target, "type": kind}] if target not in targets else []
    return found


def _with_mac(layer: dict[str, Any], mac: str) -> dict[str, Any]:
    if layer.get("type") != "sefs" or layer.get("target") != "/":
        return layer
    if "MAC" not in layer.get("options", {}):
        return layer
    return dict(layer, options=dict(layer["options"], MAC=mac))
