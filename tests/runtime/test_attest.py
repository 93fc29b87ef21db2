"""Attestation at start: what it proves, and that nothing but a proof is a success."""

import ast
import base64
import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import pytest
from attestation_service import API_KEY, APP_ID, mac, old_certificate, start_service
from enclave_devices import *  # noqa: F403 - fixtures
from enclave_devices import DIRECT, MR_ENCLAVE, MR_SIGNER, NATIVELY, sgx_quote, td_quote
from hypothesis import given
from hypothesis import strategies as st

from imagekit.runtime import attest, quote, settings, verifiers
from imagekit.runtime.launch import Attestation, launch_spec, parse_launch
from imagekit.runtime.stop import FAILED, KMS_REFUSED, REFUSED, UNREACHABLE, UNUSABLE, Stop

SUCCESS = "Attestation Success!\n"
FAILURE = "Attestation Fail! Application killed!\n"
RUNTIME = Path(attest.__file__).parent
MODULES = ("attest", "canary", "ehsm", "https", "quote", "settings", "storage", "tls", "verifiers")


def spec_of(profile="strict", required=False, **sealed):
    more = {"profile": profile, "attestation": {"required": required, "settings": sealed}}
    return parse_launch(launch_spec(**more))


class Outcome(NamedTuple):
    """How an attestation ended: exit code (0 for a success), the line, stderr."""

    code: int
    line: str
    notes: str


@pytest.fixture
def service(certificates):
    with start_service(certificates) as started:
        yield started


@pytest.fixture
def policy(service):
    return service.ehsm.policy(MR_ENCLAVE, MR_SIGNER)


@pytest.fixture
def env(service, policy):
    """A start that succeeds."""
    return {
        "ATTESTATION": "true",
        "ATTESTATION_URL": service.address,
        "APP_ID": APP_ID,
        "API_KEY": API_KEY,
        "ATTESTATION_POLICYID": policy,
        "ATTESTATION_CA": service.ca,
        "ATTESTATION_TIMEOUT": "20",
    }


@pytest.fixture
def outcome(capfd, gramine):
    """Attests; whatever happens, stdout has one of two lines and the API key is nowhere."""

    def run(env, spec=None, place=None, devices=None):
        code, line, shown = 0, "", ""
        arguments = (spec or spec_of(), env, place or gramine.place())
        try:
            attest.attest(*arguments, *([devices] if devices else []))
        except Stop as stop:
            code, line = stop.code, stop.line
            shown = "".join(traceback.format_exception(type(stop), stop, stop.__traceback__))
        out, err = capfd.readouterr()
        assert out == (FAILURE if code else SUCCESS)
        assert "\n" not in line
        assert bool(code) == bool(line)
        assert API_KEY not in out + err + shown
        return Outcome(code, line, err)

    return run


# -- whether


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "1", "yes", "Yes", "on"])
def test_words_for_yes_turn_it_on(word):
    assert settings.wanted({"ATTESTATION": word}, Attestation(False, {})) is True


@pytest.mark.parametrize("word", ["false", "False", "0", "no", "off", "OFF"])
def test_words_for_no_leave_it_off_unless_the_image_demands_it(word):
    assert settings.wanted({"ATTESTATION": word}, Attestation(False, {})) is False
    assert settings.wanted({"ATTESTATION": word}, Attestation(True, {})) is True
    assert settings.wanted({"ATTESTATION": word}, Attestation(False, {"ATTESTATION": "1"})) is True


def test_without_a_word_the_image_decides():
    assert settings.wanted({}, Attestation(False, {})) is False
    assert settings.wanted({}, Attestation(True, {})) is True
    assert settings.wanted({}, Attestation(False, {"ATTESTATION": "true"})) is True


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("word", ["", "ture", "2", "enabled", "true;", "ja", "0x1", "null"])
def test_any_other_word_is_an_error_and_never_an_off(word, required):
    with pytest.raises(Stop) as caught:
        settings.wanted({"ATTESTATION": word}, Attestation(required, {}))
    assert caught.value.code == REFUSED
    assert not word or word not in caught.value.line.replace("true", "")


# -- the good case


def test_a_quote_that_the_service_vouches_for_is_a_success(env, outcome, service, policy):
    assert outcome(env).code == 0
    (path, body), *rest = service.seen
    payload = json.loads(body)["payload"]
    assert (path, rest) == ("/ehsm?Action=VerifyQuote", [])
    assert payload["policyId"] == policy
    assert set(payload) == {"quote", "nonce", "policyId"}


def test_each_start_has_a_fresh_nonce_to_which_the_quote_is_bound(env, outcome, service):
    env |= {"CHALLENGE": "cHBtbAo=", "REPORT_DATA": "job 7"}
    seen = set()
    for _ in range(3):
        assert outcome(env).code == 0
        payload = json.loads(service.seen[-1][1])["payload"]
        nonce = base64.b64decode(payload["nonce"])
        # As a verifier outside computes it, from the description alone.
        bound = b"imagekit report data 1\0"
        for part in (nonce, b"cHBtbAo=", b"job 7"):
            bound += len(part).to_bytes(4, "big") + part
        wanted = hashlib.sha256(bound).digest() + bytes(32)
        assert base64.b64decode(payload["quote"])[368:432] == wanted
        seen.add(nonce)
    assert {len(nonce) for nonce in seen} == {32}
    assert len(seen) == 3


@given(*[st.tuples(st.binary(min_size=32, max_size=32), st.text(), st.text())] * 2)
def test_different_questions_have_different_report_data(one, other):
    assert (attest.report_data(*one) == attest.report_data(*other)) == (one == other)
    assert len(attest.report_data(*one)) == 64


def test_moving_text_between_challenge_and_report_data_changes_it():
    nonce = bytes(32)
    made = {attest.report_data(nonce, *pair) for pair in (("ab", ""), ("a", "b"), ("", "ab"))}
    assert len(made) == 3


def test_bigdls_names_for_the_challenge_are_one(env, outcome):
    assert outcome(env | {"ATTESTATION_CHALLENGE": "x"}).code == 0
    assert outcome(env | {"CHALLENGE": "x", "ATTESTATION_CHALLENGE": "x"}).code == 0
    both = outcome(env | {"CHALLENGE": "x", "ATTESTATION_CHALLENGE": "y"})
    assert (both.code, "differ" in both.line) == (REFUSED, True)


def test_an_address_may_have_its_scheme(env, outcome, service):
    assert outcome(env | {"ATTESTATION_URL": f"https://{service.address}/"}).code == 0


# -- answers that do not prove it


def changed(**fields):
    """Changes the result in flight, by somebody without the API key."""

    def change(reply):
        reply["result"].update(fields)
        return {**reply, "result": {k: v for k, v in reply["result"].items() if v is not ...}}

    return change


def signed_anew(**fields):
    """An answer of a service that knows the key, and answers something else."""

    def change(reply):
        result = {**reply["result"], **fields}
        result = {k: v for k, v in result.items() if v is not ... and k != "sign"}
        return {**reply, "result": {**result, "sign": mac(API_KEY, result)}}

    return change


OLD_NONCE = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(nonce=OLD_NONCE), "not signed"),
        (changed(mr_enclave="0" * 64), "not signed"),
        (changed(sign=...), "not signed"),
        (changed(sign=""), "not signed"),
        (changed(sign="A" * 44), "not signed"),
        (changed(result=40961), "not signed"),
        (changed(mr_enclave=..., mr_signer=...), "not signed"),
        (signed_anew(nonce=OLD_NONCE), "nonce is not ours"),
        (signed_anew(nonce="test"), "nonce is not ours"),
        (signed_anew(nonce=...), "nonce is not ours"),
        (signed_anew(nonce=None), "nonce is not ours"),
        (signed_anew(mr_enclave=...), "policy is empty"),
        (signed_anew(mr_signer=...), "policy is empty"),
        (signed_anew(mr_enclave="0" * 64), "another mr_enclave"),
        (signed_anew(mr_signer=MR_ENCLAVE), "another mr_signer"),
        (signed_anew(mr_enclave=MR_ENCLAVE.upper()), "another mr_enclave"),
        (signed_anew(result=...), "no result"),
        (signed_anew(result=None), "no result"),
        (signed_anew(result=False), "no result"),
        (signed_anew(result=True), "no result"),
        (signed_anew(result="0"), "no result"),
        (signed_anew(result=0.0), "no result"),
        (signed_anew(result=1), "not known"),
        (signed_anew(result=-1), "not known"),
        (signed_anew(result=0xA000), "not known"),
        (signed_anew(result=0xA001), "configuration needed"),
        (signed_anew(result=0xA004), "invalid signature"),
        (signed_anew(result=0xA005), "revoked"),
    ],
)
def test_an_answer_that_does_not_stand_up_is_a_failure(env, outcome, service, change, words):
    service.change = change
    ended = outcome(env)
    assert (ended.code, words in ended.line) == (FAILED, True), ended


def test_an_answer_to_an_earlier_start_is_a_failure(env, outcome, service):
    kept = []
    service.change = lambda reply: kept.append(reply) or reply
    assert outcome(env).code == 0
    service.change = lambda reply: kept[0]
    assert "nonce" in outcome(env).line


def test_an_empty_policy_which_accepts_any_enclave_is_a_failure(env, outcome, service):
    policy = service.ehsm.do_UploadQuotePolicy(APP_ID, {})["policyId"]
    ended = outcome(env | {"ATTESTATION_POLICYID": policy})
    assert (ended.code, "policy is empty" in ended.line) == (FAILED, True)


@pytest.mark.parametrize("verdict", sorted(verifiers.VERDICTS))
def test_a_verdict_other_than_ok_is_accepted_only_if_it_is_named(env, outcome, service, verdict):
    service.ehsm.verdict = verdict
    assert outcome(env, spec_of("compat")).code == FAILED
    named = outcome(env | {"ATTESTATION_ACCEPT": f"{verdict:#x}"}, spec_of("compat"))
    if verdict in verifiers.ACCEPTABLE:
        assert (named.code, "accepted although" in named.notes) == (0, True)
    else:
        assert (named.code, "only these" in named.line) == (REFUSED, True)
    service.ehsm.verdict = 0xA007 if verdict == 0xA008 else 0xA008
    if verdict in verifiers.ACCEPTABLE:
        assert outcome(env | {"ATTESTATION_ACCEPT": hex(verdict)}, spec_of("compat")).code == FAILED


def test_under_strict_the_image_alone_names_verdicts(env, outcome, service):
    service.ehsm.verdict = 0xA001
    ended = outcome(env | {"ATTESTATION_ACCEPT": "0xa001"})
    assert (ended.code, "ATTESTATION_ACCEPT" in ended.line) == (REFUSED, True)
    sealed = spec_of(ATTESTATION_ACCEPT="0xa001,0xA008")
    assert outcome(env, sealed).code == 0
    assert outcome(env | {"ATTESTATION_ACCEPT": "0xa001,0xa002"}, sealed).code == REFUSED


@pytest.mark.parametrize("text", ["a001", "0xa001,", "all", "0", "40961", "0xa001 0xa008", "*"])
def test_a_malformed_list_of_verdicts_is_refused(env, outcome, text):
    ended = outcome(env | {"ATTESTATION_ACCEPT": text}, spec_of("compat"))
    assert ended.code == REFUSED


# -- refusals of the service


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"API_KEY": API_KEY[::-1]}, "API key"),
        ({"APP_ID": "00000000-0000-4000-8000-000000000000"}, "APP_ID"),
        ({"ATTESTATION_POLICYID": "15ca0dd5-2d34-4221-a708-3171ffe60001"}, "policy id"),
        ({"ATTESTATION_POLICYID": "15CA0DD5-2D34-4221-A708-3171FFE60001"}, "parameter"),
    ],
)
def test_what_the_service_refuses_is_said(env, outcome, more, words):
    ended = outcome(env | more)
    assert (ended.code, words in ended.line) == (KMS_REFUSED, True), ended


def test_another_enclave_than_the_policys_is_refused(env, outcome, gramine):
    for wrong in ({"mr_enclave": "00" * 32}, {"mr_signer": "00" * 32}):
        gramine.make = lambda data, wrong=wrong: sgx_quote(data, **wrong)
        ended = outcome(env)
        assert (ended.code, "other measurements" in ended.line) == (KMS_REFUSED, True)


def test_a_clock_that_is_wrong_is_said(env, outcome, service):
    service.ehsm.now = lambda: time.time_ns() // 1_000_000 - 11 * 60_000
    assert "clock" in outcome(env).line


def test_a_store_that_is_down_is_said(env, outcome, service):
    service.ehsm.store_works = False
    assert "store" in outcome(env).line


def recorded_answers():
    from conftest import GOLDEN

    for path in sorted((GOLDEN / "ehsm/exchanges").glob("*.json")):
        reply = json.loads(path.read_text())["response"].get("json")
        if reply is not None:
            yield pytest.param(reply, id=path.stem)


@pytest.mark.parametrize("reply", list(recorded_answers()))
def test_no_recorded_answer_is_a_success(env, outcome, service, reply):
    service.change = lambda _: reply
    code = FAILED if reply["code"] == 200 else KMS_REFUSED
    assert outcome(env).code == code


# -- no answer


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>502 Bad Gateway</html>", b'{"code":200,"result":{"result":0', b"null", b"\0"],
)
def test_what_is_no_answer_is_no_success(env, outcome, service, data):
    service.change = lambda _: data
    assert outcome(env).code == UNREACHABLE


@pytest.mark.parametrize("status", [301, 307, 404, 413, 500, 502])
def test_http_errors_and_redirects_are_no_success(env, outcome, service, status):
    page, there = b"<html></html>", {"Location": f"https://{service.address}/ehsm"}
    service.instead = lambda handler: handler.give(status, page, "text/html", there)
    assert outcome(env).code == UNREACHABLE
    assert len(service.seen) == 1


def test_a_service_that_does_not_answer_ends_at_the_time_limit(env, outcome, service):
    done = threading.Event()
    service.instead = lambda _: done.wait(30)
    begun = time.monotonic()
    ended = outcome(env | {"ATTESTATION_TIMEOUT": "1"})
    took = time.monotonic() - begun
    done.set()
    assert (ended.code, "time limit" in ended.line) == (UNREACHABLE, True)
    assert 0.9 < took < 5


def test_nobody_at_the_address_is_said(env, outcome):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ended = outcome(env | {"ATTESTATION_URL": f"127.0.0.1:{port}"})
    assert (ended.code, "ATTESTATION_URL" in ended.line) == (UNREACHABLE, True)


# -- who the service is


def test_another_service_under_its_address_gets_nothing(env, outcome, service, tmp_path):
    other = old_certificate(tmp_path / "other").cert.read_text()
    wrong_pin = {"ATTESTATION_PIN_SHA256": "00" * 32}
    for more in (wrong_pin, {"ATTESTATION_CA": other}, {"ATTESTATION_SERVER_NAME": "ehsm"}):
        assert outcome(env | more).code == UNREACHABLE
    without = {name: value for name, value in env.items() if name != "ATTESTATION_CA"}
    assert outcome(without).code == UNREACHABLE
    assert outcome(without | wrong_pin).code == UNREACHABLE
    assert service.seen == []


def test_a_service_with_its_own_certificate_is_known_by_its_pin(env, outcome, tmp_path):
    with start_service(old_certificate(tmp_path / "own")) as service:
        service.ehsm.policies[env["ATTESTATION_POLICYID"]] = (
            APP_ID,
            {"mr_enclave": MR_ENCLAVE, "mr_signer": MR_SIGNER},
        )
        env |= {"ATTESTATION_URL": service.address, "ATTESTATION_PIN_SHA256": service.pin}
        del env["ATTESTATION_CA"]
        assert outcome(env).code == 0
        env |= {"ATTESTATION_PIN_SHA256": ":".join(re.findall("..", service.pin.upper()))}
        assert outcome(env).code == 0


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"ATTESTATION_URL": "http://127.0.0.1:9000"}, REFUSED),
        ({"ATTESTATION_URL": "127.0.0.1"}, REFUSED),
        ({"ATTESTATION_URL": "kms:9000/\r\nX: y"}, REFUSED),
        ({"ATTESTATION_CA": "/nonexistent/ca.pem"}, UNUSABLE),
        ({"ATTESTATION_CA": ""}, REFUSED),
        ({"ATTESTATION_PIN_SHA256": ""}, REFUSED),
        ({"ATTESTATION_PIN_SHA256": "00"}, REFUSED),
        ({"ATTESTATION_SERVER_NAME": ""}, REFUSED),
        ({"ATTESTATION_POLICYID": ""}, REFUSED),
        ({"ATTESTATION_TIMEOUT": "0"}, REFUSED),
        ({"ATTESTATION_TIMEOUT": "1e9"}, REFUSED),
        ({"ATTESTATION_TYPE": "DummyAttestationService"}, REFUSED),
        ({"ATTESTATION_TYPE": "AzureAttestationService"}, REFUSED),
        ({"ATTESTATION_TYPE": "AmberAttestationService"}, REFUSED),
        ({"ATTESTATION_TYPE": "Other"}, REFUSED),
        ({"QUOTE_TYPE": "none"}, REFUSED),
        ({"API_KEY": "two words"}, REFUSED),
        ({"APP_ID": "x\ny"}, REFUSED),
    ],
)
@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_a_setting_that_would_weaken_or_break_it_is_refused(
    env, outcome, service, more, code, profile
):
    ended = outcome(env | more, spec_of(profile))
    assert ended.code == code
    assert any(name in ended.line for name in (*more, "ATTESTATION_URL"))
    assert service.seen == []


@pytest.mark.parametrize("name", ["ATTESTATION_URL", "APP_ID", "API_KEY"])
@pytest.mark.parametrize("empty", [False, True])
def test_what_is_needed_and_missing_is_named_in_bigdls_words(env, outcome, name, empty):
    del env[name]
    ended = outcome(env | ({name: ""} if empty else {}))
    assert (ended.code, ended.line) == (REFUSED, f"Attestation is enabled, but {name} is empty!")


@pytest.mark.parametrize("word", ["true", "1", "yes", "maybe"])
@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_no_debug_variable_turns_a_failure_into_a_success(env, outcome, word, profile):
    ended = outcome(env | {"ATTESTATION_DEBUG": word}, spec_of(profile))
    assert (ended.code, "ATTESTATION_DEBUG" in ended.line) == (REFUSED, True)
    assert outcome(env | {"ATTESTATION_DEBUG": "false"}, spec_of(profile)).code == 0


# -- what the image has sealed


def test_sealed_settings_need_nothing_of_the_host(env, outcome):
    del env["ATTESTATION"]
    assert outcome({}, spec_of(**env)).code == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATTESTATION_URL", "127.0.0.1:1"),
        ("ATTESTATION_POLICYID", "15ca0dd5-2d34-4221-a708-3171ffe60001"),
        ("ATTESTATION_CA", "/tmp/ca.pem"),
        ("APP_ID", "x"),
    ],
)
def test_a_host_that_says_otherwise_is_refused_under_strict_and_ignored_under_compat(
    env, outcome, name, value
):
    sealed = {name: env[name]}
    ended = outcome(env | {name: value}, spec_of(**sealed))
    assert (ended.code, name in ended.line, value in ended.line) == (REFUSED, True, False)
    assert outcome(env | {name: value}, spec_of("compat", **sealed)).code == 0
    assert outcome(env, spec_of(**sealed)).code == 0


@pytest.mark.parametrize(
    "sealed", [{"ATTESTATION_PIN": "00" * 32}, {"ATTESTATION_PIN_SHA256": "00"}, {"PATH": "/"}]
)
def test_a_sealed_setting_that_has_no_effect_is_an_error(env, outcome, sealed):
    ended = outcome(env, spec_of(**sealed))
    assert (ended.code, "launch.json" in ended.line) == (UNUSABLE, True)


def test_what_is_weaker_than_it_could_be_is_said(env, outcome, service):
    assert "host chooses the attestation service" in outcome(env).notes
    sealed = {"ATTESTATION_URL": service.address, "ATTESTATION_CA": service.ca}
    assert outcome(env, spec_of(**sealed)).notes == ""
    del env["ATTESTATION_POLICYID"]
    assert "any genuine enclave" in outcome(env, spec_of(**sealed)).notes


# -- where no quote can be had


def test_places_without_quotes_are_refused_each_with_its_reason(env, outcome, gramine, service):
    for place, words in (
        (NATIVELY, "without Gramine"),
        (gramine.place(DIRECT), "gramine-direct"),
        (gramine.place(quotes=False), "noattest"),
    ):
        ended = outcome(env, place=place)
        assert (ended.code, words in ended.line) == (REFUSED, True)
    assert service.seen == []


def test_under_gramine_no_other_kind_of_quote_is_taken(env, outcome, tmp_path):
    devices = quote.Devices(occlum=str(tmp_path / "quote"))
    (tmp_path / "quote").write_bytes(sgx_quote(b"ppml"))
    for kind in ("occlum", "TDX"):
        assert outcome(env | {"QUOTE_TYPE": kind}, spec_of("compat"), None, devices).code == REFUSED


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda data: sgx_quote(bytes(64)), "report data"),
        (lambda data: sgx_quote(data[:63] + b"\1"), "report data"),
        (lambda data: sgx_quote(data, debug=True), "debug"),
        (lambda data: sgx_quote(data)[:500], "cut off"),
        (lambda data: b"no quote", "header"),
        (td_quote, "another kind"),
    ],
)
def test_a_quote_that_is_not_ours_is_not_even_sent(env, outcome, gramine, service, make, words):
    gramine.make = make
    ended = outcome(env)
    assert (ended.code, words in ended.line) == (FAILED, True)
    assert service.seen == []


# -- Occlum, TDX, BigDL's service


def test_occlums_file_is_checked_for_its_report_data_and_said_to_be_no_fresh_quote(
    env, outcome, tmp_path
):
    devices = quote.Devices(occlum=str(tmp_path / "quote"))
    env |= {"QUOTE_TYPE": "occlum"}
    (tmp_path / "quote").write_bytes(sgx_quote(b"ppml"))
    ended = outcome(env, spec_of("compat"), NATIVELY, devices)
    assert (ended.code, "nothing ties it" in ended.notes) == (0, True)
    env |= {"REPORT_DATA": "other"}
    assert outcome(env, spec_of("compat"), NATIVELY, devices).code == FAILED
    (tmp_path / "quote").write_bytes(sgx_quote(b"other"))
    assert outcome(env, spec_of("compat"), NATIVELY, devices).code == 0
    assert "not fresh" in outcome(env, spec_of(), NATIVELY, devices).line
    env |= {"REPORT_DATA": "x" * 65}
    assert outcome(env, spec_of("compat"), NATIVELY, devices).code == REFUSED


@pytest.fixture
def bigdl(env):
    env |= {"ATTESTATION_TYPE": "BigDLRemoteAttestationService"}
    del env["ATTESTATION_POLICYID"]
    return env


def test_a_td_attests_to_bigdls_service(bigdl, outcome, service, tsm):
    devices = quote.Devices(tsm=str(tsm.folder))
    assert outcome(bigdl | {"QUOTE_TYPE": "TDX"}, None, NATIVELY, devices).code == 0
    path, body = service.seen[-1]
    assert path == "/verifyQuote"
    assert quote.parse_quote(base64.b64decode(json.loads(body)["quote"])).tdx


def test_a_td_without_configfs_attests_through_its_device_and_the_hosts_service(
    bigdl, outcome, service, tdx_guest
):
    devices = quote.Devices(tsm="/nonexistent", tdx_guest=str(tdx_guest.device))
    bigdl |= {"QUOTE_TYPE": "TDX"}
    assert outcome(bigdl, None, NATIVELY, devices).code == 0
    assert base64.b64decode(json.loads(service.seen[-1][1])["quote"])[:2] == b"\4\0"
    service.seen.clear()
    for make, words in (
        (lambda data: td_quote(bytes(64)), "report data"),
        (lambda data: td_quote(data, debug=True), "debug"),
        (sgx_quote, "another kind"),
        (lambda data: b"no quote", "header"),
    ):
        tdx_guest.make = make
        ended = outcome(bigdl, None, NATIVELY, devices)
        assert (ended.code, words in ended.line) == (FAILED, True)
    tdx_guest.answer = lambda quote: b""
    assert outcome(bigdl, None, NATIVELY, devices).code == UNREACHABLE
    assert service.seen == []


def test_a_policy_of_ehsm_is_not_for_a_td(env, outcome, service, tsm):
    devices = quote.Devices(tsm=str(tsm.folder))
    ended = outcome(env | {"QUOTE_TYPE": "TDX"}, None, NATIVELY, devices)
    assert (ended.code, "BigDLRemoteAttestationService" in ended.line) == (REFUSED, True)
    assert service.seen == []


def test_bigdls_service_is_judged_by_its_result(bigdl, outcome, service):
    service.bigdl.policies["p"] = MR_ENCLAVE
    assert outcome(bigdl).code == 0
    assert outcome(bigdl | {"ATTESTATION_POLICYID": "p"}).code == 0
    service.bigdl.policies["p"] = "0" * 64
    assert "stand up" in outcome(bigdl | {"ATTESTATION_POLICYID": "p"}).line
    assert outcome(bigdl | {"ATTESTATION_POLICYID": "q"}).code == KMS_REFUSED
    assert outcome(bigdl | {"APP_ID": "q"}).code == KMS_REFUSED
    service.bigdl.verdict = -1
    assert outcome(bigdl).code == KMS_REFUSED
    service.bigdl.verdict = 1
    assert "out of date" in outcome(bigdl).line
    assert outcome(bigdl, spec_of(ATTESTATION_ACCEPT="0xa002")).code == 0
    assert outcome(bigdl, spec_of(ATTESTATION_ACCEPT="0xa001")).code == FAILED


@pytest.mark.parametrize(
    ("status", "data", "code"),
    [
        (200, b'{"result": -1}', FAILED), (200, b'{"result": 2}', FAILED), (200, b"{}", FAILED),
        (200, b'{"result": "0"}', FAILED), (200, b'{"result": false}', FAILED), (200, b"", FAILED),
        (200, b"[0]", FAILED), (200, b"ok", FAILED), (400, b'{"result": 0}', KMS_REFUSED),
        (404, b'{"result": 0}', UNREACHABLE), (500, b'{"result": 0}', UNREACHABLE),
        (302, b'{"result": 0}', UNREACHABLE),
    ],
)  # fmt: skip
def test_other_answers_of_bigdls_service_are_no_success(
    bigdl, outcome, service, status, data, code
):
    service.instead = lambda handler: handler.give(status, data, "text/plain")
    assert outcome(bigdl).code == code


# -- the process


SCRIPT = """\
import importlib, json, sys, types
package = types.ModuleType("runtime")
package.__path__ = [sys.argv[1]]
sys.modules["runtime"] = package
attest = importlib.import_module("runtime.attest")
launch = importlib.import_module("runtime.launch")
place = importlib.import_module("runtime.place")
stop = importlib.import_module("runtime.stop")
given = json.load(sys.stdin)
print("ready", flush=True)
try:
    attest.attest(
        launch.parse_launch(given["spec"].encode()),
        given["env"],
        place.Place("enclave", True, None, given["folder"]),
    )
except stop.Stop as error:
    sys.exit(error.code)
"""


def start(env, gramine, python=sys.executable):
    spec = launch_spec(attestation={"required": True, "settings": {}}).decode()
    process = subprocess.Popen(
        [python, "-I", "-B", "-W", "error", "-c", SCRIPT, str(RUNTIME)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(json.dumps({"spec": spec, "env": env, "folder": str(gramine.folder)}))
    process.stdin.close()
    process.stdin = None
    return process


def test_sigterm_while_waiting_for_the_service_ends_it_with_its_own_status(env, service, gramine):
    asked, done = threading.Event(), threading.Event()

    def instead(_):
        asked.set()
        done.wait(30)

    service.instead = instead
    process = start(env, gramine)
    assert asked.wait(30)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    done.set()
    assert process.returncode == -signal.SIGTERM  # 143 to a shell and to Kubernetes
    assert (out, "Traceback" in err) == ("ready\n", False)


INTERPRETERS = ["python3.8", "python3.9", "python3.10", "python3.12", "python3.13", "python3.14"]


@pytest.mark.parametrize("name", ["this", *INTERPRETERS])
def test_it_works_on_each_python_there_is_with_ca_pin_and_the_old_certificate(
    name, env, service, gramine, tmp_path
):
    python = sys.executable if name == "this" else shutil.which(name)
    if not python or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"{name} is not on this machine")
    process = start(env, gramine, python)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("ready\n" + SUCCESS, 0), err
    with start_service(old_certificate(tmp_path / "own")) as own:
        own.ehsm.policies |= service.ehsm.policies
        env |= {"ATTESTATION_URL": own.address, "ATTESTATION_CA": own.ca}
        pinned = {"ATTESTATION_PIN_SHA256": own.pin}
        named = {"ATTESTATION_SERVER_NAME": "ehsm"}
        alone = {k: v for k, v in (env | pinned).items() if k != "ATTESTATION_CA"}
        for given, code in ((env | named, 0), (alone, 0), (env, UNREACHABLE)):
            process = start(given, gramine, python)
            out, err = process.communicate(timeout=60)
            assert process.returncode == code, err
            assert out == "ready\n" + (FAILURE if code else SUCCESS)


def test_the_api_key_is_neither_in_the_arguments_nor_in_the_environment_of_the_process(
    env, service, gramine
):
    asked, done = threading.Event(), threading.Event()
    service.instead = lambda _: (asked.set(), done.wait(30))
    process = start(env, gramine)
    assert asked.wait(30)
    shown = b"".join(
        Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "environ")
    )
    process.kill()
    process.communicate()
    done.set()
    assert API_KEY.encode() not in shown


def test_a_closed_stdout_does_not_turn_a_failure_into_a_success(env, gramine):
    env |= {"ATTESTATION_POLICYID": "15ca0dd5-2d34-4221-a708-3171ffe60001"}
    process = start(env, gramine)
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    process.wait(60)
    process.stderr.close()
    assert process.returncode > 0


def test_nothing_for_tls_or_http_is_loaded_before_it_is_used():
    code = SCRIPT.partition("given =")[0] + (
        "import importlib; importlib.import_module('runtime.storage')\n"
        "heavy = ('ssl', 'socket', 'http.client', 'email', 'threading', 'subprocess', 'pathlib')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    command = [sys.executable, "-I", "-c", code, str(RUNTIME)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", MODULES)
def test_the_modules_are_python_3_8_and_import_nothing_of_ours_from_outside(name):
    source = (RUNTIME / f"{name}.py").read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    own = {path.stem for path in RUNTIME.glob("*.py")}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert (node.module or node.names[0].name) in own
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in sys.stdlib_module_names
        elif isinstance(node, ast.Import):
            assert all(a.name.split(".")[0] in sys.stdlib_module_names for a in node.names)
        elif isinstance(node, ast.Attribute):
            assert node.attr not in ("removeprefix", "removesuffix")


# -- patterns


def test_each_variable_of_the_issue_has_a_pattern():
    names = "ATTESTATION ATTESTATION_URL APP_ID API_KEY ATTESTATION_POLICYID ATTESTATION_TYPE"
    names += " QUOTE_TYPE CHALLENGE ATTESTATION_CHALLENGE REPORT_DATA ATTESTATION_CA"
    names += " ATTESTATION_PIN_SHA256 ATTESTATION_SERVER_NAME ATTESTATION_TIMEOUT"
    assert set(names.split()) | {"ATTESTATION_ACCEPT", "ATTESTATION_DEBUG"} == set(attest.VARIABLES)


@given(st.text(), st.sampled_from(sorted(attest.VARIABLES)))
def test_a_value_is_taken_or_refused_and_never_shown(value, name):
    try:
        given = settings.merge(spec_of("compat"), {name: value}, attest.VARIABLES)
    except Stop as stop:
        state = "malformed" if value else "empty: set it, or leave it out"
        assert (stop.code, stop.line) == (REFUSED, f"{name}: refused, its value is {state}")
    else:
        assert given == ({name: value} if value else {})
        assert "\0" not in value


def test_the_sealed_settings_of_a_specification_are_all_that_merge_adds():
    sealed = {"ATTESTATION_URL": "kms:9000", "CHALLENGE": ""}
    assert settings.merge(spec_of(**sealed), {"PATH": "/"}, attest.VARIABLES) == {
        "ATTESTATION_URL": "kms:9000"
    }
