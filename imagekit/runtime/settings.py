"""Settings of attestation and storage: what the host may say, and what the image has sealed.

The host's values come in as variables of the launch request (:mod:`.request`); the image's stand in
``launch.json`` under ``attestation.settings`` and win. Under the strict profile a host that sets a
sealed variable to another value is refused; under compat the sealed value is taken without a word.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Mapping  # noqa: UP035 - Python 3.8

from .launch import Attestation, Launch
from .stop import REFUSED, UNUSABLE, Stop
from .words import is_true

_WORD = r"(?i:true|1|yes|on|false|0|no|off)"
_TEXT = r"[\x20-\x7e]{0,1024}"
_PATH = r"(/[\x21-\x7e]{1,1024})?"
_BASE64 = r"[A-Za-z0-9+/]{0,16384}={0,2}"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}"
_PEM_OR_PATH = r"[\t\n\r\x20-\x7e]{1,65536}"
_ADDRESS = r"[\x21-\x7e]{0,300}"
_PIN = r"[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}"


EHSM = "EHSMAttestationService"
BIGDL = "BigDLRemoteAttestationService"
"""Services that can be asked: values of ``ATTESTATION_TYPE``."""

SHARED = {
    "APP_ID": r"[0-9A-Za-z-]{0,64}",
    "API_KEY": r"[\x21-\x7e]{0,256}",
    "ATTESTATION_CA": _PEM_OR_PATH,
    "ATTESTATION_PIN_SHA256": _PIN,
    "ATTESTATION_SERVER_NAME": _NAME,
    "ATTESTATION_TIMEOUT": r"[0-9]{0,3}",
}
"""Who we are to the service, and how it is known; attestation and storage use these alike."""

ATTESTATION = {
    **SHARED,
    "ATTESTATION": _WORD,
    "ATTESTATION_URL": _ADDRESS,
    "ATTESTATION_POLICYID": r"[0-9A-Za-z-]{1,64}",
    "ATTESTATION_TYPE": r"[A-Za-z]{0,40}",
    "QUOTE_TYPE": r"[A-Za-z]{0,16}",
    "CHALLENGE": _TEXT,
    "ATTESTATION_CHALLENGE": _TEXT,
    "REPORT_DATA": _TEXT,
    "ATTESTATION_ACCEPT": r"(0[xX][0-9A-Fa-f]{1,4}(,0[xX][0-9A-Fa-f]{1,4}){0,8})?",
    "ATTESTATION_DEBUG": f"({_WORD})?",
}
"""Variables of attestation: name → expression that a value must match as a whole (:func:`fits`).

A value that may be empty counts as not set when it is; the others are refused when empty, since
that would turn a check off (a mistyped ``$VARIABLE`` gives an empty value).
"""

STORAGE = {
    **SHARED,
    "ENCRYPTED_FSD": _WORD,
    "USING_LOCAL_DATA_KEY": _WORD,
    "LOCAL_DATA_KEY": _PATH,
    "LOCAL_DATA_KEY_DATA": _BASE64,
    "EHSM_URL": _ADDRESS,
    "EHSM_PORT": r"[0-9]{0,5}",
    "EHSM_PRIMARY_KEY": _PATH,
    "EHSM_PRIMARY_KEY_DATA": _BASE64,
    "EHSM_DATA_KEY": _PATH,
    "EHSM_DATA_KEY_DATA": _BASE64,
    "EHSM_CA": _PEM_OR_PATH,
    "EHSM_PIN_SHA256": _PIN,
    "EHSM_SERVER_NAME": _NAME,
}
"""Variables of encrypted storage; as :data:`ATTESTATION`."""

SEALED_ONLY = {"ALLOW_LOCAL_DATA_KEY": _WORD}
"""Settings that the image alone can have."""

_ONLY_IF_SEALED = ("ATTESTATION_ACCEPT",)  # under strict: it weakens a check


def fits(form: str, value: str) -> bool:
    """Say whether a value matches an expression of these tables.

    They are compiled where they are used: all of them would cost 4 ms of each start.
    """
    return re.fullmatch(form, value, re.ASCII) is not None


def wanted(env: Mapping[str, str], sealed: Attestation) -> bool:
    """Whether this start has to attest.

    Args:
        env: variables of the request.
        sealed: what the image says; if it demands attestation, the host cannot switch that off.

    Raises:
        Stop: ``ATTESTATION`` is neither a word for yes nor for no; nothing is switched off by a
            word that is not understood, or by an empty one.
    """
    asked = [env.get("ATTESTATION"), sealed.settings.get("ATTESTATION")]
    if "" in asked:
        raise Stop(REFUSED, 'ATTESTATION is empty: set it to "true" or "false", or leave it out')
    words = [is_true("ATTESTATION", value) for value in asked if value is not None]
    return sealed.required or any(words)


def check_sealed(sealed: Mapping[str, str]) -> None:
    """Check the settings of an image; the building side does it, too.

    Raises:
        ValueError: one that nothing knows, or a value without its form; the text goes on from the
            name of the settings.
    """
    for name in sorted(sealed):
        form = ATTESTATION.get(name) or STORAGE.get(name) or SEALED_ONLY.get(name)
        if form is None:
            raise ValueError(f" has an unknown name: {name}")
        if not fits(form, sealed[name]):
            raise ValueError(f".{name} is malformed")


def merge(spec: Launch, host: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Put the image's and the host's settings together.

    Args:
        spec: the launch specification.
        host: variables of the request; those not in `known` are left alone.
        known: :data:`ATTESTATION` or :data:`STORAGE`.

    Returns:
        Settings that are set, without those that are empty.

    Raises:
        Stop: a value without the form of its variable, or one that the host may not set.
    """
    sealed = spec.attestation.settings
    try:
        check_sealed(sealed)
    except ValueError as error:
        raise Stop(UNUSABLE, f"launch.json: attestation.settings{error}") from None
    settings = {name: value for name, value in sealed.items() if value}
    for name in sorted(set(host) & set(known)):
        value = host[name]
        if not fits(known[name], value):
            state = "malformed" if value else "empty: set it, or leave it out"
            raise Stop(REFUSED, f"{name}: refused, its value is {state}")
        if not value or settings.get(name) == value:
            continue
        if spec.profile == "strict":
            if name in settings:
                raise Stop(REFUSED, f"{name}: refused, this image has a sealed value for it")
            if name in _ONLY_IF_SEALED:
                raise Stop(REFUSED, f"{name}: refused, only a strict image itself can set it")
        settings.setdefault(name, value)
    return settings
