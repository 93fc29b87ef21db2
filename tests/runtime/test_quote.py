"""Quotes: where they come from, what is read in them, and what is found wrong."""

import base64
import json

import pytest
from enclave_devices import *  # noqa: F403 - fixtures
from enclave_devices import MR_ENCLAVE, MR_SIGNER, MR_TD, sgx_quote, td_quote
from hypothesis import given
from hypothesis import strategies as st

from imagekit.runtime import quote
from imagekit.runtime.stop import FAILED, UNUSABLE, Stop

DATA = bytes(range(64))
NOWHERE = quote.Devices("/nonexistent/quote", "/nonexistent/report", "/nonexistent/tdx_guest")


def stopped(function, *arguments):
    with pytest.raises(Stop) as caught:
        function(*arguments)
    assert "\n" not in caught.value.line
    return caught.value


# -- reading


def test_an_sgx_quote_says_measurements_debug_and_report_data():
    for version in (3, 4):
        read = quote.parse_quote(sgx_quote(DATA, version=version))
        assert read == (version, False, MR_ENCLAVE, MR_SIGNER, "", False, DATA)
    assert quote.parse_quote(sgx_quote(DATA, debug=True)).debug


def test_a_tdx_quote_says_mrtd_debug_and_report_data():
    assert quote.parse_quote(td_quote(DATA)) == (4, True, "", "", MR_TD, False, DATA)
    assert quote.parse_quote(td_quote(DATA, debug=True)).debug


def test_quotes_as_the_real_service_took_them_are_read(golden):
    paths = sorted((golden / "ehsm/exchanges").glob("quote-verify-policy-*.json"))
    assert paths
    for path in paths:
        text = json.loads(path.read_text())["request"]["json"]["payload"]["quote"]
        read = quote.parse_quote(base64.b64decode(text))
        assert read == (3, False, "aa" * 32, "bb" * 32, "", False, bytes(64))


def test_offsets_are_those_of_the_format():
    """ehsm and DCAP count from the start of the quote: attributes 96, MRENCLAVE 112, …"""
    data = bytearray(sgx_quote(DATA))
    data[96] |= 2
    data[112:144], data[176:208], data[368:432] = b"\1" * 32, b"\2" * 32, b"\3" * 64
    read = quote.parse_quote(bytes(data))
    assert (read.debug, read.report_data) == (True, b"\3" * 64)
    assert (read.mr_enclave, read.mr_signer) == ("01" * 32, "02" * 32)


@pytest.mark.parametrize("whole", [sgx_quote(DATA), td_quote(DATA)], ids=["sgx", "tdx"])
def test_a_quote_cut_off_anywhere_is_none(whole):
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="it is"):
            quote.parse_quote(whole[:size])


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 2), (0, 5), (0, 0), (2, 0), (2, 1), (2, 4), (4, 1), (4, 0x80)]
)
def test_what_is_not_known_is_refused(offset, value):
    data = bytearray(sgx_quote(DATA, version=4))
    data[offset : offset + 2] = value.to_bytes(2, "little")
    with pytest.raises(ValueError, match="it"):
        quote.parse_quote(bytes(data))


def test_a_version_3_quote_has_no_tee_type():
    data = bytearray(sgx_quote(DATA))
    data[4:8] = b"\x81\0\0\0"
    assert not quote.parse_quote(bytes(data)).tdx


@given(st.binary(max_size=900) | st.binary(max_size=900).map(lambda b: sgx_quote(DATA)[:48] + b))
def test_any_bytes_are_a_quote_or_a_value_error(data):
    try:
        read = quote.parse_quote(data)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert len(read.report_data) == 64


# -- checking


def test_a_quote_with_our_report_data_passes():
    assert quote.checked_quote(sgx_quote(DATA), DATA, quote.GRAMINE).mr_enclave == MR_ENCLAVE
    assert quote.checked_quote(td_quote(DATA), DATA, quote.TDX).mr_td == MR_TD


def test_any_other_report_data_fails():
    for index in range(64):
        other = bytearray(DATA)
        other[index] ^= 0x80
        stop = stopped(quote.checked_quote, sgx_quote(bytes(other)), DATA, quote.GRAMINE)
        assert (stop.code, "report data" in stop.line) == (FAILED, True)


def test_a_debug_enclave_fails():
    for data, kind in (
        (sgx_quote(DATA, debug=True), "gramine"),
        (td_quote(DATA, debug=True), "tdx"),
    ):
        stop = stopped(quote.checked_quote, data, DATA, kind)
        assert (stop.code, "debug" in stop.line) == (FAILED, True)


def test_a_quote_of_the_other_kind_fails():
    for data, kind in ((sgx_quote(DATA), "tdx"), (td_quote(DATA), "gramine")):
        assert "another kind" in stopped(quote.checked_quote, data, DATA, kind).line


# -- getting


def test_gramine_quotes_what_was_written(gramine):
    for data in (DATA, bytes(64), DATA[::-1]):
        found = quote.get_quote(quote.GRAMINE, data, str(gramine.folder), NOWHERE)
        assert quote.parse_quote(found).report_data == data


def test_report_data_is_written_in_one_write(gramine, monkeypatch):
    import os

    writes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(bytes(data)) or real(fd, data))
    quote.get_quote(quote.GRAMINE, DATA, str(gramine.folder), NOWHERE)
    assert DATA in writes


@pytest.mark.parametrize("missing", ["user_report_data", "quote"])
def test_gramine_without_quotes_is_said(tmp_path, missing):
    for name in {"user_report_data", "quote"} - {missing}:
        (tmp_path / name).write_bytes(b"x")
    stop = stopped(quote.get_quote, quote.GRAMINE, DATA, str(tmp_path), NOWHERE)
    assert (stop.code, "Gramine" in stop.line) == (UNUSABLE, True)


@pytest.mark.parametrize("content", [b"", bytes(70_000)], ids=["empty", "too large"])
def test_an_absurd_quote_is_not_taken(tmp_path, content):
    (tmp_path / "user_report_data").touch()
    (tmp_path / "quote").write_bytes(content)
    assert stopped(quote.get_quote, "gramine", DATA, str(tmp_path), NOWHERE).code == UNUSABLE


def test_occlum_gives_the_quote_of_its_file(tmp_path):
    (tmp_path / "quote").write_bytes(sgx_quote(b"ppml"))
    devices = NOWHERE._replace(occlum=str(tmp_path / "quote"))
    found = quote.get_quote(quote.OCCLUM_FILE, DATA, "/nonexistent", devices)
    assert quote.parse_quote(found).report_data == b"ppml" + bytes(60)
    assert (
        "Occlum" in stopped(quote.get_quote, quote.OCCLUM_FILE, DATA, "/nonexistent", NOWHERE).line
    )


def test_a_td_quotes_what_was_written_and_leaves_no_entry_behind(tsm):
    devices = NOWHERE._replace(tsm=str(tsm.folder))
    for data in (DATA, bytes(64)):
        found = quote.get_quote(quote.TDX, data, "/nonexistent", devices)
        assert quote.parse_quote(found).report_data == data
    assert list(tsm.folder.iterdir()) == []


def test_a_report_entry_that_somebody_else_wrote_to_is_not_believed(tsm):
    tsm.disturb = 1
    devices = NOWHERE._replace(tsm=str(tsm.folder))
    stop = stopped(quote.get_quote, quote.TDX, DATA, "/nonexistent", devices)
    assert (stop.code, "somebody else" in stop.line) == (FAILED, True)
    assert list(tsm.folder.iterdir()) == []


def test_another_kind_of_guest_is_no_td(tsm):
    tsm.provider = b"sev_guest\n"
    devices = NOWHERE._replace(tsm=str(tsm.folder))
    stop = stopped(quote.get_quote, quote.TDX, DATA, "/nonexistent", devices)
    assert (stop.code, "provider" in stop.line) == (UNUSABLE, True)


def test_a_td_whose_configfs_is_missing_or_sealed_off_asks_its_device(tsm, tdx_guest):
    device = NOWHERE._replace(tdx_guest=str(tdx_guest.device))
    for folder in ("/nonexistent", "/proc/self"):  # as in a container: nobody makes folders there
        devices = device._replace(tsm=folder)
        found = quote.get_quote(quote.TDX, DATA, "/nonexistent", devices)
        assert quote.parse_quote(found).report_data == DATA
    assert len(tdx_guest.requests) == 2
    quote.get_quote(quote.TDX, DATA, "/nonexistent", device._replace(tsm=str(tsm.folder)))
    assert len(tdx_guest.requests) == 2


def test_without_a_way_to_a_tds_quote_that_is_said():
    stop = stopped(quote.get_quote, quote.TDX, DATA, "/nonexistent", NOWHERE)
    assert (stop.code, "no TDX" in stop.line) == (UNUSABLE, True)
    devices = NOWHERE._replace(tsm="/proc/self")
    stop = stopped(quote.get_quote, quote.TDX, DATA, "/nonexistent", devices)
    assert (stop.code, "no report entry" in stop.line) == (UNUSABLE, True)
