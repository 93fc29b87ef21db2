"""Each fault of these tests does what its name says, and only that; seen by a plain client."""

import contextlib
import http.client
import json
import ssl
import threading
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import kms_faults
import pytest
from attestation_service import API_KEY, APP_ID, mac, start_service
from ehsm_service import REPEATED
from kms_faults import READ, UPLOAD, Fault, closed_port, faults
from plain_quotes import sgx_quote

MR_ENCLAVE, MR_SIGNER = "a1" * 32, "b2" * 32
POLICY = {"mr_enclave": MR_ENCLAVE, "mr_signer": MR_SIGNER}
NUMBERS = count()


@pytest.fixture
def service(certificates):
    with start_service(certificates) as started:
        yield started


@dataclass
class Got:
    """What came back: an exception's name, or status, headers and body."""

    error: str = ""
    status: int = 0
    headers: dict[str, str] | None = None
    data: bytes = b""

    @property
    def document(self):
        return json.loads(self.data)

    @property
    def result(self):
        return self.document["result"]


def trusting(service):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=service.ca)
    return context


def ask(service, action=UPLOAD, payload=POLICY, body=None, most=1 << 20):
    if body is None:
        body = signed(payload, service.ehsm.now())
    context = trusting(service)
    path = f"/ehsm?Action={action}"
    connection = http.client.HTTPSConnection(
        "127.0.0.1", service.port, timeout=1.0, context=context
    )
    with contextlib.closing(connection):
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            endless = answer.length is None or answer.length > most
            data = answer.read(most) if endless else answer.read()
            return Got("", answer.status, dict(answer.getheaders()), data)
        except (OSError, http.client.HTTPException) as error:
            return Got(type(error).__name__)


def signed(payload, now):
    request = {"appid": APP_ID, "timestamp": str(now), "nonce": f"n{next(NUMBERS)}"}
    request["payload"] = payload
    return json.dumps({**request, "sign": mac(API_KEY, request)})


def struck(service, kind, action=UPLOAD, payload=POLICY, **more):
    """What comes of a request that a fault strikes, after and before which all is well."""
    with faults(service, fault := Fault(kind, action), **more) as plan:
        got = ask(service, action, payload)
    assert (fault.seen, fault.applied, plan.running) == (1, 1, 0)
    return got


def stored(service):
    return len(service.ehsm.policies_of(MR_ENCLAVE))


def test_without_faults_answers_arrive(service):
    with faults(service):
        assert "policyId" in ask(service).result
    assert stored(service) == 1


def test_a_fault_that_never_struck_fails_its_test(service):
    with (
        pytest.raises(AssertionError, match="never struck"),
        faults(service, Fault("lost-after", nth=2)),
    ):
        ask(service)
    # Nor does one count that found nothing to change.
    with pytest.raises(AssertionError, match="never struck"), faults(service, Fault("verdict")):
        ask(service)


@pytest.mark.parametrize(
    ("kind", "action"), [("nonsense", UPLOAD), ("refused", UPLOAD), ("drip", "connect")]
)
def test_a_fault_that_there_is_not_is_refused(kind, action):
    with pytest.raises(ValueError, match=kind):
        Fault(kind, action)


def test_a_fault_strikes_the_requests_it_is_planned_for(service):
    fault = Fault("empty", nth=2, times=2)
    other = Fault("empty", READ)
    with faults(service, fault, other):
        sizes = [len(ask(service).data) for _ in range(5)]
        assert ask(service, READ, {"policyId": "x"}).data == b""
    assert [size > 0 for size in sizes] == [True, False, False, True, True]
    assert (fault.seen, fault.applied, other.seen, other.applied) == (5, 2, 1, 1)
    assert stored(service) == 5


def test_a_reset_before_tls_leaves_no_request(service):
    with faults(service, fault := Fault("refused", "connect")):
        assert ask(service).error == "ConnectionResetError"
        assert ask(service).status == 200
    assert (fault.seen, fault.applied) == (2, 1)
    assert len(service.seen) == 1


def test_a_closed_port_refuses(service):
    with closed_port() as port:
        service.port = port
        assert ask(service).error == "ConnectionRefusedError"


@pytest.mark.parametrize(
    ("kind", "error", "kept"),
    [
        ("lost-before", "ConnectionResetError", 0),
        ("silent-before", "TimeoutError", 0),
        ("lost-after", "ConnectionResetError", 1),
        ("closed-after", "RemoteDisconnected", 1),
        ("silent-after", "TimeoutError", 1),
        ("cut-length", "SSLEOFError", 1),
        ("cut-chunk", "SSLEOFError", 1),
    ],
)
def test_a_lost_answer_is_lost_before_or_after_the_service_stored(service, kind, error, kept):
    found = struck(service, kind).error
    # An end without TLS's own end is an error of its own in some versions of Python alone.
    same = {"SSLEOFError", "IncompleteRead", "RemoteDisconnected", "ConnectionResetError"}
    assert found == error or {found, error} <= same
    assert stored(service) == kept


def test_a_head_can_be_cut(service):
    got = struck(service, "cut-head")
    # Some versions of Python take the end of the connection for the end of the head.
    assert got.data == b""
    assert stored(service) == 1


@pytest.mark.parametrize("kind", ["endless", "huge", "drip"])
def test_an_answer_that_does_not_end_ends_with_its_client(service, kind):
    most = 2 if kind == "drip" else 1 << 20
    with faults(service, fault := Fault(kind)) as plan:
        got = ask(service, most=most)
        assert (got.error, len(got.data)) == ("", most)
    assert most <= fault.sent < kms_faults.ENOUGH
    assert plan.running == 0
    assert stored(service) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_leads_to_a_service_that_would_take_the_request(service, certificates, status):
    body = signed(POLICY, service.ehsm.now())
    fault = Fault(f"redirect-{status}")
    with faults(service, fault, certificates=certificates) as plan:
        got = ask(service, body=body)
        there = f"https://{plan.elsewhere.address}/ehsm?Action=UploadQuotePolicy"
        assert (got.status, got.headers["Location"]) == (status, there)
        assert (plan.elsewhere.seen, stored(service)) == ([], 0)
        assert ask(plan.elsewhere, body=body).status == 200
        assert (len(plan.elsewhere.seen), stored(service)) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "status", "start", "kept"),
    [
        ("gateway", 502, b"<html>", 0),
        ("gateway-after", 504, b"<html>", 1),
        ("html", 200, b"<html>", 1),
        ("not-json", 200, b"policyId: ok", 1),
        ("half-json", 200, b'{"code": 200', 1),
        ("empty", 200, b"", 1),
    ],
)
def test_a_page_or_a_piece_comes_in_place_of_an_answer(service, kind, status, start, kept):
    got = struck(service, kind)
    assert (got.error, got.status, got.data[: len(start)]) == ("", status, start)
    with pytest.raises(ValueError, match=r"line 1|Extra|Expecting"):
        json.loads(got.data)
    assert stored(service) == kept


def test_answers_to_an_upload_are_changed(service):
    assert struck(service, "null-result").result is None
    assert struck(service, "unknown-code").document["code"] == 299
    assert "policyId" not in struck(service, "no-id").result
    assert struck(service, "unknown-id").result["policyId"] not in service.ehsm.policies
    wrong = struck(service, "wrong-id").result["policyId"]
    assert service.ehsm.policies[wrong][1]["mr_enclave"] == "d" * 64
    assert stored(service) == 5


def test_answers_of_two_requests_at_once_are_swapped(service):
    got = {}

    def upload(letter):
        got[letter] = ask(service, payload={"mr_enclave": letter * 64, "mr_signer": "0" * 64})

    with faults(service, fault := Fault("swapped", times=2)):
        threads = [threading.Thread(target=upload, args=letter) for letter in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert fault.applied == 2
    assert service.ehsm.policies_of("a" * 64) == [got["b"].result["policyId"]]
    assert service.ehsm.policies_of("b" * 64) == [got["a"].result["policyId"]]


def test_answers_to_a_reading_are_changed(service):
    policy = {"policyId": service.ehsm.policy(MR_ENCLAVE, MR_SIGNER)}

    def read(kind):
        return struck(service, kind, READ, policy).result

    assert read("bare-policy") == policy
    assert (read("other-enclave")["mr_enclave"], read("other-signer")["mr_signer"]) == (
        "d" * 64,
        "d" * 64,
    )
    upper = read("upper-case")
    assert (upper["mr_enclave"], upper["mr_signer"]) == (MR_ENCLAVE.upper(), MR_SIGNER.upper())
    assert ask(service, READ, policy).result["mr_enclave"] == MR_ENCLAVE


def test_answers_to_a_verification_are_changed(service):
    import base64

    quote = base64.b64encode(sgx_quote(MR_ENCLAVE, MR_SIGNER)).decode()
    payload = {"quote": quote, "nonce": "bm9uY2U="}
    good = ask(service, "VerifyQuote", payload).result

    def verified(kind):
        return struck(service, kind, "VerifyQuote", payload).result

    assert verified("verdict") == {**good, "result": 0xA007}
    assert verified("unsigned") == {"nonce": "bm9uY2U=", "result": 0}
    old = verified("old-nonce")
    assert old["nonce"] != "bm9uY2U="
    assert old["sign"] == mac(API_KEY, {"nonce": old["nonce"]})
    with faults(service, Fault("old-nonce", "VerifyQuote", nth=2)):
        first = ask(service, "VerifyQuote", {**payload, "nonce": "Zmlyc3Q="})
        assert ask(service, "VerifyQuote", payload).result == first.result


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("repeated", {"code": 400, "message": REPEATED, "result": {}}),
        ("clock-ahead", {"code": 400, "message": "Timestamp error", "result": {}}),
        ("clock-behind", {"code": 400, "message": "Timestamp error", "result": {}}),
        ("store-down", {"code": 400, "message": {}, "result": {}}),
        ("unknown-appid", {"code": 400, "result": {}}),
    ],
)
def test_a_service_in_another_state_refuses_once(service, kind, document):
    got = struck(service, kind)
    assert got.document == document
    assert stored(service) == 0
    assert ask(service).document["code"] == 200
    if kind.startswith("clock"):
        minutes = skew(service, got.headers["Date"])
        assert minutes == pytest.approx(11 if kind == "clock-ahead" else -11, abs=0.1)
        assert skew(service, ask(service).headers["Date"]) == pytest.approx(0, abs=0.1)


def skew(service, date):
    from email.utils import parsedate_to_datetime

    return (parsedate_to_datetime(date).timestamp() - service.ehsm.now() / 1000) / 60


def test_a_store_can_lose_or_empty_what_it_took(service):
    lost = struck(service, "lost-write").result
    assert (stored(service), ask(service, READ, lost).result) == (0, lost)
    empty = struck(service, "stored-empty").result
    read = ask(service, READ, empty).result
    assert (stored(service), set(read)) == (0, {"policyId", "createTime"})
    assert service.ehsm.policies == {empty["policyId"]: (APP_ID, {})}


def test_identical_bytes_tell_whether_a_lost_request_was_stored(service):
    """What a client can do about a lost answer, by the contract."""
    for kind, second in (("lost-before", 200), ("lost-after", 400)):
        body = signed(POLICY, service.ehsm.now())
        service.ehsm.policies.clear()
        with faults(service, Fault(kind)):
            assert ask(service, body=body).error
            again = ask(service, body=body)
        assert again.document["code"] == second
        assert stored(service) == 1


def test_bigdls_answers_are_struck_too(service):
    fault = Fault("no-id", "registerPolicy")
    request = {"appID": APP_ID, "apiKey": API_KEY, "policyType": "SGXMREnclavePolicy"}
    body = json.dumps({**request, "mrEnclave": MR_ENCLAVE})
    context = trusting(service)
    found = []
    with faults(service, fault):
        for _ in range(2):
            connection = http.client.HTTPSConnection("127.0.0.1", service.port, context=context)
            with contextlib.closing(connection):
                connection.request("POST", "/registerPolicy", body)
                found.append(json.loads(connection.getresponse().read()))
    assert found[0] == {}
    assert set(found[1]) == {"policyID"}
    assert len(service.bigdl.policies) == 2


def test_every_kind_of_fault_is_tried_here():
    text = Path(__file__).read_text()
    kinds = [kind for kind in kms_faults.KINDS if not kind.startswith("redirect-")]
    assert [kind for kind in kinds if f'"{kind}"' not in text] == []
