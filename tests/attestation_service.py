"""Services for attestation over TLS, small and strict: an eHSM and a BigDL attestation service.

:class:`Ehsm` follows the measured behaviour of Intel's eHSM-KMS (June 2024): order of checks, rule
against repetition, texts, odd shapes. ``tests/runtime/test_ehsm_wire.py`` holds it against recorded
exchanges of the real one. It shares no code with imagekit.
"""

import base64
import binascii
import contextlib
import datetime
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from registry_parts import Certificates, serve

APP_ID = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
API_KEY = "E8QKpBB1a2b3c4d5e6f7g8h9j0k1m2n3"
TEN_MINUTES, TWENTY_MINUTES = 600_000, 1_200_000
_POLICY_ID = re.compile("[a-z0-9]{8}-[a-z0-9]{4}-[a-z0-9]{4}-[a-z0-9]{4}-[a-z0-9]{12}")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz0123456789"

Json = Any
MISSING: Any = object()


class Refuse(Exception):
    """Ends a request with a code and a message."""

    def __init__(self, code: int, message: Json, result: Json = MISSING) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.result = {} if result is MISSING else result


def sorted_text(value: Json) -> str:
    """What the service signs, by the rules of its JavaScript."""
    pairs = value.items() if isinstance(value, dict) else ((str(i), v) for i, v in enumerate(value))
    parts = []
    for key, item in sorted(pairs, key=lambda pair: pair[0].encode("utf-16-be", "surrogatepass")):
        if js_string(item) == "" or item is False or (is_number(item) and item == 0):
            continue
        text = sorted_text(item) if isinstance(item, (dict, list)) else js_string(item)
        parts.append(key + "=" + text)
    return "&".join(parts)


def is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def js_string(value: Json) -> str:
    """JavaScript's ``value.toString()``, "" for null; numbers as far as tests need them."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(js_string(item) for item in value)
    if isinstance(value, dict):
        return "[object Object]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)


def mac(api_key: str, fields: Json) -> str:
    digest = hmac.new(api_key.encode(), sorted_text(fields).encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def measurements(quote: bytes) -> tuple[str, str]:
    """MRENCLAVE and MRSIGNER of a version 3 quote."""
    return quote[112:144].hex(), quote[176:208].hex()


@dataclass
class Ehsm:
    """The service's rules and its store.

    Attributes:
        tenants: appid → API key.
        verdict: what VerifyQuote says about every quote.
        now: milliseconds since 1970.
        new_id: makes ids of policies and keys.
        store_works: False is a document store that is down.
    """

    tenants: dict[str, str] = field(default_factory=lambda: {APP_ID: API_KEY})
    verdict: int = 0
    now: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    store_works: bool = True
    policies: dict[str, tuple[str, dict[str, Json]]] = field(default_factory=dict)
    keys: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    used: dict[tuple[str, str], int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, action: str, body: bytes, media: str) -> dict[str, Json]:
        try:
            with self.lock:
                result = self.get(action) if method == "GET" else self.post(action, body, media)
        except Refuse as refuse:
            reply = {"code": refuse.code, "message": refuse.message, "result": refuse.result}
            if refuse.message is MISSING:
                del reply["message"]
            return reply
        return {"code": 200, "message": "success!", "result": result}

    def get(self, action: str) -> Json:
        if action == "GetVersion":
            return {"git_sha": "0000000", "version": "0.0.0"}
        if action != "Enroll":
            raise Refuse(400, "Missing required parameters")
        if not self.store_works:
            raise Refuse(500, "enroll user info failed")
        appid, apikey = self.new_id(), "".join(secrets.choice(_LETTERS) for _ in range(32))
        self.tenants[appid] = apikey
        return {"apikey": apikey, "appid": appid}

    def post(self, action: str, body: bytes, media: str) -> Json:
        if action == "Enroll":
            raise Refuse(404, "API Not Found")
        request = self.parsed(body, media)
        appid, payload = request["appid"], request.get("payload", {})
        perform = getattr(self, f"do_{action}", None)
        check = getattr(self, f"check_{action}", None)
        if check:
            check(payload)
        if not self.store_works:
            raise Refuse(400, {})
        if appid not in self.tenants:
            raise Refuse(400, MISSING)
        signed = {key: request.get(key) for key in ("appid", "nonce", "timestamp", "payload")}
        if request["sign"] != mac(self.tenants[appid], signed):
            raise Refuse(400, "sign error")
        if perform is None:
            raise Refuse(404, "API Not Found")
        return perform(appid, payload)

    def parsed(self, body: bytes, media: str) -> dict[str, Json]:
        try:
            request = json.loads(body) if media == "application/json" else {}
        except ValueError:
            raise Refuse(400, "Invalid JSON") from None
        required = ("appid", "timestamp", "sign")
        if not isinstance(request, dict) or not all(request.get(key) for key in required):
            raise Refuse(400, "Missing required parameters")
        if not all(isinstance(request[key], str) for key in required):
            raise Refuse(400, "param type error")
        nonce, timestamp = request.get("nonce") or "", request["timestamp"]
        if not isinstance(nonce, str) or not isinstance(request.get("payload", {}), dict):
            raise Refuse(400, "param type error")
        if len(nonce) > 64:
            raise Refuse(400, "Nonce length error")
        if len(timestamp) != 13:
            raise Refuse(400, "Timestamp length error")
        if abs(self.now() - int(timestamp)) >= TEN_MINUTES:
            raise Refuse(400, "Timestamp error")
        self.refuse_repetition(request["appid"], nonce, timestamp)
        return request

    def refuse_repetition(self, appid: str, nonce: str, timestamp: str) -> None:
        """Refused if this nonce and this timestamp have each been seen."""
        now = self.now()
        self.used = {key: at for key, at in self.used.items() if now - at < TWENTY_MINUTES}
        marks = [(appid, f"t{timestamp}"), *([(appid, f"n{nonce}")] if nonce else [])]
        repeated = all(mark in self.used for mark in marks)
        self.used |= dict.fromkeys(marks, now)
        if repeated:
            raise Refuse(400, "Timestamp can't be repeated in 20 minutes")

    # -- policies and quotes

    def check_UploadQuotePolicy(self, payload: dict[str, Json]) -> None:
        for name in ("mr_enclave", "mr_signer") if payload else ():
            text(payload, name, 64, 64)

    def do_UploadQuotePolicy(self, appid: str, payload: dict[str, Json]) -> Json:
        policy = self.new_id()
        self.policies[policy] = appid, dict(payload)
        return {"policyId": policy}

    def check_GetQuotePolicy(self, payload: dict[str, Json]) -> None:
        check_policy_id(text(payload, "policyId", 36, 36))

    def do_GetQuotePolicy(self, appid: str, payload: dict[str, Json]) -> Json:
        policy = payload["policyId"]
        owner, found = self.policies.get(policy, (None, {}))
        extra = {**found, "createTime": self.now()} if owner == appid else {}
        return {"policyId": policy, **extra}

    def check_GenerateQuote(self, payload: dict[str, Json]) -> None:
        base64_text(payload, "challenge", 4096)

    def do_GenerateQuote(self, _appid: str, payload: dict[str, Json]) -> Json:
        return {"challenge": payload["challenge"], "quote": base64.b64encode(bytes(440)).decode()}

    def check_VerifyQuote(self, payload: dict[str, Json]) -> None:
        base64_text(payload, "quote", 10924)
        base64_text(payload, "nonce", 4096)
        if payload.get("policyId"):
            check_policy_id(text(payload, "policyId", 36, 36))

    def do_VerifyQuote(self, appid: str, payload: dict[str, Json]) -> Json:
        result = {"nonce": payload["nonce"], "result": self.verdict}
        policy = payload.get("policyId")
        if policy:
            owner, found = self.policies.get(policy, (None, {}))
            if owner != appid:
                raise Refuse(400, "Invalid  policyId.")
            quote = base64.b64decode(payload["quote"])
            wanted = (found.get("mr_enclave"), found.get("mr_signer"))
            if found and wanted != measurements(quote):
                raise Refuse(500, "Server exception.", None)
            result |= found
        return {**result, "sign": mac(self.tenants[appid], result)}

    # -- keys

    def check_CreateKey(self, payload: dict[str, Json]) -> None:
        if not re.fullmatch("EH_AES_GCM_(128|192|256)", text(payload, "keyspec", 1, 64)):
            raise Refuse(400, "Parameter invalid, The keyspec type is incorrect.")

    def do_CreateKey(self, appid: str, payload: dict[str, Json]) -> Json:
        key = self.new_id()
        self.keys[key] = appid, secrets.token_bytes(int(payload["keyspec"][-3:]) // 8)
        return {"keyid": key}

    def cipher(self, appid: str, payload: dict[str, Json]) -> Any:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        owner, key = self.keys.get(payload["keyid"], (None, b""))
        if owner is None:
            raise Refuse(400, "keyid error")
        if owner != appid:
            raise Refuse(400, "appid error")
        return AESGCM(key)

    def check_Encrypt(self, payload: dict[str, Json]) -> None:
        text(payload, "keyid", 36, 36)
        base64_text(payload, "plaintext", 8192)

    def do_Encrypt(self, appid: str, payload: dict[str, Json]) -> Json:
        nonce, data = secrets.token_bytes(12), base64.b64decode(payload["plaintext"])
        sealed = nonce + self.cipher(appid, payload).encrypt(nonce, data, None)
        return {"ciphertext": base64.b64encode(sealed).decode()}

    def check_Decrypt(self, payload: dict[str, Json]) -> None:
        text(payload, "keyid", 36, 36)
        base64_text(payload, "ciphertext", 8192)

    def do_Decrypt(self, appid: str, payload: dict[str, Json]) -> Json:
        from cryptography.exceptions import InvalidTag

        sealed = base64.b64decode(payload["ciphertext"])
        try:
            data = self.cipher(appid, payload).decrypt(sealed[:12], sealed[12:], None)
        except (InvalidTag, ValueError):
            raise Refuse(500, "Server exception.", None) from None
        return {"plaintext": base64.b64encode(data).decode()}

    def wrap(self, data: bytes, appid: str = APP_ID) -> tuple[str, str]:
        """A key id, and data encrypted under that key."""
        key = self.do_CreateKey(appid, {"keyspec": "EH_AES_GCM_256"})["keyid"]
        payload = {"keyid": key, "plaintext": base64.b64encode(data).decode()}
        return key, self.do_Encrypt(appid, payload)["ciphertext"]

    def policy(self, mr_enclave: str, mr_signer: str, appid: str = APP_ID) -> str:
        """The id of a new policy."""
        payload = {"mr_enclave": mr_enclave, "mr_signer": mr_signer}
        return self.do_UploadQuotePolicy(appid, payload)["policyId"]


def text(payload: dict[str, Json], name: str, least: int, most: int) -> str:
    value = payload.get(name)
    if value is None or value == "":
        raise Refuse(400, f"Missing required parameters, The {name} cannot be empty.")
    if not isinstance(value, str):
        raise Refuse(400, f"Parameter invalid, The {name} must be of string type.")
    if not least <= len(value) <= most:
        raise Refuse(400, f"Parameter invalid, The {name} length error.")
    return value


def base64_text(payload: dict[str, Json], name: str, most: int) -> None:
    value = text(payload, name, 1, most)
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        message = f"Parameter invalid, The {name} not a vailed base64 string."
        raise Refuse(400, message) from None


def check_policy_id(value: str) -> None:
    if not _POLICY_ID.fullmatch(value):
        raise Refuse(400, "Parameter invalid, The policyId format wrong.")


@dataclass
class BigDl:
    """BigDL's attestation service: no timestamp, nonce or signature.

    Attributes:
        accounts: appID → apiKey.
        verdict: 0 ok, 1 out of date, -1 bad.
        policies: policyID → MRENCLAVE.
    """

    accounts: dict[str, str] = field(default_factory=lambda: {APP_ID: API_KEY})
    verdict: int = 0
    policies: dict[str, str] = field(default_factory=dict)

    def answer(self, body: bytes) -> tuple[int, bytes]:
        request = json.loads(body)
        if self.accounts.get(request["appID"]) != request["apiKey"]:
            return 400, b"Invalid app_id and api_key."
        verdict = self.verdict
        if "policyID" in request:
            if request["policyID"] not in self.policies:
                return 400, b"Unsupported policy type."
            found = int(measurements(base64.b64decode(request["quote"]))[0], 16)
            if format(found, "x") != self.policies[request["policyID"]].lstrip("0"):
                verdict = -1
        return 400 if verdict == -1 else 200, json.dumps({"result": verdict}, indent=2).encode()


@dataclass
class Service:
    """A running server with both services.

    Attributes:
        port: on 127.0.0.1.
        ca: PEM of the CA, or of the certificate itself.
        pin: SHA-256 of its certificate, hexadecimal.
        change: what happens to an answer of eHSM on its way.
        instead: takes over a request, before it is looked at.
        seen: paths and bodies of all requests.
    """

    port: int
    ca: str
    pin: str
    ehsm: Ehsm = field(default_factory=Ehsm)
    bigdl: BigDl = field(default_factory=BigDl)
    change: Callable[[dict[str, Json]], Json] | None = None
    instead: Callable[[BaseHTTPRequestHandler], None] | None = None
    seen: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.service.seen.append((self.path, body))
        if self.service.instead:
            self.service.instead(self)
            return
        url = urlsplit(self.path)
        if self.command == "POST" and url.path == "/verifyQuote":
            self.give(*self.service.bigdl.answer(body), "text/plain; charset=UTF-8")
        elif url.path.rstrip("/") != "/ehsm" or self.path.startswith("//"):
            page = f"<pre>Cannot {self.command} {url.path}</pre>".encode()
            self.give(404, page, "text/html; charset=utf-8")
        else:
            action = parse_qs(url.query).get("Action", [""])[0]
            media = self.headers.get("Content-Type", "")
            reply = self.service.ehsm.answer(self.command, action, body, media)
            changed = self.service.change(reply) if self.service.change else reply
            data = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
            self.give(200, data, "application/json; charset=utf-8")

    do_GET = do_POST = handle_one

    def give(
        self, status: int, data: bytes, media: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": media, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Stay silent."""


@contextlib.contextmanager
def start_service(certificates: Certificates) -> Iterator[Service]:
    """Run the services with TLS on a free port until the end of the block."""
    import ssl

    der = ssl.PEM_cert_to_DER_cert(certificates.cert.read_text().partition("-----BEGIN PRIVATE")[0])
    pin = hashlib.sha256(der).hexdigest()
    service = Service(0, certificates.ca.read_text(), pin)
    handler = type("Handler", (_Handler,), {"service": service})
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
