"""How Flink divides a process's memory, and what the JVM gets of it.

Flink's scripts ask a Java program for these numbers, in a process of its own, which an enclave
cannot have. The rules are those of Flink's memory model, with its rounding: sizes are whole bytes,
a fraction is a 32-bit float that is multiplied in decimal and cut off. Tests compare the results
with what that program of Flink 1.16.3 and 1.20.5 says, byte for byte.

Total process memory = total Flink memory + JVM metaspace + JVM overhead. Total Flink memory is heap
and off-heap memory of a JobManager; of a TaskManager, framework and task heap, framework and task
off-heap, managed and network memory.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Mapping, NamedTuple  # noqa: UP035 - Python 3.8

from .flink_sizes import LARGEST, MIB, Options

JOB_MANAGER = "jobmanager.memory"
TASK_MANAGER = "taskmanager.memory"

_CORES = re.compile(r"(0|[1-9][0-9]{0,3})(\.[0-9]{1,3})?")
_SLOTS = re.compile(r"[1-9][0-9]{0,4}")


class Memory(NamedTuple):
    """The memory of a process.

    Attributes:
        heap: bytes of the JVM's heap.
        direct: bytes of direct memory, None for no limit.
        metaspace: bytes.
        total: bytes of the process.
        properties: property → value that says the same to the program, in the order of Flink's
            own helper.
    """

    heap: int
    direct: int | None
    metaspace: int
    total: int
    properties: dict[str, str]

    def flags(self) -> tuple[str, ...]:
        """Give the JVM's options."""
        direct = () if self.direct is None else (f"-XX:MaxDirectMemorySize={self.direct}",)
        return (
            *(f"-Xmx{self.heap}", f"-Xms{self.heap}"),
            *direct,
            f"-XX:MaxMetaspaceSize={self.metaspace}",
        )


def job_manager(conf: Mapping[str, str], release: tuple[int, ...]) -> Memory:
    """Compute a JobManager's memory.

    Args:
        conf: its configuration.
        release: of Flink, as numbers.

    Raises:
        ValueError: it is inconsistent or says too little; one line, names of properties only.
    """
    options = Options(conf, JOB_MANAGER, release)
    options.legacy_heap("jobmanager.heap", f"{JOB_MANAGER}.heap.size")
    off_heap = options.size("off-heap.size", 128 * MIB)
    if options.has("heap.size"):
        heap = options.size("heap.size")
        if options.has("flink.size"):
            flink = options.size("flink.size")
            if options.has("off-heap.size") and heap + off_heap != flink:
                raise ValueError(f"{JOB_MANAGER}.flink.size is not the sum of its parts")
            off_heap = options.rest("flink.size", flink, heap)
        split = _from_flink(options, heap + off_heap)
    else:
        split = _split(options)
        heap = split.flink - off_heap
        if heap <= 0:
            raise ValueError(
                f"{JOB_MANAGER}.off-heap.size leaves nothing for the heap: raise "
                f"{JOB_MANAGER}.process.size"
            )
    properties = {
        f"{JOB_MANAGER}.off-heap.size": _bytes(off_heap),
        f"{JOB_MANAGER}.jvm-overhead.min": _bytes(split.overhead),
        f"{JOB_MANAGER}.jvm-metaspace.size": _bytes(split.metaspace),
        f"{JOB_MANAGER}.heap.size": _bytes(heap),
        f"{JOB_MANAGER}.jvm-overhead.max": _bytes(split.overhead),
    }
    limited = options.text("enable-jvm-direct-memory-limit", "false").lower() == "true"
    direct = off_heap if limited else None
    return Memory(heap, direct, split.metaspace, split.total, properties)


def task_manager(conf: Mapping[str, str], release: tuple[int, ...]) -> Memory:
    """Compute a TaskManager's memory.

    Args, Raises: as :func:`job_manager`.
    """
    options = Options(conf, TASK_MANAGER, release)
    options.legacy_heap("taskmanager.heap", f"{TASK_MANAGER}.flink.size")
    if conf.get("external-resources", "none") not in ("none", ""):
        raise ValueError("external-resources: there are none in an enclave")
    if "taskmanager.network.numberOfBuffers" in conf:
        raise ValueError(
            "taskmanager.network.numberOfBuffers is not supported: take "
            f"{TASK_MANAGER}.network.min and .max"
        )
    parts = _Parts(
        framework_heap=options.size("framework.heap.size", 128 * MIB),
        framework_off_heap=options.size("framework.off-heap.size", 128 * MIB),
        task_off_heap=options.size("task.off-heap.size", 0),
    )
    if options.has("task.heap.size") and options.has("managed.size"):
        parts = parts._replace(
            task_heap=options.size("task.heap.size"), managed=options.size("managed.size")
        )
        if options.has("flink.size"):
            network = options.rest("flink.size", options.size("flink.size"), parts.sum())
            options.in_range("network", network, 64 * MIB, options.network_max(), 0.1)
        else:
            network = options.grown("network", parts.sum(), 64 * MIB, options.network_max())
        parts = parts._replace(network=network)
        split = _from_flink(options, parts.sum())
    else:
        split = _split(options)
        parts = _divided(options, parts, split.flink)
    return _task_manager(conf, parts, split)


class _Parts(NamedTuple):
    """A TaskManager's Flink memory, bytes."""

    framework_heap: int
    framework_off_heap: int
    task_off_heap: int
    task_heap: int = 0
    managed: int = 0
    network: int = 0

    def sum(self) -> int:
        """Give what they are together."""
        return sum(self)


def _divided(options: Options, parts: _Parts, flink: int) -> _Parts:
    """Divide total Flink memory: managed memory first, then network, the rest is task heap.

    With a task heap that is set the rest is network memory.
    """
    if options.has("managed.size"):
        parts = parts._replace(managed=options.size("managed.size"))
    else:
        parts = parts._replace(managed=options.part("managed", flink, 0, LARGEST, 0.4))
    if options.has("task.heap.size"):
        parts = parts._replace(task_heap=options.size("task.heap.size"))
        network = options.rest("flink.size", flink, parts.sum())
        options.in_range("network", network, 64 * MIB, options.network_max(), 0.1)
        return parts._replace(network=network)
    network = options.part("network", flink, 64 * MIB, options.network_max(), 0.1)
    parts = parts._replace(network=network)
    return parts._replace(task_heap=options.rest("flink.size", flink, parts.sum()))


def _task_manager(conf: Mapping[str, str], parts: _Parts, split: _Split) -> Memory:
    slots = conf.get("taskmanager.numberOfTaskSlots", "1")
    if not _SLOTS.fullmatch(slots):
        raise ValueError("taskmanager.numberOfTaskSlots is not a number of slots")
    cores = conf.get("taskmanager.cpu.cores", slots)
    if not _CORES.fullmatch(cores):
        raise ValueError("taskmanager.cpu.cores is not a number such as 2 or 0.5")
    properties = {
        f"{TASK_MANAGER}.network.min": _bytes(parts.network),
        "taskmanager.cpu.cores": str(float(cores)),
        f"{TASK_MANAGER}.task.off-heap.size": _bytes(parts.task_off_heap),
        f"{TASK_MANAGER}.jvm-metaspace.size": _bytes(split.metaspace),
        "external-resources": "none",
        f"{TASK_MANAGER}.jvm-overhead.min": _bytes(split.overhead),
        f"{TASK_MANAGER}.framework.off-heap.size": _bytes(parts.framework_off_heap),
        f"{TASK_MANAGER}.network.max": _bytes(parts.network),
        f"{TASK_MANAGER}.framework.heap.size": _bytes(parts.framework_heap),
        f"{TASK_MANAGER}.managed.size": _bytes(parts.managed),
        f"{TASK_MANAGER}.task.heap.size": _bytes(parts.task_heap),
        "taskmanager.numberOfTaskSlots": slots,
        f"{TASK_MANAGER}.jvm-overhead.max": _bytes(split.overhead),
    }
    return Memory(
        heap=parts.framework_heap + parts.task_heap,
        direct=parts.framework_off_heap + parts.task_off_heap + parts.network,
        metaspace=split.metaspace,
        total=split.total,
        properties=properties,
    )


def _bytes(size: int) -> str:
    return f"{size}b"


class _Split(NamedTuple):
    """A process's memory, bytes: Flink's and the JVM's own."""

    flink: int
    metaspace: int
    overhead: int

    @property
    def total(self) -> int:
        return self.flink + self.metaspace + self.overhead


def _split(options: Options) -> _Split:
    """Split what is configured as a whole: total Flink memory, or the process's."""
    if options.has("flink.size"):
        return _from_flink(options, options.size("flink.size"))
    if not options.has("process.size"):
        raise ValueError(f"{options.prefix}.process.size is not set: the memory is not known")
    total = options.size("process.size")
    metaspace = options.size("jvm-metaspace.size", 256 * MIB)
    overhead = options.part("jvm-overhead", total, 192 * MIB, 1024 * MIB, 0.1)
    return _Split(options.rest("process.size", total, metaspace + overhead), metaspace, overhead)


def _from_flink(options: Options, flink: int) -> _Split:
    """Add the JVM's own memory to Flink's."""
    metaspace = options.size("jvm-metaspace.size", 256 * MIB)
    if options.has("process.size"):
        total = options.size("process.size")
        overhead = options.rest("process.size", total, flink + metaspace)
        options.in_range("jvm-overhead", overhead, 192 * MIB, 1024 * MIB, 0.1)
    else:
        overhead = options.grown("jvm-overhead", flink + metaspace, 192 * MIB, 1024 * MIB)
    split = _Split(flink, metaspace, overhead)
    if split.total > LARGEST:
        raise ValueError(f"{options.prefix}: the sum of the sizes is too large")
    return split
