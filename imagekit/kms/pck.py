"""The chain of certificates of a platform: PCK certificate, its issuer, Intel's root.

Sources: "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification"; RFC 5280
section 6.1. Who is trusted is a name and a key, not a certificate (RFC 5280 section 6.1.1 d).
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier, SignatureAlgorithmOID

from imagekit.kms.intel import PCK_ISSUERS, PCK_NAME
from imagekit.kms.pck_extension import SGX_EXTENSIONS, PckExtension, parse_extension

_PEM = re.compile(rb"(?:-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*)+")
_PLACES = ("PCK certificate", "issuer of the PCK certificate", "root certificate")
_UNDERSTOOD = frozenset(
    {x509.BasicConstraints.oid, x509.KeyUsage.oid, ObjectIdentifier(SGX_EXTENSIONS)}
)


@dataclass(frozen=True)
class PckChain:
    """A chain that was looked at.

    Attributes:
        key: the PCK, which signs reports of the quoting enclave; None if there is none to use.
        issuer: common name of the PCK certificate's issuer; "" if it has none.
        extension: what the PCK certificate says of the platform; None if that is not readable.
        problems: one line per thing that is wrong; nothing may be believed unless it is empty.
    """

    key: ec.EllipticCurvePublicKey | None
    issuer: str
    extension: PckExtension | None
    problems: tuple[str, ...]


def check_chain(data: bytes, when: datetime, root: bytes) -> PckChain:
    """Check a chain up to a root.

    Args:
        data: the three certificates as PEM, the PCK's first; a NUL may end them.
        when: at which time they have to be valid.
        root: certificate of the root that is trusted, DER.
    """
    try:
        certificates = _read(data)
    except ValueError as error:
        return PckChain(None, "", None, (str(error),))
    problems: list[str] = []
    anchor = x509.load_der_x509_certificate(root)
    for place, certificate in enumerate(certificates):
        issuer = certificates[min(place + 1, len(certificates) - 1)]
        for problem in _problems(certificate, place, issuer, when):
            problems.append(f"{_PLACES[place]}: {problem}")
    if not _same(certificates[-1], anchor):
        problems.append(f"{_PLACES[-1]}: it is not the trusted one: name or key differ")
    leaf, extension = certificates[0], None
    try:
        extension = _extension(leaf)
    except ValueError as error:
        problems.append(f"{_PLACES[0]}: {error}")
    key = leaf.public_key()
    usable = key if isinstance(key, ec.EllipticCurvePublicKey) and _is_p256(key) else None
    return PckChain(usable, _common_name(leaf.issuer), extension, tuple(problems))


def _read(data: bytes) -> list[x509.Certificate]:
    """Read the certificates, and everything of them that the library reads late."""
    text = data.rstrip(b"\0")
    if _PEM.fullmatch(text) is None:
        raise ValueError("it is no list of certificates as PEM")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what is odd enough for a warning is none of Intel's
            certificates = x509.load_pem_x509_certificates(text)
            for certificate in certificates:
                certificate.public_key()
                _ = certificate.extensions, certificate.subject, certificate.issuer
    except Exception:  # the library has several of its own, and this is all of a stranger's making
        raise ValueError("it has a certificate that cannot be read") from None
    if len(certificates) != len(_PLACES):
        raise ValueError(f"it has {len(certificates)} certificates, not {len(_PLACES)}")
    return certificates


def _problems(
    certificate: x509.Certificate, place: int, issuer: x509.Certificate, when: datetime
) -> Iterator[str]:
    """Find what is wrong with one certificate, and with its issuer's signature on it."""
    if certificate.not_valid_before_utc > when:
        yield f"it is valid from {_day(certificate.not_valid_before_utc)} on only"
    if certificate.not_valid_after_utc < when:
        yield f"it was valid until {_day(certificate.not_valid_after_utc)}"
    if not _is_p256(certificate.public_key()):
        yield "its key is not of P-256"
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        yield "it is not signed with ECDSA and SHA-256"
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        yield "the next certificate did not issue it" if place < 2 else "it is not of its own key"
    name = _common_name(certificate.subject)
    if place == 0 and name != PCK_NAME:
        yield f"its name is {name!r}, not {PCK_NAME!r}"
    if place == 1 and name not in PCK_ISSUERS:
        yield f"its name is {name!r}, which is none of Intel's issuers of PCK certificates"
    yield from _purpose_problems(certificate, place)


def _purpose_problems(certificate: x509.Certificate, place: int) -> Iterator[str]:
    """Find why a certificate may not stand at its place: an issuer's or the PCK's."""
    found = {extension.oid: extension for extension in certificate.extensions}
    for oid, extension in found.items():
        if extension.critical and oid not in _UNDERSTOOD:
            yield f"it demands extension {oid.dotted_string}, which is not known here"
    constraints = found.get(x509.BasicConstraints.oid)
    usage = found.get(x509.KeyUsage.oid)
    is_issuer, below, signs, certifies = False, None, False, False
    if constraints is not None and isinstance(constraints.value, x509.BasicConstraints):
        is_issuer, below = constraints.value.ca, constraints.value.path_length
    if usage is not None and isinstance(usage.value, x509.KeyUsage):
        signs, certifies = usage.value.digital_signature, usage.value.key_cert_sign
    if place == 0:
        if is_issuer or certifies:
            yield "it is an issuer's"
        if not signs:
            yield "its key may not sign"
        return
    if not (is_issuer and certifies):
        yield "it is no issuer's"
    if below is not None and below < place - 1:
        yield f"at most {below} issuers may stand below it"


def _extension(leaf: x509.Certificate) -> PckExtension:
    oid = ObjectIdentifier(SGX_EXTENSIONS)
    for extension in leaf.extensions:
        if extension.oid == oid and isinstance(extension.value, x509.UnrecognizedExtension):
            return parse_extension(extension.value.value)
    raise ValueError("it has no SGX extension")


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def _same(certificate: x509.Certificate, anchor: x509.Certificate) -> bool:
    def spki(of: x509.Certificate) -> bytes:
        return of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    return certificate.subject == anchor.subject and spki(certificate) == spki(anchor)


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d")
