"""Signing an enclave again without laying it out again: what may change, and what may not.

A file that any SDK has signed carries its whole layout. Signing it again needs no rule of that SDK
as long as the layout and what is measured stay as they are; what SIGSTRUCT says beside the
measurement may change.
"""

import struct
from dataclasses import dataclass, replace

from imagekit.enclave.elf import PAGE_SIZE
from imagekit.enclave.layout import X
from imagekit.enclave.sdk.body import (
    AEX_NOTIFY,
    AMX,
    DEBUG,
    INTEL,
    KSS,
    LAUNCH_KEY,
    PKRU,
    PROVISION_KEY,
    attribute_flags,
    signed_body,
)
from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.enclave.sdk.metadata import Metadata
from imagekit.enclave.sdk.signed import SdkEnclave, read_enclave
from imagekit.enclave.sdk.tables import LayoutAttribute, LayoutEntry, LayoutGroup, LayoutId
from imagekit.enclave.sigstruct import DEBUG_KEY, SigStructBody
from imagekit.errors import InputError

_FLAGS_OFFSET = 48  # of ATTRIBUTES.FLAGS in a metadata block, which the loader starts it with
_CHANGEABLE_FLAGS = PROVISION_KEY | LAUNCH_KEY | KSS


def body_with(body: SigStructBody, config: EnclaveConfig) -> SigStructBody:
    """Give an enclave's SIGSTRUCT body with the settings that do not touch its layout.

    Args:
        body: what was signed before.
        config: the new settings; those of save area and MISCSELECT stay as they were.
    """
    flags = body.flags & ~_CHANGEABLE_FLAGS | attribute_flags(config) & _CHANGEABLE_FLAGS
    return replace(
        body,
        flags=flags,
        flags_mask=body.flags_mask | DEBUG if config.disable_debug else body.flags_mask & ~DEBUG,
        isv_prod_id=config.prod_id,
        isv_svn=config.isv_svn,
        isv_family_id=config.isv_family_id,
        isv_ext_prod_id=config.isv_ext_prod_id,
        vendor=INTEL if config.intel_signed else 0,
        swdefined=config.hw,
        header_type=DEBUG_KEY if config.release_type else 0,
    )


def with_settings(enclave: SdkEnclave, config: EnclaveConfig, config_name: str) -> SdkEnclave:
    """Give a signed enclave with the attributes of other settings, layout and content kept.

    Args:
        enclave: signed by any SDK.
        config: the settings.
        config_name: how they are called in error messages.

    Raises:
        InputError: the settings ask for another layout than the file has.
        CheckError: the file's SIGSTRUCT is broken.
    """
    body = enclave.enclave_sigstruct().body
    for found in _attributes(body, config):
        found.check(enclave.name, config_name)
    for block in enclave.blocks:
        for found in _layout(block.metadata, config):
            found.check(enclave.name, config_name)
    out = bytearray(enclave.image.data)
    for block in enclave.blocks:
        flags = block.metadata.flags & ~_CHANGEABLE_FLAGS
        flags |= attribute_flags(config) & _CHANGEABLE_FLAGS
        struct.pack_into("<Q", out, block.offset + _FLAGS_OFFSET, flags)
    return read_enclave(bytes(out), enclave.name)


@dataclass(frozen=True)
class _Found:
    """A setting as the file has it and as the configuration wants it."""

    setting: str
    there: int
    wanted: int

    def check(self, name: str, config_name: str) -> None:
        """Refuse what differs."""
        if self.there != self.wanted:
            raise InputError(
                f"{config_name}: {self.setting} is {self.wanted:#x}, and {name} was laid out with "
                f"{self.there:#x}",
                "a file of another SDK keeps its layout: take the configuration it was signed "
                "with, or sign the unsigned file with that SDK's sgx_sign",
            )


def _attributes(body: SigStructBody, config: EnclaveConfig) -> list[_Found]:
    """Give what SIGSTRUCT shows of settings that decide on the layout or the threads."""
    wanted = signed_body(config, body.mr_enclave, body.date)
    found = [
        _Found("MiscMask", body.misc_mask, config.misc_mask),
        _Found("EnableAEXNotify", body.flags & AEX_NOTIFY, wanted.flags & AEX_NOTIFY),
    ]
    for setting, choice, bits in (("PKRU", config.pkru, PKRU), ("AMX", config.amx, AMX)):
        found.append(_Found(setting, body.xfrm & bits, wanted.xfrm & bits))
        if choice == 2:
            found.append(_Found(f"{setting} mask", body.xfrm_mask & bits, 0))
    return found


def _layout(metadata: Metadata, config: EnclaveConfig) -> list[_Found]:
    """Give the settings of the layout that a metadata block shows."""
    size = _Sizes(metadata)
    heap = size.of(LayoutId.HEAP_MIN)
    heap_init = heap + size.of(LayoutId.HEAP_INIT)
    reserved = size.of(LayoutId.RSRV_MIN)
    reserved_init = reserved + size.of(LayoutId.RSRV_INIT)
    stack = size.of(LayoutId.STACK_MIN)
    found = [
        _Found("HeapMinSize", heap, config.heap_min),
        _Found("HeapInitSize", heap_init, config.heap_init),
        _Found("HeapMaxSize", heap_init + size.of(LayoutId.HEAP_MAX), config.heap_max),
        _Found("StackMinSize", stack, config.stack_min),
        _Found("StackMaxSize", stack + size.of(LayoutId.STACK_MAX), config.stack_max),
        _Found("ReservedMemMinSize", reserved, config.reserved_min),
        _Found("ReservedMemInitSize", reserved_init, config.reserved_init),
        _Found(
            "ReservedMemMaxSize", reserved_init + size.of(LayoutId.RSRV_MAX), config.reserved_max
        ),
        _Found("TCSNum", size.threads, config.tcs_num),
        _Found("TCSMinPool", metadata.tcs_min_pool, config.tcs_min_pool),
        _Found("TCSPolicy", metadata.tcs_policy, config.tcs_policy),
        _Found("MiscSelect", metadata.desired_misc_select, config.misc_select),
    ]
    if size.later_threads:
        pool = min(config.tcs_min_pool, config.tcs_num - 1)
        found.append(_Found("TCSMaxNum", size.later_threads + pool, config.tcs_max_num))
    if config.user_region_size > size.of(LayoutId.USER_REGION):
        region = size.of(LayoutId.USER_REGION)
        found.append(_Found("UserRegionSize", region, config.user_region_size))
    there = metadata.elrange
    if there is not None or config.has_elrange:
        found += [
            _Found(
                "EnclaveImageAddress", there.image_address if there else 0, config.image_address
            ),
            _Found("ELRangeStartAddress", there.start if there else 0, config.elrange_start),
            _Found("ELRangeSize", there.size if there else 0, config.elrange_size),
        ]
    if reserved:
        executable = bool(size.flags(LayoutId.RSRV_MIN) & X)
        found.append(_Found("ReservedMemExecutable", executable, config.reserved_executable))
    return found


class _Sizes:
    """Sizes and numbers that a layout table shows."""

    def __init__(self, metadata: Metadata) -> None:
        self._first: dict[int, LayoutEntry] = {}
        self.threads = 0
        self.later_threads = 0
        ids: list[tuple[int, int]] = []
        for item in metadata.layout:
            if isinstance(item, LayoutGroup):
                for id, attributes in ids[-item.entries :] if item.entries else []:
                    self._count(id, attributes, item.times)
            else:
                self._first.setdefault(item.id, item)
                ids.append((item.id, item.attributes))
                self._count(item.id, item.attributes, 1)

    def _count(self, id: int, attributes: int, times: int) -> None:
        if id == LayoutId.TCS and attributes & LayoutAttribute.EADD:
            self.threads += times
        elif id == LayoutId.TCS_DYN:
            self.later_threads += times

    def of(self, id: LayoutId) -> int:
        """Bytes of the first region of that kind; 0 if there is none."""
        return self._first[id].pages * PAGE_SIZE if id in self._first else 0

    def flags(self, id: LayoutId) -> int:
        """SECINFO flags of the first region of that kind; 0 if there is none."""
        return self._first[id].flags if id in self._first else 0
