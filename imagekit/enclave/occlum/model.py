"""What an ``Occlum.json`` says, as typed values; :mod:`imagekit.enclave.occlum.config` reads it."""

from dataclasses import dataclass

from imagekit.enclave.occlum.versions import OcclumVersion


@dataclass(frozen=True)
class ProcessSizes:
    """What a process inside gets (``process``), in bytes; ``mmap`` has no effect."""

    stack: int
    heap: int
    mmap: int


@dataclass(frozen=True)
class Features:
    """What is asked of CPU and library OS (``feature``, before 0.30.1 ``metadata``).

    Attributes:
        amx, pkru: 0 must be off, 1 must be on, 2 as the loader finds it.
        io_uring: number of rings, 0 for none.
        edmm: whether pages are added as they are used.
        posix_shm: whether processes share memory by name.
    """

    amx: int = 0
    pkru: int = 0
    io_uring: int = 0
    edmm: bool = False
    posix_shm: bool = False


@dataclass(frozen=True)
class Mount:
    """One file system (``mount[]``, or one of its layers).

    Attributes:
        type: sefs, hostfs, ramfs, unionfs, devfs, procfs or ext2.
        target: where it is seen.
        source: path in the instance folder; None for none.
        mac: tag that the build fills in where this is the empty text; None for no tag.
        layers: of a unionfs, uppermost last.
        temporary: whether it is thrown away with the enclave.
        cache_size, disk_size: bytes; None for the default.
    """

    type: str
    target: str
    source: str | None = None
    mac: str | None = None
    layers: tuple["Mount", ...] = ()
    temporary: bool = False
    cache_size: int | None = None
    disk_size: int | None = None


@dataclass(frozen=True)
class OcclumConfig:
    """One ``Occlum.json``, checked. Sizes are bytes.

    Attributes:
        version: whose document it is.
        user_space, user_space_max: memory of the processes.
        kernel_heap, kernel_heap_max, kernel_stack: memory of the library OS; the stack is one
            thread's.
        max_threads, init_threads: threads at most, and at start (EDMM).
        process: sizes of a process.
        entry_points: absolute paths that a host may start programs of.
        env_default: variables with their values, in the document's order.
        env_untrusted: names whose values the host chooses, against a default as well.
        product_id, version_number: ISVPRODID and ISVSVN, u16.
        debuggable: whether a host can make it a debug enclave.
        disable_log: whether it says nothing at all.
        enable_kss: key separation and sharing.
        family_id, ext_prod_id: u128, 0 where KSS is off.
        features: what is asked of CPU and library OS.
        mounts: its file systems, in the document's order.
    """

    version: OcclumVersion
    user_space: int
    user_space_max: int | None
    kernel_heap: int
    kernel_heap_max: int | None
    kernel_stack: int
    max_threads: int
    init_threads: int | None
    process: ProcessSizes
    entry_points: tuple[str, ...]
    env_default: tuple[tuple[str, str], ...]
    env_untrusted: tuple[str, ...]
    product_id: int
    version_number: int
    debuggable: bool
    disable_log: bool
    enable_kss: bool
    family_id: int
    ext_prod_id: int
    features: Features
    mounts: tuple[Mount, ...]
