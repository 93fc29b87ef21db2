"""From an unsigned enclave library and a configuration to the signed file, byte for byte.

Source: what sgx_sign of the Intel SGX SDK 2.26 writes. Only the note ``.note.sgxmeta`` of the file
changes: it gets one or two metadata blocks. What they hold follows from the file and the
configuration, and only SIGSTRUCT is added by signing.
"""

from dataclasses import dataclass

from imagekit.enclave.sdk.body import attribute_flags, save_area
from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.enclave.sdk.global_data import SIZE as GLOBAL_DATA_SIZE
from imagekit.enclave.sdk.global_data import global_data, tcs_template, thread_of
from imagekit.enclave.sdk.metadata import (
    ELRANGE_STEP,
    Directory,
    Metadata,
    head_size,
)
from imagekit.enclave.sdk.plan import Layout, Plan, for_sgx1, plan_layout
from imagekit.enclave.sdk.signed import SdkEnclave, find_note, read_enclave
from imagekit.enclave.sdk.tables import ElRange, Patch
from imagekit.enclave.sdk.unsigned import UnsignedEnclave
from imagekit.errors import InputError

SDK = (2, 26, 100)
"""The release whose layout this module writes: major, minor, revision."""

_SGX2, _SGX1 = (3, 3), (1, 5)
_ELRANGE_BYTES = 24
_BLANK = 8  # zero bytes, which the patches of the ELF header are made of
# File offset and size of e_shnum, e_shoff and e_shstrndx, in the order of the patch table.
_ELF_PATCHES = ((60, 2), (40, 8), (62, 2))


@dataclass(frozen=True)
class PreparedEnclave:
    """An enclave that lacks nothing but its signature.

    Attributes:
        enclave: the whole file, with a SIGSTRUCT of zeros.
        config: its settings.
        plan: where everything is.
    """

    enclave: SdkEnclave
    config: EnclaveConfig
    plan: Plan


def prepare(unsigned: UnsignedEnclave, config: EnclaveConfig) -> PreparedEnclave:
    """Lay an enclave out and write all but the signature.

    Args:
        unsigned: the library.
        config: the settings.

    Raises:
        InputError: the library is of another SDK, or the settings cannot be had.
    """
    name = unsigned.image.name
    _check_release(unsigned)
    if config.ipp_fips or config.openssl_fips:
        raise InputError(
            f"{name}: EnableIPPFIPS and EnableOSSLFIPS are not known here",
            "leave them out, or sign with the SDK's own tool",
        )
    area = save_area(config)
    tcs_offset = head_size(_SGX2) + (_ELRANGE_BYTES if config.has_elrange else 0)
    plan = plan_layout(config, unsigned.image_end, unsigned.tls_size, area.frame_pages, tcs_offset)
    _check_elrange(name, config, plan)
    metadata = b"".join(_blocks(unsigned, config, plan))
    note = find_note(unsigned.image)
    if len(metadata) > note.size:
        raise InputError(
            f"{name}: the note of the metadata has room for {note.size} bytes, and there are "
            f"{len(metadata)}",
            "link it with the trusted runtime of the SDK 2.26",
        )
    data = unsigned.image.data
    out = data[: note.offset] + metadata.ljust(note.size, b"\0") + data[note.end :]
    return PreparedEnclave(read_enclave(out, name), config, plan)


def _check_release(unsigned: UnsignedEnclave) -> None:
    name = unsigned.image.name
    if unsigned.sdk_version == SDK and unsigned.global_data_size == GLOBAL_DATA_SIZE:
        return
    ours = ".".join(map(str, SDK))
    if unsigned.sdk_version != SDK:
        raise InputError(
            f"{name}: linked with the Intel SGX SDK {unsigned.sdk}; only {ours} can be laid out",
            "sign it once with that SDK's own sgx_sign; from then on sign -resign works here",
        )
    raise InputError(
        f"{name}: g_global_data has {unsigned.global_data_size} bytes, not the {GLOBAL_DATA_SIZE} "
        f"of the SDK {ours}",
        "link it with the trusted runtime of that SDK alone",
    )


def _check_elrange(name: str, config: EnclaveConfig, plan: Plan) -> None:
    """Refuse a range that the CPU or the loader cannot make."""
    if not config.has_elrange:
        return
    start, size, image = config.elrange_start, config.elrange_size, config.image_address
    if size == 0 or size & (size - 1) or start % size:
        raise InputError(
            f"{name}: ELRangeSize {size:#x} at ELRangeStartAddress {start:#x} is no enclave range",
            "the size has to be a power of two, and the start a multiple of it",
        )
    if not start <= image <= start + size - plan.enclave_size:
        raise InputError(
            f"{name}: {plan.enclave_size:#x} bytes at EnclaveImageAddress {image:#x} do not lie in "
            f"the range of {size:#x} bytes at {start:#x}",
            "move the image or make the range larger",
        )


def _blocks(unsigned: UnsignedEnclave, config: EnclaveConfig, plan: Plan) -> list[bytes]:
    layouts: list[tuple[tuple[int, int], Layout]] = []
    if plan.sgx2:
        layouts.append((_SGX2, plan.layout))
    if plan.sgx1:
        layouts.append((_SGX1, for_sgx1(plan, config)))
    return [_block(unsigned, config, plan, version, layout) for version, layout in layouts]


def _block(
    unsigned: UnsignedEnclave,
    config: EnclaveConfig,
    plan: Plan,
    version: tuple[int, int],
    layout: Layout,
) -> bytes:
    area = save_area(config)
    data = b""
    elrange = None
    if config.has_elrange:
        version = (version[0] + ELRANGE_STEP, version[1])
        elrange = ElRange(config.image_address, config.elrange_start, config.elrange_size)
        data = elrange.pack()
    start = head_size(version)
    shift = config.image_address - config.elrange_start
    tcs = tcs_template(thread_of(plan), unsigned.entry, shift, config.aex_notify)
    globals_at = start + len(data) + len(tcs)
    data += tcs + global_data(config, plan, area, tcs)
    blank_at = start + len(data)
    data += bytes(_BLANK)
    patches = (
        Patch(unsigned.global_data, globals_at, GLOBAL_DATA_SIZE),
        *(Patch(offset, blank_at, size) for offset, size in _ELF_PATCHES),
    )
    tables = [b"".join(item.pack() for item in table) for table in (patches, layout)]
    patches_at = start + len(data)
    layout_at = patches_at + len(tables[0])
    head = Metadata(
        version=version,
        size=layout_at + len(tables[1]),
        tcs_policy=config.tcs_policy,
        ssa_frame_pages=area.frame_pages,
        max_save_buffer_size=area.xsave_bytes,
        desired_misc_select=config.misc_select,
        tcs_min_pool=config.tcs_min_pool,
        enclave_size=plan.enclave_size,
        flags=attribute_flags(config),
        xfrm=area.xfrm,
        directories=(
            Directory(patches_at, len(tables[0])),
            Directory(layout_at, len(tables[1])),
            Directory(start, _ELRANGE_BYTES) if elrange else Directory(0, 0),
            Directory(0, 0),
        ),
    ).pack_head()
    return b"".join((head, data, *tables))
