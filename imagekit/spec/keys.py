"""The one table of the keys of ``imagekit.yaml``.

The parser takes the known and required keys and the numeric limits from here, the JSON Schema
(:mod:`imagekit.spec.schema`) everything else too; so the two cannot disagree about a name.
"""

from typing import Any, NamedTuple

from imagekit.runtime.launch import ROLES
from imagekit.runtime.settings import BIGDL, EHSM
from imagekit.spec.base_values import VARIANTS
from imagekit.spec.matrix import ATTESTATIONS, LIBOSES, LOG_LEVELS
from imagekit.spec.quantities import QUANTITY

SCHEMA = 1
"""The number that stands behind ``schema:``."""
PROFILES = ("strict", "compat")
"""``strict`` trusts named files only and seals the command; ``compat`` is BigDL's manifest."""
GRAMINE_VERSIONS = ("1.9", "1.3")
"""The Gramine releases whose manifests and measurement are known, newest first."""
OCCLUM_MOUNTS = ("hostfs", "ramfs", "sefs", "ext2")
"""The file systems of Occlum that a project can add to those of its images."""
OCCLUM_THREADS = 512
"""Threads of an enclave of Occlum if a project does not say: BigDL's number for it. Occlum commits
each thread's stack, so that 1024, as for Gramine, would cost every image 1 GiB of EPC."""

_LEVELS = tuple(dict.fromkeys(level for levels in LOG_LEVELS.values() for level in levels))
_SHA256 = "^[0-9a-fA-F]{64}$"


class Key(NamedTuple):
    """What one key takes."""

    kind: str
    """``text``, ``integer``, ``boolean``, ``size``, ``mapping``, ``map`` (names of variables to
    text), ``properties`` (dotted names to text), or a list: ``texts``, ``sizes``, ``mappings``."""
    text: str
    """What it means, in one sentence or two."""
    required: bool = False
    default: Any = None
    """What holds when the key is left out, as it would be written; None for nothing."""
    options: tuple[str, ...] = ()
    """The only words taken."""
    least: int | None = None
    """Smallest number, or smallest count of a list."""
    most: int | None = None
    pattern: str = ""
    """Regular expression of the text."""


_OCCLUM_SIZE = r"^[ \t]*[0-9]+[ \t]*([KMGT]?B)[ \t]*$"
_KSS_ID = "^[0-9a-fA-F]{32}$"
_SIZE = "power of two from 16m to 512g, with Occlum any such number; g means GiB, m means MiB"

KEYS: dict[str, Key] = {
    "schema": Key("integer", "Format of this file.", True, least=SCHEMA, most=SCHEMA),
    "image": Key(
        "text", "Stem of all image names: registry and name, without libos, flavour, size.", True
    ),
    "tag": Key("text", "Tag of all images.", True, pattern="^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}$"),
    "libos": Key("text", "Library OS.", default="gramine", options=LIBOSES),
    "profile": Key(
        "text",
        "strict: every file trusted, command sealed, no host environment. "
        "compat: the manifest of BigDL's images.",
        default="strict",
        options=PROFILES,
    ),
    "base": Key("mapping", "The base image: a reference, or a specification to build it.", True),
    "base.image": Key(
        "text",
        "Reference to a base that exists, with its transport; excludes all other keys.",
        pattern="^[a-z][a-z-]*:",
    ),
    "base.from": Key(
        "text",
        "Reference to an image that the base is made on, with its transport; in place of "
        "distribution, sources and exclude.",
        pattern="^[a-z][a-z-]*:",
    ),
    "base.distribution": Key("mapping", "The packages' archive."),
    "base.distribution.suite": Key("text", "Suite, such as bookworm.", True),
    "base.distribution.variant": Key(
        "text", "Package set to start from.", default="minbase", options=VARIANTS
    ),
    "base.distribution.mirrors": Key("texts", "URLs or one-line apt entries."),
    "base.distribution.snapshot": Key(
        "text",
        "Time that replaces {snapshot} in mirrors and source URIs.",
        pattern="^[0-9]{8}T[0-9]{6}Z$",
    ),
    "base.distribution.builder": Key(
        "text",
        "Image, pinned by digest, in which a container engine makes the base: Debian 12 or later.",
        pattern="@sha256:[0-9a-f]{64}$",
    ),
    "base.packages": Key(
        "texts",
        "Packages, optionally name=version; on top of an image a container engine installs them.",
    ),
    "base.sources": Key("mappings", "Further apt archives."),
    "base.sources[].name": Key("text", "Short name.", True, pattern="^[a-z0-9][a-z0-9_-]*$"),
    "base.sources[].uri": Key("text", "Address of the archive.", True),
    "base.sources[].suites": Key("texts", "Suites.", True, least=1),
    "base.sources[].components": Key("texts", "Components."),
    "base.sources[].signed_by": Key(
        "mapping", "Public key that signs the archive: a path, or path or url with sha256.", True
    ),
    "base.sources[].signed_by.path": Key("text", "File, relative to this file."),
    "base.sources[].signed_by.url": Key("text", "Address."),
    "base.sources[].signed_by.sha256": Key("text", "Hash of the key file.", pattern=_SHA256),
    "base.artifacts": Key("mappings", "Files fetched into layers, or .deb packages installed."),
    "base.artifacts[].pypi": Key("text", "Python package, name==version."),
    "base.artifacts[].url": Key("text", "Address of one file."),
    "base.artifacts[].path": Key("text", "File, relative to this file."),
    "base.artifacts[].sha256": Key(
        "text", "Hash of the file; may stand in the base lock instead.", pattern=_SHA256
    ),
    "base.artifacts[].take": Key("text", "Folder inside the archive that is taken."),
    "base.artifacts[].strip": Key(
        "integer", "Leading path components that are cut.", default=0, least=0, most=64
    ),
    "base.artifacts[].to": Key("text", "Absolute path in the image.", pattern="^/"),
    "base.artifacts[].mode": Key("text", "Permissions of a single file.", pattern="^0[0-7]{3}$"),
    "base.files": Key("mappings", "Small files of the image."),
    "base.files[].path": Key("text", "Absolute path in the image.", True, pattern="^/"),
    "base.files[].text": Key("text", "The content."),
    "base.files[].source": Key("text", "File with the content, relative to this file."),
    "base.files[].mode": Key("text", "Permissions.", default="0644", pattern="^0[0-7]{3}$"),
    "base.env": Key("map", "Environment of the image."),
    "base.user": Key(
        "text",
        "User of the image, such as 1000 or spark; on top of an image left out: that image's.",
        default="root",
    ),
    "base.workdir": Key("text", "Working directory of the image.", pattern="^/"),
    "base.entrypoint": Key("texts", "Entry point of the image.", least=1),
    "base.exclude": Key("texts", "Patterns of absolute paths left out of the base."),
    "base.date": Key(
        "text", "Day of all time stamps, YYYY-MM-DD.", pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
    ),
    "base.ca_bundle": Key(
        "text",
        "File of PEM certificates, relative to this file: trusted while the base is made, "
        "not part of it.",
    ),
    "matrix": Key("mapping", "The axes: every combination is a cell, every cell an image.", True),
    "matrix.epc": Key("sizes", f"Enclave sizes: each a {_SIZE}.", True, least=1),
    "matrix.log": Key("texts", "Log levels.", default=["error"], options=_LEVELS, least=1),
    "matrix.attestation": Key(
        "texts",
        "Remote attestation: dcap, or none for hosts without it.",
        default=["dcap"],
        options=ATTESTATIONS,
        least=1,
    ),
    "matrix.exclude": Key(
        "mappings", "Cells left out: those that agree in every axis an entry names."
    ),
    "matrix.exclude[].libos": Key("text", "Library OS.", options=LIBOSES),
    "matrix.exclude[].epc": Key("size", "Enclave size."),
    "matrix.exclude[].log": Key("text", "Log level.", options=_LEVELS),
    "matrix.exclude[].attestation": Key("text", "Attestation.", options=ATTESTATIONS),
    "matrix.default": Key(
        "mapping", "The cell that is also tagged <image>-<libos>-reference:latest."
    ),
    "matrix.default.epc": Key("size", "Enclave size.", default="8g"),
    "matrix.default.log": Key("text", "Log level.", default="error", options=_LEVELS),
    "matrix.default.attestation": Key(
        "text", "Attestation; the name promises dcap.", default="dcap", options=("dcap",)
    ),
    "enclave": Key("mapping", "What every enclave has in common."),
    "enclave.max_threads": Key(
        "integer",
        "Threads an enclave can have at once; each takes 360 KiB of it. "
        "For Occlum the default is 512, and each takes its stack and 16 KiB.",
        default=1024,
        least=1,
        most=4096,
    ),
    "enclave.isv_prod_id": Key(
        "integer", "Product number in the signature.", default=1, least=0, most=65535
    ),
    "enclave.isv_svn": Key(
        "integer",
        "Security version in the signature; raise it with every security fix.",
        default=3,
        least=0,
        most=65535,
    ),
    "enclave.debug": Key(
        "boolean", "A debug enclave: the host can read its memory.", default=False
    ),
    "enclave.edmm": Key(
        "boolean", "Add enclave pages as they are used (SGX2 with EDMM).", default=False
    ),
    "signing": Key("mapping", "Who signs."),
    "signing.key": Key("text", "Private key file (PEM, RSA-3072, e=3), relative to this file."),
    "gramine": Key("mapping", "What concerns Gramine only."),
    "gramine.version": Key(
        "text",
        "Release in the base; found in the base when left out.",
        options=GRAMINE_VERSIONS,
    ),
    "gramine.template": Key("text", "Own manifest template, relative to this file."),
    "gramine.define": Key("map", "Further variables for the manifest template."),
    "occlum": Key("mapping", "What concerns Occlum only. Sizes end in KB, MB, GB, TB or B."),
    "occlum.version": Key(
        "text",
        "Version in the base, such as 0.29.7; found in the base when left out.",
        pattern=r"^v?0\.[0-9]+\.[0-9]+$",
    ),
    "occlum.template": Key("text", "Own template of Occlum.json, relative to this file."),
    "occlum.define": Key("map", "Further variables for the template."),
    "occlum.kernel_heap": Key(
        "text", "Heap of the library OS.", default="1GB", pattern=_OCCLUM_SIZE
    ),
    "occlum.kernel_heap_max": Key(
        "text",
        "What it may grow to; kernel_heap if left out. Without EDMM, Occlum 0.30 and later take "
        "all of it from the start.",
        pattern=_OCCLUM_SIZE,
    ),
    "occlum.kernel_stack": Key(
        "text",
        "Stack that each thread has in the library OS.",
        default="1MB",
        pattern=_OCCLUM_SIZE,
    ),
    "occlum.user_space_max": Key(
        "text", "What user space may grow to (0.30 and later, with EDMM).", pattern=_OCCLUM_SIZE
    ),
    "occlum.init_threads": Key(
        "integer", "Threads at start (0.30 and later, with EDMM).", least=1, most=4096
    ),
    "occlum.process": Key("mapping", "What a process inside gets."),
    "occlum.process.stack": Key("text", "Its stack.", default="4MB", pattern=_OCCLUM_SIZE),
    "occlum.process.heap": Key(
        "text", "Its heap, as brk gives it.", default="32MB", pattern=_OCCLUM_SIZE
    ),
    "occlum.process.mmap": Key(
        "text",
        "Demanded by Occlum, without effect in any version.",
        default="100MB",
        pattern=_OCCLUM_SIZE,
    ),
    "occlum.entry_points": Key(
        "texts", "Further paths inside that a host may start programs of.", pattern="^/"
    ),
    "occlum.mounts": Key("mappings", "Further file systems inside."),
    "occlum.mounts[].type": Key("text", "Kind.", True, options=OCCLUM_MOUNTS),
    "occlum.mounts[].target": Key("text", "Folder inside.", True, pattern="^/"),
    "occlum.mounts[].source": Key(
        "text", "Folder of the container; a relative one starts from the instance folder."
    ),
    "occlum.mounts[].options": Key("mapping", "What Occlum.json has under options."),
    "occlum.mounts[].options.temporary": Key(
        "boolean", "What is written is thrown away with the enclave.", default=False
    ),
    "occlum.mounts[].options.cache_size": Key(
        "text", "Cache of the file system, 192KB at least.", pattern=_OCCLUM_SIZE
    ),
    "occlum.mounts[].options.disk_size": Key(
        "text", "Disk of an ext2, 5GB at least.", pattern=_OCCLUM_SIZE
    ),
    "occlum.features": Key("mapping", "What is asked of CPU and library OS."),
    "occlum.features.amx": Key(
        "integer",
        "AMX: 0 must be off, 1 must be on, 2 as the host has it (0.30 and later).",
        default=0,
        least=0,
        most=2,
    ),
    "occlum.features.pkru": Key(
        "integer", "Protection keys: the same (0.28 and later).", default=0, least=0, most=2
    ),
    "occlum.features.io_uring": Key(
        "integer", "Number of io_uring instances (0.31 and later).", default=0, least=0, most=16
    ),
    "occlum.features.posix_shm": Key(
        "boolean", "POSIX shared memory (0.30.1 and later).", default=False
    ),
    "occlum.kss": Key("mapping", "Ids of key separation and sharing; off if left out."),
    "occlum.kss.family_id": Key(
        "text", "Family: 32 hex digits.", default="0" * 32, pattern=_KSS_ID
    ),
    "occlum.kss.ext_prod_id": Key(
        "text", "Extended product: 32 hex digits.", default="0" * 32, pattern=_KSS_ID
    ),
    "occlum.disable_log": Key(
        "boolean",
        "The library OS says nothing at all (0.30.1 and later); if left out, log level off "
        "decides.",
    ),
    "occlum.epc_request": Key(
        "text",
        "Bytes that pods ask for as sgx.intel.com/epc, such as 16Gi; compared with what the "
        "enclave takes.",
        pattern=QUANTITY,
    ),
    "occlum.environment": Key(
        "map", "Settings under the names that BigDL's images read from the environment."
    ),
    "launch": Key("mapping", "What runs inside (profile strict)."),
    "launch.command": Key(
        "texts", "Absolute path of the program, and its arguments; sealed.", least=1
    ),
    "launch.env": Key("map", "Environment, sealed into the manifest."),
    "launch.passthrough": Key("texts", "Variables whose value the host may choose."),
    "launch.roles": Key(
        "texts", "Roles that a container may be started with.", options=ROLES, least=1
    ),
    "launch.classes": Key("texts", "Main classes that the host may choose from."),
    "launch.jars": Key("texts", "Jars of the image that the host may choose from.", pattern="^/"),
    "launch.arguments": Key(
        "text", "Regular expression for each argument of the job; without it there are none."
    ),
    "launch.conf": Key("properties", "Properties of Spark or Flink, sealed."),
    "launch.conf_allowed": Key(
        "properties",
        "Properties that the host may set besides those that Spark and Flink on Kubernetes do: "
        "name to regular expression.",
    ),
    "launch.attestation": Key("mapping", "What is sealed about attestation."),
    "launch.attestation.required": Key(
        "boolean", "No start without attestation, whatever the host says.", default=False
    ),
    "launch.attestation.type": Key("text", "Kind of service.", options=(EHSM, BIGDL)),
    "launch.attestation.url": Key("text", "Address of the service, host:port."),
    "launch.attestation.app_id": Key("text", "Tenant of the service."),
    "launch.attestation.ca": Key(
        "text", "File of PEM certificates that vouch for the service, relative to this file."
    ),
    "launch.attestation.pin_sha256": Key(
        "text", "SHA-256 of the service's certificate.", pattern=_SHA256
    ),
    "launch.attestation.server_name": Key("text", "Name in the service's certificate."),
    "launch.attestation.accept": Key(
        "text",
        "Results of a quote's verification that are taken besides 0, such as 0xa001,0xa008.",
        pattern="^0[xX][0-9a-fA-F]{1,4}(,0[xX][0-9a-fA-F]{1,4})*$",
    ),
    "launch.attestation.local_data_key": Key(
        "boolean", "A data key may come from a file of the host, who then knows it.", default=False
    ),
    "encrypted": Key("mappings", "Folders whose files are encrypted."),
    "encrypted[].path": Key("text", "Folder inside.", True, pattern="^/"),
    "encrypted[].host": Key(
        "text",
        "Folder of the container with the encrypted files; `path` if left out.",
        pattern="^/",
    ),
    "encrypted[].key": Key(
        "text",
        "Name of the key; _sgx_mrenclave and _sgx_mrsigner are the CPU's own.",
        default="sgx_data_key",
    ),
    "paths": Key("mapping", "Where programs are in the base, if not where they are looked for."),
    "paths.java_home": Key("text", "Java.", pattern="^/"),
    "paths.spark_home": Key("text", "Spark.", pattern="^/"),
    "paths.flink_home": Key("text", "Flink.", pattern="^/"),
    "paths.python": Key("text", "Python interpreter.", pattern="^/"),
    "trusted": Key(
        "texts",
        "Further files (/x) and folders (/x/) of the image that the enclave may read.",
        pattern="^(file:)?/",
    ),
    "cache": Key("text", "Folder of the cache, relative to this file."),
}
"""Every key, by its path; ``[]`` stands for an item of a list."""

_CHILDREN: dict[str, list[str]] = {}
for _path in KEYS:
    _parent, _, _name = _path.rpartition(".")
    _CHILDREN.setdefault(_parent, []).append(_name)


def names(path: str = "") -> tuple[str, ...]:
    """Return the keys that may stand below a path; the empty path is the file itself."""
    return tuple(_CHILDREN[path])


def required(path: str = "") -> tuple[str, ...]:
    """Return the keys that must stand below a path."""
    dot = f"{path}." if path else ""
    return tuple(name for name in _CHILDREN[path] if KEYS[dot + name].required)
