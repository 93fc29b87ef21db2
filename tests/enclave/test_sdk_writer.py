"""Writing SDK enclaves: byte for byte as the SDK's tool, and what cannot be made an enclave."""

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk_enclaves import PAGE, Recipe, make_enclave, section_range

from imagekit.enclave.sdk.body import DEBUG, KSS, save_area, signed_body
from imagekit.enclave.sdk.config import EnclaveConfig, parse_config
from imagekit.enclave.sdk.measure import measure, measure_block
from imagekit.enclave.sdk.plan import GUARD_PAGES, for_sgx1, plan_layout
from imagekit.enclave.sdk.resign import body_with, with_settings
from imagekit.enclave.sdk.signed import read_enclave, with_sigstruct
from imagekit.enclave.sdk.tables import LayoutEntry, LayoutGroup, LayoutId
from imagekit.enclave.sdk.unsigned import read_unsigned, sdk_version
from imagekit.enclave.sdk.writer import prepare
from imagekit.enclave.sigstruct import encode_date, parse_sigstruct
from imagekit.errors import ImagekitError, InputError
from imagekit.signing.keyfile import load_signer
from imagekit.signing.signer import sign_body

SDK = "sgx-sdk"
PLAIN = make_enclave(Recipe(tls=(4, 0x138C)))


def cases(golden):
    return sorted((golden / SDK / "cases").iterdir())


def config_of(case):
    path = case / "config.xml"
    return parse_config(path.read_bytes())[0] if path.exists() else EnclaveConfig()


def written(data, config=None, **ignored):
    return prepare(read_unsigned(data, "x.so", **ignored), config or EnclaveConfig()).enclave


def test_every_recorded_enclave_comes_out_the_same(golden):
    assert len(cases(golden)) == 24
    for case in cases(golden):
        expected = json.loads((case / "expected.json").read_text())
        config = config_of(case)
        data = (golden / SDK / expected["enclave"]).read_bytes()
        enclave = written(data, config, ignore_relocations=True)
        result = measure(enclave)
        assert result.mr_enclave.hex() == expected["mr_enclave"], case.name
        assert result.plan.required_memory == expected["required_memory_bytes"], case.name
        body = signed_body(config, result.mr_enclave, encode_date(expected["date"]))
        assert body.to_be_signed() == (case / "signing-material.tbs").read_bytes(), case.name
        sigstruct = (case / "sigstruct.css").read_bytes()
        assert parse_sigstruct(sigstruct).body == body
        signed = with_sigstruct(enclave.image.data, sigstruct)
        assert signed == (case / "signed.so").read_bytes(), case.name


def test_a_signed_file_is_laid_out_like_the_unsigned_one(golden):
    """What was in the note before does not count."""
    case = golden / SDK / "cases" / "mini_tls.occlum_edmm"
    again = written((case / "signed.so").read_bytes(), config_of(case))
    fresh = written((golden / SDK / "mini_tls.so").read_bytes(), config_of(case))
    assert again.image.data == fresh.image.data


# What cannot be made an enclave


def patched(data, at, form, value):
    out = bytearray(data)
    struct.pack_into(form, out, at, value)
    return bytes(out)


def program_header(index):
    return 64 + 56 * index


def renamed(old, new):
    data = PLAIN.replace(b"\0" + old + b"\0", b"\0" + new.ljust(len(old), b"\0") + b"\0")
    assert data != PLAIN
    return data


def dynamic_tag(old, new):
    start, size = section_range(PLAIN, ".dynamic")
    for at in range(start, start + size, 16):
        if struct.unpack_from("<Q", PLAIN, at) == (old,):
            return patched(PLAIN, at, "<Q", new)
    raise KeyError(old)


SYMBOLS = section_range(PLAIN, ".dynsym")[0]
RELOCATIONS = section_range(PLAIN, ".rela.dyn")[0]
TEXT = make_enclave(Recipe(text_relocations=(0x20, 0x100)))
UNUSABLE = {
    "another SDK": (make_enclave(Recipe(sdk=(2, 17, 101))), r"SDK 2\.17\.101.*2\.26\.100"),
    "another revision": (make_enclave(Recipe(sdk=(2, 26, 101))), r"SDK 2\.26\.101"),
    "other global data": (make_enclave(Recipe(global_data_size=1760)), "1760 bytes"),
    "small note": (make_enclave(Recipe(note_size=0x1000)), "room for 4096"),
    "text relocations": (TEXT, "text relocations.* and 1 more"),
    "executable": (patched(PLAIN, 16, "<H", 2), "not a shared object"),
    "32 bits": (patched(PLAIN, 4, "B", 1), "32-bit"),
    "not an ELF file": (b"x" * 100, "not an ELF"),
    "alignment": (patched(PLAIN, program_header(0) + 48, "<Q", 16), "aligned to 0x10"),
    "no alignment": (patched(PLAIN, program_header(1) + 48, "<Q", 0), "aligned to 0x0"),
    "overlap": (patched(PLAIN, program_header(1) + 16, "<Q", 0), "shares a page"),
    "no dynamic section": (patched(PLAIN, program_header(3), "<I", 4), "no dynamic section"),
    "init": (renamed(b".hash", b".init"), r"\.init"),
    "ctors": (renamed(b".dynstr", b".ctors"), r"\.ctors"),
    "REL": (dynamic_tag(4, 17), "without addends"),
    "relocation type": (patched(PLAIN, RELOCATIONS + 8, "<I", 5), "type 5"),
    "undefined symbol": (patched(PLAIN, SYMBOLS + 24 * 3 + 6, "<H", 0), "'g_peak_heap_used'"),
    "no global data": (renamed(b"g_global_data", b"g_other_data"), "no symbol g_global_data"),
    "global data in code": (patched(PLAIN, SYMBOLS + 24 * 2 + 8, "<Q", 0x1000), "not in a data"),
    "global data behind": (patched(PLAIN, SYMBOLS + 24 * 2 + 8, "<Q", 1 << 40), "not in a data"),
    "huge TLS": (patched(PLAIN, program_header(4) + 40, "<Q", 1 << 40), "thread-local"),
    "no note": (renamed(b".note.sgxmeta", b".note.other"), r"\.note\.sgxmeta"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_library_that_no_loader_takes_is_refused(what):
    data, words = UNUSABLE[what]
    with pytest.raises(InputError, match=words) as caught:
        written(data)
    assert caught.value.problem.startswith("x.so: ")
    assert caught.value.hint


def test_what_may_be_ignored_is_a_warning_then():
    found = read_unsigned(TEXT, "x.so", ignore_relocations=True)
    assert "text relocations" in found.warnings[0]
    found = read_unsigned(UNUSABLE["init"][0], "x.so", ignore_init=True)
    assert ".init" in found.warnings[0]
    with pytest.raises(InputError, match=r"\.ctors"):
        read_unsigned(UNUSABLE["ctors"][0], "x.so", ignore_init=True, ignore_relocations=True)


def test_a_weak_symbol_may_be_undefined():
    at = SYMBOLS + 24 * 3
    weak = patched(patched(PLAIN, at + 6, "<H", 0), at + 4, "B", 2 << 4 | 1)
    assert read_unsigned(weak, "x.so").warnings == ()


def test_the_entry_is_the_symbol_or_else_the_header(golden):
    text = section_range(PLAIN, ".text")[0]
    assert read_unsigned(PLAIN, "x.so").entry != 0x1234
    assert read_unsigned(patched(PLAIN, 24, "<Q", 0x1234), "x.so").entry > text
    nameless = patched(renamed(b"enclave_entry", b"enclave_other"), 24, "<Q", 0x1234)
    assert read_unsigned(nameless, "x.so").entry == 0x1234


@given(st.lists(st.tuples(st.integers(0, 0x8000), st.integers(0, 255)), max_size=12), st.data())
@settings(max_examples=150)
def test_no_change_of_the_bytes_makes_it_fail_otherwise(changes, data):
    out = bytearray(PLAIN)
    tables = len(PLAIN) - 64 * 16
    for at, value in changes:
        low = data.draw(st.sampled_from([0, SYMBOLS, tables]))
        out[(low + at % 1000) % len(out)] = value
    try:
        found = written(bytes(out))
    except ImagekitError as error:
        assert "\n" not in error.problem
    else:
        assert found.blocks


# Settings


def test_a_range_that_cannot_be_is_refused():
    for values, words in (
        ({"elrange_size": 0x3000000}, "no enclave range"),
        ({"image_address": 0x10000000}, "no enclave range"),
        ({"elrange_size": 1 << 26, "elrange_start": 1 << 25}, "no enclave range"),
        ({"elrange_size": 1 << 20}, "do not lie"),
        ({"elrange_size": 1 << 30, "image_address": 1 << 30}, "do not lie"),
        ({"elrange_size": 1 << 30, "elrange_start": 1 << 30}, "do not lie"),
    ):
        with pytest.raises(InputError, match=words):
            written(PLAIN, EnclaveConfig(**values))


def test_an_enclave_range_and_sgx2_go_together():
    config = EnclaveConfig(
        misc_select=1, image_address=1 << 30, elrange_start=1 << 30, elrange_size=1 << 30
    )
    enclave = written(PLAIN, config)
    assert [block.metadata.version for block in enclave.blocks] == [(13, 3)]
    assert measure(enclave).plan.enclave_size == 1 << 30


def test_what_is_not_known_or_too_large_is_refused():
    with pytest.raises(InputError, match="FIPS"):
        written(PLAIN, EnclaveConfig(openssl_fips=True))
    with pytest.raises(InputError, match="would have"):
        written(PLAIN, EnclaveConfig(heap_max=1 << 46))
    with pytest.raises(InputError, match="larger than the metadata"):
        written(PLAIN, EnclaveConfig(heap_max=1 << 45))


STATIC = EnclaveConfig(
    stack_min=0x2000, stack_max=0x2000, heap_min=PAGE, heap_init=PAGE, heap_max=PAGE, misc_select=1
)


@pytest.mark.parametrize(
    ("values", "versions"),
    [
        ({}, [(1, 5)]),
        ({"misc_select": 1}, [(3, 3)]),
        ({"misc_select": 1, "misc_mask": 0}, [(3, 3), (1, 5)]),
        ({"misc_select": 2, "misc_mask": 0}, [(1, 5)]),
        ({**vars(STATIC)}, [(1, 5)]),
        ({**vars(STATIC), "tcs_max_num": 9}, [(3, 3)]),
        ({**vars(STATIC), "user_region_size": PAGE}, [(3, 3)]),
        ({**vars(STATIC), "heap_max": 2 * PAGE, "misc_mask": 0}, [(3, 3), (1, 5)]),
    ],
)
def test_the_blocks_that_there_are(values, versions):
    enclave = written(PLAIN, EnclaveConfig(**values))
    assert [block.metadata.version for block in enclave.blocks] == versions
    measure(enclave)  # which fails when two blocks come to two values


@st.composite
def configs(draw):
    pages = st.integers(0, 40).map(lambda n: n * PAGE)
    heap, stack, reserved = (draw(st.lists(pages, min_size=3, max_size=3)) for _ in range(3))
    heap, stack, reserved = sorted(heap), sorted(stack), sorted(reserved)
    num = draw(st.integers(1, 12))
    most = num + draw(st.integers(0, 5))
    return EnclaveConfig(
        heap_min=PAGE + heap[0],
        heap_init=PAGE + heap[1],
        heap_max=PAGE + heap[2],
        stack_min=PAGE + stack[0],
        stack_max=PAGE + stack[2],
        reserved_min=reserved[0],
        reserved_init=reserved[1],
        reserved_max=reserved[2],
        reserved_executable=draw(st.booleans()),
        tcs_num=num,
        tcs_max_num=most,
        tcs_min_pool=draw(st.integers(0, most)),
        misc_select=draw(st.integers(0, 1)),
        misc_mask=draw(st.integers(0, 1)),
        amx=draw(st.integers(0, 2)),
    )


@given(configs())
def test_whatever_is_laid_out_is_whole(config):
    plan = plan_layout(config, 0x18000, 0x138C, save_area(config).frame_pages, 1904)
    rva, threads, later, run = 0x18000, 0, 0, []
    for item in plan.layout:
        if isinstance(item, LayoutGroup):
            copied = [one.id for one in run[-item.entries :]]
            assert item.step == sum(one.pages * PAGE for one in run[-item.entries :])
            threads += item.times * copied.count(LayoutId.TCS)
            later += item.times * copied.count(LayoutId.TCS_DYN)
            rva += item.step * item.times
            continue
        assert item.rva == rva
        assert item.pages > 0
        run.append(item)
        threads += item.id == LayoutId.TCS
        later += item.id == LayoutId.TCS_DYN
        rva += item.pages * PAGE
    assert rva == plan.enclave_size
    assert rva & (rva - 1) == 0
    assert threads == config.tcs_num
    pool = min(config.tcs_min_pool, config.tcs_num - 1)
    assert later == (config.tcs_max_num - pool if config.tcs_max_num > pool + 1 else 0)
    assert len(plan.layout) <= 43
    static = for_sgx1(plan, config)
    assert not any(isinstance(item, LayoutEntry) and item.attributes & 8 for item in static)


@given(configs())
@settings(max_examples=40)
def test_both_blocks_come_to_one_measurement(config):
    config = EnclaveConfig(**{**vars(config), "misc_select": 1, "misc_mask": 0})
    enclave = written(PLAIN, EnclaveConfig(**{**vars(config), "heap_max": 1 << 24}))
    first, second = (measure_block(enclave.image, block.metadata) for block in enclave.blocks)
    assert first.mr_enclave == second.mr_enclave


def test_guards_stand_around_every_stack():
    layout = plan_layout(EnclaveConfig(tcs_num=3), 0x18000, 0, 1, 1904).layout
    entries = [item for item in layout if isinstance(item, LayoutEntry)]
    for before, stack, after in zip(entries, entries[1:], entries[2:], strict=False):
        if stack.id == LayoutId.STACK_MAX:
            assert (before.id, before.pages) == (LayoutId.GUARD, GUARD_PAGES)
        if stack.id == LayoutId.STACK_MIN:
            assert (after.id, after.pages) == (LayoutId.GUARD, GUARD_PAGES)


# Signing again


@pytest.fixture(scope="module")
def signer(golden_key):
    return load_signer(golden_key)


def signed_by_another_sdk(signer, config):
    """A file that imagekit could not have laid out: signed, and of another SDK."""
    enclave = written(PLAIN, config)
    data = bytearray(enclave.image.data)
    at = read_unsigned(PLAIN, "x.so").global_data
    data[at : at + 8] = (2 << 32 | 17 << 16 | 101).to_bytes(8, "little")
    result = measure(read_enclave(bytes(data), "x.so"))
    sigstruct = sign_body(signed_body(config, result.mr_enclave, bytes(4)), signer)
    enclave = read_enclave(with_sigstruct(bytes(data), sigstruct.to_bytes()), "x.so")
    assert sdk_version(enclave.image) == (2, 17, 101)
    return enclave


def test_what_is_not_layout_may_change_when_signed_again(signer):
    old = EnclaveConfig(tcs_num=4, misc_select=1, misc_mask=0)
    enclave = signed_by_another_sdk(signer, old)
    assert len(enclave.blocks) == 2
    new = EnclaveConfig(
        tcs_num=4,
        misc_select=1,
        misc_mask=0,
        prod_id=7,
        isv_svn=8,
        disable_debug=True,
        enable_kss=True,
        isv_family_id=bytes(range(16)),
    )
    kept = with_settings(enclave, new, "x.xml")
    assert measure(kept).mr_enclave == measure(enclave).mr_enclave
    assert {block.metadata.flags for block in kept.blocks} == {4 | KSS}
    before = enclave.enclave_sigstruct().body
    body = body_with(before, new)
    assert (body.isv_prod_id, body.isv_svn, body.isv_family_id) == (7, 8, bytes(range(16)))
    assert body.flags_mask & DEBUG and not before.flags_mask & DEBUG
    assert body.flags & KSS
    assert body_with(body, old) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heap_max": 0x2000000}, "HeapMaxSize is 0x2000000"),
        ({"heap_init": 0x2000}, "HeapInitSize"),
        ({"heap_min": 0x2000}, "HeapMinSize"),
        ({"stack_max": 0x80000}, "StackMaxSize"),
        ({"stack_min": 0x3000}, "StackMinSize"),
        ({"reserved_max": 0x10000}, "ReservedMemMaxSize"),
        ({"reserved_executable": False}, "ReservedMemExecutable"),
        ({"tcs_num": 5}, "TCSNum is 0x5"),
        ({"tcs_max_num": 9}, "TCSMaxNum is 0x9"),
        ({"tcs_min_pool": 2}, "TCSMinPool"),
        ({"tcs_policy": 0}, "TCSPolicy"),
        ({"misc_select": 0}, "MiscSelect"),
        ({"misc_mask": 0}, "MiscMask"),
        ({"amx": 1}, "AMX"),
        ({"pkru": 2}, "PKRU"),
        ({"aex_notify": True}, "EnableAEXNotify"),
        ({"user_region_size": 1 << 30}, "UserRegionSize"),
        ({"elrange_size": 1 << 30}, "ELRangeSize"),
    ],
)
def test_another_layout_is_refused_when_signed_again(signer, change, words):
    values = {
        "tcs_num": 4,
        "tcs_max_num": 8,
        "misc_select": 1,
        "reserved_min": PAGE,
        "reserved_init": PAGE,
        "reserved_max": 0x8000,
        "reserved_executable": True,
    }
    enclave = signed_by_another_sdk(signer, EnclaveConfig(**values))
    with_settings(enclave, EnclaveConfig(**values), "x.xml")
    with pytest.raises(InputError, match=words):
        with_settings(enclave, EnclaveConfig(**{**values, **change}), "x.xml")
