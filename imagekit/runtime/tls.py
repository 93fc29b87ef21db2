"""Connections to a service: TLS with verification that cannot be turned off, within time limits.

How a service is known, by what is set:

| set | known by |
|---|---|
| nothing | the CAs of the system (inside an enclave: those of the image) and its name |
| CA | that CA alone, and its name; the name can be another than the address |
| pin | the SHA-256 of its certificate (DER), whatever its names, issuer and dates |
| CA and pin | both |

eHSM's self-made certificate is X.509 version 1 with the name ``ehsm`` and without subjectAltName:
an address never matches it, and the default context of Python 3.13 refuses it even as a CA
(``VERIFY_X509_STRICT``). A pin works with it; so does it as CA with the server name ``ehsm``, since
the context here is made without that flag, alike in all versions of Python.

Inside an enclave a CA or a pin that the host chose says nothing against that host.

Python 3.8, standard library, nothing else of this package.
"""

# The libraries for TLS cost start-up time in an enclave: loaded where they are used.
# ruff: noqa: PTH123
from __future__ import annotations

import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple  # noqa: UP035 - Python 3.8

from .stop import REFUSED, UNREACHABLE, UNUSABLE, Stop

if TYPE_CHECKING:
    import socket
    import ssl

CONNECT_LIMIT = 10.0
"""Seconds for finding the address, connecting and the TLS handshake."""
LIMIT = 30.0
"""Seconds for a whole exchange, by default."""
LONGEST_CA = 1 << 20

_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)?"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252})"
    r"(:(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)

_CERTIFICATE = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed: give it as CA, or its SHA-256 as pin",
    19: "its issuer is not trusted: give the CA",
    20: "its issuer is not trusted: give the CA",
    21: "its issuer is not trusted: give the CA",
    62: "it is for another name: give the name in it as server name",
    64: "it is not for this IP address: give the name in it as server name, or a pin",
}
"""OpenSSL's verification results (X509_V_ERR_…)."""


class Service(NamedTuple):
    """Where a service is, and how it is known.

    Attributes:
        label: what its address was given with, for messages, such as ``ATTESTATION_URL``.
        host: name or IP address, IPv6 without brackets.
        port: 1 to 65535.
        server_name: name in its certificate; "" for the host.
        ca: CA certificates as PEM text, or the absolute path of a file with them; "" for the
            system's, or none if there is a pin.
        pin: SHA-256 of its certificate in DER, 32 bytes; b"" for none.
        limit: seconds for a whole exchange.
    """

    label: str
    host: str
    port: int
    server_name: str = ""
    ca: str = ""
    pin: bytes = b""
    limit: float = LIMIT

    @property
    def address(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(label: str, text: str, port: str = "") -> tuple[str, int]:
    """Read ``host:port`` or ``https://host:port``, as BigDL and eHSM write it.

    Args:
        label: where it was given, for the message.
        text: the address; an IPv6 address in brackets; a slash at the end is left out.
        port: the port where the address may be without one.

    Returns:
        Host, without brackets, and port.

    Raises:
        Stop: it is no such address; plain http is refused.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise Stop(REFUSED, f"{label} is not an address: give host:port")
    if (found["scheme"] or "https://").lower() != "https://":
        raise Stop(REFUSED, f"{label}: only https is spoken: give host:port or https://host:port")
    number = int(found["port"] or port or 0)
    if not 0 < number < 65536:
        raise Stop(REFUSED, f"{label} has no port from 1 to 65535: give host:port")
    return found["host"].strip("[]"), number


def parse_pin(label: str, text: str) -> bytes:
    """Read a SHA-256 fingerprint: 64 hexadecimal digits, with colons or without.

    Raises:
        Stop: it is none.
    """
    digits = text.replace(":", "")
    if re.fullmatch("[0-9A-Fa-f]{64}", digits) is None:
        raise Stop(REFUSED, f"{label} is not a SHA-256 fingerprint: 64 hexadecimal digits")
    return bytes.fromhex(digits)


def context(service: Service) -> ssl.SSLContext:
    """Make the TLS context for a service: TLS 1.2 or newer, verification by the module's table.

    Raises:
        Stop: the CA is unusable.
    """
    import ssl

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks chain and name
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if service.ca:
        text = service.ca if "-----BEGIN" in service.ca else _read_ca(service)
        try:
            made.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError):
            raise Stop(
                UNUSABLE, f"{service.label}: the CA given for it is no certificate"
            ) from None
    elif service.pin:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE  # the pin is compared before anything is sent
    else:
        made.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return made


def _read_ca(service: Service) -> str:
    try:
        with open(service.ca, encoding="ascii") as file:
            text = file.read(LONGEST_CA + 1)
    except (OSError, ValueError):
        raise Stop(UNUSABLE, f"{service.label}: the file of its CA cannot be read") from None
    if len(text) > LONGEST_CA:
        raise Stop(UNUSABLE, f"{service.label}: the file of its CA is too large")
    return text


def remaining(service: Service, deadline: float) -> float:
    """Give the seconds left until a time of the monotonic clock.

    Raises:
        Stop: there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise too_slow(service)
    return left


def too_slow(service: Service) -> Stop:
    """Make the error of a service that took too long."""
    return Stop(UNREACHABLE, f"{service.label}: the service did not answer within the time limit")


def connect(
    service: Service,
    deadline: float,
    dial: Callable[[Service, float], socket.socket] | None = None,
) -> ssl.SSLSocket:
    """Connect, and make sure that it is the service; nothing was sent yet.

    Args:
        service: where and who.
        deadline: time of the monotonic clock at which to give up, if :data:`CONNECT_LIMIT` is not
            over before.
        dial: gives the connection without TLS; :func:`connect_plain` if None.

    Raises:
        Stop: no connection, or it is not the service.
    """
    made = context(service)
    deadline = min(deadline, time.monotonic() + CONNECT_LIMIT)
    return secured(service, (dial or connect_plain)(service, deadline), made, deadline)


def secured(
    service: Service, plain: socket.socket, made: ssl.SSLContext, deadline: float
) -> ssl.SSLSocket:
    """Speak TLS over a connection, and make sure that it is the service; closed if it is not.

    Args:
        service: who.
        plain: a connection to it.
        made: the context, from :func:`context`.
        deadline: time of the monotonic clock at which to give up.

    Raises:
        Stop: the handshake failed, or it is not the service.
    """
    import socket
    import ssl

    name = service.server_name or service.host
    try:
        plain.settimeout(remaining(service, deadline))
        # An end of the connection that the service did not announce is an error, not an end.
        secure = made.wrap_socket(plain, server_hostname=name, suppress_ragged_eofs=False)
    except Stop as stop:
        raise _closing(plain, stop) from None
    except ssl.SSLCertVerificationError as error:
        why = _CERTIFICATE.get(error.verify_code, "it does not stand up to verification")
        line = f"{service.label}: the service's certificate is refused: {why}"
        raise _closing(plain, Stop(UNREACHABLE, line)) from None
    except socket.timeout:  # noqa: UP041 - Python 3.8 and 3.9
        raise _closing(plain, too_slow(service)) from None
    except (ssl.SSLError, ValueError):
        line = f"{service.label}: the TLS handshake with the service failed"
        raise _closing(plain, Stop(UNREACHABLE, line)) from None
    except OSError as error:
        raise _closing(plain, cannot_reach(service, error)) from None
    _check_pin(service, secure)
    return secure


def _closing(connection: socket.socket, error: Stop) -> Stop:
    connection.close()
    return error


def cannot_reach(service: Service, error: OSError) -> Stop:
    """Make the error of a connection that failed."""
    import socket

    if isinstance(error, socket.gaierror):
        why = "its name cannot be resolved"
    elif isinstance(error, ConnectionRefusedError):
        why = "the connection is refused"
    else:
        why = "the connection failed or broke off"
    return Stop(UNREACHABLE, f"{service.label}: the service cannot be reached: {why}")


def _check_pin(service: Service, secure: ssl.SSLSocket) -> None:
    if not service.pin:
        return
    certificate = secure.getpeercert(binary_form=True) or b""
    if not hmac.compare_digest(hashlib.sha256(certificate).digest(), service.pin):
        line = f"{service.label}: the service's certificate is refused: it is not the pinned one"
        raise _closing(secure, Stop(UNREACHABLE, line))


def connect_plain(service: Service, deadline: float) -> socket.socket:
    """Connect, without TLS, to the first of the addresses that takes the connection.

    Raises:
        Stop: none does in time.
    """
    import socket

    try:
        return _first_connection(service, deadline)
    except socket.timeout:  # noqa: UP041 - Python 3.8 and 3.9
        raise too_slow(service) from None
    except OSError as error:
        raise cannot_reach(service, error) from None


def _first_connection(service: Service, deadline: float) -> socket.socket:
    import socket

    failure: OSError = OSError()
    for family, kind, protocol, _, address in _addresses(service, deadline):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(remaining(service, deadline))
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        except Stop:
            connection.close()
            raise
        else:
            return connection
    raise failure


def _addresses(service: Service, deadline: float) -> list[Any]:
    """Resolve the name; in a thread, since nothing limits the time that the resolver takes."""
    import socket
    import threading

    found: list[Any] = []

    def resolve() -> None:
        try:
            found.append(socket.getaddrinfo(service.host, service.port, 0, socket.SOCK_STREAM))
        except (OSError, ValueError) as error:  # ValueError: a name that IDNA does not take
            found.append(error if isinstance(error, OSError) else socket.gaierror())

    worker = threading.Thread(target=resolve, daemon=True)
    worker.start()
    worker.join(remaining(service, deadline))
    if not found:
        raise too_slow(service)
    if isinstance(found[0], OSError):
        raise found[0]
    addresses: list[Any] = found[0]
    return addresses
