"""The keys of a Gramine manifest, with the type and values of each, per release.

Facts from Gramine's public documentation ("Manifest syntax", releases 1.3 to 1.9). Gramine 1.9
checks a manifest strictly: an unknown key is an error. Gramine 1.3 checks nothing and ignores what
it does not know, which is how misspelt keys got into images;
:mod:`imagekit.enclave.manifest_rules` says which unknown keys are errors and which are only dead
weight.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from imagekit.enclave.findings import shown

LOG_LEVELS = ("none", "error", "warning", "debug", "trace", "all")
MOUNT_TYPES = ("chroot", "encrypted", "tmpfs", "untrusted_shm")

_HEX_256 = re.compile(r"[0-9a-fA-F]{64}")
_HEX_128 = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True)
class Wrong:
    """Why a value is not acceptable.

    Attributes:
        problem, hint: one line each.
        stock: whether the stock signer stumbles over it too.
    """

    problem: str
    hint: str
    stock: bool = False


@dataclass(frozen=True)
class Leaf:
    """A value that one function judges: None, or what is wrong with it."""

    check: Callable[[object], Wrong | None]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        fields: its keys.
        required: keys that must be there.
        rest: what every other key holds; None if there is no other key.
        stock: whether the stock signer fails when this is not a table.
        instead: hint for a value that is not a table.
    """

    fields: Mapping[str, "Node"] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    rest: "Node | None" = None
    stock: bool = False
    instead: str = ""


@dataclass(frozen=True)
class Array:
    """An array whose items all have one shape; `stock` and `instead` as in :class:`Table`."""

    item: "Node"
    stock: bool = False
    instead: str = ""


@dataclass(frozen=True)
class Either:
    """A string (judged by `text`) or a table."""

    text: Leaf
    table: Table
    stock: bool = False


Node = Leaf | Table | Array | Either


def _string(stock: bool = False) -> Leaf:
    def check(value: object) -> Wrong | None:
        if not isinstance(value, str):
            return Wrong(f"expected a string, is {shown(value)}", "put it in double quotes", stock)
        if "\0" in value:
            return Wrong("holds a NUL character", "leave the NUL out")
        return None

    return Leaf(check)


def _boolean(note: str = "") -> Leaf:
    def check(value: object) -> Wrong | None:
        if isinstance(value, bool):
            return None
        hint = "write true or false without quotes" + (f"; {note}" if note else "")
        return Wrong(f"expected true or false, is {shown(value)}", hint)

    return Leaf(check)


def _number(least: int, most: int | None, signer_fails: tuple[bool, bool] = (False, False)) -> Leaf:
    """Give a number within bounds; `signer_fails`: at a wrong type, at a number out of bounds."""
    bounds = (
        f"a number from {least} to {most}" if most is not None else f"a number, at least {least}"
    )

    def check(value: object) -> Wrong | None:
        if not isinstance(value, int) or isinstance(value, bool):
            stock = signer_fails[0] and not isinstance(value, bool)
            return Wrong(f"expected {bounds}, is {shown(value)}", "write it without quotes", stock)
        if value < least or (most is not None and value > most):
            return Wrong(f"{shown(value)} is not {bounds}", "correct the number", signer_fails[1])
        return None

    return Leaf(check)


def _one_of(*words: str, stock: bool = False, notes: Mapping[str, str] | None = None) -> Leaf:
    def check(value: object) -> Wrong | None:
        if isinstance(value, str) and value in words:
            return None
        choice = ", ".join(shown(word) for word in words)
        note = (notes or {}).get(value if isinstance(value, str) else type(value).__name__)
        hint = f"write one of {choice}" + (f"; {note}" if note else "")
        return Wrong(f"{shown(value)} is not one of the values it may have", hint, stock)

    return Leaf(check)


def _uri(*schemes: str, stock: bool = False) -> Leaf:
    def check(value: object) -> Wrong | None:
        if not isinstance(value, str):
            return Wrong(f"expected a URI, is {shown(value)}", 'write it like "file:/path"', stock)
        if "\0" in value:
            return Wrong("holds a NUL character", "leave the NUL out")
        scheme = next((s for s in schemes if value.startswith(s)), None)
        if scheme is None:
            expected = " or ".join(schemes)
            return Wrong(
                f"{shown(value)} does not start with {expected}",
                f"put {schemes[0]} in front of the path",
                stock,
            )
        if value == scheme:
            return Wrong(f"{shown(value)} names no path", "write the path after it", stock)
        return None

    return Leaf(check)


def _hex(pattern: re.Pattern[str], what: str, secret: bool = False) -> Leaf:
    def check(value: object) -> Wrong | None:
        if isinstance(value, str) and pattern.fullmatch(value):
            return None
        shape = "the value" if secret else shown(value)
        return Wrong(f"{shape} is not {what}", f"it is {what}")

    return Leaf(check)


def _size_text(value: object) -> Wrong | None:
    # What the text says is judged by manifest_rules, which knows the stock signer's own parser.
    if isinstance(value, str):
        return None
    return Wrong(
        f"expected a size as a string, is {shown(value)}", 'write it like "16G", in quotes', True
    )


def _unjudged(value: object) -> Wrong | None:
    return None


_TEXT = _string()
_BOOL = _boolean()
_FILE = _uri("file:")
_SHA256 = _hex(_HEX_256, "64 hexadecimal digits")
_SIZE = Leaf(_size_text)
_ANY = Leaf(_unjudged)


def _path_text(value: object) -> Wrong | None:
    if not isinstance(value, str):
        return Wrong(f"expected a path, is {shown(value)}", 'write it like "/bin/app"')
    if not value or "\0" in value:
        return Wrong(f"{shown(value)} is not a path", 'write it like "/bin/app"')
    if value.startswith("file:"):
        return Wrong(
            f"{shown(value)} is a URI",
            "write the path inside Gramine, without file:; URIs ended with Gramine 1.9",
        )
    return None


_ENTRY_PATH = Leaf(_path_text)
_TRUE = Leaf(
    lambda value: (
        None
        if value is True
        else Wrong(
            f"is {shown(value)}; only true is allowed, Gramine stops at anything else",
            "leave the variable out: nothing is passed through unless it is listed",
        )
    )
)
_ENV = Table(rest=Either(_string(), Table({"value": _string(), "passthrough": _TRUE})))
_IOCTLS: dict[str, Node] = {
    # The layout language of an ioctl structure is deep; only its outer form is judged.
    "ioctl_structs": Table(rest=_ANY),
    "allowed_ioctls": Array(
        Table({"request_code": _number(0, None), "struct": _TEXT}, ("request_code",))
    ),
}
_PROFILE = Table(
    {
        "enable": _one_of("none", "main", "all"),
        "mode": _one_of("aex", "ocall_inner", "ocall_outer"),
        "with_stack": _BOOL,
        "frequency": _number(1, 250),
    }
)


def _mask(digits: int) -> Leaf:
    pattern = re.compile(rf"0x[0-9a-fA-F]{{{digits}}}")
    return _hex(pattern, f"0x and {digits} hexadecimal digits")


_SEAL_KEY = Table({"flags_mask": _mask(16), "xfrm_mask": _mask(16), "misc_mask": _mask(8)})


def _mounts(**more: Node) -> Array:
    known: dict[str, Node] = {
        "type": _one_of(*MOUNT_TYPES),
        "path": _TEXT,
        "uri": _TEXT,  # its scheme depends on the type: manifest_files judges it
        "key_name": _TEXT,
    }
    item = Table(known | more, ("path",), instead="write { path = …, uri = … }")
    return Array(item, instead="write fs.mounts = [ { path = …, uri = … }, … ]")


def _fs(**more: Node) -> dict[str, Node]:
    known: dict[str, Node] = {
        "root": Table({"type": _one_of(*MOUNT_TYPES), "uri": _uri("file:", "dev:")}),
        "start_dir": _TEXT,
        "insecure__keys": Table(
            rest=_hex(_HEX_128, "32 hexadecimal digits (16 bytes)", secret=True)
        ),
    }
    return known | more


_TRUSTED_FILES = Array(
    Either(
        _uri("file:", stock=True),
        Table({"uri": _uri("file:", stock=True), "sha256": _SHA256}, ("uri",), stock=True),
        stock=True,
    ),
    stock=True,
    instead='write one array: sgx.trusted_files = [ "file:/path", … ]',
)
_ALLOWED_FILES = Array(
    _uri("file:", "dev:"), instead='write one array: sgx.allowed_files = [ "file:/path", … ]'
)
_LOADER: dict[str, Node] = {
    "argv": Array(_string()),
    "argv_src_file": _FILE,
    "env": _ENV,
    "env_src_file": _FILE,
    "insecure__disable_aslr": _BOOL,
    "insecure__use_cmdline_argv": _BOOL,
    "insecure__use_host_env": _BOOL,
    "log_file": _TEXT,
    "log_level": _one_of(*LOG_LEVELS),
}
_IDS: dict[str, Node] = {"uid": _number(0, None), "gid": _number(0, None)}
_SYS: dict[str, Node] = {
    "stack": Table({"size": _SIZE}),
    "brk": Table({"max_size": _SIZE}),
    "enable_sigterm_injection": _BOOL,
    "enable_extra_runtime_domain_names_conf": _BOOL,
    "insecure__allow_eventfd": _BOOL,
}
_DEBUG_NOTE = "anything else makes signer and loader disagree about debugging"
# A wrong type breaks the stock signer; so does an id that does not fit into 16 bits.
_ISV = _number(0, 0xFFFF, (True, True))
# The loader's bound (4096 since 1.3); the stock signer signs whatever fits into the enclave.
_THREADS = _number(1, 4096, (True, False))
_SGX: dict[str, Node] = {
    "allowed_files": _ALLOWED_FILES,
    "debug": _boolean(_DEBUG_NOTE),
    "enable_stats": _BOOL,
    "enclave_size": _SIZE,
    "file_check_policy": _one_of("strict", "allow_all_but_log"),
    "isvprodid": _ISV,
    "isvsvn": _ISV,
    "preheat_enclave": _BOOL,
    "profile": _PROFILE,
    "seal_key": _SEAL_KEY,
    "trusted_files": _TRUSTED_FILES,
    "vtune_profile": _BOOL,
}
_LIBOS: dict[str, Node] = {"entrypoint": _ENTRY_PATH, "check_invalid_pointers": _BOOL}


def _features() -> Table:
    free = _one_of("unspecified", "disabled", "required", stock=True)
    hard = _one_of("disabled", "required", stock=True)
    return Table({"avx": free, "avx512": free, "amx": free, "mpx": hard, "pkru": hard}, stock=True)


_ENTRY_TABLE = Table(
    {"uri": _FILE, "sha256": _SHA256},
    ("uri",),
    stock=True,
    instead='a string was right until 1.7; write loader.entrypoint.uri = "file:…"',
)

GRAMINE_1_9 = Table(
    {
        "fs": Table(
            _fs(mounts=_mounts(enable_recovery=_BOOL)), ("mounts",), instead="write fs.mounts = […]"
        ),
        "libos": Table(_LIBOS, ("entrypoint",)),
        "loader": Table(
            _LOADER
            | {"entrypoint": _ENTRY_TABLE, "uid": _number(0, None), "gid": _number(0, None)},
            ("entrypoint",),
            stock=True,
        ),
        "sgx": Table(
            _SGX
            | {
                "cpu_features": _features(),
                "edmm_enable": _BOOL,
                "insecure__allow_memfaults_without_exinfo": _BOOL,
                "insecure__rpc_thread_num": _number(0, None),
                "max_threads": _THREADS,
                "remote_attestation": _one_of(
                    "none", "dcap", notes={"epid": "EPID ended with Gramine 1.9"}
                ),
                "use_exinfo": _BOOL,
            },
            stock=True,
        ),
        "sys": Table(
            _SYS
            | _IOCTLS
            | {
                "debug__mock_syscalls": Array(
                    Table({"name": _TEXT, "return": _number(-(1 << 63), None)}, ("name",))
                ),
                "disallow_subprocesses": _BOOL,
                "experimental__enable_flock": _BOOL,
                "fds": Table({"limit": _number(1, None)}),
            }
        ),
    },
    ("fs", "libos", "loader"),
)
"""All keys of Gramine 1.9."""

_BOOL_ATTESTATION = "true and false were the spelling before 1.3"
GRAMINE_1_3 = Table(
    {
        "fs": Table(
            _fs(
                mounts=_mounts(),
                experimental__enable_sysfs_topology=_BOOL,
                # deprecated in that release, and still read
                mount=_ANY,
                insecure__protected_files_key=_ANY,
            )
        ),
        "libos": Table(_LIBOS, ("entrypoint",)),
        "loader": Table(
            _LOADER | {"entrypoint": _FILE, "pal_internal_mem_size": _SIZE} | _IDS,
            ("entrypoint",),
            stock=True,
        ),
        "sgx": Table(
            _SGX
            | {f"require_{name}": _BOOL for name in ("avx", "avx512", "mpx", "pkru", "amx")}
            | {
                # Only BigDL's fork of 1.3.1 has these two; upstream's came later, in another form.
                "ioctl_structs": _ANY,
                "allowed_ioctls": _ANY,
                "nonpie_binary": _BOOL,
                "protected_files": Array(_FILE),
                "protected_mrenclave_files": Array(_FILE),
                "protected_mrsigner_files": Array(_FILE),
                "ra_client_linkable": _BOOL,
                "ra_client_spid": _TEXT,
                "remote_attestation": _one_of(
                    "none", "epid", "dcap", notes={"bool": _BOOL_ATTESTATION}
                ),
                "rpc_thread_num": _number(0, None),
                "support_exinfo": _BOOL,
                "thread_num": _THREADS,
            },
            stock=True,
        ),
        "sys": Table(_SYS),
    },
    ("libos", "loader"),
)
"""All keys of Gramine 1.3(.1)."""

SCHEMAS = {"1.3": GRAMINE_1_3, "1.9": GRAMINE_1_9}
