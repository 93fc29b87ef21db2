"""The XML of SDK enclaves: what it gives, and everything that is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.enclave.sdk.body import save_area, signed_body
from imagekit.enclave.sdk.config import EnclaveConfig, parse_config
from imagekit.enclave.sdk.config_xml import MAX_BYTES
from imagekit.errors import ImagekitError, InputError


def xml(*elements, **values):
    body = "".join([*elements, *(f"<{tag}>{text}</{tag}>" for tag, text in values.items())])
    return f"<EnclaveConfiguration>{body}</EnclaveConfiguration>".encode()


def read(*elements, **values):
    return parse_config(xml(*elements, **values), "x.xml")[0]


def test_nothing_given_is_the_defaults_of_the_sdk():
    config = read()
    assert config == EnclaveConfig()
    assert (config.heap_max, config.heap_init, config.heap_min) == (0x1000000, 0x1000000, 0x1000)
    assert (config.stack_max, config.stack_min) == (0x40000, 0x2000)
    assert (config.tcs_num, config.tcs_max_num, config.tcs_min_pool) == (1, 1, 1)
    assert (config.tcs_policy, config.misc_mask, config.disable_debug) == (1, 0xFFFFFFFF, False)


def test_what_is_not_given_follows_what_is():
    config = read(TCSNum=7, HeapMaxSize="0x4000")
    assert config.tcs_max_num == 7
    assert config.heap_init == 0x4000


@pytest.mark.parametrize(
    ("text", "value"),
    [("16", 16), ("0x10", 16), ("0X1f", 31), ("010", 8), ("0", 0), ("00", 0), ("\n 12\t", 12)],
)
def test_numbers_are_read_as_c_reads_them(text, value):
    config, notes = parse_config(xml(ISVSVN=text), "x.xml")
    assert config.isv_svn == value
    assert bool(notes) == (text == "010")
    assert all("octal" in note for note in notes)


@pytest.mark.parametrize(
    "text",
    ["", " ", "-1", "+1", "1.5", "1e3", "08", "0x", "x", "1 2", "1_0", "\u0661", "9" * 70, "4KB"],
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(InputError, match="ISVSVN"):
        read(ISVSVN=text)


RANGES = {
    "ProdID": (0, 65535),
    "ISVSVN": (0, 65535),
    "TCSNum": (1, None),
    "TCSPolicy": (0, 1),
    "DisableDebug": (0, 1),
    "EnableKSS": (0, 1),
    "PKRU": (0, 2),
    "AMX": (0, 2),
    "MiscMask": (0, 0xFFFFFFFF),
    "HW": (0, 0xFFFFFFFF),
    "ReleaseType": (0, 1),
}


@pytest.mark.parametrize(("tag", "least", "most"), [(k, *v) for k, v in RANGES.items()])
def test_ranges_end_where_their_fields_do(tag, least, most):
    read(**{tag: least})
    if least:
        with pytest.raises(InputError, match=tag):
            read(**{tag: least - 1})
    if most is not None:
        read(**{tag: most})
        with pytest.raises(InputError, match=tag):
            read(**{tag: most + 1})
    for value in (1 << 64, 1 << 65):
        with pytest.raises(InputError, match=tag):
            read(**{tag: value})


@pytest.mark.parametrize(
    "tag",
    [
        "StackMinSize",
        "StackMaxSize",
        "HeapMinSize",
        "HeapInitSize",
        "HeapMaxSize",
        "ReservedMemMinSize",
        "ReservedMemInitSize",
        "ReservedMemMaxSize",
        "UserRegionSize",
        "ELRangeSize",
    ],
)
def test_sizes_are_whole_pages_and_fit_an_address_space(tag):
    for value in (0x5001, 1 << 47):
        with pytest.raises(InputError, match=tag):
            read(MiscSelect=1, **{tag: value})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"StackMinSize": 0x50000}, "StackMinSize 0x50000 is more than StackMaxSize 0x40000"),
        ({"HeapMinSize": 0x3000, "HeapMaxSize": 0x2000}, "HeapMinSize"),
        ({"HeapInitSize": 0x3000, "HeapMaxSize": 0x2000}, "HeapInitSize"),
        ({"ReservedMemMinSize": 0x1000}, "ReservedMemMinSize"),
        ({"ReservedMemInitSize": 0x1000}, "ReservedMemInitSize"),
        ({"TCSMaxNum": 3, "TCSNum": 4}, "TCSNum"),
        ({"TCSMinPool": 2}, "TCSMinPool"),
        ({"ISVFAMILYID_L": 1}, "KSS"),
        ({"ISVEXTPRODID_H": 1}, "KSS"),
        ({"UserRegionSize": 0x1000}, "UserRegionSize"),
        ({"UserRegionSize": 0x1000, "MiscSelect": 1, "MiscMask": 0}, "UserRegionSize"),
        ({"UserRegionSize": 0x1000, "MiscSelect": 2}, "UserRegionSize"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        read(**values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not XML"),
        (b"<EnclaveConfiguration>", "not XML"),
        (b"<Other></Other>", "outermost"),
        (b"<EnclaveConfiguration/><EnclaveConfiguration/>", "not XML"),
        (xml("<ProdID>1</ProdID><ProdID>1</ProdID>"), "more than once"),
        (xml("<Prodid>1</Prodid>"), "no setting"),
        (xml('<ProdID x="1">1</ProdID>'), "attributes"),
        (b'<EnclaveConfiguration a="1"></EnclaveConfiguration>', "attributes"),
        (xml("<ProdID><ISVSVN>1</ISVSVN></ProdID>"), "inside"),
        (xml("text"), "text between"),
        (xml("<ProdID>&e;</ProdID>"), "not XML"),
        (b"<!DOCTYPE x>" + xml(), "document type"),
        (b'<!DOCTYPE x [<!ENTITY e "1">]>' + xml(ProdID="&e;"), "document type"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd">' + xml(), "document type"),
        (b'<?xml version="1.0" encoding="nonsense"?>' + xml(), "encoding|not XML"),
        (b'<?xml version="1.0" encoding="utf-7"?>' + xml(), "encoding|not XML"),
        (b" " * (MAX_BYTES + 1), "too large"),
        (b"<a>" * 300_000, "outermost"),
    ],
)
def test_what_is_no_configuration_is_refused(text, words):
    with pytest.raises(InputError, match=words) as caught:
        parse_config(text, "x.xml")
    assert caught.value.problem.startswith("x.xml: ")
    assert caught.value.hint


def test_entities_that_grow_are_never_expanded():
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(30))
    with pytest.raises(InputError, match="document type"):
        parse_config(f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]>'.encode() + xml(ProdID="&l30;"))


def test_comments_declarations_and_encodings_are_fine():
    head = '<?xml version="1.0" encoding="UTF-16"?>'
    text = head + xml("<!-- é -->", ProdID=3).decode()
    assert parse_config(text.encode("utf-16"))[0].prod_id == 3


def test_what_the_sdk_refuses_is_refused_here(golden):
    cases = json.loads((golden / "sgx-sdk" / "negative.json").read_text())["cases"]
    configs = [case["config"] for case in cases if "config" in case]
    assert len(configs) == 7
    for config in configs:
        with pytest.raises(InputError):
            parse_config(config.encode())


NAMES = st.sampled_from(["ProdID", "HeapMaxSize", "TCSNum", "ISVFAMILYID_H", "Foo", "é"])
TEXTS = st.one_of(st.integers(-5, 1 << 66).map(str), st.integers(0, 1 << 50).map(hex), st.text())


@given(st.lists(st.tuples(NAMES, TEXTS), max_size=5))
def test_settings_of_any_kind_are_read_or_refused(pairs):
    body = "".join(f"<{tag}>{text}</{tag}>" for tag, text in pairs)
    data = f"<EnclaveConfiguration>{body}</EnclaveConfiguration>".encode("utf-8", "replace")
    try:
        config, _ = parse_config(data)
    except ImagekitError:
        return
    assert len({tag for tag, _ in pairs}) == len(pairs)
    assert config.heap_min <= config.heap_init <= config.heap_max


@given(st.binary(max_size=400), st.binary(max_size=50))
def test_no_bytes_make_the_reader_fail_otherwise(data, more):
    for candidate in (data, b"<EnclaveConfiguration>" + data, xml(ProdID=1)[:-5] + more):
        try:
            parse_config(candidate)
        except ImagekitError as error:
            assert "\n" not in error.problem


# What follows from the settings


@pytest.mark.parametrize(
    ("values", "xfrm", "mask", "pages"),
    [
        ({}, 0x3, 0xFFFFFFFFFFFFFF1B, 1),
        ({"PKRU": 1}, 0x203, 0xFFFFFFFFFFFFFF1B, 1),
        ({"PKRU": 2}, 0x3, 0xFFFFFFFFFFFFFD1B, 1),
        ({"AMX": 1}, 0x60003, 0xFFFFFFFFFFFFFF1B, 3),
        ({"AMX": 2}, 0x3, 0xFFFFFFFFFFF9FF1B, 3),
    ],
)
def test_features_of_the_cpu(values, xfrm, mask, pages):
    config = read(**values)
    body = signed_body(config, bytes(32), bytes(4))
    assert (body.xfrm, body.xfrm_mask) == (xfrm, mask)
    assert save_area(config).frame_pages == pages


def test_attributes_and_ids():
    body = signed_body(
        read(
            ProvisionKey=1,
            LaunchKey=1,
            EnableKSS=1,
            EnableAEXNotify=1,
            DisableDebug=1,
            ISVFAMILYID_H="0x0102030405060708",
            ISVFAMILYID_L="0x1112131415161718",
            ISVEXTPRODID_L=1,
            IntelSigned=1,
            ReleaseType=1,
            HW=9,
            MiscSelect=3,
            MiscMask=1,
        ),
        bytes(32),
        bytes(4),
    )
    assert body.flags == 0x4 | 0x10 | 0x20 | 0x80 | 0x400
    assert body.flags_mask == 0xFF00FFFFFFFFFFFF
    assert body.isv_family_id.hex() == "18171615141312110807060504030201"
    assert body.isv_ext_prod_id == bytes([1]) + bytes(15)
    assert (body.vendor, body.header_type, body.swdefined) == (0x8086, 1 << 31, 9)
    assert (body.misc_select, body.misc_mask) == (1, 1)
    assert signed_body(read(), bytes(32), bytes(4)).flags_mask == 0xFF00FFFFFFFFFFFD
