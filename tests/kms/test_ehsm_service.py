"""The eHSM of these tests against recorded exchanges of the real one, and its rules one by one.

Otherwise tests against it would prove nothing.
"""

import base64
import json
import re
from dataclasses import replace
from itertools import count

import pytest
from conftest import GOLDEN
from ehsm_service import API_KEY, APP_ID, REPEATED, TWENTY_MINUTES, Ehsm, Refuse, mac
from plain_quotes import sgx_quote

MR_ENCLAVE, MR_SIGNER = "a1" * 32, "b2" * 32
OTHER = "f83afdef-e9cf-4a6e-939b-c41ca09a0653"
NOW = 1_795_308_392_300
LETTERS = re.compile("[A-HJ-NP-Za-kmnp-z0-9]{32}")


def exchanges():
    files = (GOLDEN / "ehsm/exchanges").glob("*.json")
    found = [json.loads(path.read_text()) for path in files]
    return sorted(found, key=lambda exchange: exchange["sequence"])


# -- recorded exchanges


class Replay:
    """A service that gets recorded requests, in their order, at their time.

    What the real one drew at random (ids, keys, ciphertexts) is given to it; the rest it must find.
    """

    def __init__(self) -> None:
        self.ehsm = Ehsm(tenants={})
        self.plain = {}
        self.clock = 0
        self.ehsm.now = lambda: self.clock
        # Made by an exchange that was not recorded.
        mismatch = {"mr_enclave": "c" * 64, "mr_signer": "d" * 64}
        self.ehsm.policies["988afc28-41a4-4143-be4c-ffa75eaea971"] = APP_ID, mismatch

    def prepare(self, exchange):
        request, response = exchange["request"], exchange["response"].get("json", {})
        result, name = response.get("result") or {}, exchange["name"]
        sent = int(request.get("json", {}).get("timestamp", 0))
        if "min-old" not in name and len(str(sent)) == 13:
            self.clock = sent
        ids = [result[key] for key in ("policyId", "keyid", "appid") if key in result]
        self.ehsm.new_id = lambda: ids[0]
        self.ehsm.verdict = result.get("result", 0)
        self.ehsm.quote = base64.b64decode(result.get("quote", ""))
        self.ehsm.store_works = "db-down" not in name
        if "db-lost" in name:  # the store came back empty
            self.ehsm.tenants.clear()
            self.ehsm.policies.clear()
        # The stand-in under the real service does not use AES.
        sealed = base64.b64decode(result.get("ciphertext", ""))
        self.ehsm.seal = lambda _key, data, _aad: self.plain.setdefault(sealed, data) and sealed
        self.ehsm.unseal = lambda _key, data, _aad: self.plain[data]

    def play(self, exchange):
        self.prepare(exchange)
        request = exchange["request"]
        body = json.dumps(request["json"]) if "json" in request else request.get("body", "")
        if "body_note" in request:
            body = json.dumps({"appid": "x" * 110_000})
            assert len(body) == request["body_bytes"]
        media = request["headers"].get("Content-Type", "")
        reply = self.ehsm.http(request["method"], request["path"], body.encode(), media)
        recorded = exchange["response"]
        assert (reply.status, reply.media) == (recorded["status"], recorded["content_type"])
        if "json" not in recorded:
            assert f"<pre>{recorded['html_pre_first_line']}<" in reply.data.decode()
            return
        found = json.loads(reply.data)
        assert shape(found) == shape(recorded["json"])
        result = recorded["json"]["result"] or {}
        if "apikey" in result:
            self.ehsm.tenants[result["appid"]] = result["apikey"]


def shape(document):
    """An answer without what is random and without the time that the real service took."""

    def hide(key, value):
        if key == "apikey":
            return bool(LETTERS.fullmatch(value))
        if key in ("createTime", "creationDate", "expireTime"):
            return round(value / 1000)
        if key == "plaintext":
            return len(value)
        if isinstance(value, list):
            return [hidden(item) for item in value]
        return value

    def hidden(fields):
        return {key: hide(key, value) for key, value in fields.items()}

    result = document["result"]
    return {**document, "result": hidden(result) if isinstance(result, dict) else result}


def test_recorded_requests_are_answered_as_the_real_service_did():
    """Two recordings; none of the exchanges is left out."""
    common, edge, played = Replay(), Replay(), 0
    for exchange in exchanges():
        (edge if exchange["group"] == "edge" else common).play(exchange)
        played += 1
    assert played == len(list((GOLDEN / "ehsm/exchanges").iterdir())) == 55
    assert len(common.ehsm.policies) == 9


def test_recorded_answers_are_not_all_answered_alike():
    """The comparison above would see a service that does something else."""
    first, *_ = (e for e in exchanges() if e["name"] == "upload-ok")
    with pytest.raises(AssertionError):
        Replay().play(first)  # nobody has enrolled
    changed = json.loads(json.dumps(first).replace("Upload quote policy success.", "success!"))
    replay = Replay()
    replay.ehsm.tenants[APP_ID] = API_KEY
    with pytest.raises(AssertionError):
        replay.play(changed)


# -- rules


@pytest.fixture
def ehsm():
    return Ehsm(tenants={APP_ID: API_KEY, OTHER: "k"}, now=lambda: NOW)


NONCES = count()


def signed(payload=None, *, key=API_KEY, **fields):
    request = {"appid": APP_ID, "timestamp": str(NOW), "nonce": f"n-{next(NONCES)}", **fields}
    if payload is not None:
        request["payload"] = payload
    request = {name: value for name, value in request.items() if value is not None}
    return {**request, "sign": mac(key, request), **{k: fields[k] for k in fields if k == "sign"}}


def ask(ehsm, action, request, media="application/json"):
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    reply = ehsm.http("POST", f"/ehsm?Action={action}", body, media)
    assert reply.status == 200
    return json.loads(reply.data)


def result_of(ehsm, action, payload=None, **fields):
    answer = ask(ehsm, action, signed(payload, **fields))
    assert answer["code"] == 200, answer
    return answer["result"]


def refused(ehsm, action, request, **more):
    answer = ask(ehsm, action, request, **more)
    assert answer["code"] != 200
    return answer.get("message")


POLICY = {"mr_enclave": MR_ENCLAVE, "mr_signer": MR_SIGNER}


def test_checks_come_in_the_services_order(ehsm):
    """A request with every fault at once, repaired from the first check to the last."""
    wrong = {"mr_enclave": "a"}
    steps = [
        (b"{", "Invalid JSON"),
        ({"appid": APP_ID}, "Missing required parameters"),
        ({"appid": 1, "timestamp": "1", "sign": "x", "nonce": "n" * 65}, "param type error"),
        ({"appid": "x", "timestamp": "1", "sign": "x", "nonce": "n" * 65}, "Nonce length error"),
        ({"appid": "x", "timestamp": "1", "sign": "x"}, "Timestamp length error"),
        ({"appid": "x", "timestamp": "1" * 13, "sign": "x"}, "Timestamp error"),
    ]
    late = {"appid": "x", "timestamp": str(NOW), "sign": "x", "payload": wrong}
    steps += [
        (late, "Parameter invalid, The mr_enclave length error."),
        (late, REPEATED),  # the memory is written before parameters and sign are looked at
        (late | {"timestamp": str(NOW + 1), "payload": POLICY}, None),
        (late | {"timestamp": str(NOW + 2), "payload": POLICY, "appid": APP_ID}, "sign error"),
    ]
    for request, message in steps:
        assert refused(ehsm, "UploadQuotePolicy", request) == message
    assert refused(ehsm, "Nope", signed(POLICY)) == "API Not Found"
    assert refused(ehsm, "uploadQuotePolicy", signed(POLICY)) == "API Not Found"
    assert ehsm.policies == {}


@pytest.mark.parametrize(
    ("request_", "media", "message"),
    [
        (b"", "application/json", "Missing required parameters"),
        (b"[]", "application/json", "Missing required parameters"),
        (b"null", "application/json", "Invalid JSON"),
        (b'{"a":NaN}', "application/json", "Invalid JSON"),
        (b"\xff", "application/json", "Invalid JSON"),
        (signed(POLICY), "text/plain", "Missing required parameters"),
        (signed(POLICY), "", "Missing required parameters"),
    ],
)
def test_what_is_not_read_as_json_is_refused(ehsm, request_, media, message):
    assert refused(ehsm, "UploadQuotePolicy", request_, media=media) == message


def test_a_media_type_may_have_parameters(ehsm):
    media = "application/json; charset=utf-8"
    assert ask(ehsm, "UploadQuotePolicy", signed(POLICY), media)["code"] == 200


@pytest.mark.parametrize("minutes", [-10, 10, -11, 11])
def test_ten_minutes_are_too_far(ehsm, minutes):
    late = signed(POLICY, timestamp=str(NOW + minutes * 60_000))
    assert refused(ehsm, "UploadQuotePolicy", late) == "Timestamp error"
    near = str(NOW + minutes * 60_000 - (1 if minutes > 0 else -1))
    near = near if abs(minutes) == 10 else str(NOW)
    assert result_of(ehsm, "UploadQuotePolicy", POLICY, timestamp=near)


def test_identical_bytes_are_taken_once(ehsm):
    request = signed(POLICY)
    assert ask(ehsm, "UploadQuotePolicy", request)["code"] == 200
    assert refused(ehsm, "UploadQuotePolicy", request) == REPEATED
    assert len(ehsm.policies) == 1


def test_a_nonce_and_a_timestamp_that_were_seen_apart_are_a_repetition(ehsm):
    result_of(ehsm, "ListKey", nonce="one", timestamp=str(NOW))
    result_of(ehsm, "ListKey", nonce="two", timestamp=str(NOW + 1))
    crossed = signed(nonce="one", timestamp=str(NOW + 1))
    assert refused(ehsm, "ListKey", crossed) == REPEATED
    assert result_of(ehsm, "ListKey", nonce="three", timestamp=str(NOW + 1)) == {"list": []}


def test_without_nonces_one_millisecond_is_a_repetition_for_one_tenant(ehsm):
    result_of(ehsm, "ListKey", nonce=None)
    assert refused(ehsm, "ListKey", signed(nonce=None)) == REPEATED
    other = signed(nonce=None, appid=OTHER, key="k")
    assert ask(ehsm, "ListKey", other)["code"] == 200


def test_a_badly_signed_request_burns_its_timestamp(ehsm):
    bad = signed(POLICY, nonce=None, key="wrong")
    assert refused(ehsm, "UploadQuotePolicy", bad) == "sign error"
    assert refused(ehsm, "UploadQuotePolicy", signed(POLICY, nonce=None)) == REPEATED


def test_the_memory_ends_after_twenty_minutes(ehsm):
    request = signed(POLICY, timestamp=str(NOW + 599_999))
    ask(ehsm, "UploadQuotePolicy", request)
    soon = replace(ehsm, now=lambda: NOW + TWENTY_MINUTES - 1)
    assert refused(soon, "UploadQuotePolicy", request) in (REPEATED, "Timestamp error")
    assert len(ehsm.used) == 2
    replace(ehsm, now=lambda: NOW + TWENTY_MINUTES).refuse_repetition("x", "", "1")
    assert list(ehsm.used) == [("x", "t1")]


def test_other_paths_and_methods_are_pages_of_errors(ehsm):
    for method, path in (
        ("PUT", "/ehsm?Action=Enroll"),
        ("GET", "/"),
        ("POST", "//ehsm?Action=X"),
        ("GET", "/ehsm//?Action=GetVersion"),
        ("GET", "/EHSM2"),
    ):
        reply = ehsm.http(method, path, b"", "")
        assert (reply.status, reply.media) == (404, "text/html; charset=utf-8")
        assert f"Cannot {method} {path.partition('?')[0]}".encode() in reply.data


def test_a_large_body_is_a_page_with_a_trace(ehsm):
    for size, status in ((102_400, 200), (102_401, 413)):
        body = b'{"a":"' + b"x" * (size - 8) + b'"}'
        reply = ehsm.http("POST", "/ehsm?Action=X", body, "application/json")
        assert (reply.status, len(body)) == (status, size)
    assert b"at readStream (" in reply.data
    assert ehsm.http("POST", "/ehsm?Action=X", body, "text/plain").status == 200


def test_policies_are_neither_compared_nor_checked_for_hex(ehsm):
    ids = {result_of(ehsm, "UploadQuotePolicy", POLICY)["policyId"] for _ in range(3)}
    assert len(ids) == 3
    assert sorted(ids) == sorted(ehsm.policies_of(MR_ENCLAVE))
    assert result_of(ehsm, "UploadQuotePolicy", {"mr_enclave": "!" * 64, "mr_signer": "?" * 64})


def test_an_upload_without_payload_stores_a_policy_that_accepts_any_enclave(ehsm):
    for payload in (None, {}):
        policy = result_of(ehsm, "UploadQuotePolicy", payload)["policyId"]
        read = result_of(ehsm, "GetQuotePolicy", {"policyId": policy})
        assert set(read) == {"policyId", "createTime"}
        verified = verify(ehsm, sgx_quote("0c" * 32), policy)
        assert set(verified) == {"nonce", "result", "sign"}


def test_a_policy_is_read_by_its_owner_alone(ehsm):
    policy = ehsm.policy(MR_ENCLAVE, MR_SIGNER)
    asked = {"policyId": policy}
    assert result_of(ehsm, "GetQuotePolicy", asked) == {**asked, **POLICY, "createTime": NOW}
    assert result_of(ehsm, "GetQuotePolicy", asked, appid=OTHER, key="k") == asked
    quote = base64.b64encode(sgx_quote(MR_ENCLAVE, MR_SIGNER)).decode()
    payload = {"quote": quote, "nonce": "AAAA", **asked}
    request = signed(payload, appid=OTHER, key="k")
    assert refused(ehsm, "VerifyQuote", request) == "Invalid  policyId."


def verify(ehsm, quote, policy=None, code=200):
    payload = {"quote": base64.b64encode(quote).decode(), "nonce": "bm9uY2U="}
    answer = ask(ehsm, "VerifyQuote", signed(payload | ({"policyId": policy} if policy else {})))
    assert answer["code"] == code
    return answer["result"]


def test_a_quote_fits_the_policy_of_its_enclave_alone(ehsm):
    policy = ehsm.policy(MR_ENCLAVE, MR_SIGNER)
    assert verify(ehsm, sgx_quote(MR_ENCLAVE, MR_SIGNER), policy)["mr_enclave"] == MR_ENCLAVE
    for other in (sgx_quote(MR_SIGNER, MR_ENCLAVE), sgx_quote("0c" * 32, MR_SIGNER), bytes(435)):
        assert verify(ehsm, other, policy, 500) is None
    assert verify(ehsm, b"\3", None, 500) is None
    assert verify(ehsm, sgx_quote("0c" * 32), None)["result"] == 0


def test_a_policy_in_upper_case_never_matches(ehsm):
    policy = ehsm.policy(MR_ENCLAVE.upper(), MR_SIGNER)
    assert verify(ehsm, sgx_quote(MR_ENCLAVE, MR_SIGNER), policy, 500) is None


@pytest.mark.parametrize("verdict", [0, 0xA001])
def test_a_result_of_zero_is_not_signed(ehsm, verdict):
    ehsm.verdict = verdict
    answer = verify(ehsm, sgx_quote(MR_ENCLAVE, MR_SIGNER), ehsm.policy(MR_ENCLAVE, MR_SIGNER))
    sign = answer.pop("sign")
    assert sign == mac(API_KEY, answer)
    del answer["result"]
    assert (sign == mac(API_KEY, answer)) == (verdict == 0)


def test_the_quote_of_the_service_is_what_a_test_says(ehsm):
    payload = {"challenge": "AAAA"}
    quote = base64.b64decode(result_of(ehsm, "GenerateQuote", payload)["quote"])
    assert (quote[:4], quote[368:432]) == (b"\3\0\2\0", bytes(64))
    assert int.from_bytes(quote[432:436], "little") == len(quote) - 436
    ehsm.quote = b"other"
    assert base64.b64decode(result_of(ehsm, "GenerateQuote", payload)["quote"]) == b"other"


def test_a_store_that_is_down_has_an_object_for_a_message(ehsm):
    ehsm.store_works = False
    assert ask(ehsm, "ListKey", signed()) == {"code": 400, "message": {}, "result": {}}
    version = ehsm.http("GET", "/ehsm?Action=GetVersion", b"", "")
    assert json.loads(version.data)["code"] == 200


def test_every_enrolment_is_a_new_tenant(ehsm):
    for number in (3, 4):
        reply = json.loads(ehsm.http("GET", "/ehsm?Action=Enroll", b"", "").data)
        account = reply["result"]
        assert LETTERS.fullmatch(account["apikey"])
        assert len(ehsm.tenants) == number
        request = signed(appid=account["appid"], key=account["apikey"])
        assert ask(ehsm, "ListKey", request)["code"] == 200


KEY = {
    "keyspec": "EH_AES_GCM_256",
    "origin": "EH_INTERNAL_KEY",
    "keyusage": "EH_KEYUSAGE_ENCRYPT_DECRYPT",
}


@pytest.fixture
def key(ehsm):
    return {"keyid": result_of(ehsm, "CreateKey", KEY)["keyid"]}


def test_keys_encrypt_and_decrypt(ehsm, key):
    sealed = result_of(ehsm, "Encrypt", {**key, "plaintext": "aGVsbG8=", "aad": "x"})
    assert result_of(ehsm, "Decrypt", {**key, **sealed, "aad": "x"}) == {"plaintext": "aGVsbG8="}
    assert refused(ehsm, "Decrypt", signed({**key, **sealed})) == "Server exception."
    made = result_of(ehsm, "GenerateDataKey", {**key, "keylen": 32, "aad": ""})
    opened = result_of(ehsm, "Decrypt", {**key, "ciphertext": made["ciphertext"]})
    assert opened == {"plaintext": made["plaintext"]}
    assert len(base64.b64decode(made["plaintext"])) == 32
    blind = result_of(ehsm, "GenerateDataKeyWithoutPlaintext", {**key, "keylen": 16})
    assert set(blind) == {"ciphertext"}
    listed = result_of(ehsm, "ListKey")["list"]
    assert [item["keyid"] for item in listed] == [key["keyid"]]


def test_a_key_that_cannot_be_used_says_why(ehsm, key):
    data = {**key, "plaintext": "AAAA"}
    unknown = signed({**data, "keyid": "15ca0dd5-2d34-4221-a708-3171ffe60001"})
    assert refused(ehsm, "Encrypt", unknown) == "keyid error"
    assert refused(ehsm, "Encrypt", signed(data, appid=OTHER, key="k")) == "appid error"
    ehsm.keys[key["keyid"]].state = 0
    assert refused(ehsm, "Encrypt", signed(data)) == "keyid is disabled"
    ehsm.keys[key["keyid"]].state = 1
    ehsm.keys[key["keyid"]].expires = NOW - 1
    assert refused(ehsm, "Encrypt", signed(data)) == "keyid expire"


EMPTY = "Missing required parameters, The {} cannot be empty."
LENGTH = "Parameter invalid, The {} length error."
TEXT = "Parameter invalid, The {} must be of string type."
INTEGER = "Parameter invalid, The {} must be of integer type."
BASE64 = "Parameter invalid, The {} not a vailed base64 string."
KIND = "Parameter invalid, The {} type is incorrect."
FORMAT = "Parameter invalid, The {} format wrong."
SOME_ID = "15ca0dd5-2d34-4221-a708-3171ffe60001"


@pytest.mark.parametrize(
    ("action", "payload", "text", "name"),
    [
        ("UploadQuotePolicy", {"mr_signer": MR_SIGNER}, EMPTY, "mr_enclave"),
        ("UploadQuotePolicy", {"mr_enclave": MR_ENCLAVE, "mr_signer": ""}, EMPTY, "mr_signer"),
        ("UploadQuotePolicy", {"mr_enclave": 5, "mr_signer": MR_SIGNER}, TEXT, "mr_enclave"),
        ("UploadQuotePolicy", {**POLICY, "mr_signer": "b" * 65}, LENGTH, "mr_signer"),
        ("GetQuotePolicy", {}, EMPTY, "policyId"),
        ("GetQuotePolicy", {"policyId": "x"}, LENGTH, "policyId"),
        ("GetQuotePolicy", {"policyId": SOME_ID.upper()}, FORMAT, "policyId"),
        ("GetQuotePolicy", {"policyId": SOME_ID.replace("-", "x")}, FORMAT, "policyId"),
        ("GenerateQuote", {}, EMPTY, "challenge"),
        ("GenerateQuote", {"challenge": "A" * 4100}, LENGTH, "challenge"),
        ("VerifyQuote", {"quote": "AAAA"}, EMPTY, "nonce"),
        ("VerifyQuote", {"quote": "é===", "nonce": "AAAA"}, BASE64, "quote"),
        ("VerifyQuote", {"quote": "A" * 10_928, "nonce": "AAAA"}, LENGTH, "quote"),
        ("VerifyQuote", {"quote": "AAAA", "nonce": "test!"}, BASE64, "nonce"),
        ("CreateKey", {**KEY, "keyspec": "EH_AES_GCM_512"}, KIND, "keyspec"),
        ("CreateKey", {**KEY, "origin": "HERE"}, KIND, "origin"),
        ("CreateKey", {"keyspec": "EH_SM2", "origin": "EH_EXTERNAL_KEY"}, EMPTY, "keyusage"),
        ("Encrypt", {"keyid": SOME_ID}, EMPTY, "plaintext"),
        ("Encrypt", {"keyid": SOME_ID, "plaintext": "A" * 8196}, LENGTH, "plaintext"),
        ("Encrypt", {"keyid": SOME_ID, "plaintext": "AAAA", "aad": 1}, TEXT, "aad"),
        ("Decrypt", {"keyid": SOME_ID, "ciphertext": "*"}, BASE64, "ciphertext"),
        ("GenerateDataKey", {"keyid": SOME_ID, "keylen": "32"}, INTEGER, "keylen"),
        ("GenerateDataKey", {"keyid": SOME_ID, "keylen": True}, INTEGER, "keylen"),
        ("GenerateDataKey", {"keyid": SOME_ID, "keylen": 1.5}, INTEGER, "keylen"),
        ("GenerateDataKey", {"keyid": SOME_ID, "keylen": 1025}, LENGTH, "keylen"),
        ("GenerateDataKeyWithoutPlaintext", {"keyid": SOME_ID}, EMPTY, "keylen"),
    ],
)
def test_parameters_are_refused_with_the_services_words(ehsm, action, payload, text, name):
    assert refused(ehsm, action, signed(payload)) == text.format(name)


def test_an_empty_policy_id_is_no_policy_id(ehsm):
    quote = base64.b64encode(sgx_quote()).decode()
    payload = {"quote": quote, "nonce": "AAAA", "policyId": ""}
    assert set(result_of(ehsm, "VerifyQuote", payload)) == {"nonce", "result", "sign"}


def test_refusals_carry_no_secret(ehsm):
    with pytest.raises(Refuse) as caught:
        ehsm.parsed(b"{", "application/json")
    assert API_KEY not in repr(caught.value)
