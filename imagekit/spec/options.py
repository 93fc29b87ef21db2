"""The parts of a project file that are plain settings; :mod:`imagekit.spec.project` reads them.

Named tuples, as in the rest of this room where a class has no behaviour to speak of: making a
frozen data class takes four times as long, which ``imagekit plan`` would feel.
"""

from pathlib import Path
from typing import NamedTuple


class EnclaveOptions(NamedTuple):
    """What every enclave of the project has in common (``enclave:``)."""

    max_threads: int = 1024
    """Threads at once, 1 … 4096; BigDL's number. Each takes 360 KiB of the enclave."""
    isv_prod_id: int = 1
    """SIGSTRUCT.ISVPRODID, 0 … 65535 (Intel SDM volume 3D); BigDL's number."""
    isv_svn: int = 3
    """SIGSTRUCT.ISVSVN, 0 … 65535; BigDL's number."""
    debug: bool = False
    """Whether the host may debug the enclave, that is read its memory."""
    edmm: bool = False
    """Whether pages are added as they are used (SGX2)."""


class SigningOptions(NamedTuple):
    """Who signs (``signing:``)."""

    key: Path | None = None
    """Private key file; None when the command line has to name the signer."""


class GramineOptions(NamedTuple):
    """What concerns Gramine only (``gramine:``)."""

    version: str | None = None
    """``1.9`` or ``1.3``; None to look in the base."""
    template: Path | None = None
    """Own manifest template; None for the profile's."""
    define: tuple[tuple[str, str | bool], ...] = ()
    """Further template variables, sorted by name; true where the command line gives no value."""


class OcclumProcess(NamedTuple):
    """What a process inside gets, in bytes (``occlum.process:``); Occlum's own numbers."""

    stack: int = 4 << 20
    heap: int = 32 << 20
    mmap: int = 100 << 20
    """Demanded by Occlum, without effect in any version."""


class OcclumMount(NamedTuple):
    """A further file system inside (``occlum.mounts[]:``)."""

    type: str
    """hostfs, ramfs, sefs, unionfs or ext2."""
    target: str
    """Absolute path inside."""
    source: str | None = None
    """Path of the host, from the instance folder; None for none."""
    options: tuple[tuple[str, str | bool], ...] = ()
    """``temporary``, ``cache_size``, ``disk_size`` as Occlum.json writes them, sorted by name."""


class OcclumFeatures(NamedTuple):
    """What is asked of CPU and library OS (``occlum.features:``)."""

    amx: int = 0
    """0 must be off, 1 must be on, 2 as the loader finds it."""
    pkru: int = 0
    """The same for protection keys."""
    io_uring: int = 0
    """Number of rings, 0 to 16; Occlum 0.31 and later."""
    posix_shm: bool = False
    """Whether processes share memory by name; Occlum 0.30.1 and later."""


class OcclumKss(NamedTuple):
    """Ids of key separation and sharing (``occlum.kss:``): 128-bit numbers as 32 hex digits."""

    family_id: str = "0" * 32
    """ISVFAMILYID, most significant digit first."""
    ext_prod_id: str = "0" * 32
    """ISVEXTPRODID, most significant digit first."""


class OcclumOptions(NamedTuple):
    """What concerns Occlum only (``occlum:``). Sizes are bytes.

    The size of user space is the cell's; names of variables that a host may set are
    :attr:`LaunchOptions.passthrough`.
    """

    version: str | None = None
    """Such as ``0.29.7``; None to look in the base."""
    template: Path | None = None
    """Own template of Occlum.json; None for the profile's."""
    define: tuple[tuple[str, str | bool], ...] = ()
    """Further template variables, sorted by name; true where the command line gives no value."""
    kernel_heap: int = 1 << 30
    """Heap of the library OS; BigDL's number."""
    kernel_heap_max: int | None = None
    """Its maximum; None for :attr:`kernel_heap`, as BigDL does."""
    kernel_stack: int = 1 << 20
    """Stack of the library OS, of each thread."""
    user_space_max: int | None = None
    """What user space may grow to (with EDMM); None for Occlum's choice."""
    init_threads: int | None = None
    """Threads at start (with EDMM); None for Occlum's choice."""
    process: OcclumProcess = OcclumProcess()
    """Sizes of a process."""
    entry_points: tuple[str, ...] = ()
    """Further paths that a host may start programs of."""
    mounts: tuple[OcclumMount, ...] = ()
    """Further file systems, in the order of the file."""
    features: OcclumFeatures = OcclumFeatures()
    """CPU and library OS."""
    kss: OcclumKss | None = None
    """Ids; None where key separation and sharing is off."""
    disable_log: bool | None = None
    """Whether the library OS says nothing; None to follow the log level. Occlum since 0.30.1."""
    epc_request: int | None = None
    """What pods ask for as ``sgx.intel.com/epc``; None where that is not known."""
    environment: tuple[tuple[str, str], ...] = ()
    """BigDL's variables as written, sorted by name; what they say stands in the other options."""


class AttestationOptions(NamedTuple):
    """What is sealed about attestation (``launch.attestation:``)."""

    required: bool = False
    """Whether a start without attestation is refused, whatever the host says."""
    type: str | None = None
    """Kind of service, as ATTESTATION_TYPE."""
    url: str | None = None
    """Its address, as ATTESTATION_URL."""
    app_id: str | None = None
    """Tenant, as APP_ID."""
    """Policy, as ATTESTATION_POLICYID."""
    ca: Path | None = None
    """File of PEM certificates that vouch for the service."""
    pin_sha256: str | None = None
    """SHA-256 of the service's certificate, hex."""
    server_name: str | None = None
    """Name in the service's certificate."""
    accept: str | None = None
    """Results of a quote's verification besides 0 that are taken, as ``0xa001,0xa008``."""
    local_data_key: bool = False
    """Whether a data key may come from a file of the host, who then knows it."""


class LaunchOptions(NamedTuple):
    """What runs inside under the strict profile (``launch:``)."""

    command: tuple[str, ...] = ()
    """The program's absolute path in the image, and its arguments; empty when none is named."""
    env: tuple[tuple[str, str], ...] = ()
    """Variables with sealed values, sorted by name."""
    passthrough: tuple[str, ...] = ()
    """Variables whose value comes from the host, sorted."""
    roles: tuple[str, ...] = ()
    """Roles that a container may be started with."""
    classes: tuple[str, ...] = ()
    """Main classes that the host may choose from."""
    jars: tuple[str, ...] = ()
    """Absolute paths in the image of the jars that the host may choose from."""
    arguments: str | None = None
    """Regular expression that each argument of the job must match; None for no arguments."""
    conf: tuple[tuple[str, str], ...] = ()
    """Properties of the job with sealed values, sorted by name."""
    conf_allowed: tuple[tuple[str, str], ...] = ()
    """Properties that the host may set besides the usual ones, with patterns, sorted by name."""
    attestation: AttestationOptions = AttestationOptions()
    """What is sealed about attestation."""


class PathOptions(NamedTuple):
    """Absolute paths in the base (``paths:``); None where the base is searched."""

    java_home: str | None = None
    spark_home: str | None = None
    flink_home: str | None = None
    python: str | None = None
