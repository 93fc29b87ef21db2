"""What a service is asked to trust: policies, and those that are refused before they are sent.

A policy names measurements. One that can never match is useless, and one that matches everything is
dangerous; services take both without a word, so they are refused here.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from imagekit.enclave.known_signers import known_signer
from imagekit.errors import CheckError, InputError, UsageError

QUOTE_POLICY = "QuotePolicy"
"""eHSM's only type: mr_enclave and mr_signer, both of them."""
NEEDED: dict[str, tuple[str, ...]] = {
    QUOTE_POLICY: ("mr_enclave", "mr_signer"),
    "SGXMREnclavePolicy": ("mr_enclave",),
    "SGXMRSignerPolicy": ("mr_signer", "isv_prod_id"),
    "SGXReportDataPolicy": ("report_data",),
    "TDXMRTDPolicy": ("mr_td",),
    "TDXReportDataPolicy": ("report_data",),
    "TDXLaunchTimePolicy": ("mr_td", "rtmr"),
}
"""Type → the values that it is about; the first is eHSM's, the others BigDL's service's."""
DIGITS = {"mr_enclave": 64, "mr_signer": 64, "mr_td": 96, "report_data": 128, "rtmr": 384}
"""Value → its length in hexadecimal digits; ``rtmr`` is RTMR0 to RTMR3, one behind the other."""


@dataclass(frozen=True)
class Policy:
    """A policy, in imagekit's own form whatever a service makes of it.

    Attributes:
        type: a key of :data:`NEEDED`.
        mr_enclave, mr_signer: 64 lower-case hex digits.
        isv_prod_id: 0 to 65535.
        mr_td: MRTD, 96 digits.
        rtmr: the four RTMRs, 384 digits.
        report_data: 128 digits.
    """

    type: str
    mr_enclave: str | None = None
    mr_signer: str | None = None
    isv_prod_id: int | None = None
    mr_td: str | None = None
    rtmr: str | None = None
    report_data: str | None = None

    @property
    def values(self) -> dict[str, Any]:
        """What the policy is about, without its type."""
        return {name: getattr(self, name) for name in NEEDED[self.type]}

    @property
    def short(self) -> str:
        """A few digits of each value, for messages."""
        shown = (
            f"{name} {value[:12]}…" if isinstance(value, str) else f"{name} {value}"
            for name, value in self.values.items()
        )
        return ", ".join(shown)


def policy_of(kind: str, given: Mapping[str, str | int | None]) -> Policy:
    """Make a policy of a type from the values that were given.

    Args:
        kind: a key of :data:`NEEDED`.
        given: values by the names of :class:`Policy`; digits of either case, with or without
            ``0x``. Those that the type does not need are left out.

    Raises:
        UsageError: a value is missing, or not of its form.
    """
    values: dict[str, Any] = {}
    for name in NEEDED[kind]:
        value = given.get(name)
        if value is None:
            raise UsageError(
                f"a {kind} needs {name.replace('_', '-')}", f"give --{name.replace('_', '-')}"
            )
        values[name] = value if name == "isv_prod_id" else parse_digits(name, str(value))
    prod_id = values.get("isv_prod_id")
    if prod_id is not None and not 0 <= prod_id < 1 << 16:
        raise UsageError(f"isv_prod_id {prod_id} is not from 0 to 65535", "correct it")
    return Policy(kind, **values)


def parse_digits(name: str, text: str) -> str:
    """Read a measurement; gives it in lower case, as services compare it.

    Args:
        name: a key of :data:`DIGITS`.
        text: hexadecimal digits, of either case, with or without ``0x``.

    Raises:
        UsageError: too few, too many or other characters.
    """
    digits = text.lower().removeprefix("0x")
    if not re.fullmatch(f"[0-9a-f]{{{DIGITS[name]}}}", digits, re.ASCII):
        raise UsageError(
            f"{name} is not {DIGITS[name]} hexadecimal digits", "copy it from a build's output"
        )
    return digits


def check_policy(policy: Policy, force: bool = False) -> list[str]:
    """Refuse a policy that matches nothing or everybody.

    Args:
        policy: what is to be registered.
        force: accept a signer whose private key is public.

    Returns:
        Warnings: what was accepted by `force`.

    Raises:
        CheckError: it is refused.
    """
    for name, value in policy.values.items():
        if isinstance(value, str) and not value.strip("0"):
            raise CheckError(
                f"{name} is all zero: no enclave has it", "take it from a build's output"
            )
    if policy.mr_enclave is not None and policy.mr_enclave == policy.mr_signer:
        raise CheckError(
            "mr_enclave and mr_signer are the same: no enclave has that",
            "take each from a build's output",
        )
    if swapped := known_signer(policy.mr_enclave or ""):
        raise CheckError(
            f"mr_enclave is the mr_signer of {swapped}", "the two are swapped: correct that"
        )
    public = known_signer(policy.mr_signer or "")
    if public is None:
        return []
    found = f"mr_signer belongs to a key that everybody has: {public}"
    if not force:
        raise CheckError(found, "sign with a key of your own; --force registers it all the same")
    return [found]


def to_json(policy: Policy) -> dict[str, Any]:
    """Give a policy as JSON values, without those it has not."""
    return {name: value for name, value in asdict(policy).items() if value is not None}


def from_json(raw: Any, where: str) -> Policy:
    """Read what :func:`to_json` gave.

    Raises:
        InputError: it is something else.
    """
    hint = "restore the file from version control, or remove it and register again"
    names = {field.name for field in fields(Policy)}
    if not isinstance(raw, dict) or raw.get("type") not in list(NEEDED) or not set(raw) <= names:
        raise InputError(f"{where}: not a policy", hint)
    try:
        policy = policy_of(raw["type"], {k: v for k, v in raw.items() if k != "type"})
    except (UsageError, TypeError) as error:
        raise InputError(f"{where}: not a policy: {error}", hint) from None
    if to_json(policy) != raw:
        raise InputError(f"{where}: not a policy in its own form", hint)
    return policy
