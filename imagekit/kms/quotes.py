"""Checking a quote on this machine: its signatures, what it is of, and what it does not prove.

Sources: "Intel SGX DCAP: ECDSA Quote Library API" (what vouches for what in a quote), "Intel TDX
DCAP: Quote Generation Library and Quote Verification Library" (the same of TDX), and what eHSM puts
into its quotes. All findings are collected: a check that stops at the first one hides the others.
"""

import hmac
import re
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from imagekit.enclave.known_signers import known_signer
from imagekit.errors import UsageError
from imagekit.kms import ecdsa
from imagekit.kms.collateral import Collateral
from imagekit.kms.intel import INTEL_SGX_ROOT_CA, QE_VENDOR, SGX_QE, TD_QE
from imagekit.kms.pck import check_chain
from imagekit.kms.quote_format import PCK_CHAIN, QuoteParts, parse_parts
from imagekit.kms.tcb import DEFAULT_ACCEPT, check_accept, tcb_state
from imagekit.runtime.quote import REPORT_DATA_SIZE

_NO_CHAIN = "PCK certificate chain: the quote does not carry it (certification data of type {})"


@dataclass(frozen=True)
class Expectation:
    """What somebody wants a quote to be of.

    Attributes:
        mr_enclave, mr_signer: 64 lower-case hexadecimal digits.
        isv_prod_id: product id.
        isv_svn: least security version.
        allow_debug: accept an enclave into which the host can look.
        report_data: 64 bytes that the quote has to carry.
        mr_td: 96 lower-case hexadecimal digits; a quote of a TDX machine is wanted, not of an
            enclave.

    Raises:
        UsageError: a value is not of its form, or values of an enclave and of a TD are mixed.
    """

    mr_enclave: str | None = None
    mr_signer: str | None = None
    isv_prod_id: int | None = None
    isv_svn: int | None = None
    allow_debug: bool = False
    report_data: bytes | None = None
    mr_td: str | None = None

    def __post_init__(self) -> None:
        for name, digits in (("mr_enclave", 64), ("mr_signer", 64), ("mr_td", 96)):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
                hint = f"it has {digits} lower-case hexadecimal digits"
                raise UsageError(f"expected {name}: {value!r} is none", hint)
        if self.report_data is not None and len(self.report_data) != REPORT_DATA_SIZE:
            raise UsageError("expected report data: it is not 64 bytes long", "pad it with zeros")
        of_enclave = (self.mr_enclave, self.mr_signer, self.isv_prod_id, self.isv_svn)
        if self.mr_td is not None and any(value is not None for value in of_enclave):
            raise UsageError(
                "mr_td is of a TDX machine, the other expected values of an SGX enclave",
                "expect one of the two",
            )


@dataclass
class QuoteFacts:
    """What a quote says, and what was found of its platform; true only if nothing failed.

    Attributes:
        version: of the quote's format.
        tee: ``sgx`` or ``tdx``.
        mr_enclave, mr_signer, mr_td: hexadecimal digits; "" where there is none.
        isv_prod_id, isv_svn: of an enclave; None of a TD.
        debug: whether the host may look into it.
        report_data: 128 hexadecimal digits.
        pck_issuer: common name of who certified the platform's key.
        fmspc: kind of the platform, 12 hexadecimal digits; what collateral is fetched by.
        pce_id: 4 hexadecimal digits.
        sgx_type: how memory is protected.
        cpu_svn: security versions of the platform when its key was certified, 32 digits.
        pce_svn: security version of the provisioning enclave then.
        tcb_status: state of the platform; "" if no collateral was given.
        advisories: Intel's advisories that apply.
        collateral_until: when the collateral ends, as it says.
    """

    version: int
    tee: str
    mr_enclave: str
    mr_signer: str
    mr_td: str
    isv_prod_id: int | None
    isv_svn: int | None
    debug: bool
    report_data: str
    pck_issuer: str = ""
    fmspc: str = ""
    pce_id: str = ""
    sgx_type: str = ""
    cpu_svn: str = ""
    pce_svn: int | None = None
    tcb_status: str = ""
    advisories: tuple[str, ...] = ()
    collateral_until: str = ""


@dataclass
class QuoteVerdict:
    """What was checked and what was found.

    Attributes:
        facts: what the quote says.
        passed: one line per check that held.
        failed: one line per check that did not.
        not_proved: what even a quote without a failed check leaves open.
    """

    facts: QuoteFacts
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)

    def check(self, name: str, holds: bool, failure: str) -> None:
        """Note one check."""
        if holds:
            self.passed.append(name)
        else:
            self.failed.append(failure)


def check_quote(
    data: bytes,
    expected: Expectation,
    when: datetime,
    collateral: Collateral | None = None,
    accept: frozenset[str] = DEFAULT_ACCEPT,
    root: bytes = INTEL_SGX_ROOT_CA,
) -> QuoteVerdict:
    """Check everything that can be checked about a quote.

    Args:
        data: the quote.
        expected: what it should be of.
        when: at which time certificates and collateral have to be valid; with a time zone.
        collateral: what Intel says of the platform; without it neither TCB level nor revocation
            are checked.
        accept: states of a platform that are good enough (:data:`imagekit.kms.tcb.TCB_STATUSES`).
        root: certificate of the root that is trusted, DER.

    Raises:
        InputError: it is no quote, or collateral was given and dcap-qvl is not installed.
        UsageError: `accept` has something that cannot be accepted.
    """
    assert when.tzinfo is not None
    check_accept(accept)
    parts = parse_parts(data)
    verdict = QuoteVerdict(_facts(parts))
    _check_signatures(verdict, parts, when, root)
    _check_quoting_enclave(verdict, parts)
    _check_tcb(verdict, data, when, collateral, accept, root)
    if parts.quote.tdx:
        _check_td(verdict, parts, expected)
    else:
        _check_enclave(verdict, expected)
    _check_debug(verdict, expected)
    _check_report_data(verdict, parts.quote.report_data, expected)
    return verdict


def _facts(parts: QuoteParts) -> QuoteFacts:
    quote, report = parts.quote, parts.report
    return QuoteFacts(
        version=quote.version,
        tee="tdx" if quote.tdx else "sgx",
        mr_enclave=quote.mr_enclave,
        mr_signer=quote.mr_signer,
        mr_td=quote.mr_td,
        isv_prod_id=report.isv_prod_id if report else None,
        isv_svn=report.isv_svn if report else None,
        debug=quote.debug,
        report_data=quote.report_data.hex(),
    )


def _check_signatures(
    verdict: QuoteVerdict, parts: QuoteParts, when: datetime, root: bytes
) -> None:
    """From the quote to its key, from that to the quoting enclave, from that to the root."""
    try:
        key = ecdsa.point(parts.attestation_key)
    except ValueError:
        verdict.failed.append("signature of the quote: its attestation key is no point of P-256")
    else:
        verdict.check(
            "signature of the quote by its attestation key",
            ecdsa.fits(key, parts.signature, parts.signed),
            "signature of the quote: it is not of the attestation key over these values",
        )
    bound = sha256(parts.attestation_key + parts.qe_auth).digest() + bytes(32)
    verdict.check(
        "attestation key vouched for by the quoting enclave's report",
        hmac.compare_digest(parts.qe_report.report_data, bound),
        "attestation key: the quoting enclave's report is of another key",
    )
    if parts.certification_type != PCK_CHAIN:
        verdict.failed.append(_NO_CHAIN.format(parts.certification_type))
        verdict.failed.append("report of the quoting enclave: without a chain no key can check it")
        return
    chain = check_chain(parts.certification, when, root)
    fits = chain.key and ecdsa.fits(chain.key, parts.qe_signature, parts.qe_report.data)
    verdict.check(
        "signature of the quoting enclave's report by the platform's key (PCK)",
        bool(fits),
        "report of the quoting enclave: its signature is not of the key of the PCK certificate",
    )
    verdict.failed += [f"PCK certificate chain: {problem}" for problem in chain.problems]
    if not chain.problems:
        verdict.passed.append("PCK certificate chain to the trusted root")
    facts, extension = verdict.facts, chain.extension
    facts.pck_issuer = chain.issuer
    if extension is not None:
        facts.fmspc, facts.pce_id = extension.fmspc, extension.pce_id
        facts.sgx_type = extension.sgx_type
        facts.cpu_svn, facts.pce_svn = extension.cpu_svn, extension.pce_svn


def _check_quoting_enclave(verdict: QuoteVerdict, parts: QuoteParts) -> None:
    """Only Intel's own makes a key Intel's: others may hold the right to be certified, too."""
    report = parts.qe_report
    wanted = TD_QE if parts.quote.tdx else SGX_QE
    wrong = []
    if parts.qe_vendor != QE_VENDOR:
        wrong.append(f"its vendor is {parts.qe_vendor.hex()}")
    if report.mr_signer != wanted.mr_signer:
        wrong.append(f"its mr_signer is {report.mr_signer}")
    if report.isv_prod_id != wanted.isv_prod_id:
        wrong.append(f"its product id is {report.isv_prod_id}")
    if report.debug:
        wrong.append("it is a debug enclave")
    verdict.check(
        f"{wanted.name}, no debug",
        not wrong,
        f"quoting enclave: not {wanted.name}: {', '.join(wrong)}",
    )


def _check_tcb(
    verdict: QuoteVerdict,
    data: bytes,
    when: datetime,
    collateral: Collateral | None,
    accept: frozenset[str],
    root: bytes,
) -> None:
    if collateral is None:
        verdict.not_proved.append(
            "TCB level and revocation were not checked: no collateral was given, so the platform "
            "may be out of date, or its key revoked"
        )
        return
    if verdict.failed:
        verdict.not_proved.append(
            "TCB level and revocation were not checked: the quote itself does not hold"
        )
        return
    state = tcb_state(data, collateral, when, root)
    if state.problem:
        verdict.failed.append(f"quote and collateral: {state.problem}")
        return
    facts = verdict.facts
    facts.tcb_status, facts.advisories = state.status, state.advisories
    facts.collateral_until = collateral.valid_until
    advisories = f" ({', '.join(state.advisories)})" if state.advisories else ""
    verdict.check(
        f"TCB level {state.status}{advisories}, nothing revoked",
        state.status in accept,
        f"TCB level: it is {state.status}{advisories}; accepted: {', '.join(sorted(accept))}",
    )


def _check_enclave(verdict: QuoteVerdict, expected: Expectation) -> None:
    facts = verdict.facts
    if expected.mr_td is not None:
        verdict.failed.append("the quote is of an SGX enclave, not of a TDX machine")
        return
    for name in ("mr_enclave", "mr_signer", "isv_prod_id"):
        wanted, found = getattr(expected, name), getattr(facts, name)
        if wanted is not None:
            verdict.check(
                f"{name} as expected", wanted == found, f"{name} is {found}, not {wanted}"
            )
    if expected.isv_svn is not None:
        verdict.check(
            f"isv_svn at least {expected.isv_svn}",
            (facts.isv_svn or 0) >= expected.isv_svn,
            f"isv_svn is {facts.isv_svn}, less than {expected.isv_svn}",
        )
    _check_signer(verdict, expected)


def _check_signer(verdict: QuoteVerdict, expected: Expectation) -> None:
    """A key that everybody has signs anything, so then only the measurement says what runs."""
    public = known_signer(verdict.facts.mr_signer)
    if public is not None and expected.mr_enclave is None:
        verdict.failed.append(
            f"mr_signer {verdict.facts.mr_signer} is of {public}: anybody can sign any enclave "
            "with it, so an expected mr_enclave is needed"
        )
    elif public is not None:
        verdict.not_proved.append(
            f"who made the enclave: its mr_signer is of {public}, which anybody can sign with; "
            "mr_enclave alone says what it is"
        )
    elif expected.mr_enclave is None and expected.mr_signer is None:
        verdict.not_proved.append(
            "which enclave it is: neither mr_enclave nor mr_signer was expected, so any enclave "
            "passes"
        )
    elif expected.mr_enclave is None:
        verdict.not_proved.append(
            "which enclave it is: any passes that the holder of this mr_signer's key has signed"
        )


def _check_td(verdict: QuoteVerdict, parts: QuoteParts, expected: Expectation) -> None:
    if expected.mr_td is None:
        verdict.failed.append("the quote is of a TDX machine, not of an SGX enclave")
        return
    found = verdict.facts.mr_td
    verdict.check(
        "mr_td as expected", found == expected.mr_td, f"mr_td is {found}, not {expected.mr_td}"
    )
    verdict.check(
        "TDX module of Intel",
        not any(parts.seam_signer),
        "TDX module: it is not Intel's: MRSIGNERSEAM or SEAMATTRIBUTES is not zero",
    )
    verdict.not_proved.append("what runs in the machine: run-time measurements were not compared")


def _check_debug(verdict: QuoteVerdict, expected: Expectation) -> None:
    if not verdict.facts.debug:
        verdict.passed.append("no debug")
    elif expected.allow_debug:
        verdict.not_proved.append(
            "anything against the host: DEBUG is on, so the host can read and change it"
        )
    else:
        verdict.failed.append("DEBUG is on: the host can read and change everything inside")


def _check_report_data(verdict: QuoteVerdict, found: bytes, expected: Expectation) -> None:
    if expected.report_data is not None:
        verdict.check(
            "report_data as expected",
            hmac.compare_digest(found, expected.report_data),
            f"report_data is {found.hex()}, not {expected.report_data.hex()}",
        )
        return
    what = "TDX machine" if verdict.facts.tee == "tdx" else "enclave"
    if any(found):
        verdict.not_proved.append(
            f"freshness, and that this server is the {what}: report_data is not zero, but nothing "
            "was expected there to compare it with"
        )
        return
    verdict.not_proved += [
        "freshness: report_data is zero, so the quote is not bound to the challenge and may be an "
        "old one",
        f"that this server is the {what}: report_data is zero, so the quote is not bound to the "
        "server's TLS key, and any server may show a genuine quote of another machine; pin the "
        "server's certificate",
    ]
