"""The rules and the store of an eHSM, strict, without a network around them.

:class:`Ehsm` follows the measured behaviour of Intel's eHSM-KMS (June 2024): order of checks, rule
against repetition, texts, odd shapes. ``tests/kms/test_ehsm_service.py`` holds it against recorded
exchanges of the real one. It shares no code with imagekit.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from plain_quotes import measurements, sgx_quote

APP_ID = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
API_KEY = "E8QKpBB1a2b3c4d5e6f7g8h9j0k1m2n3"
TEN_MINUTES, TWENTY_MINUTES = 600_000, 1_200_000
YEAR = 365 * 24 * 3_600_000
LARGEST_BODY = 100 * 1024
REPEATED = "Timestamp can't be repeated in 20 minutes"
_POLICY_ID = re.compile("[a-z0-9]{8}-[a-z0-9]{4}-[a-z0-9]{4}-[a-z0-9]{4}-[a-z0-9]{12}")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz0123456789"
# No message is the same for all actions, so none can be taken for the sign of a success.
_MESSAGES = {
    "Enroll": "successful",
    "ListKey": "successful",
    "UploadQuotePolicy": "Upload quote policy success.",
    "GetQuotePolicy": "Query quote policy success.",
}
_KINDS_OF_KEYS = {
    "keyspec": "EH_AES_GCM_(128|192|256)|EH_RSA_(2048|3072|4096)|EH_EC_P(224|256K?|384|521)"
    "|EH_SM2|EH_SM4_(CTR|CBC)|EH_HMAC",
    "origin": "EH_(INTERNAL|EXTERNAL)_KEY",
    "keyusage": "EH_KEYUSAGE_(ENCRYPT_DECRYPT|SIGN_VERIFY)",
}

Json = Any
MISSING: Any = object()


class Refuse(Exception):
    """Ends a request with a code and a message."""

    def __init__(self, code: int, message: Json, result: Json = MISSING) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.result = {} if result is MISSING else result


def failure() -> Refuse:
    """What any failure inside the enclave's library looks like."""
    return Refuse(500, "Server exception.", None)


# -- signs


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


# -- parameters


def text(payload: dict[str, Json], name: str, least: int, most: int) -> str:
    value = present(payload, name)
    if not isinstance(value, str):
        raise Refuse(400, f"Parameter invalid, The {name} must be of string type.")
    if not least <= len(value) <= most:
        raise Refuse(400, f"Parameter invalid, The {name} length error.")
    return value


def present(payload: dict[str, Json], name: str) -> Json:
    value = payload.get(name)
    if value is None or value == "":
        raise Refuse(400, f"Missing required parameters, The {name} cannot be empty.")
    return value


def integer(payload: dict[str, Json], name: str, least: int, most: int) -> None:
    value = present(payload, name)
    if not is_number(value) or int(value) != value:
        raise Refuse(400, f"Parameter invalid, The {name} must be of integer type.")
    if not least <= value <= most:
        raise Refuse(400, f"Parameter invalid, The {name} length error.")


def base64_text(payload: dict[str, Json], name: str, most: int) -> None:
    value = text(payload, name, 1, most)
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        message = f"Parameter invalid, The {name} not a vailed base64 string."
        raise Refuse(400, message) from None


def policy_id(payload: dict[str, Json]) -> None:
    if not _POLICY_ID.fullmatch(text(payload, "policyId", 36, 36)):
        raise Refuse(400, "Parameter invalid, The policyId format wrong.")


def key_and(payload: dict[str, Json], name: str = "") -> None:
    text(payload, "keyid", 36, 36)
    if name:
        base64_text(payload, name, 8192)  # 6 KB
    if payload.get("aad"):
        text(payload, "aad", 1, 8192)


def javascript(data: bytes) -> Json:
    """``JSON.parse``, which knows no NaN and, as the service sets it up, takes no scalars."""

    def no_constant(name: str) -> None:
        raise ValueError(name)

    found = json.loads(data.decode(), parse_constant=no_constant)
    if not isinstance(found, (dict, list)):
        raise ValueError("a scalar")
    return found


# -- HTTP


class Reply(NamedTuple):
    """An answer on its way: HTTP status, body, media type."""

    status: int
    data: bytes
    media: str


HTML, JSON = "text/html; charset=utf-8", "application/json; charset=utf-8"


def error_page(status: int, text: str) -> Reply:
    """The page of the framework under the service."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    lines = "<br> &nbsp; &nbsp;at ".join(text.split("\n"))
    head = '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    body = f"<title>Error</title>\n</head>\n<body>\n<pre>{lines}</pre>\n</body>\n</html>\n"
    return Reply(status, (head + body).encode(), HTML)


def action_of(path: str) -> str | None:
    """The action that a path with its query names; None if it is not eHSM's path."""
    url = urlsplit("https://ehsm" + path)
    if url.path not in ("/ehsm", "/ehsm/"):
        return None
    return parse_qs(url.query).get("Action", [""])[0]


@dataclass
class Key:
    """A key in the store; `state` is 1 while it is enabled, times are milliseconds since 1970."""

    owner: str
    secret: bytes
    spec: str
    created: int
    expires: int
    state: int = 1


@dataclass
class Ehsm:
    """The service's rules and its store.

    ``dataclasses.replace`` gives another face of the same store: with another clock, for instance.

    Attributes:
        tenants: appid → API key.
        verdict: what VerifyQuote says about every quote that is one.
        quote: what GenerateQuote gives.
        now: milliseconds since 1970.
        new_id: makes ids of policies, keys and tenants.
        store_works: False is a document store that is down.
        policies: id → appid and fields.
        created: id of a policy → when.
        used: nonces and timestamps that were seen, and when.
    """

    tenants: dict[str, str] = field(default_factory=lambda: {APP_ID: API_KEY})
    verdict: int = 0
    quote: bytes = field(default_factory=sgx_quote)
    now: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    store_works: bool = True
    policies: dict[str, tuple[str, dict[str, Json]]] = field(default_factory=dict)
    created: dict[str, int] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    used: dict[tuple[str, str], int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def http(self, method: str, path: str, body: bytes, media: str) -> Reply:
        """Answer a request."""
        media = media.partition(";")[0].strip().lower()
        # The framework reads bodies of this type alone, and does so before it looks at the path.
        if media == "application/json" and len(body) > LARGEST_BODY:
            frames = "readStream (/home/ehsm/node_modules/raw-body/index.js:155:17)"
            error = f"PayloadTooLargeError: request entity too large\n{frames}"
            return error_page(413, error)
        action = action_of(path)
        if action is None or method not in ("GET", "POST"):
            return error_page(404, f"Cannot {method} {path.partition('?')[0]}")
        answer = self.answer(method, action, body, media)
        return Reply(200, json.dumps(answer, ensure_ascii=False).encode(), JSON)

    def answer(self, method: str, action: str, body: bytes, media: str) -> dict[str, Json]:
        try:
            with self.lock:
                result = self.get(action) if method == "GET" else self.post(action, body, media)
        except Refuse as refuse:
            reply = {"code": refuse.code, "message": refuse.message, "result": refuse.result}
            if refuse.message is MISSING:
                del reply["message"]
            return reply
        return {"code": 200, "message": _MESSAGES.get(action, "success!"), "result": result}

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
        appid, payload = request["appid"], request.get("payload") or {}
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
            request = javascript(body) if body and media == "application/json" else {}
        except (ValueError, RecursionError):
            raise Refuse(400, "Invalid JSON") from None
        required = ("appid", "timestamp", "sign")
        if not isinstance(request, dict) or not all(request.get(key) for key in required):
            raise Refuse(400, "Missing required parameters")
        if not all(isinstance(request[key], str) for key in required):
            raise Refuse(400, "param type error")
        nonce, timestamp = request.get("nonce") or "", request["timestamp"]
        if not isinstance(nonce, str) or not isinstance(request.get("payload") or {}, dict):
            raise Refuse(400, "param type error")
        if len(nonce) > 64:
            raise Refuse(400, "Nonce length error")
        if len(timestamp) != 13:
            raise Refuse(400, "Timestamp length error")
        if not timestamp.isdecimal() or abs(self.now() - int(timestamp)) >= TEN_MINUTES:
            raise Refuse(400, "Timestamp error")
        self.refuse_repetition(request["appid"], nonce, timestamp)
        return request

    def refuse_repetition(self, appid: str, nonce: str, timestamp: str) -> None:
        """Refused if this nonce and this timestamp have each been seen."""
        now = self.now()
        for key in [key for key, at in self.used.items() if now - at >= TWENTY_MINUTES]:
            del self.used[key]
        marks = [(appid, f"t{timestamp}"), *([(appid, f"n{nonce}")] if nonce else [])]
        repeated = all(mark in self.used for mark in marks)
        self.used.update(dict.fromkeys(marks, now))
        if repeated:
            raise Refuse(400, REPEATED)

    # -- policies and quotes

    def check_UploadQuotePolicy(self, payload: dict[str, Json]) -> None:
        for name in ("mr_enclave", "mr_signer") if payload else ():
            text(payload, name, 64, 64)

    def do_UploadQuotePolicy(self, appid: str, payload: dict[str, Json]) -> Json:
        policy = self.new_id()
        known = {name: payload[name] for name in ("mr_enclave", "mr_signer") if name in payload}
        self.policies[policy] = appid, known
        self.created[policy] = self.now()
        return {"policyId": policy}

    def check_GetQuotePolicy(self, payload: dict[str, Json]) -> None:
        policy_id(payload)

    def do_GetQuotePolicy(self, appid: str, payload: dict[str, Json]) -> Json:
        policy = payload["policyId"]
        owner, found = self.policies.get(policy, (None, {}))
        created = {"createTime": self.created.get(policy, 0)}
        return {"policyId": policy, **({**found, **created} if owner == appid else {})}

    def check_GenerateQuote(self, payload: dict[str, Json]) -> None:
        base64_text(payload, "challenge", 4096)

    def do_GenerateQuote(self, _appid: str, payload: dict[str, Json]) -> Json:
        quote = base64.b64encode(self.quote).decode()
        return {"challenge": payload["challenge"], "quote": quote}

    def check_VerifyQuote(self, payload: dict[str, Json]) -> None:
        base64_text(payload, "quote", 10924)
        base64_text(payload, "nonce", 4096)
        if payload.get("policyId"):
            policy_id(payload)

    def do_VerifyQuote(self, appid: str, payload: dict[str, Json]) -> Json:
        result = {"nonce": payload["nonce"], "result": self.verdict}
        policy, found = payload.get("policyId"), {}
        if policy:
            owner, found = self.policies.get(policy, (None, {}))
            if owner != appid:
                raise Refuse(400, "Invalid  policyId.")
        quote = base64.b64decode(payload["quote"])
        if len(quote) < 436:
            raise failure()
        wanted = (found.get("mr_enclave"), found.get("mr_signer"))
        # As text: a policy in upper case is the policy of no enclave.
        if found and wanted != measurements(quote):
            raise failure()
        result |= found
        return {**result, "sign": mac(self.tenants[appid], result)}

    # -- keys

    def check_CreateKey(self, payload: dict[str, Json]) -> None:
        for name, kinds in _KINDS_OF_KEYS.items():
            if not re.fullmatch(kinds, text(payload, name, 1, 64)):
                raise Refuse(400, f"Parameter invalid, The {name} type is incorrect.")

    def do_CreateKey(self, appid: str, payload: dict[str, Json]) -> Json:
        key, spec, now = self.new_id(), payload["keyspec"], self.now()
        size = int(spec[-3:]) // 8 if spec.startswith("EH_AES") else 32
        self.keys[key] = Key(appid, secrets.token_bytes(size), spec, now, now + YEAR)
        return {"keyid": key}

    def usable(self, appid: str, payload: dict[str, Json]) -> Key:
        key = self.keys.get(payload["keyid"])
        if key is None:
            raise Refuse(400, "keyid error")
        if key.owner != appid:
            raise Refuse(400, "appid error")
        if key.state != 1:
            raise Refuse(400, "keyid is disabled")
        if key.expires < self.now():
            raise Refuse(400, "keyid expire")
        if not key.spec.startswith("EH_AES"):
            raise failure()
        return key

    def seal(self, key: Key, data: bytes, aad: str) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(12)
        return nonce + AESGCM(key.secret).encrypt(nonce, data, aad.encode())

    def unseal(self, key: Key, data: bytes, aad: str) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(key.secret).decrypt(data[:12], data[12:], aad.encode())
        except (InvalidTag, ValueError):
            raise failure() from None

    def sealed(self, appid: str, payload: dict[str, Json], data: bytes) -> str:
        key = self.usable(appid, payload)
        return base64.b64encode(self.seal(key, data, payload.get("aad") or "")).decode()

    def check_Encrypt(self, payload: dict[str, Json]) -> None:
        key_and(payload, "plaintext")

    def do_Encrypt(self, appid: str, payload: dict[str, Json]) -> Json:
        data = base64.b64decode(payload["plaintext"])
        return {"ciphertext": self.sealed(appid, payload, data)}

    def check_Decrypt(self, payload: dict[str, Json]) -> None:
        key_and(payload, "ciphertext")

    def do_Decrypt(self, appid: str, payload: dict[str, Json]) -> Json:
        key, sealed = self.usable(appid, payload), base64.b64decode(payload["ciphertext"])
        data = self.unseal(key, sealed, payload.get("aad") or "")
        return {"plaintext": base64.b64encode(data).decode()}

    def check_GenerateDataKey(self, payload: dict[str, Json]) -> None:
        key_and(payload)
        integer(payload, "keylen", 1, 1024)

    check_GenerateDataKeyWithoutPlaintext = check_GenerateDataKey

    def do_GenerateDataKey(self, appid: str, payload: dict[str, Json]) -> Json:
        data = secrets.token_bytes(int(payload["keylen"]))
        sealed = self.sealed(appid, payload, data)
        return {"ciphertext": sealed, "plaintext": base64.b64encode(data).decode()}

    def do_GenerateDataKeyWithoutPlaintext(self, appid: str, payload: dict[str, Json]) -> Json:
        return {"ciphertext": self.do_GenerateDataKey(appid, payload)["ciphertext"]}

    def do_ListKey(self, appid: str, _payload: dict[str, Json]) -> Json:
        return {
            "list": [
                {
                    "keyid": name,
                    "creationDate": key.created,
                    "expireTime": key.expires,
                    "alias": "",
                    "keyspec": key.spec,
                    "keyState": key.state,
                }
                for name, key in self.keys.items()
                if key.owner == appid
            ]
        }

    # -- for tests

    def wrap(self, data: bytes, appid: str = APP_ID) -> tuple[str, str]:
        """A key id, and data encrypted under that key."""
        key = self.do_CreateKey(appid, {"keyspec": "EH_AES_GCM_256"})["keyid"]
        payload = {"keyid": key, "plaintext": base64.b64encode(data).decode()}
        return key, self.do_Encrypt(appid, payload)["ciphertext"]

    def policy(self, mr_enclave: str, mr_signer: str, appid: str = APP_ID) -> str:
        """The id of a new policy."""
        payload = {"mr_enclave": mr_enclave, "mr_signer": mr_signer}
        return self.do_UploadQuotePolicy(appid, payload)["policyId"]

    def policies_of(self, mr_enclave: str) -> list[str]:
        """The ids of all policies for this enclave."""
        found = list(self.policies.items())
        return [name for name, (_, kept) in found if kept.get("mr_enclave") == mr_enclave]
