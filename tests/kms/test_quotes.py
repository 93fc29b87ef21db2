"""Checking quotes: every signature, what it is of, and what is said to be open."""

import struct
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from quote_maker import (
    ENCLAVE,
    END,
    FMSPC,
    NOW,
    PCK,
    PLATFORM,
    ROOT,
    SIGNER,
    START,
    TCB_SIGNING,
    TD,
    TD_QE_SIGNER,
    V3,
    V4,
    V4_TD,
    Cert,
    key,
    pem,
    raw_key,
    root_der,
    sgx_extension,
)

from imagekit.enclave.known_signers import KNOWN_SIGNERS
from imagekit.errors import InputError, UsageError
from imagekit.kms.intel import INTEL_SGX_ROOT_CA
from imagekit.kms.quotes import Expectation, check_quote

GOLDEN = Path(__file__).parent.parent / "golden" / "quotes"
OF_GOLDEN = datetime(2025, 7, 1, tzinfo=UTC)
ROOT_DER = root_der()
WANTED = Expectation(mr_enclave=ENCLAVE)
WANTED_TD = Expectation(mr_td=TD)
MAKERS = pytest.mark.parametrize("maker", [V3, V4, V4_TD], ids=["v3", "v4", "td"])
EHSM_SIGNER = "c30446b4be9baf0f69728423ea613ef81a63e72acf7439fa0549001fd5482835"


def check(maker, expected=None, **values):
    expected = expected or (WANTED_TD if maker.tdx else WANTED)
    return check_bytes(maker.change(**values).build(), expected)


def check_bytes(data, expected=WANTED):
    return check_quote(data, expected, NOW, root=ROOT_DER)


def with_chain(*certs):
    return V3.change(chain=pem(*certs))


def open_lines(verdict):
    return "\n".join(verdict.not_proved)


@MAKERS
def test_a_whole_quote_passes_every_check(maker):
    verdict = check(maker)
    assert verdict.failed == []
    assert verdict.passed[:4] == [
        "signature of the quote by its attestation key",
        "attestation key vouched for by the quoting enclave's report",
        "signature of the quoting enclave's report by the platform's key (PCK)",
        "PCK certificate chain to the trusted root",
    ]
    assert "no debug" in verdict.passed


def test_the_facts_are_those_of_the_quote_and_its_certificates():
    facts = check(V3, prod_id=7, svn=3).facts
    assert (facts.version, facts.tee, facts.debug) == (3, "sgx", False)
    assert (facts.mr_enclave, facts.mr_signer, facts.mr_td) == (ENCLAVE, SIGNER, "")
    assert (facts.isv_prod_id, facts.isv_svn) == (7, 3)
    assert (facts.fmspc, facts.pce_id, facts.sgx_type) == (FMSPC, "0000", "standard")
    assert (facts.cpu_svn[:12], facts.pce_svn) == ("050502040180", 13)
    assert facts.pck_issuer == "Intel SGX PCK Platform CA"
    assert (facts.tcb_status, facts.advisories) == ("", ())
    facts = check(V4_TD).facts
    assert (facts.tee, facts.mr_td, facts.isv_prod_id, facts.isv_svn) == ("tdx", TD, None, None)


def test_the_pinned_root_is_the_published_one():
    published = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
    assert sha256(INTEL_SGX_ROOT_CA).hexdigest() == published
    root = x509.load_der_x509_certificate(INTEL_SGX_ROOT_CA)
    root.verify_directly_issued_by(root)


def test_real_quotes_of_intels_hardware_pass_from_the_pinned_root():
    enclave = "33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb"
    verdict = check_quote(
        (GOLDEN / "sgx_quote").read_bytes(), Expectation(mr_enclave=enclave), OF_GOLDEN
    )
    assert verdict.failed == []
    assert verdict.facts.fmspc == "00a067110000"
    data = (GOLDEN / "tdx_quote").read_bytes()
    td = data[48 + 136 : 48 + 184].hex()
    verdict = check_quote(data, Expectation(mr_td=td), OF_GOLDEN)
    assert verdict.failed == []
    assert (verdict.facts.fmspc, verdict.facts.sgx_type) == ("b0c06f000000", "scalable")


def test_no_quote_of_ours_passes_from_intels_root():
    verdict = check_quote(V3.build(), WANTED, NOW)
    assert verdict.failed == [
        "PCK certificate chain: root certificate: it is not the trusted one: name or key differ"
    ]


def test_a_real_quote_does_not_pass_when_its_certificates_have_ended():
    data = (GOLDEN / "sgx_quote").read_bytes()
    verdict = check_quote(data, Expectation(), datetime(2031, 1, 1, tzinfo=UTC))
    assert verdict.failed == [
        "PCK certificate chain: PCK certificate: it was valid until 2030-09-20"
    ]


@MAKERS
def test_every_flipped_byte_before_the_certificates_is_caught(maker):
    data = maker.build()
    expected = WANTED_TD if maker.tdx else WANTED
    caught = 0
    for place in range(data.index(b"-----BEGIN")):
        changed = bytearray(data)
        changed[place] ^= 1
        try:
            verdict = check_bytes(bytes(changed), expected)
        except InputError:
            caught += 1
        else:
            assert verdict.failed, place
            caught += 1
    assert caught > 1000


def test_every_changed_certificate_is_caught():
    data = V3.build()
    start = data.index(b"-----BEGIN")
    whole = certificates(data[start:])
    for place in range(start, len(data), 5):
        changed = bytearray(data)
        changed[place] = ord("A") if data[place] != ord("A") else ord("B")
        verdict = check_bytes(bytes(changed))
        if not verdict.failed:  # base64, and DER's bit strings, have bits that say nothing
            assert certificates(bytes(changed)[start:]) == whole, place


def certificates(data):
    """What is signed in each certificate, and the signature."""
    certs = x509.load_pem_x509_certificates(data.rstrip(b"\0"))
    return [(cert.tbs_certificate_bytes, cert.signature) for cert in certs]


@MAKERS
@pytest.mark.parametrize(
    "values, line",
    [
        ({"attestation_raw": bytes(64)}, "no point of P-256"),
        ({"attestation_raw": raw_key(key("other"))}, "it is not of the attestation key"),
        ({"qe_data": bytes(64)}, "is of another key"),
        ({"qe_data": sha256(raw_key(key("attestation"))).digest() + bytes(32)}, "another key"),
        ({"pck": key("other")}, "its signature is not of the key of the PCK certificate"),
        ({"vendor": bytes(16)}, "its vendor is 0000"),
        ({"qe_signer": SIGNER}, "its mr_signer is 5151"),
        ({"qe_prod_id": 9}, "its product id is 9"),
        ({"qe_debug": True}, "it is a debug enclave"),
        ({"debug": True}, "DEBUG is on"),
    ],
)
def test_what_vouches_for_the_quote_is_checked(maker, values, line):
    verdict = check(maker, **values)
    assert [found for found in verdict.failed if line in found], verdict.failed


def test_changed_authentication_data_is_caught():
    data = bytearray(V3.build())
    place = bytes(data).index(V3.auth)
    data[place] ^= 0xFF
    assert check_bytes(bytes(data)).failed == [
        "attestation key: the quoting enclave's report is of another key"
    ]


def test_the_quoting_enclave_of_machines_may_not_sign_for_enclaves():
    verdict = check(V3, qe_signer=TD_QE_SIGNER, qe_prod_id=2)
    assert len(verdict.failed) == 1
    assert verdict.failed[0].startswith("quoting enclave: not Intel's quoting enclave: its mr_sign")


def test_authentication_data_may_have_any_length():
    assert check(V3, auth=b"").failed == []
    assert check(V4, auth=bytes(1000)).failed == []


OTHER_ROOT = Cert(ROOT.subject, ROOT.subject, key("fake"), key("fake"), path=1)
FAKE_PLATFORM = replace(PLATFORM, key=key("fake ca"), signer=key("fake"))
FAKE_PCK = replace(PCK, signer=key("fake ca"))
P384 = key("large", ec.SECP384R1)
CHAINS = {
    "expired leaf": ([replace(PCK, end=NOW - timedelta(days=1)), PLATFORM, ROOT], "until 2026"),
    "expired ca": ([PCK, replace(PLATFORM, end=NOW - timedelta(days=1)), ROOT], "until 2026-11"),
    "expired root": ([PCK, PLATFORM, replace(ROOT, end=NOW - timedelta(days=1))], "until 2026"),
    "future leaf": ([replace(PCK, start=NOW + timedelta(days=1)), PLATFORM, ROOT], "on only"),
    "own chain under the root's name": (
        [FAKE_PCK, FAKE_PLATFORM, OTHER_ROOT],
        "it is not the trusted one",
    ),
    "own chain with the real root": (
        [FAKE_PCK, FAKE_PLATFORM, ROOT],
        "issuer of the PCK certificate: the next certificate did not issue it",
    ),
    "leaf of another issuer": (
        [FAKE_PCK, PLATFORM, ROOT],
        "PCK certificate: the next certificate did not issue it",
    ),
    "root of another name": (
        [PCK, PLATFORM, replace(ROOT, subject="Other Root", issuer="Other Root")],
        "it is not the trusted one",
    ),
    "root not of its own key": (
        [PCK, PLATFORM, replace(ROOT, signer=key("other"))],
        "it is not of its own key",
    ),
    "ca without the ca flag": ([PCK, replace(PLATFORM, ca=False, path=None), ROOT], "no issuer's"),
    "ca without constraints": ([PCK, replace(PLATFORM, ca=None), ROOT], "it is no issuer's"),
    "ca that may not certify": ([PCK, replace(PLATFORM, usage="signer"), ROOT], "no issuer's"),
    "ca without usage": ([PCK, replace(PLATFORM, usage=""), ROOT], "it is no issuer's"),
    "root without the ca flag": ([PCK, PLATFORM, replace(ROOT, ca=False, path=None)], "no issuer"),
    "root of a short path": ([PCK, PLATFORM, replace(ROOT, path=0)], "at most 0 issuers"),
    "leaf that is an issuer": ([replace(PCK, ca=True), PLATFORM, ROOT], "it is an issuer's"),
    "leaf that certifies": ([replace(PCK, usage="issuer"), PLATFORM, ROOT], "it is an issuer's"),
    "leaf that may not sign": ([replace(PCK, usage=""), PLATFORM, ROOT], "its key may not sign"),
    "ca and leaf swapped": ([PLATFORM, PCK, ROOT], "its name is 'Intel SGX PCK Platform CA'"),
    "turned round": ([ROOT, PLATFORM, PCK], "it is not the trusted one"),
    "another name of the ca": (
        [
            replace(PCK, issuer="Intel SGX TCB CA"),
            replace(PLATFORM, subject="Intel SGX TCB CA"),
            ROOT,
        ],
        "none of Intel's issuers",
    ),
    "another name of the leaf": (
        [replace(PCK, subject="Intel SGX TCB Signing"), PLATFORM, ROOT],
        "its name is 'Intel SGX TCB Signing'",
    ),
    "no extension": ([replace(PCK, extension=None), PLATFORM, ROOT], "it has no SGX extension"),
    "broken extension": ([replace(PCK, extension=b"\x30\x05"), PLATFORM, ROOT], "is cut off"),
    "no fmspc": (
        [replace(PCK, extension=sgx_extension(without=(4,))), PLATFORM, ROOT],
        "lacks value 4",
    ),
    "leaf of another curve": ([replace(PCK, key=P384), PLATFORM, ROOT], "its key is not of P-256"),
    "ca of another curve": (
        [replace(PCK, signer=P384), replace(PLATFORM, key=P384), ROOT],
        "its key is not of P-256",
    ),
    "signed with another hash": (
        [replace(PCK, digest=hashes.SHA512), PLATFORM, ROOT],
        "not signed with ECDSA and SHA-256",
    ),
    "an unknown demand": ([replace(PCK, demanded=True), PLATFORM, ROOT], "demands extension 1.2."),
    "no root": ([PCK, PLATFORM], "it has 2 certificates, not 3"),
    "leaf alone": ([PCK], "it has 1 certificates, not 3"),
    "one too many": ([PCK, PLATFORM, ROOT, ROOT], "it has 4 certificates, not 3"),
    "tcb signing as leaf": ([TCB_SIGNING, PLATFORM, ROOT], "its name is 'Intel SGX TCB Signing'"),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_wrong_chain_is_caught(name):
    certs, line = CHAINS[name]
    verdict = check(with_chain(*certs))
    assert [found for found in verdict.failed if line in found], verdict.failed
    assert "PCK certificate chain to the trusted root" not in verdict.passed


def test_a_leaf_of_another_key_does_not_vouch():
    verdict = check(with_chain(replace(PCK, key=key("another")), PLATFORM, ROOT))
    assert verdict.failed == [
        "report of the quoting enclave: its signature is not of the key of the PCK certificate"
    ]


def test_a_leaf_of_another_curve_is_no_key():
    verdict = check(with_chain(replace(PCK, key=P384), PLATFORM, ROOT))
    assert any("its signature is not of the key" in line for line in verdict.failed)


@pytest.mark.parametrize(
    "chain",
    [b"", b"\0", b"hello", pem(PCK, PLATFORM, ROOT)[:-9], b"x" + pem(PCK, PLATFORM, ROOT)],
    ids=["none", "nul", "text", "cut", "in front"],
)
def test_a_chain_that_is_no_pem_is_caught(chain):
    verdict = check(V3, chain=chain)
    assert "PCK certificate chain: it is no list of certificates as PEM" in verdict.failed


def test_a_certificate_that_is_none_is_caught():
    broken = pem(PCK).replace(b"MII", b"AAA", 1) + pem(PLATFORM, ROOT)
    verdict = check(V3, chain=broken)
    assert "PCK certificate chain: it has a certificate that cannot be read" in verdict.failed


def test_a_certificate_that_the_library_warns_of_is_caught(recwarn):
    odd = replace(PCK, serial=0x7F01).make().public_bytes(Encoding.DER)
    odd = odd.replace(b"\2\2\x7f\1", b"\2\2\xff\1")  # a serial number below zero
    text = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n" % b64encode(odd)
    verdict = check(V3, chain=text + pem(PLATFORM, ROOT))
    assert "PCK certificate chain: it has a certificate that cannot be read" in verdict.failed
    assert not recwarn


def test_the_processor_ca_may_issue_too():
    processor = "Intel SGX PCK Processor CA"
    verdict = check(
        with_chain(replace(PCK, issuer=processor), replace(PLATFORM, subject=processor), ROOT)
    )
    assert verdict.failed == []
    assert verdict.facts.pck_issuer == processor


def test_another_certificate_of_the_trusted_root_will_do():
    again = replace(ROOT, serial=99, start=START - timedelta(days=9), end=END + timedelta(days=9))
    assert check(with_chain(PCK, PLATFORM, again)).failed == []


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 6, 7])
def test_a_quote_without_a_chain_is_not_believed(kind):
    verdict = check(V3, chain_type=kind)
    assert f"does not carry it (certification data of type {kind})" in verdict.failed[0]
    assert not any("PCK" in line for line in verdict.passed)


@pytest.mark.parametrize(
    "expected, line",
    [
        (Expectation(mr_enclave="00" * 32), f"mr_enclave is {ENCLAVE}, not 0000"),
        (Expectation(mr_signer="00" * 32), f"mr_signer is {SIGNER}, not 0000"),
        (Expectation(isv_prod_id=1), "isv_prod_id is 0, not 1"),
        (Expectation(isv_svn=1), "isv_svn is 0, less than 1"),
        (Expectation(report_data=b"\1" * 64), "report_data is 0000"),
        (Expectation(mr_td=TD), "of an SGX enclave, not of a TDX machine"),
    ],
)
def test_another_enclave_than_the_expected_one_fails(expected, line):
    verdict = check(V3, expected)
    assert [found for found in verdict.failed if line in found], verdict.failed


def test_the_expected_enclave_passes():
    data = bytes(range(64))
    expected = Expectation(ENCLAVE, SIGNER, 7, 3, report_data=data)
    verdict = check(V3, expected, prod_id=7, svn=4, report_data=data)
    assert verdict.failed == []
    assert {"mr_enclave as expected", "mr_signer as expected", "isv_prod_id as expected"} < {
        *verdict.passed
    }
    assert "isv_svn at least 3" in verdict.passed
    assert "report_data as expected" in verdict.passed
    assert "freshness" not in open_lines(verdict)


def test_a_machine_is_no_enclave():
    verdict = check(V4_TD, WANTED)
    assert verdict.failed == ["the quote is of a TDX machine, not of an SGX enclave"]


@pytest.mark.parametrize("values", [{"seam_signer": b"\1" * 48}, {"seam_attributes": 1}])
def test_a_tdx_module_of_others_is_caught(values):
    assert "TDX module: it is not Intel's" in check(V4_TD, **values).failed[0]


def test_another_machine_fails():
    assert "mr_td is 7d7d" in check(V4_TD, Expectation(mr_td="00" * 48)).failed[0]


@MAKERS
def test_debug_is_said_even_if_it_is_allowed(maker):
    expected = replace(WANTED_TD if maker.tdx else WANTED, allow_debug=True)
    verdict = check(maker, expected, debug=True)
    assert verdict.failed == []
    assert "no debug" not in verdict.passed
    assert "DEBUG is on" in open_lines(verdict)


def test_what_a_quote_of_ehsm_does_not_prove_is_said():
    text = open_lines(check(V3))
    assert "freshness: report_data is zero" in text
    assert "that this server is the enclave: report_data is zero" in text
    assert "TCB level and revocation were not checked: no collateral" in text
    assert "report_data is not zero" in open_lines(check(V3, report_data=b"\1" * 64))


def test_a_public_signer_is_refused_without_mr_enclave():
    verdict = check(V3, Expectation(mr_signer=EHSM_SIGNER), signer=EHSM_SIGNER)
    assert len(verdict.failed) == 1
    assert "the key in eHSM's own repository: anybody can sign" in verdict.failed[0]
    assert check(V3, Expectation(), signer=EHSM_SIGNER).failed


@pytest.mark.parametrize("signer", KNOWN_SIGNERS)
def test_a_public_signer_is_said_with_mr_enclave(signer):
    verdict = check(V3, signer=signer)
    assert verdict.failed == []
    assert "who made the enclave: its mr_signer is of" in open_lines(verdict)


def test_what_nobody_expected_is_said():
    assert "neither mr_enclave nor mr_signer was expected" in open_lines(check(V3, Expectation()))
    only_signer = open_lines(check(V3, Expectation(mr_signer=SIGNER)))
    assert "which enclave it is: any passes that the holder" in only_signer
    assert "which enclave" not in open_lines(check(V3))


@pytest.mark.parametrize(
    "values",
    [
        {"mr_enclave": "E1" * 32},
        {"mr_enclave": "e1" * 31},
        {"mr_signer": "0x" + "51" * 31},
        {"mr_td": "7d" * 32},
        {"report_data": b""},
        {"mr_td": TD, "mr_enclave": ENCLAVE},
        {"mr_td": TD, "isv_svn": 0},
    ],
)
def test_an_expectation_that_no_quote_can_meet_is_refused(values):
    with pytest.raises(UsageError):
        Expectation(**values)


def test_a_status_that_nobody_may_accept_is_refused():
    for status in ("Revoked", "uptodate"):
        with pytest.raises(UsageError, match="no TCB status"):
            check_quote(V3.build(), WANTED, NOW, accept=frozenset({status}))


def test_nothing_in_the_environment_changes_the_root(monkeypatch):
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "IMAGEKIT_ROOT", "PCCS_URL"):
        monkeypatch.setenv(name, "/nowhere")
    assert check_quote(V3.build(), WANTED, NOW).failed


def test_a_length_of_certification_data_beyond_the_end_is_no_quote():
    data = bytearray(V3.build())
    place = bytes(data).index(b"-----BEGIN") - 4
    data[place : place + 4] = struct.pack("<I", 1 << 30)
    with pytest.raises(InputError, match="cut off"):
        check_bytes(bytes(data))
