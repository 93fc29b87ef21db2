"""Enclave files of the Intel SGX SDK: golden files, other versions, and what is refused."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk_blocks import block_offset, make_block, with_blocks
from sdk_enclaves import Recipe, make_enclave, patch_builtin_config, section_range

from imagekit.enclave.sdk.image import read_image
from imagekit.enclave.sdk.measure import measure
from imagekit.enclave.sdk.metadata import (
    MAGIC,
    ElRange,
    LayoutEntry,
    LayoutGroup,
    Patch,
    head_size,
    parse_metadata,
)
from imagekit.enclave.sdk.signed import read_enclave, with_sigstruct
from imagekit.enclave.sigstruct import decode_date, encode_date
from imagekit.errors import CheckError, ImagekitError, InputError

FOLDER = Path(__file__).parent.parent / "golden" / "sgx-sdk"
CASES = sorted(path.name for path in (FOLDER / "cases").iterdir())
PLAIN = make_enclave()
SIGNED = (FOLDER / "cases" / "mini_tls.sgx2_both" / "signed.so").read_bytes()


def case_files(case):
    folder = FOLDER / "cases" / case
    return (folder / "signed.so").read_bytes(), json.loads((folder / "expected.json").read_text())


def test_all_golden_cases_are_there():
    assert len(CASES) == 24


@pytest.mark.parametrize("case", CASES)
def test_golden_enclaves_measure_as_the_sdk_measured_them(case):
    data, expected = case_files(case)
    enclave = read_enclave(data, case)
    blocks = [
        {
            "offset": block.offset,
            "version": ".".join(map(str, block.metadata.version)),
            "size": block.metadata.size,
        }
        for block in enclave.blocks
    ]
    assert blocks == expected["metadata_blocks"]
    assert enclave.metadata.enclave_size == expected["enclave_size"]
    assert enclave.metadata.ssa_frame_pages == expected["ssa_frame_pages"]
    result = measure(enclave)
    assert result.mr_enclave.hex() == expected["mr_enclave"]
    assert result.plan.required_memory == expected["required_memory_bytes"]
    assert result.hashed_bytes == expected["hashed_bytes"]


@pytest.mark.parametrize("case", CASES)
def test_golden_sigstructs_are_read_and_put_back(case):
    data, expected = case_files(case)
    enclave = read_enclave(data, case)
    assert enclave.is_signed
    assert enclave.sigstruct_bytes == (FOLDER / "cases" / case / "sigstruct.css").read_bytes()
    signed = enclave.enclave_sigstruct()
    assert signed.mr_signer.hex() == expected["mr_signer"]
    assert signed.body.mr_enclave.hex() == expected["mr_enclave"]
    fields = expected["sigstruct"]
    numbers = {
        "header_type": signed.body.header_type,
        "vendor": signed.body.vendor,
        "hw_version": signed.body.swdefined,
        "misc_select": signed.body.misc_select,
        "misc_mask": signed.body.misc_mask,
        "attribute_flags": signed.body.flags,
        "attribute_xfrm": signed.body.xfrm,
        "attribute_flags_mask": signed.body.flags_mask,
        "attribute_xfrm_mask": signed.body.xfrm_mask,
    }
    assert {name: int(fields[name], 16) for name in numbers} == numbers
    assert signed.body.isv_family_id.hex() == fields["isv_family_id"]
    assert signed.body.isv_ext_prod_id.hex() == fields["isv_ext_prod_id"]
    assert (signed.body.isv_prod_id, signed.body.isv_svn) == (
        fields["isv_prod_id"],
        fields["isv_svn"],
    )
    assert signed.body.date == encode_date(expected["date"])
    assert decode_date(enclave.sigstruct_bytes[20:24]) == expected["date"]
    (date,) = struct.unpack_from("<I", enclave.sigstruct_bytes, 20)
    assert f"{date:08x}" == expected["date"].replace("-", "")
    assert with_sigstruct(data, signed.to_bytes(), case) == data


def test_all_fields_of_the_metadata_are_told():
    data, _ = case_files("mini_notls.elrange")
    assert read_enclave(data, "x").dump_fields() == {
        "metadata_versions": "11.5",
        "enclave_size": 2097152,
        "ssa_frame_pages": 1,
        "max_save_buffer_size": 2688,
        "tcs_policy": 1,
        "tcs_min_pool": 1,
        "desired_misc_select": "0x0",
        "attribute_flags": "0x4",
        "attribute_xfrm": "0xe7",
        "image_address": "0x20000000",
        "elrange_start": "0x0",
        "elrange_size": 1073741824,
    }
    assert read_enclave(SIGNED, "x").dump_fields()["metadata_versions"] == "3.3, 1.5"


def test_golden_metadata_packs_to_the_same_bytes():
    for case in CASES:
        for block in read_enclave(case_files(case)[0], case).blocks:
            metadata = block.metadata
            head = metadata.pack_head()
            assert len(head) == 1904
            assert metadata.block[: len(head)] == head
            for place, items in zip(
                metadata.directories, (metadata.patches, metadata.layout), strict=False
            ):
                table = metadata.block[place.offset : place.offset + place.size]
                assert b"".join(item.pack() for item in items) == table


@pytest.mark.parametrize(
    ("version", "size"),
    [
        *[(version, 1888) for version in ((1, 3), (1, 4), (2, 0), (2, 3), (2, 4), (3, 0), (3, 1))],
        *[(version, 1904) for version in ((1, 5), (3, 2), (3, 3), (11, 5))],
    ],
)
def test_every_version_has_its_head(version, size):
    assert head_size(version) == size
    elrange = ElRange(0, 0, 1 << 30) if version[0] == 11 else None
    layout = [LayoutEntry(1, 1, 2, 0x100000, flags=0x203), LayoutGroup(0x1009, 1, 3, 0x2000)]
    block = make_block(layout, version=version, patches=[Patch(60, 0, 2)], elrange=elrange)
    metadata = read_enclave(with_blocks(PLAIN, block), "x").metadata
    assert (metadata.version, len(metadata.pack_head())) == (version, size)
    assert list(metadata.layout) == layout
    assert metadata.elrange == elrange
    assert [patch.destination for patch in metadata.patches] == [60]


@pytest.mark.parametrize(("room", "version"), [(0x5000, (2, 4)), (0x6000, (3, 3))])
def test_notes_of_other_sizes_and_files_with_more_in_them(room, version):
    library = make_enclave(Recipe(note_size=room, debug_size=12345))
    block = make_block([], version=version)
    assert read_enclave(with_blocks(library, block), "x").metadata.size == len(block)
    # More sections may follow, and the section may be larger than its note.
    start, size = section_range(library, ".note.sgxmeta")
    library = bytearray(with_blocks(library, block))
    struct.pack_into("<I", library, start + 4, size - 25 - 64)
    assert read_enclave(bytes(library), "x").metadata.size == len(block)


def test_one_old_block_alone_and_two_blocks():
    old, new = make_block([], version=(1, 4)), make_block([], version=(2, 4))
    assert [b.metadata.version for b in read_enclave(with_blocks(PLAIN, old), "x").blocks] == [
        (1, 4)
    ]
    enclave = read_enclave(with_blocks(PLAIN, new, old), "x")
    assert [b.metadata.version for b in enclave.blocks] == [(2, 4), (1, 4)]
    assert enclave.blocks[1].offset == enclave.blocks[0].offset + len(new)


def test_a_new_sigstruct_goes_into_every_block_and_nowhere_else():
    content = bytes(range(256)) * 8
    changed = with_sigstruct(SIGNED, content[:1808])
    places = [i for i, (a, b) in enumerate(zip(SIGNED, changed, strict=True)) if a != b]
    enclave = read_enclave(changed, "x")
    ranges = [range(b.offset + 64, b.offset + 1872) for b in enclave.blocks]
    assert len(ranges) == 2
    assert all(any(place in r for r in ranges) for place in places)
    assert [b.metadata.sigstruct for b in enclave.blocks] == [content[:1808]] * 2
    assert with_sigstruct(changed, read_enclave(SIGNED, "x").sigstruct_bytes) == SIGNED


def test_an_unsigned_file_is_read_and_refused_where_a_signed_one_is_needed():
    for library in (PLAIN, (FOLDER / "mini_tls.so").read_bytes()):
        enclave = read_enclave(library, "x.so")
        assert (enclave.is_signed, enclave.blocks) == (False, ())
        for use in (
            enclave.enclave_sigstruct,
            enclave.dump_fields,
            lambda e=enclave: e.sigstruct_bytes,
            lambda e=enclave: measure(e),
            lambda data=library: with_sigstruct(data, bytes(1808), "x.so"),
        ):
            with pytest.raises(InputError, match=r"x\.so: the enclave is not signed"):
                use()


def test_metadata_without_signature_can_be_measured_and_signed():
    data = with_blocks(PLAIN, make_block([]))
    enclave = read_enclave(data, "x.so")
    assert not enclave.is_signed
    assert len(measure(enclave).mr_enclave) == 32
    with pytest.raises(InputError, match="not signed"):
        enclave.enclave_sigstruct()
    assert read_enclave(with_sigstruct(data, b"\1" * 1808), "x.so").is_signed


@pytest.mark.parametrize("size", [0, 1807, 1809])
def test_a_sigstruct_of_another_size_is_refused(size):
    with pytest.raises(InputError, match="1808"):
        with_sigstruct(SIGNED, bytes(size))


@pytest.mark.parametrize("place", [64 + 20, 64 + 600, 64 + 960, 64 + 1500])
def test_a_sigstruct_that_was_changed_is_caught(place):
    data = bytearray(SIGNED)
    for block in read_enclave(SIGNED, "x").blocks:
        data[block.offset + place] ^= 1
    with pytest.raises(CheckError, match=r"^x\.so: "):
        read_enclave(bytes(data), "x.so").enclave_sigstruct()


def test_two_sigstructs_that_differ_are_refused():
    data = bytearray(SIGNED)
    data[read_enclave(SIGNED, "x").blocks[1].offset + 64 + 20] ^= 1
    with pytest.raises(CheckError, match=r"x\.so: the two metadata blocks hold two SIGSTRUCTs"):
        read_enclave(bytes(data), "x.so")


def changed(library, offset, content):
    return library[:offset] + content + library[offset + len(content) :]


BLOCK = block_offset(SIGNED)
NOTE = BLOCK - 25
SECTIONS = struct.unpack_from("<Q", SIGNED, 40)[0]
BROKEN = [
    ("not an ELF file", b"MZ" + SIGNED[2:]),
    ("not an ELF file", b""),
    ("32-bit", changed(SIGNED, 4, b"\1")),
    ("not a little-endian", changed(SIGNED, 5, b"\2")),
    ("not a little-endian", changed(SIGNED, 18, b"\3\0")),
    ("not a shared object", changed(SIGNED, 16, b"\2\0")),
    ("no section headers", changed(changed(SIGNED, 40, bytes(8)), 60, bytes(4))),
    ("no section headers", changed(SIGNED, 60, bytes(2))),
    ("broken section header table", changed(SIGNED, 62, b"\xff\xff")),
    ("broken section header table", changed(SIGNED, 58, b"\x28\0")),
    ("broken section header table", changed(SIGNED, 40, b"\xff" * 8)),
    ("no section .note.sgxmeta", SIGNED.replace(b".note.sgxmeta\0", b".note.gnumeta\0")),
    ("does not hold the SDK's note", changed(SIGNED, NOTE, b"\x0e")),
    ("does not hold the SDK's note", changed(SIGNED, NOTE + 8, b"\2")),
    ("does not hold the SDK's note", changed(SIGNED, NOTE + 12, b"SGX")),
    ("longer than the section", changed(SIGNED, NOTE + 4, b"\0\0\1\0")),
    ("magic number", changed(SIGNED, BLOCK, b"\0")),
    ("version 4.3 is not known", changed(SIGNED, BLOCK + 12, b"\4")),
    ("version 0.3 is not known", changed(SIGNED, BLOCK + 12, b"\0")),
    ("no room for", changed(SIGNED, BLOCK + 16, b"\xff\xff\xff\xff")),
    ("no room for", changed(SIGNED, BLOCK + 16, bytes(4))),
    ("patch table lies outside", changed(SIGNED, BLOCK + 1872, struct.pack("<II", 5200, 64))),
    ("layout table lies outside", changed(SIGNED, BLOCK + 1880, struct.pack("<II", 5200, 64))),
    ("layout table lies outside", changed(SIGNED, BLOCK + 1880, struct.pack("<II", 64, 64))),
    ("not entries of 32 bytes", changed(SIGNED, BLOCK + 1880, struct.pack("<II", 3880, 33))),
]


@pytest.mark.parametrize(("word", "data"), BROKEN)
def test_other_files_are_refused_with_one_line(word, data):
    with pytest.raises(InputError, match=word) as caught:
        read_enclave(data, "x.so")
    assert caught.value.problem.startswith("x.so: ")
    assert "\n" not in caught.value.problem
    assert caught.value.hint


def test_a_second_section_of_that_name_is_refused():
    names, size = section_range(SIGNED, ".shstrtab")
    strings = SIGNED[names : names + size]
    comment, note = strings.index(b".comment\0"), strings.index(b".note.sgxmeta\0")
    count = struct.unpack_from("<H", SIGNED, 60)[0]
    headers = [SECTIONS + 64 * n for n in range(count)]
    (place,) = [at for at in headers if struct.unpack_from("<I", SIGNED, at)[0] == comment]
    with pytest.raises(InputError, match=r"2 sections \.note\.sgxmeta"):
        read_enclave(changed(SIGNED, place, struct.pack("<I", note)), "x.so")


def test_three_blocks_are_refused():
    block = make_block([], version=(1, 4))
    with pytest.raises(InputError, match="more than two metadata blocks"):
        read_enclave(with_blocks(PLAIN, block, block, block), "x.so")


def test_a_file_cut_anywhere_is_refused():
    library = make_enclave(Recipe(note_size=0x1000))
    data = with_blocks(library, make_block([LayoutEntry(1, 1, 2, 0x100000, flags=0x203)]))
    for length in [*range(200), *range(200, len(data), 61), *range(len(data) - 99, len(data))]:
        with pytest.raises(InputError):
            read_enclave(data[:length], "x.so")


def test_metadata_cut_anywhere_is_refused():
    block = make_block([LayoutEntry(1, 1, 2, 0x100000, flags=0x203)], version=(2, 4))
    assert parse_metadata(block).size == len(block)
    for length in range(len(block)):
        with pytest.raises(InputError):
            parse_metadata(block[:length])


def test_a_relocation_table_outside_the_file_is_refused():
    library = make_enclave(Recipe(text_relocations=(8,)))
    at, _ = section_range(library, ".dynamic")
    place = next(
        at + 16 * n for n in range(12) if struct.unpack_from("<Q", library, at + 16 * n)[0] == 8
    )
    for size in (1 << 20, (1 << 64) - 1):
        image = read_image(changed(library, place + 8, struct.pack("<Q", size)), "x.so")
        with pytest.raises(InputError, match="relocation table lies outside"):
            image.relocated_pages()


def test_the_built_in_configuration_is_measured():
    block = make_block([])
    mac = b"-".join([b"ab"] * 16) + b"\n"
    patched = patch_builtin_config(PLAIN, mac)
    assert patched != PLAIN
    assert len(patched) == len(PLAIN)
    start, size = section_range(patched, ".builtin_config")
    assert patched[start : start + size] == mac
    measured = [measure(read_enclave(with_blocks(x, block), "x")) for x in (PLAIN, patched)]
    assert measured[0].mr_enclave != measured[1].mr_enclave


@settings(max_examples=400)
@given(st.data())
def test_no_bytes_make_the_reader_fail_otherwise(data):
    library = bytearray(data.draw(st.sampled_from([SIGNED, PLAIN])))
    table = struct.unpack_from("<Q", library, 40)[0]
    note = section_range(bytes(library), ".note.sgxmeta")[0]
    places = st.one_of(
        st.integers(0, 600),
        st.integers(table, len(library) - 1),
        st.integers(note, note + 8000),
        st.integers(0, len(library) - 1),
    )
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(places)
        match data.draw(st.sampled_from(["flip", "write", "insert", "delete", "cut"])):
            case "flip":
                library[min(place, len(library) - 1)] ^= 1 << data.draw(st.integers(0, 7))
            case "write":
                word = data.draw(st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\0\0\0\0\0\0\0\x80"]))
                library[place : place + len(word)] = word
            case "insert":
                library[place:place] = data.draw(st.binary(min_size=1, max_size=9))
            case "delete":
                del library[place : place + data.draw(st.integers(1, 9))]
            case "cut" if len(library) > place > 99:
                del library[place:]
    try:
        enclave = read_enclave(bytes(library), "x.so")
        if enclave.blocks:
            enclave.dump_fields()
            measure(enclave, limit=8 << 20)
        if enclave.is_signed:
            enclave.enclave_sigstruct()
    except ImagekitError as error:
        assert "\n" not in error.problem
        assert error.hint


@given(st.binary(max_size=300))
def test_the_metadata_parser_only_ever_says_that_it_is_none(data):
    head = struct.pack("<QII", MAGIC, 3, 3) + struct.pack("<I", 1904 + len(data))
    for candidate in (data, head.ljust(1872, b"\0") + data, head.ljust(1904, b"\0") + data):
        try:
            parse_metadata(candidate)
        except InputError as error:
            assert "\n" not in error.problem
