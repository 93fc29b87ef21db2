"""Services that verify quotes: what they are asked, and how their answers are checked.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import base64
import json
import sys
from contextlib import suppress
from typing import Any, Mapping  # noqa: UP035 - Python 3.8

from . import ehsm, https, quote, tls
from .stop import FAILED, KMS_REFUSED, REFUSED, UNREACHABLE, Stop

VERDICTS = {
    0xA001: "configuration needed",
    0xA002: "out of date",
    0xA003: "out of date, configuration needed",
    0xA004: "invalid signature",
    0xA005: "revoked",
    0xA006: "unspecified",
    0xA007: "software hardening needed",
    0xA008: "configuration and software hardening needed",
}
"""Results of quote verification other than 0 (sgx_ql_qv_result_t of Intel's DCAP)."""
ACCEPTABLE = (0xA001, 0xA002, 0xA003, 0xA007, 0xA008)
"""Those that ``ATTESTATION_ACCEPT`` may name."""


def ask_ehsm(
    service: tls.Service,
    who: ehsm.Credentials,
    data: bytes,
    policy: str,
    accepted: frozenset[int],
    nonce: bytes,
    read: quote.Quote,
) -> None:
    """Let eHSM verify a quote, and check its answer with :func:`check_verdict`.

    Args:
        service: where.
        who: the account.
        data: the quote.
        policy: id of the policy, "" for none.
        accepted: results other than 0 that will do.
        nonce: bytes whose base64 the answer has to repeat.
        read: what the quote says.

    Raises:
        Stop: no answer, a refusal, or an answer that does not stand up.
    """
    if policy and read.tdx:
        line = "a policy of eHSM is for SGX: take ATTESTATION_TYPE BigDLRemoteAttestationService"
        raise Stop(REFUSED, line)
    text = base64.b64encode(nonce).decode()
    payload = {"quote": base64.b64encode(data).decode(), "nonce": text}
    if policy:
        payload["policyId"] = policy
    body = ehsm.signed_request(who, payload)
    answer = https.ask(service, ehsm.target("VerifyQuote"), body)
    result = ehsm.read_result("VerifyQuote", answer)
    check_verdict(result, who.api_key, text, read, bool(policy), accepted)


def check_verdict(
    result: Mapping[str, Any],
    api_key: str,
    nonce: str,
    read: quote.Quote,
    policy: bool,
    accepted: frozenset[int] = frozenset(),
) -> None:
    """Check eHSM's answer to VerifyQuote.

    Args:
        result: of the answer.
        api_key: under which it is signed.
        nonce: that was sent.
        read: the quote.
        policy: whether a policy was named; then the answer has to name its measurements, which an
            empty policy does not have.
        accepted: results other than 0 that will do.

    Raises:
        Stop: FAILED.
    """
    if not ehsm.is_signed(api_key, result):
        raise Stop(FAILED, "VerifyQuote: the answer is not signed under the API key")
    if result.get("nonce") != nonce:
        raise Stop(FAILED, "VerifyQuote: the answer is to another question: its nonce is not ours")
    own = {"mr_enclave": read.mr_enclave, "mr_signer": read.mr_signer}
    for name, value in own.items():
        if name not in result and not policy:
            continue
        if name not in result:
            raise Stop(FAILED, f"VerifyQuote: the answer has no {name}: the policy is empty")
        if result[name] != value:
            raise Stop(FAILED, f"VerifyQuote: the answer has another {name} than the quote")
    _judge(result.get("result"), accepted)


def _judge(value: object, accepted: frozenset[int]) -> None:
    if type(value) is not int:
        raise Stop(FAILED, "VerifyQuote: the answer has no result of the verification")
    if value == 0:
        return
    verdict = VERDICTS.get(value, "a result that is not known")
    if value not in accepted:
        raise Stop(FAILED, f"the quote is not accepted: {verdict}")
    note(f"the quote is accepted although: {verdict} (ATTESTATION_ACCEPT)")


def ask_bigdl(
    service: tls.Service,
    who: ehsm.Credentials,
    data: bytes,
    policy: str,
    accepted: frozenset[int],
) -> None:
    """Let BigDL's service verify a quote; its answer is not signed.

    It knows 0, 1 (out of date, 0xA002 of :data:`VERDICTS`) and -1 (HTTP status 400). The API key
    travels in the request.

    Args:
        service: where.
        who: the account.
        data: the quote.
        policy: id of the policy, "" for none.
        accepted: results other than 0 that will do.

    Raises:
        Stop: no answer, a refusal, or an answer that does not stand up.
    """
    fields = {"appID": who.app_id, "apiKey": who.api_key}
    fields["quote"] = base64.b64encode(data).decode()
    if policy:
        fields["policyID"] = policy
    answer = https.ask(service, "/verifyQuote", json.dumps(fields).encode())
    if answer.status not in (200, 400):
        line = f"verifyQuote: what answered is no such service: HTTP status {answer.status}"
        raise Stop(UNREACHABLE, line)
    try:
        document = ehsm.parse_json(answer.body)
    except ValueError:
        document = None
    value = document.get("result") if isinstance(document, dict) else None
    if answer.status == 400:
        why = "it does not know APP_ID, API_KEY or policy id"
        if value == -1:
            why = "the quote does not stand up"
        raise Stop(KMS_REFUSED, f"verifyQuote: refused by the service: {why}")
    if type(value) is not int or value not in (0, 1):
        raise Stop(FAILED, "verifyQuote: the answer has no result of the verification")
    _judge(0xA002 if value == 1 else 0, accepted)


def note(line: str) -> None:
    """Say on stderr what is weaker than it could be."""
    with suppress(OSError):
        print(f"imagekit: attestation: {line}", file=sys.stderr, flush=True)
