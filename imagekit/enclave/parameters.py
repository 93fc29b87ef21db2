"""From a manifest to the numbers that a measurement and a SIGSTRUCT need.

Two kinds of rules are kept apart: *what the stock signer reads* is here (gramine-sgx-sign 1.9 and
1.3.1); *what it should have refused* is in :mod:`imagekit.enclave.manifest_rules`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagekit.enclave.elf import PAGE_SIZE
from imagekit.enclave.releases import Release
from imagekit.errors import SigningError

FLAG_DEBUG = 0x2
FLAG_MODE64BIT = 0x4
"""ATTRIBUTES.FLAGS bits (Intel SDM vol. 3D, "ATTRIBUTES")."""

XFRM_LEGACY = 0x3
_XFRM_MASK = 0xFFFF_FFFF_FFF9_FF1B
# In the order in which Gramine applies them. The AVX-512 bits contain AVX's.
_XFRM_BITS = {"avx": 0x4, "avx512": 0xE4, "amx": 0x60000, "mpx": 0x18, "pkru": 0x200}
_MAY_BE_UNSPECIFIED = ("avx", "avx512", "amx")
_MISC_EXINFO = 0x1
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class EnclaveParameters:
    """What the manifest says about the enclave.

    Attributes:
        enclave_size: bytes.
        max_threads: number of TCS pages.
        edmm: whether free memory is left out of the measurement.
        base_follows_size: enclave based at its own size (Gramine up to 1.4, PIE).
        flags: ATTRIBUTES.FLAGS.
        xfrm, xfrm_mask: ATTRIBUTES.XFRM and its mask.
        misc_select: MISCSELECT.
        isv_prod_id, isv_svn: 16-bit numbers.
    """

    enclave_size: int
    max_threads: int
    edmm: bool
    base_follows_size: bool
    flags: int
    xfrm: int
    xfrm_mask: int
    misc_select: int
    isv_prod_id: int
    isv_svn: int

    @property
    def debug(self) -> bool:
        """Whether the enclave can be debugged, that is: read and written by the host."""
        return bool(self.flags & FLAG_DEBUG)


def _refuse(key: str, value: object, rule: str) -> SigningError:
    return SigningError(f"{key}: {value!r} is not usable", rule)


def parse_gramine_size(value: object, key: str = "sgx.enclave_size") -> int:
    """Read a size as Gramine spells it: upper-case K, M or G, or a Python integer literal.

    Raises:
        SigningError: any other spelling (the stock signer ends in a traceback there).
    """
    rule = "write it like 16G (upper case K, M or G) or as a plain number of bytes"
    if not isinstance(value, str):
        raise _refuse(key, value, rule)
    text, unit = (value[:-1], _UNITS[value[-1]]) if value[-1:] in _UNITS else (value, 1)
    try:
        size = int(text, 0) * unit
    except ValueError:
        raise _refuse(key, value, rule) from None
    if size <= 0:
        raise _refuse(key, value, "a size is more than zero")
    return size


def _integer(sgx: Mapping[str, Any], key: str, default: int, top: int) -> int:
    value = sgx.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= top:
        raise _refuse(f"sgx.{key}", value, f"it is a number from 0 to {top}")
    return value


def _features_1_9(sgx: Mapping[str, Any]) -> tuple[int, int]:
    xfrm, mask = XFRM_LEGACY, _XFRM_MASK
    table = sgx.get("cpu_features", {})
    if not isinstance(table, Mapping):
        raise _refuse("sgx.cpu_features", table, "it is a table")
    for feature, bits in _XFRM_BITS.items():
        may_skip = feature in _MAY_BE_UNSPECIFIED
        value = table.get(feature, "unspecified" if may_skip else "disabled")
        if value == "required":
            xfrm |= bits
            mask |= bits
        elif value == "disabled":
            xfrm &= ~bits
            mask |= bits
        elif not (value == "unspecified" and may_skip):
            words = '"required" or "disabled"' + (' or "unspecified"' if may_skip else "")
            raise _refuse(f"sgx.cpu_features.{feature}", value, f"it is {words}")
    return xfrm, mask


def _features_1_3(sgx: Mapping[str, Any]) -> tuple[int, int]:
    xfrm = XFRM_LEGACY
    for feature, bits in _XFRM_BITS.items():
        if sgx.get(f"require_{feature}", False):
            xfrm |= bits
    return xfrm, _XFRM_MASK


def enclave_parameters(manifest: Mapping[str, Any], release: Release) -> EnclaveParameters:
    """Read the enclave's parameters from a manifest with all defaults filled in.

    Args:
        manifest: the parsed TOML.
        release: whose signer is followed.

    Raises:
        SigningError: a value that cannot be signed at all, with the key.
    """
    sgx = manifest.get("sgx", {})
    if not isinstance(sgx, Mapping):
        raise _refuse("sgx", sgx, "it is a table")
    old = release.base_follows_size
    edmm = not old and bool(sgx.get("edmm_enable", False))
    default_size = release.default_edmm_size if edmm else "256M"
    size = parse_gramine_size(sgx.get("enclave_size", default_size))
    if size >> 63:
        raise _refuse("sgx.enclave_size", sgx.get("enclave_size"), "no processor has so much")
    if size % PAGE_SIZE:
        raise _refuse("sgx.enclave_size", sgx["enclave_size"], "it is a multiple of 4096 bytes")
    # 1.3 compares the flag with 1; since 1.6 only the boolean counts.
    debug, exinfo = sgx.get("debug"), sgx.get("support_exinfo" if old else "use_exinfo")
    is_debug, has_exinfo = (debug == 1, exinfo == 1) if old else (debug is True, exinfo is True)
    xfrm, xfrm_mask = _features_1_3(sgx) if old else _features_1_9(sgx)
    return EnclaveParameters(
        enclave_size=size,
        max_threads=_integer(sgx, release.threads_key, 4, 1 << 20),
        edmm=edmm,
        base_follows_size=old and not sgx.get("nonpie_binary", False),
        flags=FLAG_MODE64BIT | (FLAG_DEBUG if is_debug else 0),
        xfrm=xfrm,
        xfrm_mask=xfrm_mask,
        misc_select=_MISC_EXINFO if has_exinfo else 0,
        isv_prod_id=_integer(sgx, "isvprodid", 0, 0xFFFF),
        isv_svn=_integer(sgx, "isvsvn", 0, 0xFFFF),
    )
