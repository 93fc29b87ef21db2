"""An enclave's metadata as text, in the manner of ``sgx_sign dump``.

Scripts look for ``metadata->enclave_css.body.enclave_hash.m:`` with two lines of 16 bytes below it,
and take the last two lines for MRSIGNER (BigDL's ``print_enclave_signer.sh``, ``occlum print``).
The other lines are for people. Of an unsigned file everything is zero.
"""

import struct
from collections.abc import Iterator

from imagekit.enclave.sdk.metadata import SIGSTRUCT_OFFSET, Metadata
from imagekit.enclave.sdk.signed import SdkEnclave
from imagekit.enclave.sdk.tables import LayoutGroup, LayoutId
from imagekit.enclave.sigstruct import KEY_BYTES, mr_signer_of
from imagekit.enclave.sigstruct import SIZE as SIGSTRUCT_SIZE

_CSS = "metadata->enclave_css"
# Offset in SIGSTRUCT, bytes of a number (or of an array), name; Intel SDM vol. 3D, "SIGSTRUCT".
_HEADER_FIELDS = (
    (0, 12, "header.header"),
    (12, 4, "header.type"),
    (16, 4, "header.module_vendor"),
    (20, 4, "header.date"),
    (24, 16, "header.header2"),
    (40, 4, "header.hw_version"),
    (128, KEY_BYTES, "key.modulus"),
    (512, 4, "key.exponent"),
    (516, KEY_BYTES, "key.signature"),
    (900, 4, "body.misc_select"),
    (904, 4, "body.misc_mask"),
    (912, 16, "body.isv_family_id"),
    (928, 8, "body.attributes.flags"),
    (936, 8, "body.attributes.xfrm"),
    (944, 8, "body.attribute_mask.flags"),
    (952, 8, "body.attribute_mask.xfrm"),
    (960, 32, "body.enclave_hash.m"),
    (1008, 16, "body.isvext_prod_id"),
    (1024, 2, "body.isv_prod_id"),
    (1026, 2, "body.isv_svn"),
    (1040, KEY_BYTES, "buffer.q1"),
    (1424, KEY_BYTES, "buffer.q2"),
)
_HEAD = struct.Struct("<QIIIIIIIIQQQ")
_HEAD_FIELDS = (
    "magic_num",
    "version.minor",
    "version.major",
    "size",
    "tcs_policy",
    "ssa_frame_size",
    "max_save_buffer_size",
    "desired_misc_select",
    "tcs_min_pool",
    "enclave_size",
    "attributes.flags",
    "attributes.xfrm",
)


def dump_text(enclave: SdkEnclave) -> str:
    """Give the text; SIGSTRUCT is shown as it stands in the file, whether it is right or not.

    Args:
        enclave: signed or not.
    """
    first = enclave.blocks[0].metadata if enclave.blocks else None
    css = first.sigstruct if first is not None else bytes(SIGSTRUCT_SIZE)
    lines = [*_head(first), *_sigstruct(css)]
    if first is not None:
        lines += _tables(first)
    for number, block in enumerate(enclave.blocks[1:], 1):
        version = ".".join(map(str, block.metadata.version))
        lines.append(f"metadata[{number}]->version: {version} (with the same SIGSTRUCT)")
        lines += _tables(block.metadata)
    modulus = int.from_bytes(css[128 : 128 + KEY_BYTES], "little")
    lines += ["mrsigner->value:", *_array(mr_signer_of(modulus) if modulus else bytes(32))]
    return "\n".join(lines) + "\n"


def _head(metadata: Metadata | None) -> Iterator[str]:
    head = metadata.block[:SIGSTRUCT_OFFSET] if metadata is not None else bytes(SIGSTRUCT_OFFSET)
    for name, value in zip(_HEAD_FIELDS, _HEAD.unpack_from(head), strict=True):
        yield f"metadata->{name}: {value:#x}"


def _sigstruct(css: bytes) -> Iterator[str]:
    for offset, size, name in _HEADER_FIELDS:
        value = css[offset : offset + size]
        if size > 8:
            yield f"{_CSS}.{name}:"
            yield from _array(value)
        else:
            yield f"{_CSS}.{name}: {int.from_bytes(value, 'little'):#x}"


def _array(value: bytes) -> Iterator[str]:
    for start in range(0, len(value), 16):
        yield " ".join(f"{byte:#04x}" for byte in value[start : start + 16])


def _tables(metadata: Metadata) -> Iterator[str]:
    """Give a line per patch and region."""
    for patch in metadata.patches:
        yield f"    patch: {patch.size} bytes at file offset {patch.destination:#x}"
    if metadata.elrange is not None:
        place = metadata.elrange
        yield f"    elrange: {place.size:#x} bytes at {place.start:#x}"
        yield f"    image address: {place.image_address:#x}"
    for item in metadata.layout:
        if isinstance(item, LayoutGroup):
            yield (
                f"    {_name(item.id)}: the {item.entries} entries before, {item.times} times "
                f"more, {item.step:#x} bytes apart"
            )
        else:
            yield (
                f"    {_name(item.id)}: {item.pages} pages at {item.rva:#x}, attributes "
                f"{item.attributes:#x}, flags {item.flags:#x}"
            )


def _name(number: int) -> str:
    try:
        return LayoutId(number).name
    except ValueError:
        return f"region {number:#x}"
