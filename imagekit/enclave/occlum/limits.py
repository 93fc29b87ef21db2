"""Rules about numbers of an ``Occlum.json`` that have to fit each other."""

from collections.abc import Iterator, Mapping
from typing import Any

from imagekit.enclave.findings import WARNING, Finding, shown
from imagekit.enclave.manifest_values import table_at, value_at
from imagekit.enclave.occlum.keys import KEYS
from imagekit.enclave.occlum.sizes import LARGEST, occlum_size, read_size
from imagekit.enclave.occlum.versions import GIB, Layout, OcclumVersion

_LIMITS = "resource_limits."
_USER, _USER_MAX = _LIMITS + "user_space_size", _LIMITS + "user_space_max_size"
_HEAP, _HEAP_MAX = _LIMITS + "kernel_space_heap_size", _LIMITS + "kernel_space_heap_max_size"
_STACK, _THREADS = _LIMITS + "kernel_space_stack_size", _LIMITS + "max_num_of_threads"
_INIT = _LIMITS + "init_num_of_threads"
_MMAP = "process.default_mmap_size"

LEAST_MAX_USER, LEAST_MAX_HEAP = 16 * GIB, GIB
"""With EDMM, what user space and kernel heap may grow to if nothing is said, at least; in bytes."""
GUARDS = 3 * 16 * 4096
"""Bytes of address space, not of memory, that the SDK leaves around each thread's parts."""


def limit_findings(
    document: Mapping[str, Any], version: OcclumVersion, edmm: bool
) -> Iterator[Finding]:
    """Give what does not fit together among limits, sizes and ids; whatever else is wrong."""
    if edmm and not version.has_edmm:
        yield Finding(
            "feature.enable_edmm",
            f"Occlum {version.name} has no EDMM",
            "take 0.30.0 or later, or a fixed enclave (enclave.edmm: false)",
        )
    grows = can_grow(document, version, edmm)
    yield from _maximum(document, _HEAP, _HEAP_MAX, version, grows)
    if version.layout is Layout.SGX2:
        yield from _maximum(document, _USER, _USER_MAX, version, grows)
        yield from _threads(document, grows)
    yield from _process(document, version, grows)
    yield from _ids(document)
    yield from _range(document)


def can_grow(document: Mapping[str, Any], version: OcclumVersion, edmm: bool) -> bool:
    """Tell whether a maximum is what memory may grow to; else it replaces the size at start."""
    if version.layout is Layout.SGX2:
        asked = value_at(document, "feature.enable_edmm") is True and version.has_features
        return edmm or asked
    return version.layout is Layout.HEAP_MAX


def heap_limit(document: Mapping[str, Any], version: OcclumVersion, edmm: bool) -> int | None:
    """Give the most that the kernel's heap can be, in bytes; None if its size is not known."""
    heap, most = _sizes(document, _HEAP, _HEAP_MAX)
    if most is not None and KEYS[_HEAP_MAX].known_to(version):
        return most
    return max(heap, LEAST_MAX_HEAP) if heap and can_grow(document, version, edmm) else heap


def _sizes(document: Mapping[str, Any], *keys: str) -> tuple[int | None, ...]:
    """Give the bytes of keys; None for what is absent or no size, which is said elsewhere."""
    found = (read_size(value_at(document, key)) for key in keys)
    return tuple(size if isinstance(size, int) else None for size in found)


def _maximum(
    document: Mapping[str, Any], key: str, top: str, version: OcclumVersion, grows: bool
) -> Iterator[Finding]:
    size, most = _sizes(document, key, top)
    short = key.rpartition(".")[2]
    if size is None or not KEYS[top].known_to(version):
        return
    if most is None:
        if top == _HEAP_MAX and version.layout is Layout.HEAP_MAX and size > LEAST_MAX_HEAP:
            yield Finding(
                top,
                f"is left out, so it is {occlum_size(LEAST_MAX_HEAP)}, less than {short}",
                f'add it: "{occlum_size(size)}"',
            )
        return
    if grows and most < size:
        yield Finding(
            top,
            f"{occlum_size(most)} is less than {short}, {occlum_size(size)}",
            "a maximum is not below the size at start",
            stock=True,
        )
    elif not grows and most != size:
        yield Finding(
            top,
            f"{occlum_size(most)} replaces {short}, {occlum_size(size)}, in an enclave without "
            "EDMM: all of it is there from the start",
            f"write the same in both, or leave {top.rpartition('.')[2]} out",
            WARNING,
        )


def _threads(document: Mapping[str, Any], grows: bool) -> Iterator[Finding]:
    first, most = value_at(document, _INIT), value_at(document, _THREADS)
    if first is None:
        return
    if not grows:
        yield Finding(
            _INIT, "has no effect without EDMM: all threads are there", "leave it out", WARNING
        )
    elif isinstance(first, int) and isinstance(most, int) and first > most:
        yield Finding(
            _INIT, f"{first} is more than max_num_of_threads, {most}", "lower it", stock=True
        )


def _process(document: Mapping[str, Any], version: OcclumVersion, grows: bool) -> Iterator[Finding]:
    keys = ("process.default_stack_size", "process.default_heap_size")
    stack, heap, user, most = _sizes(document, *keys, _USER, _USER_MAX)
    if version.layout is not Layout.SGX2:
        most = None
    if grows and user is not None:
        most = most or max(user, LEAST_MAX_USER)
    room = most or user
    if stack is not None and heap is not None and room is not None and stack + heap > room:
        yield Finding(
            keys[1],
            f"stack and heap of one process, {occlum_size(stack + heap)}, are more than all user "
            f"space, {occlum_size(room)}",
            "no program would start: lower it, or raise user space",
        )
    mmap = value_at(document, _MMAP)
    if isinstance(mmap, str) and mmap != KEYS[_MMAP].default:
        problem = f"{shown(mmap)} has no effect: mappings take what user space has"
        yield Finding(_MMAP, problem, f"leave Occlum's own {shown(KEYS[_MMAP].default)}", WARNING)


def _ids(document: Mapping[str, Any]) -> Iterator[Finding]:
    if value_at(document, "metadata.enable_kss") is not False:
        return
    for name in ("family_id", "ext_prod_id"):
        for half, value in table_at(document, f"metadata.{name}").items():
            if half in ("high", "low") and isinstance(value, str) and value.strip("0xX"):
                yield Finding(
                    f"metadata.{name}.{half}",
                    f"{shown(value)} becomes 0: key separation and sharing is off",
                    "set metadata.enable_kss to true, or write 0x0",
                    loads=True,
                )


def _range(document: Mapping[str, Any]) -> Iterator[Finding]:
    user, heap, stack = _sizes(document, _USER, _HEAP, _STACK)
    threads = value_at(document, _THREADS)
    if isinstance(threads, int) and None not in (user, heap, stack):
        total = (user or 0) + (heap or 0) + threads * ((stack or 0) + GUARDS)
        if total > LARGEST:
            yield Finding(
                "resource_limits",
                f"the enclave needs {total} bytes of address space, more than a program has",
                f"at most {LARGEST} bytes",
            )
