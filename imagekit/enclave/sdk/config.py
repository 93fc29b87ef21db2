"""What an enclave of the Intel SGX SDK is configured to be: typed values, defaults, rules.

Source: "Intel SGX SDK Developer Reference", section "Enclave Configuration File"; defaults and
errors as sgx_sign 2.26 has them. Sizes are bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagekit.enclave.elf import PAGE_SIZE
from imagekit.enclave.sdk.config_xml import Number, read_elements
from imagekit.errors import InputError

_U16, _U32, _U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
_SIZE_MAX = 1 << 46
"""No area is larger: user space ends at 2**47, and an enclave is a power of two."""


@dataclass(frozen=True)
class EnclaveConfig:
    """The settings of one enclave, checked.

    Attributes:
        prod_id, isv_svn: u16.
        release_type: 1 sets the debug key bit of SIGSTRUCT's header.
        intel_signed: vendor 0x8086 instead of 0.
        provision_key, launch_key: whether the enclave may have the key.
        disable_debug: whether the CPU refuses to start it as a debug enclave.
        hw: SIGSTRUCT's SWDEFINED, u32.
        tcs_num, tcs_max_num, tcs_min_pool: threads at load, at most, kept in the pool.
        tcs_policy: 1 unbound, 0 bound.
        stack_min, stack_max, heap_min, heap_init, heap_max: bytes.
        reserved_min, reserved_init, reserved_max: bytes of reserved memory.
        reserved_executable: whether it may hold code.
        misc_select, misc_mask: u32; bit 0 of both asks for EXINFO, so for SGX2.
        enable_kss: key separation and sharing.
        isv_ext_prod_id, isv_family_id: 16 bytes each, as in SIGSTRUCT.
        pkru, amx: 0 off, 1 on, 2 as the loader finds it.
        user_region_size: bytes of the SGX2 region that the program manages.
        aex_notify: whether asynchronous exits are notified.
        image_address, elrange_start, elrange_size: where the enclave lies in a larger address
            range; all 0 for none.
        ipp_fips, openssl_fips: integrity checks of a cryptographic library.
    """

    prod_id: int = 0
    isv_svn: int = 0
    release_type: int = 0
    intel_signed: bool = False
    provision_key: bool = False
    launch_key: bool = False
    disable_debug: bool = False
    hw: int = 0
    tcs_num: int = 1
    tcs_max_num: int = 1
    tcs_min_pool: int = 1
    tcs_policy: int = 1
    stack_min: int = 0x2000
    stack_max: int = 0x40000
    heap_min: int = 0x1000
    heap_init: int = 0x1000000
    heap_max: int = 0x1000000
    reserved_min: int = 0
    reserved_init: int = 0
    reserved_max: int = 0
    reserved_executable: bool = False
    misc_select: int = 0
    misc_mask: int = _U32
    enable_kss: bool = False
    isv_ext_prod_id: bytes = bytes(16)
    isv_family_id: bytes = bytes(16)
    pkru: int = 0
    amx: int = 0
    user_region_size: int = 0
    aex_notify: bool = False
    image_address: int = 0
    elrange_start: int = 0
    elrange_size: int = 0
    ipp_fips: bool = False
    openssl_fips: bool = False

    @property
    def has_elrange(self) -> bool:
        """Whether the enclave lies in a larger address range."""
        return bool(self.image_address or self.elrange_start or self.elrange_size)


@dataclass(frozen=True)
class _Setting:
    """One element: the attribute of :class:`EnclaveConfig` it is, and its range."""

    attribute: str
    most: int = 1
    least: int = 0
    unit: int = 1

    @property
    def default(self) -> int:
        return int(getattr(EnclaveConfig, self.attribute, 0))


def _size(attribute: str, least: int = 0) -> _Setting:
    return _Setting(attribute, _SIZE_MAX, least, PAGE_SIZE)


_SETTINGS = {
    "ProdID": _Setting("prod_id", _U16),
    "ISVSVN": _Setting("isv_svn", _U16),
    "ReleaseType": _Setting("release_type"),
    "IntelSigned": _Setting("intel_signed"),
    "ProvisionKey": _Setting("provision_key"),
    "LaunchKey": _Setting("launch_key"),
    "DisableDebug": _Setting("disable_debug"),
    "HW": _Setting("hw", _U32),
    "TCSNum": _Setting("tcs_num", _U32, 1),
    "TCSMaxNum": _Setting("tcs_max_num", _U32, 1),
    "TCSMinPool": _Setting("tcs_min_pool", _U32),
    "TCSPolicy": _Setting("tcs_policy"),
    "StackMinSize": _size("stack_min", PAGE_SIZE),
    "StackMaxSize": _size("stack_max", PAGE_SIZE),
    "HeapMinSize": _size("heap_min", PAGE_SIZE),
    "HeapInitSize": _size("heap_init", PAGE_SIZE),
    "HeapMaxSize": _size("heap_max", PAGE_SIZE),
    "ReservedMemMinSize": _size("reserved_min"),
    "ReservedMemInitSize": _size("reserved_init"),
    "ReservedMemMaxSize": _size("reserved_max"),
    "ReservedMemExecutable": _Setting("reserved_executable"),
    "MiscSelect": _Setting("misc_select", _U32),
    "MiscMask": _Setting("misc_mask", _U32),
    "EnableKSS": _Setting("enable_kss"),
    # The two halves of an id; together they are the attribute before the hash.
    "ISVEXTPRODID_H": _Setting("isv_ext_prod_id#8", _U64),
    "ISVEXTPRODID_L": _Setting("isv_ext_prod_id#0", _U64),
    "ISVFAMILYID_H": _Setting("isv_family_id#8", _U64),
    "ISVFAMILYID_L": _Setting("isv_family_id#0", _U64),
    "PKRU": _Setting("pkru", 2),
    "AMX": _Setting("amx", 2),
    "UserRegionSize": _size("user_region_size"),
    "EnableAEXNotify": _Setting("aex_notify"),
    "EnclaveImageAddress": _size("image_address"),
    "ELRangeStartAddress": _size("elrange_start"),
    "ELRangeSize": _size("elrange_size"),
    "EnableIPPFIPS": _Setting("ipp_fips"),
    "EnableOSSLFIPS": _Setting("openssl_fips"),
}
# What a setting is when it is not given although another one is.
_FOLLOWS = {"TCSMaxNum": "TCSNum", "HeapInitSize": "HeapMaxSize"}
_ORDERS = (
    ("StackMinSize", "StackMaxSize"),
    ("HeapMinSize", "HeapInitSize"),
    ("HeapInitSize", "HeapMaxSize"),
    ("ReservedMemMinSize", "ReservedMemInitSize"),
    ("ReservedMemInitSize", "ReservedMemMaxSize"),
    ("TCSNum", "TCSMaxNum"),
    ("TCSMinPool", "TCSMaxNum"),
)


def parse_config(data: bytes, name: str = "the configuration") -> tuple[EnclaveConfig, list[str]]:
    """Read the XML file of ``-config``.

    Args:
        data: the file.
        name: how it is called in error messages.

    Returns:
        The settings, and a line for each value that may not mean what it looks like.

    Raises:
        InputError: the file is not such XML, or a setting is out of range or contradicts another.
    """
    found = read_elements(data, name, _SETTINGS)
    values = {tag: found[tag].value if tag in found else s.default for tag, s in _SETTINGS.items()}
    for tag, other in _FOLLOWS.items():
        if tag not in found:
            values[tag] = values[other]
    for tag in found:
        _check_range(name, tag, values[tag])
    _check_orders(name, values)
    _check_features(name, values)
    return _config(values), [_octal_line(name, tag, number) for tag, number in _octals(found)]


def _octals(found: Mapping[str, Number]) -> list[tuple[str, Number]]:
    return [(tag, number) for tag, number in found.items() if number.octal and number.value]


def _octal_line(name: str, tag: str, number: Number) -> str:
    return f"{name}: <{tag}> begins with 0, so it is read as octal: {number.value}"


def _check_range(name: str, tag: str, value: int) -> None:
    setting = _SETTINGS[tag]
    if not setting.least <= value <= setting.most:
        raise InputError(
            f"{name}: <{tag}> is {value:#x}", f"it may be {setting.least:#x} to {setting.most:#x}"
        )
    if value % setting.unit:
        raise InputError(
            f"{name}: <{tag}> is {value:#x}, which is not whole pages",
            f"sizes are multiples of 0x1000: the next is {value + -value % setting.unit:#x}",
        )


def _check_orders(name: str, values: Mapping[str, int]) -> None:
    for low, high in _ORDERS:
        if values[low] > values[high]:
            raise InputError(
                f"{name}: {low} {values[low]:#x} is more than {high} {values[high]:#x}",
                f"raise {high} or lower {low}; what is not given has its default",
            )


def _check_features(name: str, values: Mapping[str, int]) -> None:
    ids = [tag for tag in values if tag.startswith("ISV") and tag[-2:] in ("_H", "_L")]
    given = [tag for tag in ids if values[tag]]
    if given and not values["EnableKSS"]:
        raise InputError(
            f"{name}: {given[0]} is given without EnableKSS",
            "set EnableKSS to 1, or leave the ids out",
        )
    if values["UserRegionSize"] and not values["MiscSelect"] & values["MiscMask"] & 1:
        raise InputError(
            f"{name}: UserRegionSize needs SGX2, and bit 0 of MiscSelect or MiscMask is not set",
            "set MiscSelect to 1 and MiscMask to 0xFFFFFFFF, or leave UserRegionSize out",
        )


def _config(values: Mapping[str, int]) -> EnclaveConfig:
    given: dict[str, Any] = {}
    for tag, setting in _SETTINGS.items():
        attribute, _, at = setting.attribute.partition("#")
        if at:
            half = values[tag].to_bytes(8, "little")
            other = given.get(attribute, bytes(16))
            given[attribute] = other[:8] + half if at == "8" else half + other[8:]
        else:
            given[attribute] = type(getattr(EnclaveConfig, attribute))(values[tag])
    return EnclaveConfig(**given)
