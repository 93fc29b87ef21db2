"""Services for attestation over TLS, small and strict: an eHSM and a BigDL attestation service.

What they answer is in ``ehsm_service`` and ``bigdl_service``; what can go wrong on the way is in
``kms_faults``.
"""

import contextlib
import datetime
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from bigdl_service import BigDl
from ehsm_service import API_KEY, APP_ID, Ehsm, Reply, mac, sorted_text
from registry_parts import Certificates, serve

__all__ = [
    "API_KEY",
    "APP_ID",
    "BigDl",
    "Ehsm",
    "Handler",
    "Service",
    "mac",
    "old_certificate",
    "sorted_text",
    "start_service",
]

Json = Any
BIGDL_PATHS = ("/", "/enroll", "/registerPolicy", "/verifyQuote")


@dataclass
class Service:
    """A running server with both services.

    Attributes:
        port: on 127.0.0.1.
        ca: PEM of the CA, or of the certificate itself.
        pin: SHA-256 of its certificate, hexadecimal.
        change: what happens to an answer of eHSM on its way.
        instead: takes over a request, before it is looked at.
        at_connect: asked about each connection before TLS; True if it took care of it.
        seen: paths and bodies of all requests.
    """

    port: int
    ca: str
    pin: str
    ehsm: Ehsm = field(default_factory=Ehsm)
    bigdl: BigDl = field(default_factory=BigDl)
    change: Callable[[dict[str, Json]], Json] | None = None
    instead: Callable[["Handler"], None] | None = None
    at_connect: Callable[["Handler"], bool] | None = None
    seen: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def bodies(self, action: str) -> list[bytes]:
        """The bodies of all requests for an action of eHSM, or a path of BigDL's."""
        paths = (f"/ehsm?Action={action}", f"/{action}")
        return [body for path, body in list(self.seen) if path in paths]


class Handler(BaseHTTPRequestHandler):
    """One connection; `body` is that of the request at hand."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    service: Service
    body = b""
    clock: Callable[[], int] | None = None

    def handle(self) -> None:
        if self.service.at_connect and self.service.at_connect(self):
            return
        super().handle()

    def handle_one(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.service.seen.append((self.path, self.body))
        if self.service.instead:
            self.service.instead(self)
        else:
            self.give(*self.reply())

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_one

    def reply(self, ehsm: Ehsm | None = None) -> Reply:
        """What the service answers, or one in another state."""
        if self.path.partition("?")[0] in BIGDL_PATHS:
            return self.service.bigdl.http(self.command, self.path, self.body)
        media = self.headers.get("Content-Type", "")
        made = (ehsm or self.service.ehsm).http(self.command, self.path, self.body, media)
        if self.service.change is None or made.status != 200:
            return made
        changed = self.service.change(json.loads(made.data))
        data = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
        return made._replace(data=data)

    def give(
        self, status: int, data: bytes, media: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": media, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The header Date, by the clock of the service."""
        now = self.clock or self.service.ehsm.now
        return super().date_time_string(now() / 1000 if timestamp is None else timestamp)

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""


@contextlib.contextmanager
def start_service(certificates: Certificates) -> Iterator[Service]:
    """Run the services with TLS on a free port until the end of the block."""
    import ssl

    der = ssl.PEM_cert_to_DER_cert(certificates.cert.read_text().partition("-----BEGIN PRIVATE")[0])
    pin = hashlib.sha256(der).hexdigest()
    service = Service(0, certificates.ca.read_text(), pin)
    handler = type("Handler", (Handler,), {"service": service})
    with serve(handler, certificates) as server:
        service.port = server.server_port
        yield service


def old_certificate(folder: Path) -> Certificates:
    """A certificate as eHSM makes its own: X.509 version 1, CN=ehsm, RSA-3072, no alternative name.

    No library makes version 1 any more: the version field is cut out of a version 3 certificate
    without extensions, and the rest signed again.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = rsa.generate_private_key(65537, 3072)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ehsm")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=365))
    made = builder.sign(key, hashes.SHA256())
    content = der_content(made.tbs_certificate_bytes)
    version = bytes.fromhex("a003020102")
    assert content.startswith(version)
    tbs = der(0x30, content[len(version) :])
    signature = key.sign(tbs, padding.PKCS1v15(), hashes.SHA256())
    algorithm = bytes.fromhex("300d06092a864886f70d01010b0500")  # sha256WithRSAEncryption
    data = der(0x30, tbs + algorithm + der(0x03, b"\0" + signature))
    pem = x509.load_der_x509_certificate(data).public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    pkcs8 = serialization.PrivateFormat.PKCS8
    folder.mkdir(parents=True, exist_ok=True)
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(pem)
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    return Certificates(cert, cert, private, cert, cert)


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    number = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(number)]) + number + content


def der_content(data: bytes) -> bytes:
    return data[2 + (data[1] & 0x7F if data[1] & 0x80 else 0) :]
