"""The one table of the keys of ``Occlum.json``, with the versions that have them.

Occlum ignores a key that it does not know, so a misspelt limit is silently the default; here every
key that a version does not have is known to be so.
"""

import difflib
import functools
from dataclasses import dataclass
from typing import Literal

from imagekit.enclave.occlum.versions import OcclumVersion

Kind = Literal["object", "objects", "text", "texts", "size", "integer", "boolean", "hex"]
Number = tuple[int, int, int]

_OLDEST: Number = (0, 26, 0)
_U16, _U32 = (1 << 16) - 1, (1 << 32) - 1
_DYNAMIC_HEAP: Number = (0, 29, 5)
_EDMM: Number = (0, 30, 0)
_FEATURES: Number = (0, 30, 1)
_IO_URING: Number = (0, 31, 0)
_SUGGESTED = 0.7  # how alike two names have to be for one to be suggested


@dataclass(frozen=True)
class Key:
    """What one key takes, and since when.

    Attributes:
        kind: ``size`` is a text that :mod:`imagekit.enclave.occlum.sizes` reads, ``hex`` a text
            like ``0x1f`` below 2**64; the plurals are lists.
        required: whether it must be there in every version that has it.
        since: first version that has it.
        until: first version that has it no more; None for never.
        default: what Occlum's template says, or what holds when it is left out; None for nothing.
        least, most: limits of an integer.
        moved: path of the key that took its place.
        positive: whether a size may not be 0.
        pages: whether a size has to be whole pages of 4096 bytes (Intel SGX SDK).
    """

    kind: Kind
    required: bool = False
    since: Number = _OLDEST
    until: Number | None = None
    default: str | int | bool | None = None
    least: int = 0
    most: int = _U32
    moved: str = ""
    positive: bool = True
    pages: bool = False

    def known_to(self, version: OcclumVersion) -> bool:
        """Tell whether a version has the key."""
        late = self.until is not None and version.number >= self.until
        return version.number >= self.since and not late


def _size(default: str | None, required: bool = True, since: Number = _OLDEST) -> Key:
    return Key("size", required, since, default=default, pages=True)


_ID = Key("hex", True, default="0x0")

KEYS: dict[str, Key] = {
    "resource_limits": Key("object", True),
    "resource_limits.user_space_size": _size("300MB"),
    "resource_limits.user_space_max_size": _size(None, False, _EDMM),
    "resource_limits.kernel_space_heap_size": _size("32MB"),
    "resource_limits.kernel_space_heap_max_size": _size(None, False, _DYNAMIC_HEAP),
    "resource_limits.kernel_space_stack_size": _size("1MB"),
    "resource_limits.max_num_of_threads": Key("integer", True, default=32, least=1),
    "resource_limits.init_num_of_threads": Key("integer", since=_EDMM, least=1),
    "process": Key("object", True),
    "process.default_stack_size": Key("size", True, default="4MB"),
    "process.default_heap_size": Key("size", True, default="32MB"),
    "process.default_mmap_size": Key("size", True, default="100MB", positive=False),
    "entry_points": Key("texts", True),
    "env": Key("object", True),
    "env.default": Key("texts", True),
    "env.untrusted": Key("texts", True),
    "metadata": Key("object", True),
    "metadata.product_id": Key("integer", True, default=0, most=_U16),
    "metadata.version_number": Key("integer", True, default=0, most=_U16),
    "metadata.debuggable": Key("boolean", True, default=True),
    "metadata.disable_log": Key("boolean", since=_FEATURES),
    "metadata.enable_kss": Key("boolean", True, default=False),
    "metadata.family_id": Key("object", True),
    "metadata.family_id.high": _ID,
    "metadata.family_id.low": _ID,
    "metadata.ext_prod_id": Key("object", True),
    "metadata.ext_prod_id.high": _ID,
    "metadata.ext_prod_id.low": _ID,
    "metadata.pkru": Key(
        "integer", since=(0, 28, 0), until=_FEATURES, default=0, most=2, moved="feature.pkru"
    ),
    "metadata.amx": Key(
        "integer", since=_EDMM, until=_FEATURES, default=0, most=2, moved="feature.amx"
    ),
    "feature": Key("object", True, since=_FEATURES),
    "feature.amx": Key("integer", since=_FEATURES, default=0, most=2),
    "feature.pkru": Key("integer", since=_FEATURES, default=0, most=2),
    "feature.io_uring": Key("integer", since=_IO_URING, default=0, most=16),
    "feature.enable_edmm": Key("boolean", since=_FEATURES, default=False),
    "feature.enable_posix_shm": Key("boolean", since=_FEATURES, default=False),
    "mount": Key("objects", True),
    "mount[].type": Key("text", True),
    "mount[].target": Key("text", True),
    "mount[].source": Key("text"),
    "mount[].options": Key("object"),
    "mount[].options.MAC": Key("text", default=""),
    "mount[].options.layers": Key("objects"),
    "mount[].options.temporary": Key("boolean", default=False),
    "mount[].options.cache_size": Key("size", pages=True),
    "mount[].options.disk_size": Key("size", since=_IO_URING),
}
"""Every key by its path; ``[]`` stands for an item of a list. A layer has the keys of a mount."""

MOUNT_TYPES: dict[str, Number] = {
    "sefs": _OLDEST,
    "hostfs": _OLDEST,
    "ramfs": _OLDEST,
    "unionfs": _OLDEST,
    "devfs": _OLDEST,
    "procfs": _OLDEST,
    "ext2": _IO_URING,
}
"""The types of mounts, with the first version of each."""

_LAYERS = "mount[].options.layers[]"


def table_path(path: str) -> str:
    """Give the path under which the table has a key: a layer's keys are those of a mount."""
    return "mount[]" + path.removeprefix(_LAYERS) if path.startswith(_LAYERS) else path


@functools.lru_cache(maxsize=1024)
def names(path: str, version: OcclumVersion) -> tuple[str, ...]:
    """Give the keys that may stand below a path in a version; the empty path is the document."""
    dot = f"{path}." if path else ""
    return tuple(
        inner[len(dot) :]
        for inner, key in KEYS.items()
        if inner.startswith(dot) and "." not in inner[len(dot) :] and key.known_to(version)
    )


def other_version(path: str, version: OcclumVersion) -> tuple[str, str] | None:
    """Say what became of a key that other versions have: problem and hint; None if none has it.

    Args:
        path: where the key stands, with ``[]`` for items.
        version: the one that does not have it.
    """
    key = KEYS.get(path)
    if key is None or key.known_to(version):
        return None
    if key.until is not None and version.number >= key.until:
        when = ".".join(map(str, key.until))
        return f"became {key.moved} in Occlum {when}", f"write {key.moved}"
    since = ".".join(map(str, key.since))
    before = next((p for p, k in KEYS.items() if k.moved == path and k.known_to(version)), None)
    hint = f"write {before}" if before else "leave it out, or take that version"
    return f"came with Occlum {since}; {version.name} ignores it", hint


@functools.lru_cache(maxsize=1024)
def nearest_key(path: str, version: OcclumVersion) -> str | None:
    """Give the known key that an unknown one most likely means: the same name, or a similar one."""
    known = [inner for inner, key in KEYS.items() if key.known_to(version)]
    name = path.rpartition(".")[2][:100].casefold()
    same = [inner for inner in known if inner.rpartition(".")[2].casefold() == name]
    if same:
        return same[0]
    # Siblings first: the right folder with a slip in the name is the usual mistake.
    parent = path.rpartition(".")[0]
    for choice in (
        [inner for inner in known if inner.rpartition(".")[0] == parent],
        known,
    ):
        by_name = {inner.rpartition(".")[2]: inner for inner in reversed(choice)}
        close = difflib.get_close_matches(name, by_name, n=1, cutoff=_SUGGESTED)
        if close:
            return by_name[close[0]]
    return None
