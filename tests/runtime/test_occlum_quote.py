"""Quotes of enclaves of Occlum: what is asked of the device, and what is believed of its answer."""

import errno
import json

import pytest
from attestation_service import API_KEY, APP_ID, start_service
from enclave_devices import *  # noqa: F403 - fixtures
from enclave_devices import MR_ENCLAVE, MR_SIGNER, NATIVELY, sgx_quote, td_quote

from imagekit.runtime import attest, occlum_quote, quote
from imagekit.runtime.launch import launch_spec, parse_launch
from imagekit.runtime.stop import FAILED, REFUSED, UNUSABLE, Stop

DATA = bytes(range(64))
SIZE, GENERATE = 0x80047307, 0xC0187308


def stopped(function, *arguments):
    with pytest.raises(Stop) as caught:
        function(*arguments)
    assert "\n" not in caught.value.line
    return caught.value


def ior(kind, number, size):
    """_IOR of Linux's ``asm-generic/ioctl.h``: direction 2, size, type, number."""
    return 2 << 30 | size << 16 | ord(kind) << 8 | number


def test_the_requests_are_those_of_occlums_header():
    assert ior("s", 7, 4) == occlum_quote.GET_SIZE
    assert ior("s", 8, 24) | 1 << 30 == occlum_quote.GENERATE


def test_the_quote_carries_what_was_given(occlum):
    assert occlum_quote.get_quote(DATA, str(occlum.device)) == sgx_quote(DATA)
    assert occlum.requests == [SIZE, GENERATE]
    devices = quote.Devices(sgx=str(occlum.device))
    assert quote.get_quote(quote.OCCLUM, DATA, "/nonexistent", devices) == sgx_quote(DATA)
    assert quote.Devices().sgx == "/dev/sgx"


def test_room_that_is_not_needed_is_cut_off(occlum):
    occlum.announced = 8192
    assert occlum_quote.get_quote(DATA, str(occlum.device)) == sgx_quote(DATA)


@pytest.mark.parametrize("announced", [0, (1 << 16) + 1, 0xFFFFFFFF])
def test_an_absurd_size_is_not_asked_for(occlum, announced):
    occlum.announced = announced
    assert stopped(occlum_quote.get_quote, DATA, str(occlum.device)).code == FAILED
    assert occlum.requests == [SIZE]


@pytest.mark.parametrize("given", [0, 8193, 0xFFFFFFFF])
def test_a_length_beyond_the_buffer_is_not_believed(occlum, given):
    occlum.announced, occlum.given = 8192, given
    assert stopped(occlum_quote.get_quote, DATA, str(occlum.device)).code == FAILED


@pytest.mark.parametrize("request_number", [SIZE, GENERATE])
def test_a_device_that_refuses_is_said(occlum, request_number):
    occlum.errors[request_number] = errno.EINVAL
    stop = stopped(occlum_quote.get_quote, DATA, str(occlum.device))
    assert (stop.code, "Invalid argument" in stop.line) == (UNUSABLE, True)


def test_a_file_that_is_no_such_device_is_said(occlum, monkeypatch):
    monkeypatch.undo()
    assert stopped(occlum_quote.get_quote, DATA, str(occlum.device)).code == UNUSABLE
    assert "/nonexistent" in stopped(occlum_quote.get_quote, DATA, "/nonexistent/sgx").line


# -- attestation with it


@pytest.fixture
def service(certificates):
    with start_service(certificates) as started:
        yield started


@pytest.fixture
def env(service):
    return {
        "ATTESTATION": "true",
        "ATTESTATION_URL": service.address,
        "APP_ID": APP_ID,
        "API_KEY": API_KEY,
        "ATTESTATION_POLICYID": service.ehsm.policy(MR_ENCLAVE, MR_SIGNER),
        "ATTESTATION_CA": service.ca,
        "ATTESTATION_TIMEOUT": "20",
    }


@pytest.fixture
def attested(occlum, capfd):
    """Attests; gives the exit code (0 for a success), the line and what was printed."""

    def run(env, place=None, profile="strict", libos="occlum", **devices):
        spec = parse_launch(launch_spec(profile=profile, libos=libos))
        devices = quote.Devices(**{"sgx": str(occlum.device), **devices})
        code, line = 0, ""
        try:
            attest.attest(spec, env, place or occlum.place(), devices)
        except Stop as stop:
            code, line = stop.code, stop.line
        out, err = capfd.readouterr()
        assert out == (attest.FAILURE if code else attest.SUCCESS) + "\n"
        return code, line, err

    return run


@pytest.mark.parametrize("profile", ["strict", "compat"])
@pytest.mark.parametrize("kind", [None, "occlum", "Occlum"])
def test_in_an_enclave_the_quote_is_fresh_and_bound_to_this_start(
    env, attested, occlum, service, profile, kind
):
    seen = []
    occlum.make = lambda data: seen.append(data) or sgx_quote(data)
    more = {} if kind is None else {"QUOTE_TYPE": kind}
    for challenge in ("a", "b"):
        code, line, notes = attested({**env, **more, "CHALLENGE": challenge}, profile=profile)
        assert (code, line) == (0, "")
        assert "from a file" not in notes
    first, second = (data for data in seen if data != bytes(64))
    assert first != second
    assert first[32:] == second[32:] == bytes(32)
    assert json.loads(service.seen[0][1])["payload"]["policyId"] == env["ATTESTATION_POLICYID"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda data: sgx_quote(bytes(64)), "report data"),
        (lambda data: sgx_quote(data[:63] + b"\1"), "report data"),
        (lambda data: sgx_quote(data, debug=True), "debug"),
        (lambda data: sgx_quote(data)[:440], "cut off"),
        (td_quote, "another kind"),
    ],
)
def test_a_quote_that_is_not_ours_is_not_even_sent(env, attested, occlum, service, make, words):
    occlum.make = make
    code, line, _ = attested(env)
    assert (code, words in line) == (FAILED, True)
    assert service.seen == []


def test_a_quote_of_another_enclave_is_refused(env, attested, occlum):
    occlum.make = lambda data: sgx_quote(data, mr_enclave="dd" * 32)
    assert attested(env)[0] != 0


def test_an_image_without_attestation_has_no_quotes(env, attested, occlum, service):
    code, line, _ = attested(env, occlum.place(quotes=False))
    assert (code, "noattest" in line) == (REFUSED, True)
    assert (service.seen, occlum.requests) == ([], [])


@pytest.mark.parametrize("kind", ["gramine", "TDX"])
@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_under_occlum_no_other_kind_is_taken(env, attested, kind, profile):
    code, line, _ = attested({**env, "QUOTE_TYPE": kind}, profile=profile)
    assert (code, line) == (REFUSED, "QUOTE_TYPE is refused: under Occlum it is occlum")


def test_natively_the_file_is_for_compat_and_has_to_be_named(env, attested, occlum, tmp_path):
    (tmp_path / "quote").write_bytes(sgx_quote(b"ppml"))
    place, file = occlum.place()._replace(kind="native", quotes=False), str(tmp_path / "quote")
    named = {**env, "QUOTE_TYPE": "occlum"}
    code, _, notes = attested(named, place, "compat", occlum=file)
    assert (code, "nothing ties it" in notes) == (0, True)
    assert "not fresh" in attested(named, place, "strict", occlum=file)[1]
    code, line, _ = attested(env, place, "compat", occlum=file)
    assert (code, "runs without Occlum" in line) == (REFUSED, True)
    assert "runs without Gramine" in attested(env, NATIVELY, libos="gramine")[1]
    assert "runs without Gramine" in attested({**env, "QUOTE_TYPE": "gramine"}, place)[1]
    assert occlum.requests == []
