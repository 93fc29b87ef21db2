"""BigDL's environment variables for Occlum: what each means for a build, and which mean nothing.

BigDL's images take the limits of an enclave from the environment when a container starts, ignore
names that they do not know, and went on documenting names that no script reads any more. Source:
BigDL's scripts for Occlum at 2.5.0-SNAPSHOT (``init_instance``) and their history.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from imagekit.enclave.findings import Finding, ordered, shown
from imagekit.enclave.manifest_schema import Wrong
from imagekit.enclave.occlum.sizes import read_size

_PAGE = 4096
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_LEVELS = ("off", "debug", "trace")


@dataclass(frozen=True)
class EnvironmentSettings:
    """What the variables ask for; None for what none of them says.

    Attributes:
        user_space: bytes (``SGX_MEM_SIZE``).
        max_threads: ``SGX_THREAD``.
        kernel_heap: bytes, at start and at most (``SGX_KERNEL_HEAP``).
        debug: whether a host can debug the enclave (``ENABLE_SGX_DEBUG``).
        log: level of Occlum's log alone (``SGX_LOG_LEVEL``).
        tmp_hostfs: whether /tmp is the host's folder ./shuffle (``USING_TMP_HOSTFS``).
        malloc_arena_max: ``MALLOC_ARENA_MAX``, digits.
    """

    user_space: int | None = None
    max_threads: int | None = None
    kernel_heap: int | None = None
    debug: bool | None = None
    log: str | None = None
    tmp_hostfs: bool | None = None
    malloc_arena_max: str | None = None


SOURCES = {
    "SGX_MEM_SIZE": "user_space",
    "SGX_THREAD": "max_threads",
    "SGX_KERNEL_HEAP": "kernel_heap",
    "ENABLE_SGX_DEBUG": "debug",
    "SGX_LOG_LEVEL": "log",
    "USING_TMP_HOSTFS": "tmp_hostfs",
    "MALLOC_ARENA_MAX": "malloc_arena_max",
}
"""The variables that say something about a build, and the setting that each is."""

DEAD = {
    "SGX_HEAP": (
        "has no effect since BigDL went to Occlum 0.29.7 (2023-08-08); before, it was "
        "process.default_heap_size",
        "write occlum.process.heap",
    ),
    "META_SPACE": (
        "has no effect since 2023-01; before, it was -XX:MaxMetaspaceSize of the JVM",
        "give the JVM -XX:MaxMetaspaceSize where the job is started",
    ),
}
"""The variables that no script of BigDL reads any more: problem and hint."""

_AT_START = "set it for the container that is started"
_HEAP = "it is the JVM's heap: say it where the job is submitted"
_RUN_TIME = {
    "ATTESTATION": "matrix.attestation says whether images can attest; the rest is said at start",
    "ATTESTATION_DEBUG": "leave it out: it has a failed attestation pass",
    "ATTESTATION_URL": "write launch.attestation.url, or " + _AT_START,
    "ATTESTATION_POLICYID": _AT_START,
    "APP_ID": "write launch.attestation.app_id, or " + _AT_START,
    "API_KEY": "it is a secret: keep it in a Kubernetes Secret, and remove it from this file",
    "PCCS_URL": _AT_START,
    "CHALLENGE": _AT_START,
    "REPORT_DATA": _AT_START,
    "policy_Id": _AT_START,
    "DRIVER_MEMORY": _HEAP,
    "SPARK_EXECUTOR_MEMORY": _HEAP,
    "SGX_DRIVER_JVM_MEM_SIZE": _HEAP,
    "SGX_EXECUTOR_JVM_MEM_SIZE": _HEAP,
    "NETTY_THREAD": "give the JVM -Dio.netty.availableProcessors where the job is submitted",
    "OCCLUM_LOG_LEVEL": "write matrix.log",
}
_SLIPS = {
    "SGX_MEMORY_SIZE": "SGX_MEM_SIZE",
    "SGX_THREADS": "SGX_THREAD",
    "SGX_KERNEL_HEAP_SIZE": "SGX_KERNEL_HEAP",
    "SGX_HEAP_SIZE": "SGX_HEAP",
    "SGX_DEBUG": "ENABLE_SGX_DEBUG",
    "PCCL_URL": "PCCS_URL",
    "POLICY_ID": "policy_Id",
}
_NAMES = {name.casefold(): name for name in (*SOURCES, *DEAD, *_RUN_TIME)}


def environment_settings(
    environment: Mapping[str, str],
) -> tuple[EnvironmentSettings, tuple[Finding, ...]]:
    """Read BigDL's variables as settings of a build.

    Args:
        environment: names and values; a value is never shown unless the name is one of
            :data:`SOURCES`.

    Returns:
        The settings, and an error for each variable that sets nothing here (``key`` is the name):
        dead, misspelt, belonging to run time, unknown, or with a value that means nothing.
    """
    values: dict[str, Any] = {}
    findings: list[Finding] = []
    for name, text in environment.items():
        if name not in SOURCES:
            findings.append(Finding(name, *_explained(name)))
            continue
        value = _READERS[SOURCES[name]](text)
        if isinstance(value, Wrong):
            findings.append(Finding(name, value.problem, value.hint))
        else:
            values[SOURCES[name]] = value
    return EnvironmentSettings(**values), ordered(findings)


def _explained(name: str) -> tuple[str, str]:
    if name in DEAD:
        return DEAD[name]
    if name in _RUN_TIME:
        return "is read when a container starts, it is no setting of a build", _RUN_TIME[name]
    near = _SLIPS.get(name)
    if near is None:
        close = difflib.get_close_matches(name[:100].casefold(), _NAMES, n=1, cutoff=0.7)
        near = _NAMES[close[0]] if close else None
    if near is None:
        return "no script of BigDL reads it", f"known here: {', '.join(sorted(SOURCES))}"
    problem = f"no script of BigDL reads it; {near} is what they know"
    if near in SOURCES:
        return problem, f"write {near}"
    return f"{problem}, and that is no setting of a build", _explained(near)[1]


def _size(text: str) -> int | Wrong:
    size = read_size(text)
    if isinstance(size, int) and (size == 0 or size % _PAGE):
        return Wrong(f"{shown(text)} is not whole pages of 4KB", 'write it like "16GB"')
    return size


def _threads(text: str) -> int | Wrong:
    # BigDL's script takes quotes off.
    bare = text.strip("\"'")
    if not _NUMBER.fullmatch(bare):
        return Wrong(f"{shown(text)} is not a number of threads", "write decimal digits: 512")
    return int(bare)


def _switch(text: str) -> bool | Wrong:
    if text not in ("true", "false"):
        return Wrong(f"{shown(text)} is neither true nor false", "write it in lower case")
    return text == "true"


def _level(text: str) -> str | Wrong:
    if text not in _LEVELS:
        return Wrong(
            f"{shown(text)} is read as off by BigDL's script",
            f"write {', '.join(_LEVELS)} here, or any level in matrix.log; neither makes an "
            "enclave debuggable, that is enclave.debug",
        )
    return text


def _arenas(text: str) -> str | Wrong:
    if not _NUMBER.fullmatch(text):
        return Wrong(f"{shown(text)} is not a number of arenas", "write decimal digits: 4")
    return text


_READERS: dict[str, Callable[[str], Any]] = {
    "user_space": _size,
    "max_threads": _threads,
    "kernel_heap": _size,
    "debug": _switch,
    "log": _level,
    "tmp_hostfs": _switch,
    "malloc_arena_max": _arenas,
}
assert set(_READERS) == {field.name for field in fields(EnvironmentSettings)}
