"""The client of Intel's eHSM-KMS: accounts, policies, and its own quote.

Rules of the service that shape it (its June 2024 sources): uploading a policy is not idempotent and
nothing lists policies, so an answer that is lost must not lead to a second upload. The identical
bytes sent again are safe: if the first ones came in, the service refuses them as repeated.
"""

import base64
import binascii
import os
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from imagekit.errors import CheckError, ImagekitError, OutcomeUnknownError, UsageError
from imagekit.kms.account import EHSM, check_credentials
from imagekit.kms.connection import Connection
from imagekit.kms.faults import account_lost, as_errors, maybe_registered, translated
from imagekit.kms.policy import QUOTE_POLICY, Policy
from imagekit.runtime.ehsm import Credentials, Refusal, read_result, signed_request, target
from imagekit.runtime.https import Answer, Lost
from imagekit.runtime.stop import Stop

REPEATED = "Timestamp can't be repeated in 20 minutes"
ATTEMPTS = 3
WAIT = 0.5
"""Seconds before a request is sent again; twice as many each time."""
_CODES = (400, 404, 500)
"""Codes of refusals."""
NOBODY = "00000000-0000-0000-0000-000000000000"
"""An id that no policy has."""

_POLICY_ID = re.compile(r"[a-z0-9]{8}-[a-z0-9]{4}-[a-z0-9]{4}-[a-z0-9]{4}-[a-z0-9]{12}", re.ASCII)
_DIGITS = re.compile(r"[0-9a-f]{64}", re.ASCII)


def enroll(connection: Connection) -> Credentials:
    """Have the service make an account.

    The only exchange in which an API key travels: the service must be known before.

    Raises:
        EngineError: the service was not reached.
        KmsError: the service refused.
        OutcomeUnknownError: an account was made, perhaps, and its key is lost.
    """
    try:
        answer = connection.ask(target("Enroll"), None)
    except Lost as lost:
        raise account_lost(lost) from None
    except Stop as stop:
        raise translated(stop) from None
    with as_errors():
        result = read_result("Enroll", answer)
    app_id, api_key = result.get("appid"), result.get("apikey")
    if not isinstance(app_id, str) or not isinstance(api_key, str):
        raise CheckError("Enroll: the answer holds no account", "is this an eHSM?")
    return check_credentials(app_id, api_key, "Enroll: the service's answer")


def version(connection: Connection) -> str:
    """Ask a service which version it says it is; asks for no account.

    Raises:
        EngineError: the service was not reached, or is none.
        KmsError: the service refused.
    """
    with as_errors():
        result = read_result("GetVersion", connection.ask(target("GetVersion"), None))
    return f"{result.get('version')} ({result.get('git_sha')})"


class Ehsm:
    """An eHSM with an account: a :class:`imagekit.kms.registrar.Registrar`.

    Args:
        connection: the way to it.
        who: the account.
        talk: told remarks.
    """

    service: str = EHSM
    types: tuple[str, ...] = (QUOTE_POLICY,)
    can_read_back = True

    def __init__(
        self, connection: Connection, who: Credentials, talk: Callable[[str], None]
    ) -> None:
        self.connection, self._who, self._talk = connection, who, talk
        self.url, self.app_id = connection.address, who.app_id

    def ask(self, action: str, payload: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask something that can be asked twice; tried again if an answer is lost.

        Raises:
            EngineError: no answer.
            KmsError: the service refused.
            CheckError: the answer has no result.
        """
        for attempt in range(1, ATTEMPTS + 1):
            body = signed_request(self._who, payload)
            try:
                return self._result(action, self.connection.ask(target(action), body))
            except Lost as lost:
                if not self._again(attempt, lost, "asking again"):
                    raise translated(lost) from None
            except Stop as stop:
                raise translated(stop) from None
        raise AssertionError("unreachable")

    def register(self, policy: Policy) -> str:
        """Upload a policy, once, whatever happens on the way; gives its id."""
        action = "UploadQuotePolicy"
        payload = {"mr_enclave": policy.mr_enclave, "mr_signer": policy.mr_signer}
        body = signed_request(self._who, payload)
        lost: Lost | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self.connection.ask(target(action), body)
            except Lost as this:
                lost = this
                if not self._again(attempt, lost, "sending the same bytes again"):
                    break
            except Stop as stop:
                if lost is None:
                    raise translated(stop) from None
                break  # it may have been restarted, and would take a repetition for new
            else:
                return self._uploaded(action, answer, lost)
        raise maybe_registered(f"{lost.line if lost else action}: {policy.short} was sent")

    def _uploaded(self, action: str, answer: Answer, lost: Lost | None) -> str:
        try:
            result = self._result(action, answer)
        except Refusal as refusal:
            if refusal.message == REPEATED:
                raise self._received() from None
            if refusal.answer_code not in _CODES:
                raise maybe_registered(
                    f"{action}: the answer has a code that is not known"
                ) from None
            raise translated(refusal) from None
        except Stop as stop:
            if lost is None and 400 <= answer.status < 500:  # no eHSM has seen it
                raise translated(stop) from None
            raise maybe_registered(stop.line) from None
        policy_id = result.get("policyId")
        if not isinstance(policy_id, str) or not _POLICY_ID.fullmatch(policy_id):
            raise _id_lost("the service's answer holds no policy id")
        return policy_id

    def _received(self) -> ImagekitError:
        """Find out what became of an upload that the service says it has seen."""
        try:
            body = signed_request(self._who, {"policyId": NOBODY})
            self._result("GetQuotePolicy", self.connection.ask(target("GetQuotePolicy"), body))
        except Refusal as refusal:
            if refusal.message in (None, "sign error"):  # the account's fault: so was the upload
                return translated(refusal)
            return maybe_registered("the service has received the upload and does not work now")
        except Stop:
            return maybe_registered("the service has received the upload and does not answer now")
        return _id_lost("the service has received the upload, and its answer was lost")

    def read_back(self, policy_id: str) -> Policy | None:
        """Ask what a policy says; None if the service does not know it for this account."""
        result = self.ask("GetQuotePolicy", {"policyId": parse_policy_id(policy_id)})
        if result.get("policyId") != policy_id:
            raise CheckError(
                f"GetQuotePolicy: asked for {policy_id}, answered about another policy",
                "do not trust this service before you know why",
            )
        values = {name: result.get(name) for name in ("mr_enclave", "mr_signer")}
        if set(result) == {"policyId"}:
            return None
        for name, value in values.items():
            if value is None:
                raise CheckError(
                    f"policy {policy_id} has no {name}: it accepts other enclaves than one",
                    "do not use this id; register the image, and use the id that comes back",
                )
            if not isinstance(value, str) or not _DIGITS.fullmatch(value):
                raise CheckError(
                    f"policy {policy_id}: its {name} is not 64 lower-case hex digits: it never "
                    "matches",
                    "do not use this id; register the image, and use the id that comes back",
                )
        return Policy(QUOTE_POLICY, **values)

    def generate_quote(self, challenge: bytes | None = None) -> bytes:
        """Ask for a quote of the service's own enclave.

        Args:
            challenge: up to 3072 bytes that the answer, not the quote, repeats; random if None.

        Raises:
            ImagekitError: as :meth:`ask`.
            CheckError: the challenge does not come back, or there is no quote.
        """
        sent = base64.b64encode(challenge or os.urandom(32)).decode()
        result = self.ask("GenerateQuote", {"challenge": sent})
        if result.get("challenge") != sent:
            raise CheckError("GenerateQuote: the answer is to another challenge", "run it again")
        try:
            quote = base64.b64decode(str(result.get("quote", "")), validate=True)
        except binascii.Error:
            quote = b""
        if not quote:
            raise CheckError("GenerateQuote: the answer holds no quote", "is this an eHSM?")
        return quote

    def _result(self, action: str, answer: Answer) -> dict[str, Any]:
        try:
            return read_result(action, answer)
        except Refusal as refusal:
            if refusal.message != "Timestamp error":
                raise
            line = f"{refusal.line}{_skew(answer.date)}"
            raise Refusal(line, refusal.answer_code, refusal.message) from None

    def _again(self, attempt: int, lost: Lost, remark: str) -> bool:
        """Wait before a request is sent again; False if that was the last attempt."""
        if attempt == ATTEMPTS or self.connection.aborted:
            return False
        self._talk(f"{lost.line}; {remark}")
        time.sleep(WAIT * 2 ** (attempt - 1))
        return True

    def abort(self) -> None:
        """Break off what is under way in other threads."""
        self.connection.abort()


def parse_policy_id(text: str) -> str:
    """Read a policy id.

    Raises:
        UsageError: eHSM would not take it.
    """
    if not _POLICY_ID.fullmatch(text):
        raise UsageError("the policy id is not one: eHSM's are lower-case UUIDs", "copy it again")
    return text


def _skew(date: str) -> str:
    try:
        ahead = parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return ""
    return f" (its clock is {abs(ahead) / 60:.0f} minutes {'ahead' if ahead > 0 else 'behind'})"


def _id_lost(why: str) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"registered, id unknown: {why}",
        "run it again to register a policy whose id is known; the other one does no harm",
    )
