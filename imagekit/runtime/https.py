"""One HTTP request to a service, over TLS, within a time limit, with an answer of limited size.

No redirect is followed, no connection is kept, and no proxy is asked unless the caller connects.

Python 3.8, standard library, nothing else of this package.
"""

# The libraries for HTTP cost start-up time in an enclave: loaded where they are used.
from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple  # noqa: UP035 - Python 3.8

from . import tls
from .stop import UNREACHABLE, Stop

if TYPE_CHECKING:
    import ssl

LONGEST_ANSWER = 1 << 20
"""Bytes of an answer's body."""


class Answer(NamedTuple):
    """An HTTP answer.

    Attributes:
        status: HTTP status, not a redirect.
        body: at most :data:`LONGEST_ANSWER` bytes.
        date: the header ``Date``, "" if it is missing.
    """

    status: int
    body: bytes
    date: str


class Lost(Stop):
    """The request went out and no whole answer came: it may have been carried out or not."""


def ask(
    service: tls.Service,
    path: str,
    body: bytes | None,
    connect: Callable[[tls.Service, float], ssl.SSLSocket] = tls.connect,
) -> Answer:
    """Send one request over TLS and give the answer: no redirect, one connection.

    Args:
        service: where, and how it is known; its ``limit`` is for all of it.
        path: path and query.
        body: JSON for a POST, None for a GET.
        connect: gives a connection that is known to be the service's, as :func:`.tls.connect`.

    Raises:
        Lost: too slow, too long or no whole HTTP answer, after something was sent.
        Stop: no connection, not the service, or an answer that is a redirect.
    """
    import http.client
    import socket

    deadline = time.monotonic() + service.limit
    with connect(service, deadline) as connection:
        limited = _Limited(service, connection, deadline)
        try:
            limited.send(_head(service, path, body) + (body or b""))
            answer = http.client.HTTPResponse(limited, method="GET" if body is None else "POST")  # type: ignore[arg-type]
            with answer:  # Python 3.13 complains of one that is not closed
                answer.begin()
                content = answer.read(LONGEST_ANSWER + 1)
                missing = answer.length
        except Stop as stop:
            raise Lost(stop.code, stop.line) from None
        except socket.timeout:  # noqa: UP041 - Python 3.8 and 3.9
            raise Lost(UNREACHABLE, tls.too_slow(service).line) from None
        except OSError as error:
            raise Lost(UNREACHABLE, tls.cannot_reach(service, error).line) from None
        except (http.client.HTTPException, ValueError):
            raise Lost(UNREACHABLE, _unusable(service, "it is not whole, or no HTTP")) from None
    if 300 <= answer.status < 400:
        why = "it is a redirect, which is not followed: give the service's own address"
        raise Stop(UNREACHABLE, _unusable(service, why))
    if len(content) > LONGEST_ANSWER:
        why = f"it is longer than {LONGEST_ANSWER} bytes"
        raise Lost(UNREACHABLE, _unusable(service, why))
    if missing:  # bytes that were announced and did not come
        raise Lost(UNREACHABLE, _unusable(service, "it is not whole"))
    return Answer(answer.status, content, answer.getheader("Date") or "")


def _unusable(service: tls.Service, why: str) -> str:
    return f"{service.label}: the service's answer is unusable: {why}"


def _head(service: tls.Service, path: str, body: bytes | None) -> bytes:
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {service.address}"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += ["Accept: application/json", "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


class _Limited(io.RawIOBase):
    """A connection whose every operation ends at the deadline; what HTTPResponse reads from."""

    def __init__(self, service: tls.Service, connection: ssl.SSLSocket, deadline: float) -> None:
        super().__init__()
        self._service = service
        self._connection = connection
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(tls.remaining(self._service, self._deadline))
        return self._connection.recv_into(buffer)

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._connection.settimeout(tls.remaining(self._service, self._deadline))
            left = left[self._connection.send(left) :]
