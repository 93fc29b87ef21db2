"""A TD's quote by its device and the host's service: what is asked, and what is not believed."""

import contextlib
import socket
import struct
import threading
import time

import pytest
from enclave_devices import *  # noqa: F403 - fixtures
from enclave_devices import td_quote
from hypothesis import given
from hypothesis import strategies as st

from imagekit.runtime import tdx
from imagekit.runtime.stop import FAILED, UNREACHABLE, UNUSABLE, Stop

DATA = bytes(range(64))
QUOTE = td_quote(DATA)


def stopped(function, *arguments):
    with pytest.raises(Stop) as caught:
        function(*arguments)
    assert "\n" not in caught.value.line
    return caught.value


def message(quote=QUOTE, **fields):
    """An answer, with fields that are other than they should be."""
    found = {"major": 1, "minor": 1, "type": 1, "size": 24 + len(quote), "error": 0}
    found |= {"id_size": 0, "quote_size": len(quote), **fields}
    return struct.pack("<HHIIIII", *found.values()) + quote


def asked(tdx_guest):
    return tdx.get_quote(DATA, str(tdx_guest.device), str(tdx_guest.conf))


# -- the whole way


def test_the_quote_is_of_a_report_over_what_was_given(tdx_guest):
    assert asked(tdx_guest) == QUOTE
    (request,) = tdx_guest.requests
    assert request[:24] == struct.pack("<HHIIIII", 1, 1, 0, 24 + 1024, 0, 1024, 0)
    assert (len(request), request[24]) == (24 + 1024, 0x81)
    assert request[24 + 128 : 24 + 192] == DATA
    assert tdx_guest.ports == [4050]


def test_a_report_over_something_else_is_not_sent(tdx_guest):
    for change in ({"report_data": bytes(64)}, {"report_data": None, "report_type": 0}):
        vars(tdx_guest).update(change)
        assert stopped(asked, tdx_guest).code == FAILED
    assert tdx_guest.requests == []


def test_a_device_that_gives_no_report_is_said(tdx_guest, monkeypatch):
    monkeypatch.undo()  # a file is no such device: the kernel refuses the request
    stop = stopped(tdx.get_report, DATA, str(tdx_guest.device))
    assert (stop.code, "no report" in stop.line) == (UNUSABLE, True)
    assert stopped(tdx.get_report, DATA, "/nonexistent/tdx_guest").code == UNUSABLE


# -- where the service is


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("", 4050),
        ("port=4051", 4051),
        ("# port=1\n\n  port = 7 \t\r\nport=8\n", 7),
        ("Port=5\nport=5x\nport=-5\nports=5\nport=\n", 4050),
        ("port=4294967294\n", 4294967294),
        ("\xff\xfe", 4050),
    ],
)
def test_the_port_is_the_first_that_the_file_names(tmp_path, text, port):
    (tmp_path / "conf").write_bytes(text.encode("latin-1"))
    assert tdx.read_port(str(tmp_path / "conf")) == port
    assert tdx.read_port(str(tmp_path / "missing")) == 4050


@pytest.mark.parametrize("port", ["0", "00", "4294967295", "9999999999"])
def test_a_port_that_vsock_does_not_have_is_refused(tmp_path, port):
    (tmp_path / "conf").write_text(f"port={port}\n")
    assert stopped(tdx.read_port, str(tmp_path / "conf")).code == UNUSABLE
    assert stopped(tdx.read_port, str(tmp_path)).code == UNUSABLE


def test_the_port_is_asked_at(tdx_guest):
    tdx_guest.conf.write_text("port=4077\n")
    asked(tdx_guest)
    assert tdx_guest.ports == [4077]


def test_without_vsock_or_anybody_there_a_line_is_said(monkeypatch):
    monkeypatch.setattr(tdx, "HOST", 1)  # this machine itself
    stop = stopped(tdx.connect, 4093, time.monotonic() + 0.3)
    assert stop.code in (UNREACHABLE, UNUSABLE)
    monkeypatch.delattr(socket, "AF_VSOCK")
    stop = stopped(tdx.connect, 4093, time.monotonic() + 0.3)
    assert (stop.code, "no vsock" in stop.line) == (UNUSABLE, True)


# -- what it answers


@pytest.mark.parametrize("minor", [0, 1, 7])
@pytest.mark.parametrize("key", [b"", bytes(range(16))])
def test_the_quote_of_an_answer_is_what_follows_the_id(minor, key):
    answer = message(key + QUOTE, minor=minor, id_size=len(key), quote_size=len(QUOTE))
    assert tdx.parse_answer(answer) == QUOTE


@pytest.mark.parametrize(
    "fields",
    [
        {"major": 0},
        {"major": 2},
        {"type": 0},
        {"type": 3},
        {"size": 23},
        {"size": 24 + len(QUOTE) - 1},
        {"size": 24 + len(QUOTE) + 1},
        {"size": 0xFFFFFFFF},
        {"id_size": 1},
        {"id_size": 16},
        {"id_size": 0xFFFFFFFF, "quote_size": len(QUOTE) + 1},
        {"quote_size": len(QUOTE) - 1},
        {"quote_size": len(QUOTE) + 1},
        {"quote_size": 0xFFFFFFFF},
        {"id_size": 16, "quote_size": len(QUOTE) - 15},
        {"quote": b""},
        {"quote": bytes((1 << 16) + 1)},
    ],
    ids=str,
)
def test_an_answer_that_does_not_add_up_is_none(fields):
    with pytest.raises(ValueError, match="it"):
        tdx.parse_answer(message(**fields))


def test_an_error_of_the_service_is_said_by_its_number(tdx_guest):
    tdx_guest.answer = lambda quote: struct.pack(">I", 24) + message(b"", error=0x12001)
    stop = stopped(asked, tdx_guest)
    assert (stop.code, "0x12001" in stop.line) == (UNUSABLE, True)


def test_an_answer_cut_off_anywhere_is_none(tdx_guest):
    whole = struct.pack(">I", len(message())) + message()
    for size in (0, 3, 4, 5, 27, 28, 100, len(whole) - 1):
        tdx_guest.answer = lambda quote, size=size: whole[:size]
        assert stopped(asked, tdx_guest).code == UNREACHABLE


@pytest.mark.parametrize("size", [0, 23, 24 + 16 + (1 << 16) + 1, 0xFFFFFFFF])
def test_an_absurd_length_is_not_waited_for(tdx_guest, size):
    tdx_guest.answer = lambda quote: struct.pack(">I", size) + bytes(100)
    assert "absurd length" in stopped(asked, tdx_guest).line


@pytest.mark.parametrize("said", [b"", b"\0\0", struct.pack(">I", 100) + b"x"])
def test_a_service_that_says_nothing_more_is_not_waited_for_longer_than_the_limit(said):
    near, far = socket.socketpair()
    with near, far:
        far.sendall(said)
        begin = time.monotonic()
        stop = stopped(tdx.ask, near, bytes(1024), begin + 0.2)
        assert (stop.code, "in time" in stop.line) == (UNREACHABLE, True)
        assert time.monotonic() - begin < 10


def test_a_service_that_drips_is_not_waited_for_longer_than_the_limit():
    near, far = socket.socketpair()
    answer = struct.pack(">I", len(message())) + message()

    def drip():
        with contextlib.suppress(OSError):
            for byte in answer:
                far.sendall(bytes([byte]))
                time.sleep(0.02)

    dripping = threading.Thread(target=drip)
    dripping.start()
    with far, near:
        assert "in time" in stopped(tdx.ask, near, bytes(1024), time.monotonic() + 0.3).line
    dripping.join()


def test_a_service_that_takes_nothing_is_not_waited_for_longer_than_the_limit():
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                near.send(bytes(1 << 16))
        assert "in time" in stopped(tdx.ask, near, bytes(1024), time.monotonic() + 0.2).line


_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "major": st.integers(0, 0xFFFF),
        "minor": st.integers(0, 0xFFFF),
        **dict.fromkeys(
            ("type", "size", "error", "id_size", "quote_size"),
            st.integers(0, 0xFFFFFFFF) | st.integers(0, 48),
        ),
        "quote": st.binary(max_size=60),
    },
)


@given(st.binary(max_size=100) | _FIELDS.map(lambda fields: message(**fields)))
def test_any_answer_is_a_quote_or_one_line(data):
    try:
        found = tdx.parse_answer(data)
    except (ValueError, Stop) as error:
        assert "\n" not in str(error)
    else:
        assert data.endswith(found)
        assert len(data) - len(found) in (24, 40)
        assert found


@given(st.binary(max_size=100), st.booleans())
def test_anything_over_the_wire_is_a_quote_or_a_stop(data, framed):
    near, far = socket.socketpair()
    with near:
        with far:
            far.sendall(struct.pack(">I", len(data)) + data if framed else data)
        try:
            found = tdx.ask(near, bytes(1024), time.monotonic() + 5)
        except Stop as stop:
            assert stop.code in (FAILED, UNREACHABLE, UNUSABLE)
        else:
            assert found
