"""Variables of BigDL's Occlum pods: which mean something at start, and which came too late.

BigDL's image built its enclave when the container started, so that size, threads and more were
variables of the pod. Here the enclave is built and signed before: what such a variable asks for is
compared with the instance's ``Occlum.json``, and a difference is said in one line. None of these
variables goes into the enclave.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import json
import re
from typing import Any, Mapping  # noqa: UP035 - Python 3.8

from .start import read_file
from .stop import REFUSED, Stop

OWN_LOG_VARIABLE = "OCCLUM_LOG_LEVEL"
"""What Occlum itself reads, outside; so nobody measures it."""
LOG_LEVELS = ("off", "error", "warn", "info", "debug", "trace")
_OTHER_WORDS = {"fatal": "error", "panic": "error", "warning": "warn", "all": "trace"}

_BUILT = {
    "SGX_MEM_SIZE": ("resource_limits", "user_space_size"),
    "SGX_KERNEL_HEAP": ("resource_limits", "kernel_space_heap_size"),
    "SGX_THREAD": ("resource_limits", "max_num_of_threads"),
    "ENABLE_SGX_DEBUG": ("metadata", "debuggable"),
}
"""Variables for which ``Occlum.json`` has the answer, and where."""

_DEAD = {
    "SGX_HEAP": "BigDL's images take it no more either, since Occlum 0.29.7",
    "META_SPACE": "give -XX:MaxMetaspaceSize among the JVM's options",
    "SGX_MEMORY_SIZE": "SGX_MEM_SIZE may be meant; the size is the image's",
    "SGX_THREADS": "SGX_THREAD may be meant; the number is the image's",
    "SGX_KERNEL_HEAP_SIZE": "SGX_KERNEL_HEAP may be meant; the size is the image's",
    "SGX_DRIVER_MEM_SIZE": "the enclave's size is the image's; SGX_DRIVER_JVM_MEM_SIZE is the heap",
    "SGX_EXECUTOR_MEM_SIZE": "the size is the image's; SGX_EXECUTOR_JVM_MEM_SIZE is the heap",
    "SGX_JVM_MEM_SIZE": "SGX_DRIVER_JVM_MEM_SIZE or SGX_EXECUTOR_JVM_MEM_SIZE may be meant",
    "DRIVER_MEMORY": "SGX_DRIVER_JVM_MEM_SIZE sets the heap",
    "PCCL_URL": "PCCS_URL may be meant",
    "policy_Id": "ATTESTATION_POLICYID may be meant",
    "USING_TMP_HOSTFS": "where /tmp lies is decided when the image is built",
}
"""Names that have no effect, and what may be meant."""

_MEANT = ("SGX_ENABLED", "SGX_MODE", "SGX_DRIVER_JVM_MEM_SIZE", "SGX_EXECUTOR_JVM_MEM_SIZE")
_OUTSIDE = ("SGX_LOG_LEVEL", "SGX_AESM_ADDR", "SGX_SDK", "SGX_SPID", "SGX_UNLINKABLE")
"""What Occlum and Intel's libraries read outside of the enclave."""

_LONGEST_CONFIG = 1 << 20
_SIZE = re.compile(r"\s*([0-9]{1,15})\s*([KMGT]?)B\s*", re.IGNORECASE)
_NUMBER = re.compile(r"\"?([0-9]{1,9})\"?")
_WORDS = re.compile(r"SGX_[A-Za-z0-9_]{1,60}")
_POWERS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def stays_outside(name: str) -> bool:
    """Say whether a variable is none of the job's, so that it does not go into the enclave."""
    return name in _DEAD or name in _BUILT or (name.startswith("SGX_") and name not in _MEANT)


def read_config(path: str) -> dict[str, Any]:
    """Read an instance's ``Occlum.json``; empty if that is not possible: it decides nothing."""
    try:
        document = json.loads(read_file(path, _LONGEST_CONFIG, path).decode("utf-8"))
    except (Stop, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def log_level(
    env: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Turn ``SGX_LOG_LEVEL`` into Occlum's own variable.

    It wins over an ``OCCLUM_LOG_LEVEL`` that is there before: images set that to their cell's
    level, which cannot be told from a pod's, and BigDL's image also goes by the former alone. That
    one also made the enclave debuggable for ``debug`` and ``trace``; here nothing does.

    Returns:
        Variables to add, and lines to print.

    Raises:
        Stop: it is no level.
    """
    asked = _level(env, "SGX_LOG_LEVEL")
    if not asked:
        return {}, ()
    if asked not in LOG_LEVELS:
        raise Stop(REFUSED, f"SGX_LOG_LEVEL is none of {', '.join(LOG_LEVELS)}")
    lines: tuple[str, ...] = ()
    if _level(env, OWN_LOG_VARIABLE) not in ("", asked):
        lines = (f"SGX_LOG_LEVEL counts, not {OWN_LOG_VARIABLE}, which says something else",)
    if asked in LOG_LEVELS[2:] and _built(config, ("metadata", "debuggable")) is not True:
        more = "SGX_LOG_LEVEL: an enclave that is not debuggable says no more than error"
        lines = (*lines, more)
    return {OWN_LOG_VARIABLE: asked}, lines


def _level(env: Mapping[str, str], name: str) -> str:
    word = env.get(name, "").lower()
    return _OTHER_WORDS.get(word, word)


def notes(env: Mapping[str, str], config: Mapping[str, Any]) -> list[str]:
    """Say which variables have no effect; a line each, without the host's values."""
    lines = []
    for name in sorted(set(env) & set(_BUILT)):
        value = _built(config, _BUILT[name])
        if env[name] and not _same(env[name], value):
            shown = _shown(value)
            was = f"the image was built with {shown}" if shown else "the image was built before"
            lines.append(f"{name} has no effect: {was}")
    lines += [f"{name} has no effect: {_DEAD[name]}" for name in sorted(set(env) & set(_DEAD))]
    known = {*_MEANT, *_OUTSIDE, *_BUILT, *_DEAD}
    unknown = sorted(name for name in set(env) - known if _WORDS.fullmatch(name))
    lines += [f"{name} has no effect: it is not known here" for name in unknown]
    if _built(config, ("metadata", "debuggable")) is True:
        lines.append("the enclave is debuggable: the host can look into it")
    return lines


def _built(config: Mapping[str, Any], keys: tuple[str, str]) -> Any:
    part = config.get(keys[0])
    return part.get(keys[1]) if isinstance(part, dict) else None


def _same(given: str, built: Any) -> bool:
    """Whether a variable asks for what the image has."""
    if isinstance(built, bool):
        return given.lower() == str(built).lower()
    if isinstance(built, int):
        found = _NUMBER.fullmatch(given)
        return found is not None and int(found[1]) == built
    size = _bytes(given)
    return size is not None and isinstance(built, str) and size == _bytes(built)


def _bytes(text: str) -> int | None:
    found = _SIZE.fullmatch(text)
    return None if found is None else int(found[1]) << _POWERS[found[2].upper()]


def _shown(built: Any) -> str:
    """The image's value, if it can be printed: the file is not checked here."""
    if isinstance(built, bool):
        return str(built).lower()
    if isinstance(built, int):
        return str(built)
    return built.strip() if isinstance(built, str) and _SIZE.fullmatch(built) else ""
