"""The client of BigDL's attestation service: accounts and policies.

What shapes it, by the service's sources: the API key travels in clear inside TLS; requests have no
number and no signature, so nothing can be sent twice; nothing can be read back; and values are kept
as Java's ``BigInteger(…).toString(16)``, without leading zeros. State is written to disk every half
minute: a crash soon after registering loses the policy.
"""

import json
from collections.abc import Callable
from typing import Any

from imagekit.errors import CheckError, EngineError, KmsError
from imagekit.kms.account import BIGDL, check_credentials
from imagekit.kms.connection import Connection
from imagekit.kms.faults import account_lost, maybe_registered, translated
from imagekit.kms.policy import NEEDED, QUOTE_POLICY, Policy
from imagekit.runtime.ehsm import Credentials, parse_json
from imagekit.runtime.https import Answer, Lost
from imagekit.runtime.stop import Stop

_FIELDS = {
    "mr_enclave": "mrEnclave",
    "mr_signer": "mrSigner",
    "isv_prod_id": "isvProdID",
    "report_data": "reportData",
    "mr_td": "mrTD",
    "rtmr": "rtmr",
}
_HINT = "check the address and the certificate options"


def enroll(connection: Connection) -> Credentials:
    """Have the service make an account.

    Raises:
        EngineError: the service was not reached, or is none.
        OutcomeUnknownError: an account was made, perhaps, and its key is lost.
    """
    try:
        answer = connection.ask("/enroll", None)
    except Lost as lost:
        raise account_lost(lost) from None
    except Stop as stop:
        raise translated(stop) from None
    document = _document(answer)
    app_id, api_key = document.get("appID"), document.get("apiKey")
    if answer.status != 200 or not isinstance(app_id, str) or not isinstance(api_key, str):
        raise EngineError("enroll: what answered is no BigDL attestation service", _HINT)
    return check_credentials(app_id, api_key, "enroll: the service's answer")


class BigDl:
    """A BigDL attestation service with an account: a :class:`imagekit.kms.registrar.Registrar`.

    Args:
        connection: the way to it.
        who: the account.
        talk: told remarks.
    """

    service: str = BIGDL
    types: tuple[str, ...] = tuple(kind for kind in NEEDED if kind != QUOTE_POLICY)
    can_read_back = False

    def __init__(
        self, connection: Connection, who: Credentials, talk: Callable[[str], None]
    ) -> None:
        self.connection, self._who, self._talk = connection, who, talk
        self.url, self.app_id = connection.address, who.app_id

    def register(self, policy: Policy) -> str:
        """Register a policy, once; gives its id."""
        fields = {"appID": self._who.app_id, "apiKey": self._who.api_key}
        fields |= {"policyType": policy.type, **wire_values(policy)}
        try:
            answer = self.connection.ask("/registerPolicy", json.dumps(fields).encode())
        except Lost as lost:
            raise maybe_registered(lost.line) from None
        except Stop as stop:
            raise translated(stop) from None
        if answer.status == 400:
            raise _refusal(answer.body)
        if 300 <= answer.status < 500:
            line = f"registerPolicy: what answered is no such service: HTTP status {answer.status}"
            raise EngineError(line, _HINT)
        if answer.status != 200:
            raise maybe_registered(f"registerPolicy: HTTP status {answer.status}")
        policy_id = _document(answer).get("policyID")
        if not isinstance(policy_id, str) or not policy_id.isascii() or not policy_id.isprintable():
            raise maybe_registered("registerPolicy: the answer holds no policy id")
        self._talk("this service tells nobody what a policy says: it cannot be read back")
        return policy_id

    def abort(self) -> None:
        """Break off what is under way in other threads."""
        self.connection.abort()

    def read_back(self, policy_id: str) -> Policy | None:
        """Not possible with this service."""
        raise CheckError(
            f"policy {policy_id} cannot be read back: BigDL's service has no way to ask",
            "attest with it: that is the only check there is",
        )


def wire_values(policy: Policy) -> dict[str, str]:
    """Give a policy's values as the service compares them.

    It makes a number of the quote's bytes, first byte first, and writes it in hexadecimal without
    leading zeros. The product id is two bytes in little-endian order that are read so, too: 1
    becomes ``100``.
    """
    values = {}
    for name, value in policy.values.items():
        if name == "isv_prod_id":
            number = int.from_bytes(int(value).to_bytes(2, "little"), "big")
        else:
            number = int(value, 16)
        values[_FIELDS[name]] = format(number, "x")
    return values


def _document(answer: Answer) -> dict[str, Any]:
    try:
        document = parse_json(answer.body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _refusal(body: bytes) -> KmsError:
    if body.strip().startswith(b"Invalid app_id"):
        why, hint = "it does not know this app id and API key", "check the account"
    else:
        why, hint = "it does not take this policy", "ask who runs the service"
    return KmsError(f"registerPolicy: refused by the service: {why}", hint)
