"""The wire format of Intel's eHSM-KMS: signed requests, and answers judged by their ``code``.

The rules are those of the service's June 2024 sources, as measured on them: a request is a JSON
object with ``appid``, ``timestamp`` (13 digits), ``nonce``, ``payload`` and ``sign``, which is an
HMAC-SHA256 under the API key over a canonical text of the others (:func:`canonical`). Answers come
with HTTP status 200 almost always; ``code`` says how it went. Only VerifyQuote signs its answer.

Everything here is a function of its arguments, the clock and random numbers; :func:`.https.ask`
talks to the service::

    answer = ask(service, target("GetQuotePolicy"), signed_request(who, {"policyId": policy}))
    policy = read_result("GetQuotePolicy", answer)

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from typing import Any, Mapping, NamedTuple  # noqa: UP035 - Python 3.8

from .documents import without_repetition
from .https import Answer
from .stop import FAILED, KMS_REFUSED, UNREACHABLE, UNUSABLE, Stop

_REASONS = {
    "sign error": "the API key is not that of this APP_ID",
    "Timestamp error": "its clock and ours differ by more than 10 minutes",
    "Timestamp can't be repeated in 20 minutes": "it takes the request for a repeated one",
    "Invalid  policyId.": "it does not know the policy id",
    "keyid error": "it does not know the key id",
    "appid error": "the key belongs to another APP_ID",
    "keyid is disabled": "the key is disabled",
    "keyid expire": "the key has expired",
    "API Not Found": "it does not know this action",
    "enroll user info failed": "its store does not work",
}


class Credentials(NamedTuple):
    """Who asks.

    Attributes:
        app_id: as enrolled.
        api_key: the secret of that; never shown.
    """

    app_id: str
    api_key: str

    def __repr__(self) -> str:
        """Without the key."""
        return f"Credentials(app_id={self.app_id!r}, …)"


class Refusal(Stop):
    """The service said no.

    Attributes:
        answer_code: ``code`` of the answer, None if it has none.
        message: its ``message``: None if that is missing, "" if it is no text; comes from outside.
    """

    def __init__(self, line: str, answer_code: int | None, message: str | None) -> None:
        super().__init__(KMS_REFUSED, line)
        self.answer_code = answer_code
        self.message = message


def canonical(fields: Mapping[str, Any]) -> str:
    """Write the text that is signed: ``k=v`` joined by ``&``, nothing escaped.

    Keys stand in the order of their UTF-16 code units. A value that JavaScript holds equal to ""
    with ``==`` is left out: null, "", 0, false, an empty array. Objects, and arrays as objects
    with the keys 0, 1, …, are replaced by their own text; the others are written as JavaScript's
    ``String()`` does.

    Args:
        fields: JSON values; numbers are those of JavaScript.

    Raises:
        ValueError: a number that JSON cannot write.
    """
    kept = [
        (key, value)
        for key, value in sorted(fields.items(), key=lambda pair: _code_units(pair[0]))
        if not _equals_empty(value)
    ]
    return "&".join(f"{key}={_text(value)}" for key, value in kept)


def _code_units(text: str) -> bytes:
    return text.encode("utf-16-be", "surrogatepass")


def _equals_empty(value: Any) -> bool:
    """Whether JavaScript's ``value == ""`` holds."""
    if value is None or isinstance(value, str):
        return not value
    if isinstance(value, (bool, int, float)):
        return value == 0
    if isinstance(value, list):  # compared as its elements, joined by commas
        return not value or (len(value) == 1 and _joins_empty(value[0]))
    return False


def _joins_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list)) and _equals_empty(value))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true"  # false is left out
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, list):
        return canonical({str(index): item for index, item in enumerate(value)})
    if isinstance(value, dict):
        return canonical(value)
    return str(value)


def _number(value: float) -> str:
    """Write a number as JavaScript does: shortest digits, exponents from 1e21 and below 1e-6."""
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("a number is too large") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError("a number is not finite")
    sign = "-" if number < 0 else ""
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return f"{sign}{digits[0]}{'.' if count > 1 else ''}{digits[1:]}{power}"


def sign(api_key: str, fields: Mapping[str, Any]) -> str:
    """Sign fields: base64 of HMAC-SHA256 over :func:`canonical`, both as UTF-8.

    Raises:
        ValueError: a number or a character that cannot be written.
    """
    mac = hmac.new(api_key.encode(), canonical(fields).encode(), hashlib.sha256)
    return base64.b64encode(mac.digest()).decode()


def is_signed(api_key: str, result: Mapping[str, Any]) -> bool:
    """Whether the ``sign`` in an answer's result is the service's over the other fields.

    By the rule of :func:`canonical` a ``result`` of 0 is not among what is signed.
    """
    found = result.get("sign")
    if not isinstance(found, str):
        return False
    try:
        wanted = sign(api_key, {key: value for key, value in result.items() if key != "sign"})
    except ValueError:
        return False
    return hmac.compare_digest(found.encode("utf-8", "replace"), wanted.encode())


def new_nonce() -> str:
    """Make 32 random bytes, as base64: 44 characters."""
    return base64.b64encode(os.urandom(32)).decode()


def signed_request(
    who: Credentials,
    payload: Mapping[str, Any] | None = None,
    nonce: str | None = None,
    milliseconds: int | None = None,
) -> bytes:
    """Write a request's body.

    Args:
        who: whose it is.
        payload: what the action takes; None for an action without.
        nonce: at most 64 characters; a fresh one if None. Without one, two requests in the same
            millisecond collide.
        milliseconds: time since 1970; now if None.

    Raises:
        Stop: the clock is not at a time of 13 digits, that is between 2001 and 2286.
        ValueError: a number or a character that cannot be written.
    """
    timestamp = str(time.time_ns() // 1_000_000 if milliseconds is None else milliseconds)
    if len(timestamp) != 13 or not timestamp.isdigit():
        raise Stop(UNUSABLE, "the clock of this machine is not set")
    fields: dict[str, Any] = {"appid": who.app_id, "nonce": nonce or new_nonce()}
    fields["timestamp"] = timestamp
    if payload is not None:
        fields["payload"] = dict(payload)
    fields["sign"] = sign(who.api_key, fields)
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def target(action: str) -> str:
    """Give the path and query of an action, such as ``VerifyQuote``."""
    return f"/ehsm?Action={action}"


def parse_json(data: bytes) -> Any:
    """Read a JSON document of an answer, strictly.

    Raises:
        ValueError: not JSON, a repeated key, a number that is not finite or has more than 20
            characters, or nested too deeply.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=without_repetition,
            parse_constant=_no_number,
            parse_int=_short_number,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(_text: str) -> Any:
    raise ValueError("not a number of JSON")


def _short_number(text: str) -> int:
    if len(text) > 20:
        raise ValueError("a number is too long")
    return int(text)


def read_result(action: str, answer: Answer) -> dict[str, Any]:
    """Give ``result`` of an answer whose ``code`` is 200.

    Args:
        action: what was asked for, for messages.
        answer: of the service.

    Raises:
        Stop: it is no answer of such a service (UNREACHABLE), or ``result`` is no object (FAILED).
        Refusal: ``code`` is another.
    """
    if answer.status != 200:
        line = f"{action}: what answered is no eHSM: HTTP status {answer.status}"
        raise Stop(UNREACHABLE, line)
    try:
        document = parse_json(answer.body)
    except ValueError:
        document = None
    if not isinstance(document, dict) or type(document.get("code")) is not int:
        raise Stop(UNREACHABLE, f"{action}: what answered is no eHSM: no JSON object with a code")
    if document["code"] != 200:
        raise _refusal(action, document)
    result = document.get("result")
    if not isinstance(result, dict):
        raise Stop(FAILED, f"{action}: the service's answer has no result")
    return result


def _refusal(action: str, document: Mapping[str, Any]) -> Refusal:
    code, message = document["code"], document.get("message")
    text = message if isinstance(message, str) else ""
    if code == 400 and "message" not in document:
        why = "it does not know this APP_ID; was its store emptied?"
    elif isinstance(message, dict):
        why = "its store does not work"
    elif document.get("result", {}) is None:
        why = (
            "it could not do that; for a quote: the policy has other measurements, or its PCCS "
            "does not answer"
        )
    elif text.startswith(("Parameter invalid", "Missing required parameters")):
        why = "it does not take a parameter"
    else:
        why = _REASONS.get(text, "it gives no reason that is known here")
    told = text if "message" in document else None
    return Refusal(f"{action}: refused by the service: {why}", code, told)
