"""From a configuration to what SIGSTRUCT says beside the measurement, and to the save area.

Sources: Intel SDM vol. 3D, "SIGSTRUCT", "ATTRIBUTES", "MISCSELECT" (what the bits mean); the values
are those of the Intel SGX SDK 2.26.
"""

from dataclasses import dataclass

from imagekit.enclave.elf import PAGE_SIZE
from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.enclave.sigstruct import DEBUG_KEY, SigStructBody

DEBUG = 0x2
MODE64, PROVISION_KEY, LAUNCH_KEY, KSS, AEX_NOTIFY = 0x4, 0x10, 0x20, 0x80, 0x400
PKRU, AMX = 0x200, 0x60000
"""Bits of XFRM."""
INTEL = 0x8086
"""SIGSTRUCT's VENDOR of an enclave by Intel."""

GPR_BYTES = 184
"""Bytes of the general registers, at the end of each frame of the save state area."""

_ALL = (1 << 64) - 1
_LOADER_FLAGS = 0x00FF_0000_0000_0000
_LEGACY, _SSE_AVX, _MPX, _AVX512 = 0x3, 0x6, 0x18, 0xE6
# Bytes of the XSAVE area if all bits of the row are there; the last row that fits counts.
_XSAVE_ROWS = (
    (_LEGACY, 576),
    (_SSE_AVX, 832),
    (_MPX, 1088),
    (_AVX512, 2688),
    (PKRU, 2752),
    (AMX, 11008),
)


def _xfrm(config: EnclaveConfig) -> tuple[int, int]:
    """Give XFRM and its mask: what is 2 (as the loader finds it) stays out of the mask."""
    xfrm = _LEGACY
    mask = _LEGACY | _ALL & ~(_LEGACY | _SSE_AVX | _AVX512 | PKRU | AMX)
    for choice, bits in ((config.pkru, PKRU), (config.amx, AMX)):
        if choice != 2:
            mask |= bits
        if choice == 1:
            xfrm |= bits
    return xfrm, mask


def attribute_flags(config: EnclaveConfig) -> int:
    """Give ATTRIBUTES.FLAGS."""
    flags = MODE64
    for wanted, bit in (
        (config.provision_key, PROVISION_KEY),
        (config.launch_key, LAUNCH_KEY),
        (config.enable_kss, KSS),
        (config.aex_notify, AEX_NOTIFY),
    ):
        flags |= bit if wanted else 0
    return flags


def signed_body(config: EnclaveConfig, mr_enclave: bytes, date: bytes) -> SigStructBody:
    """Give what is signed.

    Args:
        config: the enclave's settings.
        mr_enclave: 32 bytes.
        date: the DATE field, 4 bytes (:func:`imagekit.enclave.sigstruct.encode_date`).
    """
    xfrm, xfrm_mask = _xfrm(config)
    return SigStructBody(
        mr_enclave=mr_enclave,
        flags=attribute_flags(config),
        xfrm=xfrm,
        xfrm_mask=xfrm_mask,
        date=date,
        flags_mask=_ALL & ~(_LOADER_FLAGS | (0 if config.disable_debug else DEBUG)),
        misc_select=config.misc_select & config.misc_mask,
        misc_mask=config.misc_mask,
        isv_prod_id=config.prod_id,
        isv_svn=config.isv_svn,
        vendor=INTEL if config.intel_signed else 0,
        swdefined=config.hw,
        isv_family_id=config.isv_family_id,
        isv_ext_prod_id=config.isv_ext_prod_id,
        header_type=DEBUG_KEY if config.release_type else 0,
    )


@dataclass(frozen=True)
class SaveArea:
    """The save state area that the enclave needs for what its attributes allow.

    Attributes:
        xfrm: all that the loader may turn on.
        xsave_bytes: of the extended registers.
        frame_pages: pages of one frame.
    """

    xfrm: int
    xsave_bytes: int
    frame_pages: int


def save_area(config: EnclaveConfig) -> SaveArea:
    """Give the save area of a configuration."""
    wanted, mask = _xfrm(config)
    xfrm = _ALL & ~mask | wanted & mask
    size = [size for bits, size in _XSAVE_ROWS if xfrm & bits == bits][-1]
    return SaveArea(xfrm, size, -(-(size + GPR_BYTES) // PAGE_SIZE))
