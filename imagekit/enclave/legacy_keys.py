"""What became of manifest keys that a Gramine release does not know.

Keys of Graphene and of older and newer Gramine releases, so that a manifest that was right once is
explained instead of called misspelt. Sources: Gramine's public documentation and pull requests
(982, 1187, 1252, 1331, 1502, 1744, 1859, 1863, 1973), and BigDL's manifests.
"""

import difflib
import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from imagekit.enclave.manifest_schema import SCHEMAS, Either, Table

_FEATURES = ("avx", "avx512", "mpx", "pkru", "amx")


@dataclass(frozen=True)
class Legacy:
    """One key's fate.

    Attributes:
        became: one line, what happened to it and in which release.
        do: one line, what to write instead.
        harmless: whether it can stay where the release ignores it: nothing is asked for that the
            enclave then lacks.
    """

    became: str
    do: str
    harmless: bool = False


def _moved(new: str, when: str, note: str = "") -> Legacy:
    return Legacy(f"became {new} in Gramine {when}", f"write {new}" + (f"; {note}" if note else ""))


_DROP = "leave it out"
_PROTECTED = Legacy(
    "ended with Gramine 1.5; encrypted files are mounts since 1.2",
    'write fs.mounts = [ { type = "encrypted", path = …, uri = …, key_name = … } ]',
)
_EPID = Legacy("ended with EPID attestation in Gramine 1.9", _DROP)
_IN_NO_GRAMINE: dict[str, Legacy] = {
    "loader.insecure_disable_aslr": Legacy(
        "is misspelt: Gramine's key has two underscores, so address randomisation stays on",
        "leave it out (good), or write loader.insecure__disable_aslr",
        harmless=True,
    ),
    "sys.insecure_allow_eventfd": Legacy(
        "is misspelt: Gramine's key has two underscores", "write sys.insecure__allow_eventfd"
    ),
    "loader.insecure_use_host_env": Legacy(
        "is misspelt: Gramine's key has two underscores", "write loader.insecure__use_host_env"
    ),
    "loader.insecure_use_cmdline_argv": Legacy(
        "is misspelt: Gramine's key has two underscores", "write loader.insecure__use_cmdline_argv"
    ),
    "sgx.allow_file_creation": Legacy(
        "is Graphene's, no Gramine release reads it: files can be created in allowed files, tmpfs "
        "and encrypted mounts",
        _DROP,
        harmless=True,
    ),
    "sgx.static_address": Legacy(
        "is Graphene's, no Gramine release reads it: enclaves are based at 0 since 1.5",
        _DROP,
        harmless=True,
    ),
    "sgx.print_stats": Legacy("is Graphene's; it became sgx.enable_stats", _DROP),
    "sgx.sigfile": Legacy(
        "is not for a manifest, and the loader refuses it: the .sig stands beside the manifest",
        _DROP,
    ),
    "loader.exec": Legacy("is Graphene's; it became libos.entrypoint", "write libos.entrypoint"),
    "loader.preload": _moved("loader.entrypoint", "1.1"),
    "loader.debug_type": Legacy(
        "is Graphene's; it became loader.log_level and loader.log_file", "write loader.log_level"
    ),
    "loader.argv0_override": Legacy("is Graphene's", "write loader.argv"),
}
_GONE_BY_1_9: dict[str, Legacy] = {
    "sgx.thread_num": _moved("sgx.max_threads", "1.4", "1.5 and later ignore the old name"),
    "sgx.nonpie_binary": Legacy(
        "ended with Gramine 1.5: enclaves are always based at 0", _DROP, True
    ),
    "loader.pal_internal_mem_size": Legacy(
        "ended with Gramine 1.5: internal memory needs no reserve", _DROP, harmless=True
    ),
    "sgx.ra_client_spid": _EPID,
    "sgx.ra_client_linkable": _EPID,
    "sgx.support_exinfo": _moved("sgx.use_exinfo", "1.6", "1.4 and 1.5 called it require_exinfo"),
    "sgx.require_exinfo": _moved("sgx.use_exinfo", "1.6"),
    "sgx.rpc_thread_num": _moved("sgx.insecure__rpc_thread_num", "1.4"),
    "sgx.ioctl_structs": _moved("sys.ioctl_structs", "1.6"),
    "sgx.allowed_ioctls": _moved("sys.allowed_ioctls", "1.6"),
    "sgx.protected_files": _PROTECTED,
    "sgx.protected_mrenclave_files": _PROTECTED,
    "sgx.protected_mrsigner_files": _PROTECTED,
    "sgx.insecure__protected_files_key": _moved("fs.insecure__keys.default", "1.2"),
    "fs.mount": _moved("fs.mounts", "1.2", "one array: fs.mounts = [ { path = …, uri = … } ]"),
    "fs.experimental__enable_sysfs_topology": Legacy(
        "ended with Gramine 1.4: the topology is always there", _DROP, harmless=True
    ),
} | {
    f"sgx.require_{name}": _moved(
        f'sgx.cpu_features.{name} = "required"', "1.6", "the old name ended with 1.8"
    )
    for name in _FEATURES
}


def _later(release: str, instead: str = "") -> Legacy:
    return Legacy(
        f"came with Gramine {release}; 1.3 ignores it",
        instead or "leave it out, or use a later release",
    )


_NOT_YET_IN_1_3: dict[str, Legacy] = {
    "sgx.max_threads": _later("1.4", "write sgx.thread_num"),
    "sgx.edmm_enable": _later("1.4"),
    "sgx.require_exinfo": _later("1.4", "write sgx.support_exinfo"),
    "sgx.use_exinfo": _later("1.6", "write sgx.support_exinfo"),
    "sgx.cpu_features": _later("1.6", "write sgx.require_avx = true and the like"),
    "sgx.insecure__rpc_thread_num": _later("1.4", "write sgx.rpc_thread_num"),
    "sgx.insecure__allow_memfaults_without_exinfo": _later("1.7"),
    "sys.disallow_subprocesses": _later("1.5"),
    "sys.ioctl_structs": _later("1.6", "write sgx.ioctl_structs"),
    "sys.allowed_ioctls": _later("1.6", "write sgx.allowed_ioctls"),
    "sys.experimental__enable_flock": _later("1.6"),
    "sys.debug__mock_syscalls": _later("1.8"),
    "sys.fds": _later("1.8"),
    "fs.mount": _GONE_BY_1_9["fs.mount"],
    "sgx.insecure__protected_files_key": _GONE_BY_1_9["sgx.insecure__protected_files_key"],
}
_LEGACY = {"1.3": _IN_NO_GRAMINE | _NOT_YET_IN_1_3, "1.9": _IN_NO_GRAMINE | _GONE_BY_1_9}


def legacy_key(key: str, release: str) -> Legacy | None:
    """Say what became of a key that a release does not know.

    Args:
        key: dotted path, as ``sgx.thread_num``.
        release: ``1.3`` or ``1.9``.
    """
    return _LEGACY[release].get(key)


def legacy_keys(release: str) -> Collection[str]:
    """Give all keys that :func:`legacy_key` can explain for a release."""
    return _LEGACY[release].keys()


@functools.lru_cache(maxsize=1024)
def nearest_key(key: str, release: str) -> str | None:
    """Give the known key that an unknown one most likely means: the same name, or a similar one."""
    known = _all_known(release)
    name = key.rpartition(".")[2]
    same_name = [path for path in known if path.rpartition(".")[2] == name]
    if same_name:
        return same_name[0]
    # difflib costs the product of the lengths; a very long key resembles nothing.
    close = difflib.get_close_matches(key[:100], known, n=1, cutoff=0.75)
    return close[0] if close else None


@functools.cache
def _all_known(release: str) -> tuple[str, ...]:
    return tuple(_known_paths(SCHEMAS[release], ""))


def _known_paths(table: Table, prefix: str) -> Iterator[str]:
    for name, node in sorted(table.fields.items()):
        path = f"{prefix}.{name}" if prefix else name
        yield path
        inner = node.table if isinstance(node, Either) else node
        if isinstance(inner, Table):
            yield from _known_paths(inner, path)
