"""Fixtures with a real registry (Debian's docker-registry), plain, with TLS and passwords, or with
tokens, and a proxy in front of it that fails in the ways networks and registries fail.

Tests that use them are marked ``@pytest.mark.integration("docker-registry")``.
"""

import base64
import datetime
import http.client
import ipaddress
import json
import os
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

__all__ = [
    "IDENTITY_TOKEN",
    "PASSWORD",
    "Certificates",
    "Fault",
    "FaultProxy",
    "Registry",
    "TokenServer",
    "certificates",
    "fault_proxy",
    "log_in",
    "make_image",
    "no_waiting",
    "plain_process",
    "registry",
    "secure_process",
    "secure_registry",
    "serve",
    "start_registry",
    "token_process",
    "token_registry",
]

USER, PASSWORD = "team", "pass-word-that-must-not-show"
IDENTITY_TOKEN = "identity-token-that-must-not-show"
SERVICE = "registry.example"


@dataclass
class Registry:
    """A running registry.

    Attributes:
        host: as in image names: ``127.0.0.1:PORT``.
        root: its storage.
        ca: the bundle to trust, with TLS.
        user: who may use it, with passwords or tokens.
        password: the user's.
        tokens: the server that gives out tokens, if there is one.
    """

    host: str
    root: Path
    ca: Path | None = None
    user: str = ""
    password: str = ""
    tokens: "TokenServer | None" = None

    def blob(self, digest: str) -> Path:
        """The file with a blob's bytes."""
        found = digest.removeprefix("sha256:")
        blobs = self.root / "docker/registry/v2/blobs/sha256"
        return blobs / found[:2] / found / "data"

    def tag(self, repository: str, tag: str) -> str | None:
        """The digest a tag points to in the storage."""
        tags = self.root / "docker/registry/v2/repositories" / repository / "_manifests/tags"
        path = tags / tag / "current/link"
        return path.read_text() if path.exists() else None


@contextmanager
def start_registry(folder: Path, config: str = "", http: str = "") -> Iterator[Registry]:
    """Run a registry on a free port until the end of the block.

    Args:
        folder: for its storage and log.
        config: more lines of its YAML configuration.
        http: more keys of ``http``, indented by two.
    """
    root = folder / "storage"
    root.mkdir(parents=True)
    (folder / "config.yml").write_text(
        "version: 0.1\n"
        "log: {accesslog: {disabled: true}, level: info}\n"
        f"storage:\n  filesystem: {{rootdirectory: {root}}}\n  delete: {{enabled: true}}\n"
        f"http:\n  addr: 127.0.0.1:0\n{http}{config}"
    )
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            # It ends with the test run, even when that is killed.
            ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", folder / "config.yml"],
            stdout=stream,
            stderr=stream,
            env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        deadline = time.monotonic() + 20
        while not (found := re.search(rb"listening on (127\.0\.0\.1:\d+)", log.read_bytes())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        yield Registry(found[1].decode(), root)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def plain_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The process behind ``registry``: one for all tests, its storage emptied for each."""
    with start_registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture
def registry(plain_process: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry that speaks plain http and knows no users."""
    return _fresh(plain_process, tmp_path, monkeypatch)


def _fresh(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))
    shutil.rmtree(registry.root / "docker", ignore_errors=True)
    return registry


@dataclass(frozen=True)
class Certificates:
    """A CA, and what it signed for 127.0.0.1 and localhost.

    Attributes:
        ca: the CA's certificate.
        cert: the server's certificate.
        key: its key.
        wrong_name: a certificate and key for another host, in one file.
        expired: a certificate and key that have expired, in one file.
    """

    ca: Path
    cert: Path
    key: Path
    wrong_name: Path
    expired: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of a CA that no machine knows."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])

    def sign(
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        days: int,
        extension: x509.ExtensionType,
    ) -> bytes:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(ca_name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=9))
        builder = builder.not_valid_after(now + datetime.timedelta(days=days))
        made = builder.add_extension(extension, False).sign(ca_key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    def server(*names: x509.GeneralName, days: int = 9) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return sign(x509.Name([]), key, days, x509.SubjectAlternativeName(names)), pem

    ours = (x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost"))
    cert, key = server(*ours)
    paths = Certificates(*(folder / f"{name}.pem" for name in ("ca", "cert", "key", "name", "old")))
    paths.ca.write_bytes(sign(ca_name, ca_key, 9, x509.BasicConstraints(True, None)))
    paths.cert.write_bytes(cert)
    paths.key.write_bytes(key)
    paths.wrong_name.write_bytes(b"".join(server(x509.DNSName("registry.example"))))
    paths.expired.write_bytes(b"".join(server(*ours, days=-1)))
    return paths


def _tls(certificates: Certificates) -> str:
    return f"  tls: {{certificate: {certificates.cert}, key: {certificates.key}}}\n"


@pytest.fixture(scope="session")
def secure_process(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Registry]:
    """The process behind ``secure_registry``."""
    import bcrypt

    folder = tmp_path_factory.mktemp("secure-registry")
    users = folder / "htpasswd"
    users.write_bytes(USER.encode() + b":" + bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)))
    config = f"auth: {{htpasswd: {{realm: test, path: {users}}}}}\n"
    with start_registry(folder, config, _tls(certificates)) as started:
        started.ca, started.user, started.password = certificates.ca, USER, PASSWORD
        yield started


@pytest.fixture
def secure_registry(
    secure_process: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """A registry with TLS and one user; nobody is logged in."""
    return _fresh(secure_process, tmp_path, monkeypatch)


def log_in(registry: Registry, **entry: str) -> Path:
    """Write Docker's configuration as ``docker login`` does; gives its path."""
    pair = f"{registry.user}:{registry.password}".encode()
    value = entry or {"auth": base64.b64encode(pair).decode()}
    path = Path(os.environ["DOCKER_CONFIG"]) / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"auths": {registry.host: value}}))
    return path


def make_image(cache: Any, *sizes: int, seed: int = 0, base: Any = None) -> Any:
    """An image with a layer of about that many bytes for each size, on top of a base if given."""
    from imagekit.images.compose import append, new_image
    from imagekit.images.layers import LayerFile, write_layer

    source = random.Random(seed)
    layers = [
        write_layer(
            [LayerFile(f"/data/{seed}-{number}", source.randbytes(size))], cache.blobs, seed
        )
        for number, size in enumerate(sizes)
    ]
    if base is None:
        return new_image(layers, cache.blobs, created=seed, env={"SEED": str(seed)})
    for layer in layers:
        base = append(base, layer, cache.blobs, created=seed, history=f"cell {seed}")
    return base


@contextmanager
def serve(
    handler: type[BaseHTTPRequestHandler], certificates: Certificates | None = None
) -> Iterator[ThreadingHTTPServer]:
    """Run an HTTP server on a free port until the end of the block, with TLS if asked."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that go away are what is tested."""

    server = Server(("127.0.0.1", 0), handler)
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.cert, certificates.key)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class TokenServer:
    """A server that gives out tokens for a registry (distribution's token specification).

    Attributes:
        realm: its URL.
        life: the seconds its tokens are said to live.
        forbidden: repositories nobody gets a right to.
        refuse: answer 403 rather than a token without rights, when a scope is forbidden.
        asked: the requests: method, scopes, user.
    """

    realm: str = ""
    life: int = 300
    forbidden: set[str] = field(default_factory=set)
    refuse: bool = False
    asked: list[tuple[str, tuple[str, ...], str]] = field(default_factory=list)


class _Issuer:
    """Signs the tokens a registry believes (JWT with ES256 and the certificate in ``x5c``)."""

    def __init__(self, certificates: Certificates) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = serialization.load_pem_private_key(certificates.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        chain = x509.load_pem_x509_certificate(certificates.cert.read_bytes())
        self._chain = base64.b64encode(chain.public_bytes(serialization.Encoding.DER)).decode()

    def token(self, user: str, access: list[dict[str, Any]]) -> str:
        """A token for these rights."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        now = int(time.time())
        head = {"typ": "JWT", "alg": "ES256", "x5c": [self._chain]}
        body = {"iss": "issuer", "sub": user, "aud": SERVICE, "iat": now, "access": access}
        body |= {"nbf": now - 9, "exp": now + 600, "jti": str(time.monotonic_ns())}
        text = ".".join(self._encoded(json.dumps(part).encode()) for part in (head, body))
        r, s = utils.decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{self._encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def _encoded(self, data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")


class _TokenHandler(BaseHTTPRequestHandler):
    """Gives tokens to whoever has the password or the identity token; others may pull."""

    state: TokenServer
    issuer: _Issuer

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        user = ""
        if self.headers["Authorization"]:
            pair = base64.b64decode(self.headers["Authorization"].removeprefix("Basic "))
            if pair != f"{USER}:{PASSWORD}".encode():
                self.answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong"}]})
                return
            user = USER
        self.give(user, asked.get("scope", []))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        right = {"refresh_token": IDENTITY_TOKEN, "service": SERVICE}
        right |= {"grant_type": "refresh_token", "client_id": "imagekit"}
        if any(form.get(name) != value for name, value in right.items()):
            self.answer(401, {"details": "invalid refresh token"})
            return
        self.give(USER, form.get("scope", "").split())

    def give(self, user: str, scopes: list[str]) -> None:
        self.state.asked.append((self.command, tuple(scopes), user))
        parts = [scope.split(":") for scope in scopes]
        if self.state.refuse and any(name in self.state.forbidden for _, name, _ in parts):
            self.answer(403, {"errors": [{"code": "DENIED", "message": "no right"}]})
            return
        access = [
            {"type": kind, "name": name, "actions": actions.split(",") if user else ["pull"]}
            for kind, name, actions in parts
            if name not in self.state.forbidden
        ]
        life = self.state.life
        self.answer(200, {"token": self.issuer.token(user, access), "expires_in": life})

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""


@pytest.fixture(scope="session")
def token_process(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Registry]:
    """The processes behind ``token_registry``."""
    state = TokenServer()
    values = {"state": state, "issuer": _Issuer(certificates)}
    with serve(type("Handler", (_TokenHandler,), values), certificates) as server:
        state.realm = f"https://127.0.0.1:{server.server_port}/token"
        keys = f"realm: '{state.realm}', service: {SERVICE}, issuer: issuer"
        config = f"auth: {{token: {{{keys}, rootcertbundle: {certificates.cert}}}}}\n"
        folder = tmp_path_factory.mktemp("token-registry")
        with start_registry(folder, config, _tls(certificates)) as started:
            started.ca, started.user, started.password = certificates.ca, USER, PASSWORD
            started.tokens = state
            yield started


@pytest.fixture
def token_registry(
    token_process: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """A registry with TLS whose users need tokens; nobody is logged in, and all may pull."""
    assert token_process.tokens is not None
    vars(token_process.tokens).update(vars(TokenServer(token_process.tokens.realm)))
    return _fresh(token_process, tmp_path, monkeypatch)


@dataclass
class Fault:
    """What the proxy does to requests that match, in place of passing them on.

    Attributes:
        method: the method, as a pattern.
        path: a pattern found in path and query.
        times: how often it strikes.
        status: answer with this status, and the next two.
        headers: headers of that answer, or to replace in the registry's.
        body: body of that answer.
        cut_answer: end the connection after that many bytes of the answer's body.
        at_cut: called before that end.
        cut_request: end the connection after that many bytes of the request's body.
        swap: changes the answer's body.
        drop: headers of the request that are not passed on.
        location: changes the header Location of the answer.
        before: called first, for instance to wait or to push something else.
        after: called when the registry has answered, before the answer goes back.
    """

    method: str = ".*"
    path: str = ""
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_answer: int | None = None
    at_cut: Callable[[], None] | None = None
    cut_request: int | None = None
    swap: Callable[[bytes], bytes] | None = None
    drop: tuple[str, ...] = ()
    location: Callable[[str], str] | None = None
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None


@dataclass
class Seen:
    """A request that came to the proxy: what was asked, and the bytes of both bodies."""

    method: str
    path: str
    headers: Mapping[str, str]
    status: int = 0
    received: int = 0
    sent: int = 0


@dataclass
class FaultProxy:
    """A registry behind a network that fails.

    Attributes:
        host: as in image names.
        faults: what fails, in this order.
        seen: all requests.
    """

    host: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def requests(self, method: str, path: str = "") -> list[Seen]:
        """The requests of a method whose path has a match of the pattern."""
        return [item for item in self.seen if item.method == method and re.search(path, item.path)]

    def strike(self, method: str, path: str) -> Fault | None:
        """The fault for a request, used up by one."""
        with self.lock:
            for fault in self.faults:
                hit = re.fullmatch(fault.method, method) and re.search(fault.path, path)
                if hit and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


@pytest.fixture
def fault_proxy() -> Iterator[Callable[..., FaultProxy]]:
    """Makes a proxy in front of a registry that speaks plain http, with TLS if asked."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(registry: Registry, certificates: Certificates | None = None) -> FaultProxy:
            proxy = FaultProxy("")
            scheme = "http" if certificates is None else "https"
            values = {"proxy": proxy, "upstream": registry.host, "scheme": scheme}
            handler = type("Handler", (_ProxyHandler,), values)
            server = stack.enter_context(serve(handler, certificates))
            proxy.host = f"127.0.0.1:{server.server_port}"
            return proxy

        yield make


class _ProxyHandler(BaseHTTPRequestHandler):
    """Passes requests on to a registry, except for the faults."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultProxy
    upstream: str
    scheme: str

    def handle_one(self) -> None:
        seen = Seen(self.command, self.path, dict(self.headers))
        with self.proxy.lock:
            self.proxy.seen.append(seen)
        fault = self.proxy.strike(self.command, self.path) or Fault()
        if fault.before:
            fault.before()
        body = self.body(seen, fault)
        if body is None:
            self.cut()
            return
        if fault.status:
            self.give(seen, fault.status, fault.headers, fault.body, fault)
            return
        status, headers, content = self.pass_on(body, fault.drop)
        if fault.after:
            fault.after()
        content = fault.swap(content) if fault.swap else content
        if fault.location:
            headers["Location"] = fault.location(headers["Location"])
        self.give(seen, status, headers | dict(fault.headers), content, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one

    def body(self, seen: Seen, fault: Fault) -> bytes | None:
        left = int(self.headers.get("Content-Length") or 0)
        parts = []
        while left:
            block = self.rfile.read1(min(left, 1 << 16))
            if not block:
                return None
            parts.append(block)
            left -= len(block)
            seen.received += len(block)
            if fault.cut_request is not None and seen.received >= fault.cut_request:
                return None
        return b"".join(parts)

    def pass_on(self, body: bytes, drop: tuple[str, ...]) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name not in drop}
        headers["X-Forwarded-Proto"] = self.scheme
        connection.request(self.command, self.path, body or None, headers)
        response = connection.getresponse()
        content = response.read()
        found = dict(response.getheaders())
        connection.close()
        return response.status, found, content

    def give(
        self, seen: Seen, status: int, headers: Mapping[str, str], content: bytes, fault: Fault
    ) -> None:
        seen.status = status
        self.send_response_only(status)
        length = str(len(content))
        for name, value in {"Content-Length": length, **headers}.items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        wanted = content[: fault.cut_answer]
        self.wfile.write(wanted)
        seen.sent += len(wanted)
        if fault.cut_answer is not None:
            if fault.at_cut:
                self.wfile.flush()
                fault.at_cut()
            self.cut()

    def cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another without waits."""
    from imagekit.images.registry import retry

    monkeypatch.setattr(retry, "DELAYS", (0.0,) * len(retry.DELAYS))
