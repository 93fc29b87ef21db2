"""A signed enclave file of the Intel SGX SDK: metadata blocks and SIGSTRUCT, read and replaced.

Source: Intel SGX SDK 2.2 to 2.26. Section ``.note.sgxmeta`` is one ELF note: sizes and type (12
bytes), the name "sgx_metadata" with its NUL, not padded, then the metadata. It is all zero until
the file is signed. There is a second block behind the first where one is for machines with SGX2 and
the other for those without; both hold the same SIGSTRUCT.
"""

import struct
from dataclasses import dataclass, field

from imagekit.enclave.sdk.image import HINT, SHT_NOBITS, EnclaveImage, read_image
from imagekit.enclave.sdk.metadata import (
    DIRECTORY_OFFSET,
    MAGIC,
    SIGSTRUCT_OFFSET,
    Metadata,
    parse_metadata,
)
from imagekit.enclave.sigstruct import SIZE as SIGSTRUCT_SIZE
from imagekit.enclave.sigstruct import SigStruct, parse_sigstruct
from imagekit.errors import CheckError, InputError

SECTION = ".note.sgxmeta"
NOTE_NAME = b"sgx_metadata\0"
NOTE_TYPE = 1

_NOTE = struct.Struct("<III")
_MAX_BLOCKS = 2


@dataclass(frozen=True)
class NoteRange:
    """Where the metadata may stand in the file.

    Attributes:
        offset: of the first metadata block, bytes from the file's start.
        size: the note's room, bytes.
    """

    offset: int
    size: int

    @property
    def end(self) -> int:
        """File offset just behind."""
        return self.offset + self.size


@dataclass(frozen=True)
class MetadataBlock:
    """A metadata block in its file.

    Attributes:
        offset: bytes from the file's start.
        metadata: what it says.
    """

    offset: int
    metadata: Metadata


@dataclass(frozen=True)
class SdkEnclave:
    """An enclave file of the Intel SGX SDK, signed or not.

    Attributes:
        image: the file.
        note: where the metadata may stand in it.
        blocks: none (never signed), one or two; with two, the first is the one for SGX2.
    """

    image: EnclaveImage
    note: NoteRange
    blocks: tuple[MetadataBlock, ...] = field(default=())

    @property
    def name(self) -> str:
        """How the file is called in error messages."""
        return self.image.name

    @property
    def is_signed(self) -> bool:
        """Whether there is a SIGSTRUCT (not: whether it is right)."""
        return any(block.metadata.is_signed for block in self.blocks)

    @property
    def metadata(self) -> Metadata:
        """The first block.

        Raises:
            InputError: there is none.
        """
        if not self.blocks:
            raise unsigned(self.name)
        return self.blocks[0].metadata

    @property
    def sigstruct_bytes(self) -> bytes:
        """The 1808 bytes of the SIGSTRUCT, the same in all blocks.

        Raises:
            InputError: the file is not signed.
        """
        if not self.is_signed:
            raise unsigned(self.name)
        return self.metadata.sigstruct

    def enclave_sigstruct(self) -> SigStruct:
        """Give the SIGSTRUCT, its signature checked.

        Raises:
            InputError: the file is not signed.
            CheckError: the signature, q1, q2 or fixed bytes are wrong.
        """
        return parse_sigstruct(self.sigstruct_bytes, self.name)

    def dump_fields(self) -> dict[str, int | str]:
        """Give the metadata's fields for people and scripts, by name; sizes in bytes.

        Raises:
            InputError: the file has no metadata.
        """
        first = self.metadata
        fields: dict[str, int | str] = {
            "metadata_versions": ", ".join(_version(block) for block in self.blocks),
            "enclave_size": first.enclave_size,
            "ssa_frame_pages": first.ssa_frame_pages,
            "max_save_buffer_size": first.max_save_buffer_size,
            "tcs_policy": first.tcs_policy,
            "tcs_min_pool": first.tcs_min_pool,
            "desired_misc_select": f"{first.desired_misc_select:#x}",
            "attribute_flags": f"{first.flags:#x}",
            "attribute_xfrm": f"{first.xfrm:#x}",
        }
        if first.elrange is not None:
            fields["image_address"] = f"{first.elrange.image_address:#x}"
            fields["elrange_start"] = f"{first.elrange.start:#x}"
            fields["elrange_size"] = first.elrange.size
        return fields


def _version(block: MetadataBlock) -> str:
    return ".".join(map(str, block.metadata.version))


def unsigned(name: str) -> InputError:
    """Give the error that says that an enclave is not signed."""
    return InputError(f"{name}: the enclave is not signed", "sign it first, or give a signed file")


def find_note(image: EnclaveImage) -> NoteRange:
    """Give where the metadata stands, or is to be written.

    Raises:
        InputError: there is no such section, or it does not hold the SDK's note.
    """
    section = image.section(SECTION)
    if section is None:
        raise InputError(f"{image.name}: no section {SECTION}, so no enclave of the SDK", HINT)
    head = _NOTE.size + len(NOTE_NAME)
    if section.kind in (0, SHT_NOBITS) or section.size < head:
        raise InputError(f"{image.name}: section {SECTION} is empty", HINT)
    name_size, size, kind = _NOTE.unpack_from(image.data, section.offset)
    name = image.data[section.offset + _NOTE.size : section.offset + head]
    if name_size != len(NOTE_NAME) or name != NOTE_NAME or kind != NOTE_TYPE:
        raise InputError(f"{image.name}: section {SECTION} does not hold the SDK's note", HINT)
    if head + size > section.size:
        raise InputError(f"{image.name}: the note in {SECTION} is longer than the section", HINT)
    return NoteRange(section.offset + head, size)


def read_enclave(data: bytes, name: str) -> SdkEnclave:
    """Read an enclave file: the one way in for all that is asked about one.

    Args:
        data: the file's bytes.
        name: how the file is called in error messages.

    Raises:
        InputError: not an enclave file of the Intel SGX SDK, or one whose metadata is broken.
        CheckError: its metadata blocks hold two SIGSTRUCTs.
    """
    image = read_image(data, name)
    note = find_note(image)
    blocks: list[MetadataBlock] = []
    offset = note.offset
    while offset < note.end and _has_block(data, offset, note.end, first=not blocks):
        if len(blocks) == _MAX_BLOCKS:
            raise InputError(f"{name}: there are more than two metadata blocks", HINT)
        metadata = parse_metadata(data[offset : note.end], name)
        blocks.append(MetadataBlock(offset, metadata))
        offset += metadata.size
    if len({block.metadata.sigstruct for block in blocks}) > 1:
        raise CheckError(
            f"{name}: the two metadata blocks hold two SIGSTRUCTs that differ",
            "which one counts depends on the machine: sign the enclave again",
        )
    return SdkEnclave(image, note, tuple(blocks))


def _has_block(data: bytes, offset: int, end: int, *, first: bool) -> bool:
    """Say whether a block starts here; what starts the note must be one, or all zero."""
    magic = data[offset : min(offset + 8, end)]
    return any(magic) if first else magic == MAGIC.to_bytes(8, "little")


def with_sigstruct(data: bytes, sigstruct: bytes, name: str = "enclave") -> bytes:
    """Give the file with another SIGSTRUCT in all its metadata blocks and nothing else changed.

    That signs again a file that any SDK has signed: the measurement does not change with it.

    Args:
        data: a file that has metadata.
        sigstruct: 1808 bytes; whether it is for this enclave is not looked at.
        name: how the file is called in error messages.

    Raises:
        InputError: not an enclave file, one without metadata, or `sigstruct` has another size.
        CheckError: as :func:`read_enclave`.
    """
    if len(sigstruct) != SIGSTRUCT_SIZE:
        raise InputError(
            f"{name}: a SIGSTRUCT has {SIGSTRUCT_SIZE} bytes, this has {len(sigstruct)}",
            "give the whole SIGSTRUCT",
        )
    enclave = read_enclave(data, name)
    if not enclave.blocks:
        raise unsigned(name)
    result = bytearray(data)
    for block in enclave.blocks:
        start = block.offset
        result[start + SIGSTRUCT_OFFSET : start + DIRECTORY_OFFSET] = sigstruct
    return bytes(result)
