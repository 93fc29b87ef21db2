"""The BigDL attestation service of these tests, as its source and contract say."""

import base64
import json

import pytest
from bigdl_service import BigDl, java_hex
from ehsm_service import API_KEY, APP_ID
from plain_quotes import sgx_quote, td_quote

WHO = {"appID": APP_ID, "apiKey": API_KEY}
MR_ENCLAVE, MR_SIGNER, MR_TD = "a1" * 32, "b2" * 32, "c3" * 48
RTMR = bytes(range(1, 193))
DATA = b"\0\1" + bytes(range(62))


@pytest.fixture
def bigdl():
    return BigDl()


def post(bigdl, path, **fields):
    reply = bigdl.http("POST", path, json.dumps(WHO | fields).encode())
    assert reply.media == "text/plain; charset=UTF-8"
    return reply.status, reply.data.decode()


def register(bigdl, kind, **fields):
    status, text = post(bigdl, "/registerPolicy", policyType=kind, **fields)
    assert status == 200
    assert "\n" in text  # pretty-printed
    return json.loads(text)["policyID"]


def verdict(bigdl, quote, **fields):
    status, text = post(bigdl, "/verifyQuote", quote=base64.b64encode(quote).decode(), **fields)
    result = json.loads(text)["result"]
    assert (status == 400) == (result == -1)
    return result


def test_accounts_are_given_to_anyone(bigdl):
    account = json.loads(bigdl.http("GET", "/enroll", b"").data)
    assert set(account) == {"appID", "apiKey"}
    assert len(account["apiKey"]) == 32
    assert post(bigdl, "/verifyQuote", quote="", **account)[0] == 200
    assert bigdl.http("GET", "/", b"").status == 200
    assert bigdl.http("GET", "/nope", b"").status == 404
    assert bigdl.http("POST", "/enroll", b"").status == 404


SGX, TD = sgx_quote(MR_ENCLAVE, MR_SIGNER, product=1, data=DATA), td_quote(MR_TD, RTMR, DATA)


@pytest.mark.parametrize(
    ("kind", "fields", "quote"),
    [
        ("SGXMREnclavePolicy", {"mrEnclave": MR_ENCLAVE, "mrSigner": "ignored"}, SGX),
        ("SGXMRSignerPolicy", {"mrSigner": MR_SIGNER, "isvProdID": "100"}, SGX),
        ("SGXReportDataPolicy", {"reportData": DATA.hex().lstrip("0")}, SGX),
        ("TDXMRTDPolicy", {"mrTD": MR_TD}, TD),
        ("TDXReportDataPolicy", {"reportData": DATA.hex().lstrip("0")}, TD),
        ("TDXLaunchTimePolicy", {"mrTD": MR_TD, "rtmr": RTMR.hex().lstrip("0")}, TD),
    ],
)
def test_each_type_of_policy_fits_its_quotes_alone(bigdl, kind, fields, quote):
    policy = register(bigdl, kind, **fields)
    assert verdict(bigdl, quote, policyID=policy) == 0
    assert verdict(bigdl, TD if quote is SGX else SGX, policyID=policy) == -1
    for name in bigdl.policies[policy]:
        if name == "policyType":
            continue
        wrong = register(bigdl, kind, **{**fields, name: "1" + fields[name]})
        assert verdict(bigdl, quote, policyID=wrong) == -1


def test_leading_zeros_and_upper_case_never_match(bigdl):
    measured = "00a" + "1" * 61
    quote = sgx_quote(measured, MR_SIGNER)
    for text, result in ((measured, -1), (measured[2:], 0), (measured[2:].upper(), -1)):
        policy = register(bigdl, "SGXMREnclavePolicy", mrEnclave=text)
        assert verdict(bigdl, quote, policyID=policy) == result


@pytest.mark.parametrize(("product", "text"), [(0, "0"), (1, "100"), (256, "1"), (0x1234, "3412")])
def test_product_ids_are_read_the_wrong_way_round(bigdl, product, text):
    quote = sgx_quote(MR_ENCLAVE, MR_SIGNER, product=product)
    policy = register(bigdl, "SGXMRSignerPolicy", mrSigner=MR_SIGNER, isvProdID=text)
    assert verdict(bigdl, quote, policyID=policy) == 0
    assert java_hex(product.to_bytes(2, "little")) == text


def test_refusals_are_plain_text(bigdl):
    unsupported = (400, "Unsupported policy type.")
    assert post(bigdl, "/registerPolicy", policyType="SGX") == unsupported
    assert post(bigdl, "/verifyQuote", quote="", policyID="nope") == unsupported
    for path in ("/registerPolicy", "/verifyQuote"):
        for wrong in ({"appID": "x"}, {"apiKey": "x"}):
            answer = post(bigdl, path, policyType="SGX", quote="", **wrong)
            assert answer == (400, "Invalid app_id and api_key.")
    assert bigdl.http("POST", "/registerPolicy", b"{").status == 500
    assert post(bigdl, "/registerPolicy", policyType="SGXMREnclavePolicy")[0] == 500
    assert bigdl.policies == {}


@pytest.mark.parametrize("result", [0, 1, -1])
def test_the_verdict_of_a_test_is_given(bigdl, result):
    bigdl.verdict = result
    assert verdict(bigdl, SGX) == result
