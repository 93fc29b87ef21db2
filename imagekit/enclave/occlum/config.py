"""``Occlum.json``: what it says, checked for a version of Occlum.

Occlum's own tool ignores keys that it does not know and ends without error on values that it cannot
read. Two questions are answered here:

- :func:`config_findings`: what is wrong with a document, and what is unwise in it? All of it, as
  data; any JSON gives findings, never an exception.
- :func:`read_occlum_config`: what does it say, as typed values?
"""

from collections.abc import Iterator, Mapping
from typing import Any

from imagekit.enclave.findings import ERROR, WARNING, Finding, ordered
from imagekit.enclave.occlum.entries import entry_findings
from imagekit.enclave.occlum.keys import KEYS
from imagekit.enclave.occlum.limits import limit_findings
from imagekit.enclave.occlum.model import Features, Mount, OcclumConfig, ProcessSizes
from imagekit.enclave.occlum.mounts import mount_findings
from imagekit.enclave.occlum.sizes import parse_occlum_size
from imagekit.enclave.occlum.structure import structure_findings
from imagekit.enclave.occlum.versions import OcclumVersion
from imagekit.errors import UsageError

__all__ = [
    "Features",
    "Mount",
    "OcclumConfig",
    "ProcessSizes",
    "config_findings",
    "debug_finding",
    "read_occlum_config",
]


def debug_finding(debuggable: object, *, release: bool = True) -> Finding | None:
    """Judge ``metadata.debuggable``: refused under release, a warning otherwise.

    The log level has no part in this. BigDL's scripts make an enclave debuggable when its log level
    is debug or trace; here it never is for that reason.

    Args:
        debuggable: the value of the key, or ``enclave.debug`` of a project.
        release: whether the enclave is meant for more than development.

    Returns:
        A finding with the key ``metadata.debuggable``; None if it is not debuggable.
    """
    if debuggable is not True:
        return None
    problem = "true lets the host read and change all memory of the enclave"
    hint = "set it to false; a debug enclave is for development, and has to be asked for twice"
    return Finding(
        "metadata.debuggable", problem, hint, ERROR if release else WARNING, loads=release
    )


def config_findings(
    document: object, version: OcclumVersion, *, release: bool = True, edmm: bool = False
) -> tuple[Finding, ...]:
    """Say what is wrong with a document, and what is unwise in it.

    Args:
        document: parsed JSON, complete: what ``occlum build`` is about to read.
        version: the Occlum that reads it.
        release: whether a debuggable enclave is refused (:func:`debug_finding`).
        edmm: whether ``occlum build`` is called with ``--enable-edmm Y``.

    Returns:
        Findings, errors first. Of an error, ``stock`` says that Occlum or its signer stops there
        too, ``loads`` that Occlum takes it and does something else than it says.
    """
    found = list(structure_findings(document, version))
    if isinstance(document, Mapping):
        for rule in (limit_findings, entry_findings, mount_findings):
            found += rule(document, version, edmm)
        metadata = document.get("metadata")
        debuggable = metadata.get("debuggable") if isinstance(metadata, Mapping) else None
        debug = debug_finding(debuggable, release=release)
        found += [debug] if debug else []
    return ordered(found)


def read_occlum_config(
    document: object, version: OcclumVersion, name: str = "Occlum.json"
) -> OcclumConfig:
    """Read a document as typed values.

    Args:
        document: parsed JSON.
        version: the Occlum that it is for.
        name: how it is called in error messages.

    Raises:
        UsageError: it has an error (:func:`config_findings`, a debuggable enclave is none here);
            with the first of them and how many more there are.
    """
    found = [f for f in config_findings(document, version, release=False) if f.severity == ERROR]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UsageError(f"{name}: {found[0].line}{more}", found[0].hint)
    assert isinstance(document, Mapping)
    return _config(document, version)


def _config(document: Mapping[str, Any], version: OcclumVersion) -> OcclumConfig:
    limits, metadata, process = (document[k] for k in ("resource_limits", "metadata", "process"))
    kss = metadata["enable_kss"]
    return OcclumConfig(
        version=version,
        user_space=parse_occlum_size(limits["user_space_size"]),
        user_space_max=_optional_size(limits, "user_space_max_size"),
        kernel_heap=parse_occlum_size(limits["kernel_space_heap_size"]),
        kernel_heap_max=_optional_size(limits, "kernel_space_heap_max_size"),
        kernel_stack=parse_occlum_size(limits["kernel_space_stack_size"]),
        max_threads=limits["max_num_of_threads"],
        init_threads=limits.get("init_num_of_threads"),
        process=ProcessSizes(
            *(parse_occlum_size(process[f"default_{name}_size"]) for name in _PROCESS)
        ),
        entry_points=tuple(document["entry_points"]),
        env_default=tuple(_variables(document["env"]["default"])),
        env_untrusted=tuple(document["env"]["untrusted"]),
        product_id=metadata["product_id"],
        version_number=metadata["version_number"],
        debuggable=metadata["debuggable"],
        disable_log=metadata.get(
            "disable_log", version.has_features and not metadata["debuggable"]
        ),
        enable_kss=kss,
        family_id=_id(metadata["family_id"]) if kss else 0,
        ext_prod_id=_id(metadata["ext_prod_id"]) if kss else 0,
        features=_features(document, version),
        mounts=tuple(_mount(mount) for mount in document["mount"]),
    )


_PROCESS = ("stack", "heap", "mmap")


def _optional_size(table: Mapping[str, Any], key: str) -> int | None:
    return parse_occlum_size(table[key]) if key in table else None


def _variables(entries: list[str]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if entry:  # BigDL's document has an empty one, which sets nothing
            name, _, value = entry.partition("=")
            yield name, value


def _id(halves: Mapping[str, str]) -> int:
    return int(halves["high"], 16) << 64 | int(halves["low"], 16)


def _features(document: Mapping[str, Any], version: OcclumVersion) -> Features:
    table = document["feature" if version.has_features else "metadata"]
    default = KEYS["feature.amx"].default
    return Features(
        amx=table.get("amx", default),
        pkru=table.get("pkru", default),
        io_uring=table.get("io_uring", default),
        edmm=table.get("enable_edmm", False),
        posix_shm=table.get("enable_posix_shm", False),
    )


def _mount(mount: Mapping[str, Any]) -> Mount:
    options = mount.get("options", {})
    return Mount(
        type=mount["type"],
        target=mount["target"],
        source=mount.get("source"),
        mac=options.get("MAC"),
        layers=tuple(_mount(layer) for layer in options.get("layers", ())),
        temporary=options.get("temporary", False),
        cache_size=_optional_size(options, "cache_size"),
        disk_size=_optional_size(options, "disk_size"),
    )
