"""The wire format of eHSM and the connection to it: golden data, and everything that can break."""

import base64
import contextlib
import hashlib
import json
import math
import socket
import struct
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from attestation_service import (
    API_KEY,
    APP_ID,
    old_certificate,
    sorted_text,
    start_service,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.runtime import ehsm, https, tls
from imagekit.runtime.stop import FAILED, KMS_REFUSED, REFUSED, UNREACHABLE, UNUSABLE, Stop

WHO = ehsm.Credentials(APP_ID, API_KEY)


@pytest.fixture(scope="module")
def vectors():
    from conftest import GOLDEN

    return json.loads((GOLDEN / "ehsm/sign_vectors.json").read_text())


def exchanges():
    from conftest import GOLDEN

    files = (GOLDEN / "ehsm/exchanges").glob("*.json")
    return sorted((json.loads(path.read_text()) for path in files), key=lambda e: e["sequence"])


EXCHANGES = exchanges()
NAMES = [f"{exchange['group']}-{exchange['name']}" for exchange in EXCHANGES]


@pytest.fixture
def service(certificates):
    with start_service(certificates) as started:
        yield started


def place_of(service, **more):
    return tls.Service("ATTESTATION_URL", "127.0.0.1", service.port, ca=service.ca, **more)


def stopped(function, *arguments):
    """The error that a call must end in: one line, and nothing of the key in it."""
    with pytest.raises(Stop) as caught:
        function(*arguments)
    stop = caught.value
    whole = "".join(traceback.format_exception(type(stop), stop, stop.__traceback__))
    assert "\n" not in stop.line
    assert API_KEY not in whole + repr(stop)
    return stop


# -- the canonical text and the sign


def test_requests_are_signed_as_the_services_own_code_signs_them(vectors):
    for vector in vectors["requests"]:
        fields = {"appid": vectors["appid"], "timestamp": vectors["timestamp"]}
        fields |= {key: vector[key] for key in ("nonce", "payload") if key in vector}
        assert ehsm.canonical(fields) == vector["canonical"], vector["name"]
        assert ehsm.sign(vectors["apikey"], fields) == vector["sign"], vector["name"]


def test_answers_signed_by_the_services_own_code_are_recognised(vectors):
    for vector in vectors["responses"]:
        assert ehsm.canonical(vector["result"]) == vector["canonical"], vector["name"]
        assert ehsm.is_signed(vectors["apikey"], {**vector["result"], "sign": vector["sign"]})


def test_a_changed_answer_is_not_signed(vectors):
    for vector in vectors["responses"]:
        good = {**vector["result"], "sign": vector["sign"]}
        bad = [
            {**good, "sign": good["sign"].lower()},
            {**good, "sign": good["sign"] + "="},
            {**good, "sign": None},
            {**good, "nonce": "AAAA"},
            {**good, "mr_enclave": "0" * 64},
            {**good, "result": 40961},
            {**good, "result": "0"},
            {**good, "result": math.inf},
            {**good, "more": "x"},
            {**good, "more": "\ud800"},
            {key: value for key, value in good.items() if key != "sign"},
            {key: value for key, value in good.items() if key != "nonce"},
        ]
        assert [answer for answer in bad if ehsm.is_signed(vectors["apikey"], answer)] == []
        assert not ehsm.is_signed("another key", good)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"), (-1, "-1"), (1.5, "1.5"), (0.1, "0.1"), (1e-6, "0.000001"), (1e-7, "1e-7"),
        (1.25e-7, "1.25e-7"), (1e20, "100000000000000000000"), (1e21, "1e+21"),
        (123456789012345680000, "123456789012345680000"), (2**53 + 1, "9007199254740992"),
        (1.7976931348623157e308, "1.7976931348623157e+308"), (5e-324, "5e-324"),
        (10**25 + 1, "1e+25"), (-2.5e22, "-2.5e+22"), (True, "true"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_javascript_does(value, text):
    assert ehsm.canonical({"n": value}) == f"n={text}"


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: number != 0))
def test_every_number_reads_back_as_itself(number):
    written = ehsm.canonical({"n": number})[2:]
    assert float(written) == number
    assert len(written.strip("-")) <= 25


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | TEXTS | st.integers(-(2**53), 2**53) | st.just(-0.0),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_any_document_is_written_as_the_test_service_writes_it(fields):
    assert ehsm.canonical(fields) == sorted_text(fields)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_a_number_that_json_has_not_is_an_error(value):
    with pytest.raises(ValueError, match="number"):
        ehsm.canonical({"n": value})


# -- requests


def test_a_request_has_a_fresh_random_nonce_and_the_time_in_milliseconds():
    made = [json.loads(ehsm.signed_request(WHO, {"a": "b"})) for _ in range(3)]
    nonces = {request["nonce"] for request in made}
    assert len(nonces) == 3
    assert all(len(base64.b64decode(nonce, validate=True)) == 32 for nonce in nonces)
    assert all(len(nonce) <= 64 for nonce in nonces)
    for request in made:
        assert len(request["timestamp"]) == 13
        assert abs(int(request["timestamp"]) / 1000 - time.time()) < 60
        assert set(request) == {"appid", "nonce", "timestamp", "payload", "sign"}
    assert "payload" not in json.loads(ehsm.signed_request(WHO))


@pytest.mark.parametrize("milliseconds", [0, 999_999_999_999, 10**13, -1])
def test_a_clock_that_was_never_set_is_said(milliseconds):
    stop = stopped(lambda: ehsm.signed_request(WHO, None, None, milliseconds))
    assert (stop.code, "clock" in stop.line) == (UNUSABLE, True)


def test_credentials_do_not_show_the_key():
    assert API_KEY not in f"{WHO!r} {WHO}"


def test_requests_in_one_millisecond_are_both_taken(service):
    for _ in range(2):
        body = ehsm.signed_request(WHO, None, None, service.ehsm.now() // 1000 * 1000)
        answer = https.ask(place_of(service), ehsm.target("UploadQuotePolicy"), body)
        assert "policyId" in ehsm.read_result("UploadQuotePolicy", answer)


def test_the_same_bytes_sent_again_are_known_as_a_repetition(service):
    body = ehsm.signed_request(WHO)
    https.ask(place_of(service), ehsm.target("UploadQuotePolicy"), body)
    answer = https.ask(place_of(service), ehsm.target("UploadQuotePolicy"), body)
    stop = stopped(ehsm.read_result, "UploadQuotePolicy", answer)
    assert (type(stop), "repeated" in stop.line) == (ehsm.Refusal, True)


# -- answers, as the real service gave them


def recorded(exchange):
    response = exchange["response"]
    if "json" in response:
        return https.Answer(response["status"], json.dumps(response["json"]).encode(), "")
    return https.Answer(response["status"], b"<!DOCTYPE html><html></html>", "")


@pytest.mark.parametrize("exchange", EXCHANGES, ids=NAMES)
def test_recorded_answers_are_judged_by_their_code(exchange):
    document = exchange["response"].get("json")
    if document is not None and document["code"] == 200:
        assert ehsm.read_result("X", recorded(exchange)) == document["result"]
        return
    stop = stopped(ehsm.read_result, "X", recorded(exchange))
    if document is None:
        assert (stop.code, "no eHSM" in stop.line) == (UNREACHABLE, True)
        return
    assert (stop.code, stop.answer_code) == (KMS_REFUSED, document["code"])
    message = document.get("message")
    other = "" if "message" in document else None
    assert stop.message == (message if isinstance(message, str) else other)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("auth-wrong-apikey", "API key"),
        ("auth-unknown-appid-no-message-field", "does not know this APP_ID"),
        ("auth-timestamp-11min-old", "clock"),
        ("auth-repeat-timestamp-second", "repeated"),
        ("auth-unknown-action-signed", "does not know this action"),
        ("edge-db-down-upload", "store does not work"),
        ("quote-verify-policy-mismatch", "PCCS"),
        ("quote-verify-unknown-policy", "policy id"),
        ("quote-verify-bad-base64", "parameter"),
    ],
)
def test_refusals_say_why(name, words):
    stop = stopped(ehsm.read_result, "X", recorded(EXCHANGES[NAMES.index(name)]))
    assert words in stop.line


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"200", b"{}", b'{"code":"200","result":{}}', b"<html>", b"\xff\xfe",
        b'{"code":true,"result":{}}', b'{"code":200.0,"result":{}}', b'{"code":200,"result":{}',
        b'{"code":200,"code":200,"result":{}}', b"[" * 100_000, b'{"code":' + b"9" * 5000 + b"}",
        b'{"code":200,"result":{"result":NaN}}',
    ],
)  # fmt: skip
def test_what_is_no_answer_is_no_success(body):
    stop = stopped(ehsm.read_result, "X", https.Answer(200, body, ""))
    assert (stop.code, "no eHSM" in stop.line) == (UNREACHABLE, True)


@pytest.mark.parametrize("result", ["null", "[]", '"x"', "1", "true"])
def test_a_success_without_a_result_is_a_failure(result):
    body = f'{{"code":200,"message":"success!","result":{result}}}'.encode()
    assert stopped(ehsm.read_result, "X", https.Answer(200, body, "")).code == FAILED


@given(st.text() | st.binary())
@settings(max_examples=300)
def test_text_of_the_service_never_gets_into_the_line(message):
    if isinstance(message, bytes):
        message = message.decode("latin-1")
    body = json.dumps({"code": 400, "message": f"<{message}>", "result": {}}).encode()
    stop = stopped(ehsm.read_result, "X", https.Answer(200, body, ""))
    assert stop.line == "X: refused by the service: it gives no reason that is known here"


@given(st.binary() | st.text().map(str.encode) | VALUES.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_document_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        ehsm.parse_json(data)


# -- connections: who is trusted


def version(where):
    """Ask for something harmless; the HTTP status."""
    return https.ask(where, ehsm.target("GetVersion"), None).status


def test_a_service_is_known_by_its_ca(service):
    assert version(place_of(service)) == 200


def test_no_ca_means_the_systems_and_a_self_made_one_is_not_among_them(service):
    where = place_of(service)._replace(ca="")
    stop = stopped(version, where)
    assert (stop.code, "certificate is refused" in stop.line) == (UNREACHABLE, True)
    assert service.seen == []


def test_a_ca_can_be_a_file(service, tmp_path):
    (tmp_path / "ca.pem").write_text(service.ca)
    assert version(place_of(service)._replace(ca=str(tmp_path / "ca.pem"))) == 200


@pytest.mark.parametrize("content", [None, b"", b"no PEM", b"\xff\xfe", b"x" * (2 << 20)])
def test_an_unusable_ca_is_never_no_ca(service, tmp_path, content):
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    where = place_of(service)._replace(ca=str(tmp_path / "ca.pem"))
    assert stopped(version, where).code == UNUSABLE
    assert service.seen == []


def test_pem_text_without_a_certificate_is_refused(service):
    text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert stopped(version, place_of(service)._replace(ca=text)).code == UNUSABLE


def test_another_ca_is_refused(service, tmp_path):
    where = place_of(service)._replace(ca=old_certificate(tmp_path).cert.read_text())
    assert "issuer" in stopped(version, where).line
    assert service.seen == []


def test_a_pin_alone_is_enough(service):
    assert version(place_of(service, pin=bytes.fromhex(service.pin))._replace(ca="")) == 200


def test_a_wrong_pin_is_refused_before_anything_is_sent(service):
    for pin in (bytes(32), hashlib.sha256(b"").digest(), bytes.fromhex(service.pin)[::-1]):
        for ca in ("", service.ca):
            stop = stopped(version, place_of(service, pin=pin)._replace(ca=ca))
            assert (stop.code, "pinned" in stop.line) == (UNREACHABLE, True)
    assert service.seen == []


def test_with_a_ca_and_a_pin_both_must_hold(service, tmp_path):
    pin = bytes.fromhex(service.pin)
    assert version(place_of(service, pin=pin)) == 200
    other = old_certificate(tmp_path).cert.read_text()
    assert "issuer" in stopped(version, place_of(service, pin=pin)._replace(ca=other)).line


def test_a_certificate_for_another_name_is_refused_unless_that_name_is_given(certificates):
    named = replace(certificates, cert=certificates.wrong_name, key=certificates.wrong_name)
    with start_service(named) as service:
        assert "IP address" in stopped(version, place_of(service)).line
        where = place_of(service)._replace(host="localhost")
        assert "another name" in stopped(version, where).line
        assert service.seen == []
        assert version(place_of(service, server_name="registry.example")) == 200


def test_an_expired_certificate_is_refused_unless_it_is_pinned(certificates):
    expired = replace(certificates, cert=certificates.expired, key=certificates.expired)
    with start_service(expired) as service:
        assert "expired" in stopped(version, place_of(service)).line
        assert version(place_of(service, pin=bytes.fromhex(service.pin))._replace(ca="")) == 200


def test_the_services_own_version_1_certificate_works_pinned_or_as_ca_with_its_name(tmp_path):
    with start_service(old_certificate(tmp_path)) as service:
        assert version(place_of(service, pin=bytes.fromhex(service.pin))._replace(ca="")) == 200
        assert version(place_of(service, server_name="ehsm")) == 200
        assert "IP address" in stopped(version, place_of(service)).line
        assert stopped(version, place_of(service)._replace(ca="")).code == UNREACHABLE


def test_the_recorded_certificate_of_the_real_service_is_taken_as_ca():
    from conftest import GOLDEN

    text = (GOLDEN / "ehsm/server_cert.pem").read_text()
    where = tls.Service("X", "127.0.0.1", 1, server_name="ehsm", ca=text)
    assert tls.context(where).cert_store_stats()["x509"] == 1


def test_no_context_takes_less_than_tls_1_2_and_only_a_pin_does_without_a_chain(service):
    import ssl

    plain = place_of(service)
    for where, mode in (
        (plain, ssl.CERT_REQUIRED),
        (plain._replace(ca=""), ssl.CERT_REQUIRED),
        (plain._replace(pin=bytes(32)), ssl.CERT_REQUIRED),
        (plain._replace(ca="", pin=bytes(32)), ssl.CERT_NONE),
    ):
        made = tls.context(where)
        assert made.minimum_version == ssl.TLSVersion.TLSv1_2
        assert (made.verify_mode, made.check_hostname) == (mode, mode == ssl.CERT_REQUIRED)


def test_proxies_of_the_environment_are_not_asked(service, monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert version(place_of(service)) == 200


# -- connections: what comes back


def give(status, data, media="text/html", **headers):
    return lambda handler: handler.give(status, data, media, headers)


def raw(*parts, pause=0.0):
    """Writes bytes as they are, with pauses, and ends the connection."""

    def instead(handler):
        handler.close_connection = True
        with contextlib.suppress(OSError):
            for part in parts:
                handler.wfile.write(part)
                handler.wfile.flush()
                time.sleep(pause)

    return instead


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(service, status):
    there = f"https://{service.address}/elsewhere"
    service.instead = give(status, b"", Location=there)
    stop = stopped(https.ask, place_of(service), "/ehsm?Action=X", b"{}")
    assert (stop.code, "redirect" in stop.line, type(stop)) == (UNREACHABLE, True, Stop)
    assert [path for path, _ in service.seen] == ["/ehsm?Action=X"]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
GOOD = b'{"code":200,"message":"success!","result":{}}'


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"HTTP/1.1 200"],
        [HEAD],
        [HEAD + b"\r\n" + GOOD],
        [HEAD + b"Content-Length: 100\r\n\r\n" + GOOD],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n2d\r\n" + GOOD + b"\r\n"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + GOOD],
        [b"SSH-2.0-OpenSSH\r\n"],
        [HEAD + b"X: y\r\n" * 1000 + b"\r\n" + GOOD],
        [HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n" + GOOD],
    ],
    ids=[
        "nothing",
        "status",
        "head",
        "no end",
        "cut",
        "chunks",
        "chunk",
        "ssh",
        "headers",
        "header",
    ],
)
def test_an_answer_that_is_not_whole_is_lost(service, parts):
    service.instead = raw(*parts)
    stop = stopped(https.ask, place_of(service), "/ehsm?Action=X", b"{}")
    assert (stop.code, type(stop)) == (UNREACHABLE, https.Lost)


def test_an_answer_in_chunks_is_read(service):
    service.instead = raw(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2d\r\n" + GOOD + b"\r\n0\r\n\r\n"
    )
    assert https.ask(place_of(service), "/ehsm?Action=X", b"{}").body == GOOD


def test_an_answer_whose_end_is_the_announced_end_of_the_connection_is_read(service):
    def instead(handler):
        raw(HEAD + b"\r\n" + GOOD)(handler)
        handler.connection.unwrap()

    service.instead = instead
    assert https.ask(place_of(service), "/ehsm?Action=X", b"{}").body == GOOD


def test_fewer_bytes_than_were_announced_are_no_answer_however_the_connection_ends(service):
    def instead(handler):
        raw(HEAD + b"Content-Length: 46\r\n\r\n" + GOOD)(handler)
        handler.connection.unwrap()

    service.instead = instead
    stop = stopped(https.ask, place_of(service), "/ehsm?Action=X", b"{}")
    assert (stop.code, "not whole" in stop.line) == (UNREACHABLE, True)


def test_an_enormous_answer_is_not_read(service):
    def instead(handler):
        handler.close_connection = True
        handler.wfile.write(HEAD + b"\r\n")
        with contextlib.suppress(OSError):
            for _ in range(1000):
                handler.wfile.write(bytes(1 << 20))
            service.seen.append(("all of it was read", b""))

    service.instead = instead
    stop = stopped(https.ask, place_of(service), "/ehsm?Action=X", b"{}")
    assert (stop.code, "longer than" in stop.line) == (UNREACHABLE, True)
    assert len(service.seen) == 1


@pytest.mark.parametrize(
    ("parts", "pause"),
    [
        ([b""], 30.0),
        ([HEAD], 30.0),
        ([HEAD + b"Content-Length: 45\r\n\r\n", *([b" "] * 100)], 0.2),
        ([bytes([letter]) for letter in HEAD * 9], 0.2),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"] * 100, 0.2),
    ],
    ids=["silent", "after the head", "dripping body", "dripping head", "continue"],
)
def test_a_slow_service_is_left_at_the_time_limit_however_it_is_slow(service, parts, pause):
    done = threading.Event()
    service.instead = lambda handler: slow(handler, parts, pause, done)
    begun = time.monotonic()
    stop = stopped(https.ask, place_of(service, limit=1.0), "/ehsm?Action=X", b"{}")
    took = time.monotonic() - begun
    done.set()
    assert (stop.code, "time limit" in stop.line) == (UNREACHABLE, True)
    assert 0.9 < took < 5


def slow(handler, parts, pause, done):
    handler.close_connection = True
    with contextlib.suppress(OSError):
        for part in parts:
            handler.wfile.write(part)
            handler.wfile.flush()
            if done.wait(pause):
                return


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def where(port, host="127.0.0.1", limit=1.0):
    return tls.Service("ATTESTATION_URL", host, port, pin=bytes(32), limit=limit)


def test_a_service_that_never_shakes_hands_is_left_at_the_time_limit(listener):
    begun = time.monotonic()
    stop = stopped(version, where(listener.getsockname()[1]))
    assert (stop.code, "time limit" in stop.line) == (UNREACHABLE, True)
    assert time.monotonic() - begun < 5


def test_a_resolver_that_takes_for_ever_is_left_at_the_time_limit(monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: done.wait(30))
    begun = time.monotonic()
    stop = stopped(version, where(1, "kms.example"))
    done.set()
    assert (stop.code, "time limit" in stop.line) == (UNREACHABLE, True)
    assert time.monotonic() - begun < 5


def test_plain_http_is_no_service(listener):
    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    worker = threading.Thread(target=answer)
    worker.start()
    stop = stopped(version, where(listener.getsockname()[1], limit=10.0))
    worker.join()
    assert (stop.code, "TLS handshake" in stop.line) == (UNREACHABLE, True)


def test_nobody_there_is_said(listener):
    port = listener.getsockname()[1]
    listener.close()
    stop = stopped(version, where(port))
    assert (stop.code, "refused" in stop.line) == (UNREACHABLE, True)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "a..b"])
def test_a_name_that_cannot_be_resolved_is_said(host, monkeypatch):
    real = socket.getaddrinfo

    def offline(name, *more):
        if name.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(name, *more)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    stop = stopped(version, where(1, host, limit=10.0))
    assert (stop.code, "resolved" in stop.line) == (UNREACHABLE, True)


def test_a_failed_connection_leaves_no_socket_open(service):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        stopped(version, place_of(service, pin=bytes(32)))
        stopped(version, place_of(service)._replace(ca=""))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


# -- addresses and pins


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.1:9000", ("10.0.0.1", 9000)),
        ("https://kms.example:9000", ("kms.example", 9000)),
        ("HTTPS://kms.example:9000/", ("kms.example", 9000)),
        ("[::1]:9000", ("::1", 9000)),
        ("bigdl-ehsm_kms:1", ("bigdl-ehsm_kms", 1)),
    ],
)
def test_addresses_are_read_with_and_without_a_scheme(text, found):
    assert tls.parse_address("U", text) == found


def test_a_port_can_be_given_apart():
    assert tls.parse_address("U", "kms", "9000") == ("kms", 9000)
    assert tls.parse_address("U", "kms:1", "9000") == ("kms", 1)


@pytest.mark.parametrize(
    "text",
    [
        "", "kms", "http://kms:9000", "ftp://kms:1", "kms:0", "kms:65536", "kms:x", "kms:9000/ehsm",
        "user:pw@kms:9000", "kms:9000?x", "::1:9000", "kms:9000\r\nX: y", "-kms:1", "https://:1",
        "kms:٩", "kms :1", "http://kms:443@evil:1",
    ],
)  # fmt: skip
def test_what_is_no_https_address_is_refused(text):
    assert stopped(tls.parse_address, "ATTESTATION_URL", text).code == REFUSED


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused_and_never_repeated(text):
    try:
        host, port = tls.parse_address("U", text)
    except Stop as stop:
        assert stop.code == REFUSED
        assert len(text) < 8 or text not in stop.line
    else:
        assert 0 < port < 65536
        assert all(letter.isalnum() or letter in "._-:" for letter in host)


def test_pins_are_read_as_openssl_writes_them():
    digits = hashlib.sha256(b"x").hexdigest()
    pairs = ":".join(digits[i : i + 2] for i in range(0, 64, 2)).upper()
    assert tls.parse_pin("P", digits) == tls.parse_pin("P", pairs) == bytes.fromhex(digits)


@pytest.mark.parametrize("text", ["", "00", "0" * 63, "0" * 65, "g" * 64, "0" * 40, " " + "0" * 64])
def test_what_is_no_pin_is_refused(text):
    assert stopped(tls.parse_pin, "P", text).code == REFUSED


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_the_json_of_a_request(number):
    body = json.loads(ehsm.signed_request(WHO, {"n": number}, "n", 1_700_000_000_000))
    assert struct.pack("d", body["payload"]["n"]) == struct.pack("d", number)
