"""Occlum's internal configuration, ``.Occlum_sys.json``, against the ``Occlum.json`` behind it.

``occlum build`` writes it, and the library OS reads nothing else. Known of its shape (Occlum 0.26
to 0.31) is that ``app`` is a list, whose first item is for the start-up file system (``initfs``)
and whose second one for the image, each with a list ``mount``, and that entry points, variables,
process sizes, features and the log setting are taken over. So this looks for a key at the top and
in the second item; what is at neither place is said not to have been checked, and never counts as
right.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from imagekit.enclave.occlum.model import Mount, OcclumConfig
from imagekit.enclave.occlum.sizes import read_size
from imagekit.errors import printable

State = Literal["ok", "failed", "unchecked"]

INITFS, IMAGE = 0, 1
"""Index in ``app`` of what is for the start-up file system and for the image."""

_ADDED = (("procfs", "/proc"), ("devfs", "/dev"))
"""File systems that occlum build adds by itself."""
_OF_THE_ENCLAVE = ("procfs", "devfs", "ramfs")
"""Kinds of file systems that hold nothing of the host's, but hide what they are mounted over."""
_FEATURES = ("amx", "pkru", "io_uring", "enable_edmm", "enable_posix_shm")


@dataclass(frozen=True)
class ChainCheck:
    """One check of what a measurement leads to.

    Attributes:
        name: what is checked.
        state: ``ok``, ``failed``, or ``unchecked``: it cannot be checked, and may be wrong.
        reason: why it is not ``ok``, one line.
    """

    name: str
    state: State = "ok"
    reason: str = ""

    @property
    def line(self) -> str:
        """Name and reason in one line."""
        return f"{self.name}: {self.reason}" if self.reason else self.name


def compare_config(document: object, config: OcclumConfig) -> Iterator[ChainCheck]:
    """Hold an internal configuration against an ``Occlum.json``.

    Args:
        document: parsed JSON, of whatever shape.
        config: the ``Occlum.json``.
    """
    limits = {
        "user_space_size": config.user_space,
        "user_space_max_size": config.user_space_max,
    }
    yield _lists(document, "entry_points", config.entry_points, "entry points")
    default = tuple(f"{name}={value}" for name, value in config.env_default)
    yield _lists(document, "env.default", default, "variables with fixed values", blanks=True)
    yield _lists(document, "env.untrusted", config.env_untrusted, "variables of the host's")
    process = config.process
    sizes = {
        "default_stack_size": process.stack,
        "default_heap_size": process.heap,
        "default_mmap_size": process.mmap,
    }
    yield _table(document, "process", sizes, "sizes of processes")
    yield _table(document, "resource_limits", limits, "user space")
    if config.version.has_features:
        yield _table(document, "disable_log", config.disable_log, "log setting")
        features = config.features
        values = (
            *(features.amx, features.pkru, features.io_uring),
            *(features.edmm, features.posix_shm),
        )
        wanted = dict(zip(_FEATURES, values, strict=True))
        yield _table(document, "feature", wanted, "features")
    yield _mounts(document, config)


def item(document: object, *path: str | int) -> object:
    """Give what stands at a path of names and indices; None if nothing does."""
    for step in path:
        if isinstance(step, str) and isinstance(document, Mapping):
            document = document.get(step)
        elif isinstance(step, int) and isinstance(document, list) and step < len(document):
            document = document[step]
        else:
            return None
    return document


def _places(document: object, key: str) -> list[object]:
    """Give what a key, with dots, has at the top and in the image's part; without nulls."""
    path = key.split(".")
    found = (item(document, *path), item(document, "app", IMAGE, *path))
    return [value for value in found if value is not None]


def _lists(
    document: object, key: str, wanted: tuple[str, ...], what: str, *, blanks: bool = False
) -> ChainCheck:
    """Compare a list of texts.

    With `blanks`, empty ones, as BigDL's document has one, count for nothing. That is for values
    alone: an entry point without a name could stand for every path.
    """
    name = f"{what} as in Occlum.json"
    places = _places(document, key)
    if not places:
        return _absent(name, key)
    for value in places:
        texts = None
        if isinstance(value, list):
            texts = [text for text in value if text != "" or not blanks]
        if texts != list(wanted):
            return ChainCheck(name, "failed", f"{key}: {_difference(texts, wanted)}")
    return ChainCheck(name)


def _difference(texts: list[object] | None, wanted: tuple[str, ...]) -> str:
    if texts is None:
        return "is no list"
    # Both lists may be as long as whoever made the image likes.
    ours, theirs = frozenset(wanted), {text for text in texts if isinstance(text, str)}
    added = [text for text in texts if not isinstance(text, str) or text not in ours]
    missing = [text for text in wanted if text not in theirs]
    if added:
        return f"Occlum's own has {_shown(added[0])}, which Occlum.json has not"
    if missing:
        return f"Occlum's own lacks {_shown(missing[0])}, which Occlum.json has"
    return "Occlum's own has the same in another order or number"


def _table(document: object, key: str, wanted: object, what: str) -> ChainCheck:
    """Compare a value, or those values of an object that both have."""
    name = f"{what} as in Occlum.json"
    compared = False
    for value in _places(document, key):
        pairs = {key: (value, wanted)}
        if isinstance(wanted, Mapping):
            pairs = {
                f"{key}.{inner}": (found, ours)
                for inner, ours in wanted.items()
                if ours is not None and (found := item(value, inner)) is not None
            }
        for place, (found, ours) in pairs.items():
            compared = True
            if not _same(found, ours):
                reason = f"{place}: Occlum's own says {_shown(found)}, Occlum.json means {ours}"
                return ChainCheck(name, "failed", reason)
    return ChainCheck(name) if compared else _absent(name, key)


def _same(found: object, wanted: object) -> bool:
    """Compare a number or truth value; sizes may be spelled as in ``Occlum.json``, or in bytes."""
    if isinstance(found, str):
        found = read_size(found)
    return type(found) is type(wanted) and found == wanted


def _mounts(document: object, config: OcclumConfig) -> ChainCheck:
    name, key = "mounts as in Occlum.json", f"app[{IMAGE}].mount"
    mounts = item(document, "app", IMAGE, "mount")
    if mounts is None:
        return _absent(name, key)
    found = _tree(mounts)
    if found is None:
        return ChainCheck(name, "failed", f"{key}: is no list of mounts")
    wanted = [_shape(mount) for mount in config.mounts]
    ours, theirs = frozenset(wanted), frozenset(found)
    missing = [shape for shape in wanted if shape not in theirs]
    added = [shape for shape in found if shape not in ours and shape[:2] not in _ADDED]
    of_the_hosts = [shape for shape in added if shape[0] not in _OF_THE_ENCLAVE]
    if missing or of_the_hosts:
        kind, target, _ = (missing or of_the_hosts)[0]
        has, has_not = ("Occlum.json", "Occlum's own") if missing else ("Occlum's own", "it")
        reason = f"{key}: {has} has {_shown(kind)} at {_shown(target)}, {has_not} not so"
        return ChainCheck(name, "failed", reason)
    for target, times in Counter(target for _, target, _ in found).items():
        if times > 1:
            reason = f"{key}: two file systems at {_shown(target)}"
            return ChainCheck(name, "failed", reason)
    if added:
        kind, target, _ = added[0]
        reason = f"Occlum's own has {_shown(kind)} at {_shown(target)}, which may hide files"
        return ChainCheck(name, "unchecked", f"cannot be checked: {reason}")
    return ChainCheck(name)


# A mount, reduced to what nobody has a reason to change: type, target, layers.
_Shape = tuple[str, str, tuple[object, ...]]


def _shape(mount: Mount) -> _Shape:
    return mount.type, mount.target, tuple(_shape(layer) for layer in mount.layers)


def _tree(mounts: object, depth: int = 8) -> list[_Shape] | None:
    """Give the shapes of mounts in JSON; None if it is no list of such."""
    if not isinstance(mounts, list) or not depth:
        return None
    shapes: list[_Shape] = []
    for mount in mounts:
        kind, target = item(mount, "type"), item(mount, "target")
        layers = item(mount, "options", "layers")
        below = [] if layers is None else _tree(layers, depth - 1)
        if not isinstance(kind, str) or not isinstance(target, str) or below is None:
            return None
        shapes.append((kind, target, tuple(below)))
    return shapes


def _absent(name: str, key: str) -> ChainCheck:
    reason = f"cannot be checked: Occlum's own configuration has no {key} where it is looked for"
    return ChainCheck(name, "unchecked", reason)


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | bool) else type(value).__name__
    return printable(text[:80])
