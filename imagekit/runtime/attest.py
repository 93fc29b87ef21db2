"""Attestation before the job starts: a quote of this very start, vouched for by a service.

Steps: a fresh nonce; a quote whose report data is bound to it; the service verifies the quote; its
answer is checked. What the report data is, so that a verifier can compute it again, stands at
:func:`report_data`.

Two services can be asked (``ATTESTATION_TYPE``):

- ``EHSMAttestationService``, the default: its answer is signed under the API key, over our nonce
  and the measurements of the policy; all of that is checked here.
- ``BigDLRemoteAttestationService``: its answer is neither signed nor bound to a nonce, so it is
  worth as much as the TLS connection; pin its certificate.

What this proves: the enclave ends itself unless the service vouches for it. It keeps an honest
host from running the job in a wrong or outdated enclave. It is no gate against the host that
chooses the service, its certificate and the API key: seal ``ATTESTATION_URL`` and
``ATTESTATION_PIN_SHA256`` in the image, and give secrets only to those whose quote somebody outside
has verified.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import Mapping  # noqa: UP035 - Python 3.8

from . import ehsm, quote, settings, verifiers
from .launch import GRAMINE, OCCLUM, Launch
from .place import DIRECT, NATIVE, Place
from .service import service_of
from .settings import BIGDL, EHSM
from .stop import REFUSED, Stop
from .verifiers import ACCEPTABLE, note
from .words import is_true

VARIABLES = settings.ATTESTATION
"""Variables that the host may set: name → pattern. :func:`attest` checks them itself."""

SUCCESS = "Attestation Success!"
FAILURE = "Attestation Fail! Application killed!"
"""BigDL's words; scripts look for them on stdout."""

_NOT_SUPPORTED = ("DummyAttestationService", "AzureAttestationService", "AmberAttestationService")

_BINDING = b"imagekit report data 1\0"
_OCCLUM_REPORT_DATA = "ppml"


def report_data(nonce: bytes, challenge: str, user: str) -> bytes:
    """Give the 64 bytes that the quote carries.

    SHA-256 over the 23 bytes ``imagekit report data 1`` and NUL, then for nonce, challenge and user
    data in this order: the length in bytes as big-endian u32, and the bytes. 32 zero bytes follow
    the digest.

    Args:
        nonce: 32 random bytes; their base64 is the nonce of VerifyQuote.
        challenge: ``CHALLENGE`` or ``ATTESTATION_CHALLENGE``; as UTF-8.
        user: ``REPORT_DATA``; as UTF-8.
    """
    digest = hashlib.sha256(_BINDING)
    for part in (nonce, challenge.encode(), user.encode()):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest().ljust(quote.REPORT_DATA_SIZE, b"\0")


def attest(
    spec: Launch,
    env: Mapping[str, str],
    place: Place,
    devices: quote.Devices = quote.Devices(),  # noqa: B008 - immutable
) -> None:
    """Attest; print :data:`SUCCESS` to stdout, or :data:`FAILURE` and raise.

    A SIGTERM ends it as it ends any program: status 143, no job.

    Args:
        spec: the launch specification.
        env: variables of the request.
        place: where this runs.
        devices: where quotes come from.

    Raises:
        Stop: the job must not start: UNREACHABLE (no answer), KMS_REFUSED (the service says no),
            FAILED (a check), REFUSED or UNUSABLE (settings, place).
    """
    done = False
    try:
        _attest(spec, env, place, devices)
        done = True
    finally:
        with suppress(OSError):
            print(SUCCESS if done else FAILURE, flush=True)


def _attest(spec: Launch, env: Mapping[str, str], place: Place, devices: quote.Devices) -> None:
    given = settings.merge(spec, env, VARIABLES)
    if is_true("ATTESTATION_DEBUG", given.get("ATTESTATION_DEBUG", "")):
        raise Stop(REFUSED, "ATTESTATION_DEBUG is refused: nothing turns a failure into a success")
    service_type = _service_type(given)
    kind = _kind(given, spec, place)
    who = ehsm.Credentials(_needed(given, "APP_ID"), _needed(given, "API_KEY"))
    service = service_of(given, "ATTESTATION", _needed(given, "ATTESTATION_URL"))
    accepted = _accepted(given)
    _notes(spec, given, kind)
    nonce = os.urandom(32)
    expected = _expected(given, kind, nonce)
    data = quote.get_quote(kind, expected, place.attestation, devices)
    read = quote.checked_quote(data, expected, kind)
    policy = given.get("ATTESTATION_POLICYID", "")
    if service_type == BIGDL:
        verifiers.ask_bigdl(service, who, data, policy, accepted)
    else:
        verifiers.ask_ehsm(service, who, data, policy, accepted, nonce, read)


def _needed(given: Mapping[str, str], name: str) -> str:
    if name not in given:
        raise Stop(REFUSED, f"Attestation is enabled, but {name} is empty!")
    return given[name]


def _service_type(given: Mapping[str, str]) -> str:
    name = given.get("ATTESTATION_TYPE", EHSM)
    if name in _NOT_SUPPORTED:
        raise Stop(REFUSED, f"ATTESTATION_TYPE: {name} is not supported: take {EHSM} or {BIGDL}")
    if name not in (EHSM, BIGDL):
        raise Stop(REFUSED, f"ATTESTATION_TYPE is neither {EHSM} nor {BIGDL}")
    return name


def _kind(given: Mapping[str, str], spec: Launch, place: Place) -> str:
    """Give the kind of quote, which has to fit the place."""
    kind = given.get("QUOTE_TYPE", spec.libos).lower()
    if kind not in quote.KINDS:
        raise Stop(REFUSED, "QUOTE_TYPE is none of gramine, occlum, TDX")
    if place.kind == NATIVE:
        return _native_kind(kind, "QUOTE_TYPE" in given, spec)
    if kind != place.libos:
        name = place.libos.capitalize()
        raise Stop(REFUSED, f"QUOTE_TYPE is refused: under {name} it is {place.libos}")
    if not place.quotes:
        if place.kind == DIRECT:
            why = "this is gramine-direct, which has no enclave"
        else:
            why = "this image is built without attestation (noattest): take a reference image"
        raise Stop(REFUSED, f"no quote can be had here: {why}")
    return kind


def _native_kind(kind: str, named: bool, spec: Launch) -> str:
    """Give the kind of quote outside of enclaves; a file with one has to be named."""
    if kind == GRAMINE or not named:
        raise Stop(
            REFUSED,
            f"no quote can be had here: this runs without {kind.capitalize()}; QUOTE_TYPE says "
            "what else it could be",
        )
    if kind != OCCLUM:
        return kind
    if spec.profile == "strict":
        line = "QUOTE_TYPE occlum is refused: a quote from a file is not fresh (profile strict)"
        raise Stop(REFUSED, line)
    return quote.OCCLUM_FILE


def _accepted(given: Mapping[str, str]) -> frozenset[int]:
    text = given.get("ATTESTATION_ACCEPT", "")
    numbers = frozenset(int(word, 16) for word in text.split(",") if word)
    if not numbers <= set(ACCEPTABLE):
        known = ", ".join(f"{number:#06x}" for number in ACCEPTABLE)
        raise Stop(REFUSED, f"ATTESTATION_ACCEPT: only these can be accepted: {known}")
    return numbers


def _expected(given: Mapping[str, str], kind: str, nonce: bytes) -> bytes:
    """Give the report data that the quote must carry."""
    user = given.get("REPORT_DATA", "")
    challenge = given.get("CHALLENGE", "")
    other = given.get("ATTESTATION_CHALLENGE", challenge)
    if challenge and other != challenge:
        raise Stop(REFUSED, "CHALLENGE and ATTESTATION_CHALLENGE differ: set one of them")
    if kind != quote.OCCLUM_FILE:
        return report_data(nonce, other, user)
    data = (user or _OCCLUM_REPORT_DATA).encode()
    if len(data) > quote.REPORT_DATA_SIZE:
        raise Stop(REFUSED, f"REPORT_DATA is longer than {quote.REPORT_DATA_SIZE} bytes")
    return data.ljust(quote.REPORT_DATA_SIZE, b"\0")


def _notes(spec: Launch, given: Mapping[str, str], kind: str) -> None:
    """Say on stderr where this start proves less than it could."""
    if "ATTESTATION_POLICYID" not in given:
        note("no ATTESTATION_POLICYID: the service vouches for any genuine enclave")
    sealed = spec.attestation.settings
    pinned = "ATTESTATION_PIN_SHA256" in sealed or "ATTESTATION_CA" in sealed
    if spec.profile == "strict" and not ("ATTESTATION_URL" in sealed and pinned):
        note("the host chooses the attestation service: seal its address and pin in the image")
    if kind == quote.OCCLUM_FILE:
        note("the quote comes from a file: nothing ties it to this start")
