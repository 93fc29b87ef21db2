"""From Occlum.json to the enclave, its memory, and the check of what was built."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from occlum_documents import VERSIONS, document

from imagekit.enclave.findings import Finding
from imagekit.enclave.occlum.built import layout_findings, sigstruct_findings, xml_findings
from imagekit.enclave.occlum.config import read_occlum_config
from imagekit.enclave.occlum.enclave_xml import enclave_config, enclave_xml, has_edmm
from imagekit.enclave.occlum.epc import (
    committed_epc,
    gib,
    library_pages,
    most_epc,
    request_finding,
)
from imagekit.enclave.occlum.versions import BIGDL, NEWEST, OcclumVersion, occlum_version
from imagekit.enclave.sdk.config import EnclaveConfig, parse_config
from imagekit.enclave.sdk.image import read_image
from imagekit.enclave.sdk.signed import read_enclave
from imagekit.errors import InputError, UsageError

GOLDEN = Path(__file__).parent.parent / "golden" / "sgx-sdk"
CASES = sorted(path.name for path in (GOLDEN / "cases").iterdir())
MIB, GIB = 1 << 20, 1 << 30
V301 = occlum_version("0.30.1")

KSS = {
    "metadata__product_id": 7,
    "metadata__version_number": 3,
    "metadata__enable_kss": True,
    "metadata__ext_prod_id": {"high": "0x1122334455667788", "low": "0x99aabbccddeeff00"},
    "metadata__family_id": {"high": "0x0102030405060708", "low": "0x1112131415161718"},
}
OPEN = {"metadata__debuggable": True}
SHAPES: dict[str, dict[str, Any]] = {
    "mini_tls.occlum_default": OPEN,
    "mini_tls.occlum_edmm": OPEN,
    "mini_tls.occlum_kss": KSS,
    "mini_tls.occlum_amx2": OPEN | {"feature__amx": 2, "feature__pkru": 2},
    "mini_notls.occlum_amx_pkru": OPEN
    | {
        "feature__amx": 1,
        "feature__pkru": 1,
        "resource_limits__kernel_space_heap_size": "64MB",
    },
    "mini_notls.bigdl_pi": OPEN
    | {
        "resource_limits__user_space_size": "512MB",
        "resource_limits__kernel_space_heap_size": "1GB",
        "resource_limits__max_num_of_threads": 256,
    },
}


def built(version: OcclumVersion, *, edmm: bool = False, **changed: Any) -> EnclaveConfig:
    config = read_occlum_config(document(version, **changed), version)
    return enclave_config(config, edmm=edmm)


def expected_of(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "cases" / case / "expected.json").read_text())
    return found


@pytest.mark.parametrize("case", SHAPES)
def test_the_xml_is_the_one_that_occlum_writes(case: str) -> None:
    enclave = built(V301, edmm=case.endswith("edmm"), **SHAPES[case])
    text = (GOLDEN / "cases" / case / "config.xml").read_text()
    assert enclave_xml(enclave, V301) == text
    assert xml_findings(enclave, text.encode()) == ()


LIMITS = "resource_limits__"


@pytest.mark.parametrize(
    ("name", "edmm", "changed", "threads", "heap", "user", "misc"),
    [
        # version, EDMM, changed, (num, min pool, max), (init, max), (reserved, region), misc
        ("0.26.3", False, {}, (32, 1, 32), (32, 32), (300, 0), (0, 0xFFFFFFFF)),
        ("0.29.0", False, {}, (32, 1, 32), (32, 32), (300, 0), (0, 0xFFFFFFFF)),
        ("0.29.5", False, {}, (32, 32, 4096), (32, 1024), (300, 0), (1, 0)),
        (
            "0.29.7",
            False,
            {LIMITS + "kernel_space_heap_max_size": "64MB", LIMITS + "max_num_of_threads": 5000},
            (5000, 5000, 5000),
            (32, 64),
            (300, 0),
            (1, 0),
        ),
        ("0.30.0", False, {}, (32, 32, 32), (32, 32), (300, 0), (0, 0)),
        (
            "0.31.0",
            False,
            {
                LIMITS + "kernel_space_heap_max_size": "64MB",
                LIMITS + "user_space_max_size": "1GB",
                LIMITS + "init_num_of_threads": 4,
            },
            (32, 32, 32),
            (64, 64),
            (1024, 0),
            (0, 0),
        ),
        ("0.30.0", True, {}, (16, 16, 4096), (32, 1024), (300, 17 * 1024), (1, 0xFFFFFFFF)),
        (
            "0.31.0",
            True,
            {
                LIMITS + "kernel_space_heap_max_size": "64MB",
                LIMITS + "user_space_max_size": "1GB",
                LIMITS + "init_num_of_threads": 4,
                LIMITS + "max_num_of_threads": 8192,
            },
            (4, 4, 8192),
            (32, 64),
            (300, 2048),
            (1, 0xFFFFFFFF),
        ),
        (
            "0.31.0",
            True,
            {
                LIMITS + "user_space_size": "32GB",
                LIMITS + "kernel_space_heap_size": "2GB",
                LIMITS + "max_num_of_threads": 8,
            },
            (8, 8, 4096),
            (2048, 2048),
            (32 * 1024, 32 * 1024),
            (1, 0xFFFFFFFF),
        ),
    ],
)
def test_limits_become_an_enclave(
    name: str,
    edmm: bool,
    changed: dict[str, Any],
    threads: tuple[int, int, int],
    heap: tuple[int, int],
    user: tuple[int, int],
    misc: tuple[int, int],
) -> None:
    enclave = built(occlum_version(name), edmm=edmm, **changed)
    assert (enclave.tcs_num, enclave.tcs_min_pool, enclave.tcs_max_num) == threads
    assert enclave.heap_min == enclave.heap_init
    assert (enclave.heap_init // MIB, enclave.heap_max // MIB) == heap
    assert enclave.reserved_min == enclave.reserved_init == enclave.reserved_max
    assert (enclave.reserved_max // MIB, enclave.user_region_size // MIB) == user
    assert (enclave.misc_select, enclave.misc_mask) == misc
    assert enclave.disable_debug
    assert enclave.stack_min == enclave.stack_max == MIB
    assert enclave.tcs_policy == 0
    assert enclave.reserved_executable


def test_the_document_asks_for_edmm_as_well() -> None:
    asked = built(NEWEST, feature__enable_edmm=True)
    assert asked == built(NEWEST, edmm=True)
    assert asked != built(NEWEST)


@pytest.mark.parametrize("version", [v for v in VERSIONS if not v.has_edmm], ids=lambda v: v.name)
def test_edmm_is_refused_where_there_is_none(version: OcclumVersion) -> None:
    config = read_occlum_config(document(version), version)
    assert not has_edmm(config)
    with pytest.raises(UsageError, match="no EDMM"):
        enclave_config(config, edmm=True)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
@pytest.mark.parametrize("edmm", [False, True])
def test_what_is_written_is_what_the_signer_reads(version: OcclumVersion, edmm: bool) -> None:
    if edmm and not version.has_edmm:
        return
    kss = KSS | ({"metadata__pkru": 1} if (0, 28, 0) <= version.number < (0, 30, 1) else {})
    enclave = built(version, edmm=edmm, **kss)
    text = enclave_xml(enclave, version)
    read, odd = parse_config(text.encode())
    assert (read, odd) == (enclave, [])
    assert ("<PKRU>" in text) == (version.number >= (0, 28, 0))
    assert ("<AMX>" in text) == (version.number >= (0, 30, 0))
    assert ("<TCSMaxNum>" in text) == (version.number >= (0, 29, 5))
    assert ("<UserRegionSize>" in text) == edmm


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(VERSIONS),
    st.booleans(),
    st.integers(1, 1 << 20),
    st.integers(1, 1 << 18),
    st.integers(1, 6000),
)
def test_whatever_document_is_accepted_makes_an_enclave_that_the_signer_takes(
    version: OcclumVersion, edmm: bool, user: int, heap: int, threads: int
) -> None:
    changed = {
        LIMITS + "user_space_size": f"{user * 4}KB",
        LIMITS + "kernel_space_heap_size": f"{heap * 4}KB",
        LIMITS + "max_num_of_threads": threads,
        "process__default_stack_size": "1KB",
        "process__default_heap_size": "1KB",
    }
    enclave = built(version, edmm=edmm and version.has_edmm, **changed)
    assert parse_config(enclave_xml(enclave, version).encode())[0] == enclave
    assert most_epc(enclave).total >= committed_epc(enclave).total


# Memory


@pytest.mark.parametrize("case", CASES)
def test_the_memory_is_what_the_signer_says_is_required(case: str) -> None:
    expected = expected_of(case)
    xml = GOLDEN / "cases" / case / "config.xml"
    enclave = parse_config(xml.read_bytes())[0] if xml.exists() else EnclaveConfig()
    image = read_image((GOLDEN / expected["enclave"]).read_bytes(), expected["enclave"])
    elf_pages, thread_data_pages = library_pages(image)
    found = committed_epc(enclave, elf_pages=elf_pages, thread_data_pages=thread_data_pages)
    assert found.total == expected["required_memory_bytes"]


def sized(user: str, heap: str, threads: int, **more: Any) -> EnclaveConfig:
    return built(
        BIGDL,
        resource_limits__user_space_size=user,
        resource_limits__kernel_space_heap_size=heap,
        resource_limits__kernel_space_heap_max_size=heap,
        resource_limits__max_num_of_threads=threads,
        **more,
    )


@pytest.mark.parametrize(
    ("user", "heap", "threads", "total"),
    [
        ("8GB", "1GB", 256, 9.25),
        ("15GB", "1GB", 1024, 17.0),
        ("10GB", "2GB", 1024, 13.0),
    ],
)
def test_bigdls_settings_commit_more_than_user_space(
    user: str, heap: str, threads: int, total: float
) -> None:
    found = committed_epc(sized(user, heap, threads)).total
    assert found == int(total * GIB) + threads * 4 * 4096


def test_a_request_that_is_too_small_is_an_error_with_both_numbers() -> None:
    enclave = sized("15GB", "1GB", 1024)
    finding = request_finding(enclave, 16106127360)
    assert finding is not None
    assert (finding.key, finding.severity) == ("sgx.intel.com/epc", "error")
    assert "16106127360 bytes (15.00 GiB)" in finding.problem
    assert "18270388224 (17.02 GiB)" in finding.problem
    assert "18270388224" in finding.hint
    least = committed_epc(enclave, elf_pages=1000).total
    assert request_finding(enclave, least, elf_pages=1000) is None
    assert request_finding(enclave, least - 1, elf_pages=1000) is not None


def test_a_request_that_an_enclave_may_outgrow_is_a_warning() -> None:
    enclave = built(NEWEST, edmm=True)
    least, most = committed_epc(enclave).total, most_epc(enclave).total
    finding = request_finding(enclave, least)
    assert finding is not None
    assert finding.severity == "warning"
    assert str(most) in finding.problem
    error = request_finding(enclave, least - 1)
    assert error is not None
    assert error.severity == "error"
    assert request_finding(enclave, most) is None


def test_amx_takes_three_pages_for_each_frame() -> None:
    plain, amx = built(V301), built(V301, feature__amx=1)
    more = committed_epc(amx).total - committed_epc(plain).total
    assert more == 32 * 2 * 2 * 4096


def test_sizes_for_people_are_rounded_up() -> None:
    assert gib(GIB) == "1.00 GiB"
    assert gib(GIB + 1) == "1.01 GiB"
    assert gib(0) == "0.00 GiB"


# What was built


def keys(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.key for finding in findings]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"tcs_num": 16, "tcs_min_pool": 16}, "resource_limits.max_num_of_threads"),
        ({"heap_max": 64 * MIB}, "resource_limits.kernel_space_heap_max_size"),
        ({"reserved_max": GIB}, "resource_limits.user_space_size"),
        ({"prod_id": 1}, "metadata.product_id"),
        ({"isv_svn": 1}, "metadata.version_number"),
        ({"disable_debug": False}, "metadata.debuggable"),
        ({"enable_kss": True}, "metadata.enable_kss"),
        ({"enable_kss": True, "isv_family_id": b"\1" * 16}, "metadata.family_id"),
        ({"pkru": 1}, "feature.pkru"),
        ({"stack_max": 2 * MIB}, "resource_limits.kernel_space_stack_size"),
        ({"tcs_policy": 1}, "tcs_policy"),
    ],
)
def test_an_enclave_xml_that_differs_is_seen(change: dict[str, Any], key: str) -> None:
    wanted = built(V301)
    xml = enclave_xml(replace(wanted, **change), V301).encode()
    assert key in keys(xml_findings(wanted, xml))
    assert xml_findings(wanted, enclave_xml(wanted, V301).encode()) == ()


def test_what_is_no_enclave_xml_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"Enclave\.xml"):
        xml_findings(built(V301), b"")


@pytest.mark.parametrize("case", SHAPES)
def test_the_enclave_of_its_document_has_no_findings(case: str) -> None:
    enclave = built(V301, edmm=case.endswith("edmm"), **SHAPES[case])
    signed = read_enclave((GOLDEN / "cases" / case / "signed.so").read_bytes(), case)
    assert layout_findings(enclave, signed.metadata) == ()
    assert sigstruct_findings(enclave, signed.enclave_sigstruct().body) == ()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({LIMITS + "max_num_of_threads": 33}, "resource_limits.max_num_of_threads"),
        ({LIMITS + "max_num_of_threads": 31}, "resource_limits.max_num_of_threads"),
        ({LIMITS + "kernel_space_heap_size": "64MB"}, "resource_limits.kernel_space_heap_size"),
        ({LIMITS + "user_space_size": "400MB"}, "resource_limits.user_space_size"),
        ({LIMITS + "kernel_space_stack_size": "2MB"}, "resource_limits.kernel_space_stack_size"),
    ],
)
def test_an_enclave_of_another_document_is_seen_by_its_pages(
    change: dict[str, Any], key: str
) -> None:
    case = "mini_tls.occlum_default"
    signed = read_enclave((GOLDEN / "cases" / case / "signed.so").read_bytes(), case)
    found = layout_findings(built(V301, **(OPEN | change)), signed.metadata)
    assert keys(found) == [key]
    assert found[0].severity == "error"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"metadata__product_id": 8}, "metadata.product_id"),
        ({"metadata__version_number": 4}, "metadata.version_number"),
        ({"metadata__debuggable": True}, "metadata.debuggable"),
        ({"metadata__enable_kss": False}, "metadata.enable_kss"),
        ({"metadata__family_id": {"high": "0x0", "low": "0x1"}}, "metadata.family_id"),
        ({"metadata__ext_prod_id": {"high": "0x0", "low": "0x1"}}, "metadata.ext_prod_id"),
        ({"feature__amx": 1}, "feature.amx"),
        ({"feature__pkru": 2}, "feature.pkru"),
    ],
)
def test_a_signature_for_another_document_is_seen(change: dict[str, Any], key: str) -> None:
    case = "mini_tls.occlum_kss"
    signed = read_enclave((GOLDEN / "cases" / case / "signed.so").read_bytes(), case)
    document_of_case = KSS | change
    if not document_of_case["metadata__enable_kss"]:
        for name in ("metadata__family_id", "metadata__ext_prod_id"):
            document_of_case[name] = {"high": "0x0", "low": "0x0"}
    found = sigstruct_findings(built(V301, **document_of_case), signed.enclave_sigstruct().body)
    assert key in keys(found)
    assert all(finding.line.isprintable() for finding in found)
