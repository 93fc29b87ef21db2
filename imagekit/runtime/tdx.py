"""A TD's quote without configfs-tsm: a report of the CPU, which a service of the host signs.

Two steps. ``/dev/tdx_guest`` gives a TDREPORT over our report data (Linux's ``linux/tdx-guest.h``),
which only this CPU can check. The host's quote generation service (QGS, of Intel's DCAP) turns it
into a quote; it is reached over vsock, at the port that ``/etc/tdx-attest.conf`` names, as Intel's
own library does it. A message there is its length as big-endian u32, then, little-endian:

| field | of a request | of an answer |
|---|---|---|
| major, minor u16 | 1, 1 | 1, any |
| type u32 | 0 | 1 |
| size u32 | of the message, with these fields | the same |
| error u32 | 0 | 0, or why there is no quote |
| u32 | size of the report | size of the chosen key's id: 0, or 16 |
| u32 | size of a list of key ids: 0 | size of the quote |
| bytes | the report | the id, the quote |

The service is the host's, and nothing that it says is believed: sizes are checked before they are
used, and the quote is looked at as one from anywhere else.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time.
# ruff: noqa: PTH123
from __future__ import annotations

import fcntl
import hmac
import os
import re
import socket
import struct
import time

from .quote import LONGEST_QUOTE, REPORT_DATA_SIZE
from .stop import FAILED, UNREACHABLE, UNUSABLE, Stop

LIMIT = 30.0
"""Seconds for the service's answer: it may have to fetch a certificate first."""
PORT = 4050
"""Where the service listens if nothing says otherwise."""
HOST = 2
"""The host's context id (VMADDR_CID_HOST)."""

REPORT_SIZE = 1024
"""Bytes of a TDREPORT."""
GET_REPORT = 0xC0005401 | (REPORT_DATA_SIZE + REPORT_SIZE) << 16
"""TDX_CMD_GET_REPORT0: _IOWR('T', 1, struct tdx_report_req), report data and report."""

_TYPE_TDX = 0x81  # first byte of a TDREPORT
_REPORT_DATA = 128  # where it stands there

_FIELDS = struct.Struct("<HHIIIII")
_ASKED, _ANSWERED = 0, 1
_ID_SIZES = (0, 16)
_LONGEST_CONF = 1 << 16
_PORT_LINE = re.compile(r"[ \t]*port[ \t]*=[ \t]*([0-9]{1,10})[ \t\r]*")


def get_quote(report_data: bytes, device: str, conf: str) -> bytes:
    """Get a quote.

    Args:
        report_data: 64 bytes that it has to carry.
        device: ``/dev/tdx_guest``.
        conf: the file with the service's port; it need not be there.

    Raises:
        Stop: there is no way to one.
    """
    report = get_report(report_data, device)
    deadline = time.monotonic() + LIMIT
    with connect(read_port(conf), deadline) as connection:
        return ask(connection, report, deadline)


def get_report(report_data: bytes, device: str) -> bytes:
    """Have the CPU make a TDREPORT over report data.

    Raises:
        Stop: it makes none, or not that one.
    """
    asked = bytearray(report_data + bytes(REPORT_SIZE))
    try:
        number = os.open(device, os.O_RDWR)
        try:
            fcntl.ioctl(number, GET_REPORT, asked)
        finally:
            os.close(number)
    except OSError as error:
        raise Stop(UNUSABLE, f"{device}: no report: {error.strerror}") from None
    report = bytes(asked[REPORT_DATA_SIZE:])
    carried = report[_REPORT_DATA : _REPORT_DATA + REPORT_DATA_SIZE]
    if report[0] != _TYPE_TDX or not hmac.compare_digest(carried, report_data):
        raise Stop(FAILED, f"{device}: the report is not of a TD with the report data given")
    return report


def read_port(path: str) -> int:
    """Read the service's port: the first line ``port=NUMBER`` of a file; :data:`PORT` if none.

    Raises:
        Stop: the file cannot be read, or the number is no port of vsock.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(_LONGEST_CONF).split("\n")
    except FileNotFoundError:
        return PORT
    except OSError as error:
        raise Stop(UNUSABLE, f"{path}: {error.strerror}") from None
    found = next(filter(None, map(_PORT_LINE.fullmatch, lines)), None)
    port = int(found[1]) if found else PORT
    if not 0 < port < 0xFFFFFFFF:  # the highest stands for any
        raise Stop(UNUSABLE, f"{path}: the port is not one of vsock")
    return port


def connect(port: int, deadline: float) -> socket.socket:
    """Connect to the host's service.

    Raises:
        Stop: nobody answers there.
    """
    try:
        connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except (AttributeError, OSError):
        raise Stop(UNUSABLE, "TDX gives no quote: this machine has no vsock") from None
    try:
        connection.settimeout(_left(deadline))
        connection.connect((HOST, port))
    except OSError as error:
        connection.close()
        raise _unreachable(error) from None
    return connection


def ask(connection: socket.socket, report: bytes, deadline: float) -> bytes:
    """Have the service sign a report.

    Args:
        connection: to the service.
        report: a TDREPORT.
        deadline: time of the monotonic clock at which to give up.

    Returns:
        The quote, whatever it says.

    Raises:
        Stop: there is none.
    """
    size = _FIELDS.size + len(report)
    message = _FIELDS.pack(1, 1, _ASKED, size, 0, len(report), 0) + report
    try:
        connection.settimeout(_left(deadline))
        connection.sendall(size.to_bytes(4, "big") + message)
        size = int.from_bytes(_receive(connection, 4, deadline), "big")
        if not _FIELDS.size <= size <= _FIELDS.size + max(_ID_SIZES) + LONGEST_QUOTE:
            raise Stop(FAILED, "the quote generation service's answer has an absurd length")
        answer = _receive(connection, size, deadline)
    except OSError as error:
        raise _unreachable(error) from None
    try:
        return parse_answer(answer)
    except ValueError as error:
        raise Stop(FAILED, f"the quote generation service's answer is unusable: {error}") from None


def _receive(connection: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        connection.settimeout(_left(deadline))
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def parse_answer(message: bytes) -> bytes:
    """Give the quote of an answer, without the length in front of it.

    Raises:
        ValueError: it is none; the text says why, in one line.
        Stop: the service says that it has no quote.
    """
    if len(message) < _FIELDS.size:
        raise ValueError("it is cut off")
    major, _, kind, size, error, id_size, quote_size = _FIELDS.unpack_from(message)
    if (major, kind) != (1, _ANSWERED):
        raise ValueError("it is no answer of version 1 to what was asked")
    if size != len(message):
        raise ValueError("its size is not what it says")
    if error:  # a number alone: Intel's documentation says what it means
        raise Stop(UNUSABLE, f"the quote generation service gives no quote: error {error:#x}")
    if id_size not in _ID_SIZES or _FIELDS.size + id_size + quote_size != size:
        raise ValueError("its parts do not add up")
    if not 0 < quote_size <= LONGEST_QUOTE:
        raise ValueError("its quote is empty or too large")
    return message[_FIELDS.size + id_size :]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout  # noqa: UP041 - Python 3.8 and 3.9
    return left


def _unreachable(error: OSError) -> Stop:
    late = isinstance(error, (socket.timeout, TimeoutError))  # one, since Python 3.10
    why = "it does not answer in time" if late else "no connection, or it broke off"
    return Stop(UNREACHABLE, f"the host's quote generation service: {why}")
