"""How a service is reached and known, from what was asked for on the command line.

Everything that :mod:`imagekit.runtime.tls` checks is checked here too. Two things come in addition,
both for the command line alone: an HTTP proxy, if one is named, and a first look at a certificate
that nobody vouches for yet.
"""

import hashlib
import re
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import SHUT_RDWR, socket
from threading import Event
from urllib.parse import urlsplit
from weakref import WeakSet

from imagekit.errors import InputError, UsageError
from imagekit.kms.faults import as_errors
from imagekit.runtime import https, tls
from imagekit.runtime.stop import UNREACHABLE, Stop

LONGEST_PROXY_ANSWER = 8192
"""Bytes of a proxy's answer to CONNECT."""


@dataclass(frozen=True)
class Connection:
    """A service, and the way to it.

    Attributes:
        service: where it is and how it is known.
        proxy: HTTP proxy, host and port; None for none. Those of the environment are never asked.
    """

    service: tls.Service
    proxy: tuple[str, int] | None = None
    _aborted: Event = field(default_factory=Event, repr=False, compare=False)
    _open: WeakSet[ssl.SSLSocket] = field(default_factory=WeakSet, repr=False, compare=False)

    @property
    def aborted(self) -> bool:
        """Whether :meth:`abort` was called."""
        return self._aborted.is_set()

    def abort(self) -> None:
        """Break off what is under way in other threads, and let nothing new begin."""
        self._aborted.set()
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(SHUT_RDWR)

    @property
    def address(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return self.service.address

    def ask(self, path: str, body: bytes | None) -> https.Answer:
        """Send one request, as :func:`imagekit.runtime.https.ask` does.

        Raises:
            Stop: no answer; :class:`imagekit.runtime.https.Lost` if it may have been carried out.
        """
        return https.ask(self.service, path, body, self.connect)

    def connect(self, service: tls.Service, deadline: float) -> ssl.SSLSocket:
        """Connect, and make sure that it is the service.

        Raises:
            Stop: no connection, or it is not the service.
        """
        secure = tls.connect(service, deadline, self.dial)
        self._open.add(secure)
        if self.aborted:
            secure.close()
            raise Stop(UNREACHABLE, f"{service.label}: interrupted")
        return secure

    def dial(self, service: tls.Service, deadline: float) -> socket:
        """Connect without TLS, through the proxy if there is one.

        Raises:
            Stop: no connection.
        """
        if self.proxy is None:
            return tls.connect_plain(service, deadline)
        host, port = self.proxy
        plain = tls.connect_plain(tls.Service("--proxy", host, port), deadline)
        try:
            self._tunnel(plain, deadline)
        except BaseException:
            plain.close()
            raise
        return plain

    def _tunnel(self, plain: socket, deadline: float) -> None:
        """Ask the proxy for a tunnel (RFC 9110, section 9.3.6)."""
        label = self.service.label
        try:
            plain.settimeout(tls.remaining(self.service, deadline))
            request = f"CONNECT {self.address} HTTP/1.1\r\nHost: {self.address}\r\n\r\n"
            plain.sendall(request.encode("ascii"))
            head = b""
            while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows is the service's
                plain.settimeout(tls.remaining(self.service, deadline))
                more = plain.recv(1)
                head += more
                if not more or len(head) > LONGEST_PROXY_ANSWER:
                    raise Stop(UNREACHABLE, f"{label}: the proxy's answer is not whole")
        except OSError:
            raise Stop(UNREACHABLE, f"{label}: the proxy broke off, or is too slow") from None
        if not re.match(rb"HTTP/1\.[01] 2[0-9][0-9][ \r]", head):
            raise Stop(UNREACHABLE, f"{label}: the proxy does not connect to it")


def open_connection(
    url: str,
    *,
    cacert: Path | None = None,
    server_name: str | None = None,
    pin: str | None = None,
    proxy: str | None = None,
    timeout: int = int(tls.LIMIT),
    default_port: str = "",
) -> Connection:
    """Describe how a service is reached; nothing is sent yet.

    Args:
        url: ``host:port`` or ``https://host:port``.
        cacert: PEM file of CAs to trust, in place of the system's.
        server_name: name in the certificate, if it is another than the host.
        pin: SHA-256 of the certificate, 64 hexadecimal digits, colons allowed.
        proxy: ``http://host:port``.
        timeout: seconds for a whole exchange, 1 to 999.
        default_port: the port where `url` may be without one.

    Raises:
        UsageError: one of them is not of its form.
        InputError: the CAs cannot be read.
    """
    if not 1 <= timeout <= 999:
        raise UsageError(f"--timeout {timeout} is not from 1 to 999 seconds", "correct it")
    with as_errors():
        host, port = tls.parse_address("--url", url.removesuffix("/ehsm"), default_port)
        digest = tls.parse_pin("--pin-sha256", pin) if pin else b""
        ca = _read_ca(cacert) if cacert else ""
        service = tls.Service("", host, port, server_name or "", ca, digest, float(timeout))
        connection = Connection(service, parse_proxy(proxy) if proxy else None)
        labelled = service._replace(label=connection.address)
        tls.context(labelled)  # unusable CAs are said before anything else is asked for
    return Connection(labelled, connection.proxy)


def parse_proxy(text: str) -> tuple[str, int]:
    """Read ``http://host:port``; gives host and port.

    Raises:
        UsageError: something else. The text is not repeated: it may hold a password.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    plain = host and parts.scheme == "http" and parts.path in ("", "/") and "@" not in text
    if not plain or not host or not port:
        raise UsageError("--proxy is not http://HOST:PORT", "name a proxy without user and path")
    return host, port


def _read_ca(path: Path) -> str:
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not PEM"
        raise InputError(
            f"--cacert {path}: {reason}", "name a PEM file with certificates"
        ) from None
    if "-----BEGIN CERTIFICATE-----" not in text or len(text) > tls.LONGEST_CA:
        raise InputError(
            f"--cacert {path}: no certificates in it", "name a PEM file with certificates"
        )
    return text


def presented_certificate(connection: Connection) -> bytes:
    """Give the certificate that answers at a service's address, in DER, whoever that is.

    Nothing is checked and nothing is sent.

    Raises:
        EngineError: nobody speaks TLS there.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    unpinned = connection.service._replace(pin=b"", server_name="", ca="")
    deadline = time.monotonic() + tls.CONNECT_LIMIT
    with as_errors():
        plain = connection.dial(unpinned, deadline)
        with tls.secured(unpinned, plain, made, deadline) as secure:
            certificate = secure.getpeercert(binary_form=True)
    assert certificate is not None  # no suite without certificates is in the context
    return certificate


def pinned_to(connection: Connection, certificate: bytes) -> Connection:
    """Give a connection that takes one certificate and no other.

    Args:
        connection: the way.
        certificate: in DER.
    """
    digest = hashlib.sha256(certificate).digest()
    return Connection(connection.service._replace(pin=digest, ca=""), connection.proxy)
