"""From ``Occlum.json`` to what the library OS and the signer read (Occlum 0.26 to 0.31).

Python 3.8, standard library. Keys that are not known are ignored, as Occlum does.
"""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = (("KB", KIB), ("MB", MIB), ("GB", GIB), ("TB", GIB << 10), ("B", 1))
_U32 = (1 << 32) - 1


class BadConfig(Exception):
    """What Occlum prints about a document."""


class Config:
    """One document for one version.

    Args:
        document: parsed JSON.
        version: its three numbers.
        edmm: whether EDMM is asked for besides.
    """

    def __init__(self, document: object, version: tuple, edmm: bool = False) -> None:
        self.version = version
        self.document = document
        self.limits = self._table("resource_limits")
        self.metadata = self._table("metadata")
        self.features = self._table("feature") if version >= (0, 30, 1) else self.metadata
        asked = version >= (0, 30, 1) and self.features.get("enable_edmm") is True
        self.edmm = version >= (0, 30, 0) and (edmm or asked)

    def _table(self, name: str, table: object = None) -> dict:
        table = self.document if table is None else table
        found = table.get(name) if isinstance(table, dict) else None
        if not isinstance(found, dict):
            raise BadConfig(f"missing field `{name}`")
        return found

    def size(self, table: dict, name: str, needed: bool = True) -> object:
        """Give a size in bytes; None if it is left out."""
        if name not in table and not needed:
            return None
        text = table.get(name)
        if not isinstance(text, str):
            raise BadConfig(f"missing field `{name}`")
        return parse_size(name, text)

    def number(self, table: dict, name: str, default: object = None) -> int:
        """Give a whole number of 32 bits."""
        value = table.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _U32:
            raise BadConfig(f"invalid value for `{name}`: {value!r}")
        return value

    def flag(self, table: dict, name: str, default: object = None) -> bool:
        """Give true or false."""
        value = table.get(name, default)
        if not isinstance(value, bool):
            raise BadConfig(f"invalid value for `{name}`: {value!r}")
        return value

    # -- Enclave.xml

    def enclave_xml(self) -> str:
        """Write what the signer reads."""
        threads = self.number(self.limits, "max_num_of_threads")
        stack = self.size(self.limits, "kernel_space_stack_size")
        heap, heap_max = self._heap()
        user, region = self._user()
        growing = (0, 29, 5) <= self.version < (0, 30, 0)
        values = [
            ("ProdID", self.number(self.metadata, "product_id")),
            ("ISVSVN", self.number(self.metadata, "version_number")),
            *(("StackMaxSize", stack), ("StackMinSize", stack)),
            *(("HeapInitSize", heap), ("HeapMaxSize", heap_max), ("HeapMinSize", heap)),
            *self._threads(threads),
            ("TCSPolicy", 0),
            ("DisableDebug", int(not self.flag(self.metadata, "debuggable"))),
            ("MiscSelect", int(growing or self.edmm)),
            ("MiscMask", "0xFFFFFFFF" if self.edmm or self.version < (0, 29, 5) else "0"),
            *(("ReservedMemMaxSize", user), ("ReservedMemMinSize", user)),
            *(("ReservedMemInitSize", user), ("ReservedMemExecutable", 1)),
            *([("UserRegionSize", region)] if region else []),
            *self._separation(),
        ]
        if self.version >= (0, 28, 0):
            values.append(("PKRU", self.number(self.features, "pkru", 0)))
        if self.version >= (0, 30, 0):
            values.append(("AMX", self.number(self.features, "amx", 0)))
        lines = "".join(f"  <{name}>{value}</{name}>\n" for name, value in values)
        return f"<EnclaveConfiguration>\n{lines}</EnclaveConfiguration>\n"

    def _heap(self) -> tuple:
        heap = self.size(self.limits, "kernel_space_heap_size")
        if self.version < (0, 29, 5):
            return heap, heap
        most = self.size(self.limits, "kernel_space_heap_max_size", needed=False)
        if self.version < (0, 30, 0):
            return heap, most or 1024 * MIB
        if self.edmm:
            return heap, most or max(heap, 1024 * MIB)
        return most or heap, most or heap

    def _user(self) -> tuple:
        """Give the reserved memory, and the region for EDMM (0 for none)."""
        user = self.size(self.limits, "user_space_size")
        if self.version < (0, 30, 0):
            return user, 0
        most = self.size(self.limits, "user_space_max_size", needed=False)
        if not self.edmm:
            return most or user, 0
        most = most or max(user, 16 * GIB)
        return user, most + (GIB if most != user else 0)

    def _threads(self, threads: int) -> list:
        first, pool, most = threads, threads, threads
        if self.version < (0, 29, 5):
            return [("TCSNum", threads)]
        if self.edmm:
            first = pool = self.number(self.limits, "init_num_of_threads", min(16, threads))
        if self.edmm or self.version < (0, 30, 0):
            most = max(threads, 4096)
        return [("TCSNum", first), ("TCSMaxNum", most), ("TCSMinPool", pool)]

    def _separation(self) -> list:
        enabled = self.flag(self.metadata, "enable_kss")
        found = [("EnableKSS", int(enabled))]
        for element, name in (("ISVEXTPRODID", "ext_prod_id"), ("ISVFAMILYID", "family_id")):
            table = self._table(name, self.metadata)
            for half in ("high", "low"):
                value = _hex(f"{name}.{half}", table.get(half))
                found.append((f"{element}_{half[0].upper()}", value if enabled else 0))
        return found

    # -- the internal document

    def system(self, root_mac: str, initfs_mac: str) -> dict:
        """Give what the library OS reads at its start."""
        mounts = [self._mount(mount) for mount in self._list("mount", self.document)]
        self._put_mac(mounts, root_mac)
        added = [{"target": "/proc", "type": "procfs"}, {"target": "/dev", "type": "devfs"}]
        initfs = [
            {"options": {"MAC": initfs_mac}, "source": "./build/initfs/__ROOT"},
            {"source": "./run/initfs/__ROOT"},
        ]
        layers = [{"target": "/", "type": "sefs", **layer} for layer in initfs]
        init = {"target": "/", "type": "unionfs", "options": {"layers": layers}}
        own = added if self.version >= (0, 29, 6) else []
        entry_points = self._texts("entry_points", self.document)
        found = {
            "resource_limits": self._limits(),
            "process": self._process(),
            "env": {
                name: self._texts(name, self._table("env")) for name in ("default", "untrusted")
            },
            "app": [
                {"stage": "init", "entry_points": ["/bin"], "mount": [init, *added]},
                {"stage": "app", "entry_points": entry_points, "mount": [*mounts, *own]},
            ],
        }
        if self.version >= (0, 30, 1):
            hidden = not self.flag(self.metadata, "debuggable")
            found["disable_log"] = self.flag(self.metadata, "disable_log", hidden)
            found["feature"] = {
                "amx": self.number(self.features, "amx", 0),
                "pkru": self.number(self.features, "pkru", 0),
                "enable_edmm": self.edmm,
                "enable_posix_shm": self.flag(self.features, "enable_posix_shm", False),
            }
        if self.version >= (0, 31, 0):
            found["feature"]["io_uring"] = self.number(self.features, "io_uring", 0)
        return found

    def _limits(self) -> dict:
        user, heap = self._user(), self._heap()
        found = {
            "user_space_size": self.size(self.limits, "user_space_size"),
            "kernel_space_heap_size": heap[0],
            "max_num_of_threads": self.number(self.limits, "max_num_of_threads"),
        }
        if "user_space_max_size" in self.limits and self.version >= (0, 30, 0):
            found["user_space_max_size"] = self.size(self.limits, "user_space_max_size")
        elif user[1]:
            found["user_space_max_size"] = max(user[0], 16 * GIB)
        return found

    def _process(self) -> dict:
        table = self._table("process")
        names = (f"default_{name}_size" for name in ("stack", "heap", "mmap"))
        return {name: self.size(table, name) for name in names}

    def _list(self, name: str, table: object) -> list:
        found = table.get(name) if isinstance(table, dict) else None
        if not isinstance(found, list):
            raise BadConfig(f"missing field `{name}`")
        return found

    def _texts(self, name: str, table: object) -> list:
        found = self._list(name, table)
        if not all(isinstance(one, str) for one in found):
            raise BadConfig(f"invalid type in `{name}`")
        return found

    def _mount(self, mount: object, layer: bool = False) -> dict:
        if not isinstance(mount, dict) or not isinstance(mount.get("type"), str):
            raise BadConfig("missing field `type`")
        kind, target = mount["type"], mount.get("target")
        known = ("sefs", "hostfs", "ramfs", "unionfs", "devfs", "procfs")
        if kind not in known and (kind != "ext2" or self.version < (0, 31, 0)):
            raise BadConfig(f"unknown variant `{kind}`")
        if not isinstance(target, str) or not target.startswith("/"):
            raise BadConfig(f"the target of a mount has to be an absolute path: {target!r}")
        found = {"type": kind, "target": target}
        if isinstance(mount.get("source"), str):
            found["source"] = mount["source"]
        options = mount.get("options", {})
        if not isinstance(options, dict):
            raise BadConfig("invalid type of `options`")
        kept = self._options(kind, options, layer)
        return {**found, "options": kept} if kept else found

    def _options(self, kind: str, options: dict, layer: bool) -> dict:
        kept = {name: options[name] for name in ("MAC", "temporary") if name in options}
        if "layers" in options and not layer:
            kept["layers"] = [self._mount(one, True) for one in self._list("layers", options)]
        if "cache_size" in options:
            kept["cache_size"] = cache = self.size(options, "cache_size")
            if cache < 192 * KIB or cache % 4096 or cache > self._heap()[1]:
                raise BadConfig(f"invalid cache_size: {options['cache_size']}")
        if kind == "ext2":
            kept["disk_size"] = disk = self.size(options, "disk_size")
            if disk < 5 * GIB:
                raise BadConfig(f"invalid disk_size: {options['disk_size']}")
        return kept

    def _put_mac(self, mounts: list, mac: str) -> None:
        """Put the MAC of the image into the one layer that has a place for it."""
        roots = [one for one in mounts if (one["type"], one["target"]) == ("unionfs", "/")]
        layers = roots[0].get("options", {}).get("layers", []) if len(roots) == 1 else []
        places = [
            layer
            for layer in layers
            if (layer["type"], layer["target"]) == ("sefs", "/")
            and "MAC" in layer.get("options", {})
        ]
        if len(places) != 1:
            raise BadConfig("the root has to be one unionfs with one sefs that has a MAC")
        places[0]["options"]["MAC"] = mac


def parse_size(name: str, text: str) -> int:
    """Give the bytes of a size as Occlum reads it.

    Raises:
        BadConfig: no unit, or no whole number before it.
    """
    stripped = text.strip()
    for unit, factor in _UNITS:
        if stripped.endswith(unit):
            digits = stripped[: -len(unit)].strip()
            if not (digits.isascii() and digits.isdigit()):
                raise BadConfig(f"{name}: {text!r}: No number")
            return int(digits) * factor
    raise BadConfig(f"{name}: {text!r}: No unit")


def _hex(name: str, text: object) -> int:
    try:
        value = int(text, 16) if isinstance(text, str) else -1
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise BadConfig(f"invalid value for `{name}`: {text!r}")
    return value
