"""The rules and the store of BigDL's attestation service, without a network around them.

From its published source: no timestamp, nonce or signature, the API key in the clear, and numbers
compared as Java writes them. It shares no code with imagekit.
"""

import base64
import json
import secrets
import string
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ehsm_service import API_KEY, APP_ID, Reply

PLAIN = "text/plain; charset=UTF-8"
HELP = "This is BigDL Remote Attestation Service.\nUsage: GET /enroll, POST /registerPolicy, ..."

# For each type of policy: its fields, and where a quote of version 3 or 4 has their values.
SGX_TYPES = {
    "SGXMREnclavePolicy": {"mrEnclave": (112, 144)},
    "SGXMRSignerPolicy": {"mrSigner": (176, 208), "isvProdID": (304, 306)},
    "SGXReportDataPolicy": {"reportData": (368, 432)},
}
TDX_TYPES = {
    "TDXMRTDPolicy": {"mrTD": (184, 232)},
    "TDXReportDataPolicy": {"reportData": (568, 632)},
    "TDXLaunchTimePolicy": {"mrTD": (184, 232), "rtmr": (376, 568)},
}


def java_hex(data: bytes) -> str:
    """``new BigInteger(1, data).toString(16)``: no leading zeros, and bytes in their order.

    So a measurement that begins with 0 loses it, and product id 1, little-endian, is 100.
    """
    return format(int.from_bytes(data, "big"), "x")


@dataclass
class BigDl:
    """The service's rules and its store.

    Attributes:
        accounts: appID → apiKey.
        verdict: 0 ok, 1 out of date, -1 bad.
        policies: policyID → the fields of the request that made it, or an MRENCLAVE alone.
    """

    accounts: dict[str, str] = field(default_factory=lambda: {APP_ID: API_KEY})
    verdict: int = 0
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    policies: dict[str, Mapping[str, Any] | str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def http(self, method: str, path: str, body: bytes) -> Reply:
        """Answer a request."""
        perform = {
            ("GET", "/"): lambda: Reply(200, HELP.encode(), PLAIN),
            ("GET", "/enroll"): self.enroll,
            ("POST", "/registerPolicy"): lambda: self.register(json.loads(body)),
            ("POST", "/verifyQuote"): lambda: self.verify(json.loads(body)),
        }.get((method, path.partition("?")[0]))
        if perform is None:
            return Reply(404, b"The requested resource could not be found.", PLAIN)
        try:
            with self.lock:
                return perform()
        except (ValueError, KeyError, TypeError, AttributeError):
            return Reply(500, b"There was an internal server error.", PLAIN)

    def enroll(self) -> Reply:
        letters = string.ascii_letters + string.digits
        account, key = self.new_id(), "".join(secrets.choice(letters) for _ in range(32))
        self.accounts[account] = key
        return said({"appID": account, "apiKey": key})

    def unknown(self, request: dict[str, Any]) -> bool:
        return self.accounts.get(request["appID"]) != request["apiKey"]

    def register(self, request: dict[str, Any]) -> Reply:
        if self.unknown(request):
            return Reply(400, b"Invalid app_id and api_key.", PLAIN)
        kind = request["policyType"]
        wanted = {**SGX_TYPES, **TDX_TYPES}.get(kind)
        if wanted is None:
            return Reply(400, b"Unsupported policy type.", PLAIN)
        policy = self.new_id()
        self.policies[policy] = {"policyType": kind, **{name: request[name] for name in wanted}}
        return said({"policyID": policy})

    def verify(self, request: dict[str, Any]) -> Reply:
        if self.unknown(request):
            return Reply(400, b"Invalid app_id and api_key.", PLAIN)
        verdict, quote = self.verdict, base64.b64decode(request["quote"])
        if "policyID" in request:
            policy = self.policies.get(request["policyID"])
            if policy is None:
                return Reply(400, b"Unsupported policy type.", PLAIN)
            if not fits(policy, quote):
                verdict = -1
        return said({"result": verdict}, 400 if verdict == -1 else 200)


def fits(policy: Mapping[str, Any] | str, quote: bytes) -> bool:
    """Whether a quote is of the policy's kind and has its values."""
    if isinstance(policy, str):
        policy = {"policyType": "SGXMREnclavePolicy", "mrEnclave": policy}
    tdx = int.from_bytes(quote[:2], "little") == 4 and quote[4] == 0x81
    places = (TDX_TYPES if tdx else SGX_TYPES).get(policy["policyType"])
    return places is not None and all(
        java_hex(quote[start:end]) == str(policy[name]) for name, (start, end) in places.items()
    )


def said(document: dict[str, Any], status: int = 200) -> Reply:
    return Reply(status, json.dumps(document, indent=2).encode(), PLAIN)
