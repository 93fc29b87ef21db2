"""Keys and self-signed certificates for TLS."""

import ipaddress
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from imagekit.errors import UsageError
from imagekit.spec.dates import source_date_epoch

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

KEY_SIZES = (2048, 3072, 4096)
"""Bits of RSA keys that can be asked for."""
DAYS = 365
"""How long a certificate is valid if nothing else is said."""
LONGEST_DAYS = 9999

_LATEST = 200_000_000_000  # as far as a certificate's end stays in the years X.509 can write
_EXPONENT = 65537
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9 ._:@*/+-]{1,64}")


@dataclass(frozen=True)
class Subject:
    """Whom a certificate is for, and for how long.

    Attributes:
        name: its CN.
        names: DNS names and IP addresses as clients see them, in order, without repetition.
        not_before: when it begins to be valid, in whole seconds.
        days: for how long.
    """

    name: str
    names: "tuple[str | ipaddress.IPv4Address | ipaddress.IPv6Address, ...]"
    not_before: datetime
    days: int


def subject(name: str, names: Sequence[str], days: int) -> Subject:
    """Put together whom a certificate is for.

    Args:
        name: its CN; if it is a DNS name or an address it is the first of the names, too.
        names: each ``DNS:NAME``, ``IP:ADDRESS``, or one of the two without the word in front.
        days: how long it is valid, from the second that SOURCE_DATE_EPOCH gives, or from now.

    Raises:
        UsageError: one of them cannot be taken.
    """
    if not _NAME.fullmatch(name):
        rule = "take 1 to 64 letters, digits, spaces and . _ - : @ * / +"
        raise UsageError("--name is not the name of a certificate", rule)
    if not 1 <= days <= LONGEST_DAYS:
        raise UsageError(f"--days {days} is not from 1 to {LONGEST_DAYS}", "correct it")
    found = [_alternative(name)]
    for text in names:
        found.append(_alternative(text))
        if found[-1] is None:
            raise UsageError(f"--san {text} is neither a DNS name nor an IP address", "correct it")
    taken = tuple(dict.fromkeys(one for one in found if one is not None))
    return Subject(name, taken, _now(), days)


def _alternative(text: str) -> str | ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Give the name or address that a text stands for, None if it is neither."""
    kind, colon, rest = text.partition(":")
    word = kind.upper() if colon and kind.upper() in ("DNS", "IP") else ""
    value = rest if word else text
    if word != "DNS" and "%" not in value:  # a zone is this machine's own affair
        with suppress(ValueError):
            return ipaddress.ip_address(value)
    # What is all digits at its end is an address, misspelt (RFC 1123, section 2.1).
    if word == "IP" or not _DNS.fullmatch(value) or value.rpartition(".")[2].isdigit():
        return None
    return value


def _now() -> datetime:
    epoch = source_date_epoch()
    if epoch is None:
        epoch = int(time.time())
    if epoch > _LATEST:
        raise UsageError(
            f"SOURCE_DATE_EPOCH={epoch} is no number of seconds since 1970 that a certificate can "
            "begin at",
            "correct or unset it",
        )
    return datetime.fromtimestamp(epoch, UTC)


def new_key(bits: int) -> "RSAPrivateKey":
    """Make an RSA key.

    Raises:
        UsageError: not one of :data:`KEY_SIZES`.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa

    check_key_size(bits)
    return rsa.generate_private_key(_EXPONENT, bits)


def check_key_size(bits: int) -> None:
    """Make sure that such keys are made.

    Raises:
        UsageError: not one of :data:`KEY_SIZES`.
    """
    if bits not in KEY_SIZES:
        raise UsageError(
            f"--key-size {bits} is not one that is made", f"take {', '.join(map(str, KEY_SIZES))}"
        )


def key_pem(key: "RSAPrivateKey") -> bytes:
    """Give a private key as PEM, PKCS #8, not encrypted."""
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def self_signed(key: "RSAPrivateKey", whom: Subject) -> "x509.Certificate":
    """Make a certificate that its own key signs, for both ends of a connection."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    builder = x509.CertificateBuilder(
        issuer_name=_distinguished(whom),
        subject_name=_distinguished(whom),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=whom.not_before,
        not_valid_after=whom.not_before + timedelta(days=whom.days),
    )
    usages = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign"), False
    )
    usages |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
    usage = x509.KeyUsage(digital_signature=True, key_encipherment=True, **usages)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    builder = builder.add_extension(identifier, critical=False)
    if whom.names:
        builder = builder.add_extension(_alternatives(whom), critical=False)
    return builder.sign(key, hashes.SHA256())


def signing_request(key: "RSAPrivateKey", whom: Subject) -> "x509.CertificateSigningRequest":
    """Make a request by which a CA can vouch for the same key and names."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    builder = x509.CertificateSigningRequestBuilder(_distinguished(whom))
    if whom.names:
        builder = builder.add_extension(_alternatives(whom), critical=False)
    return builder.sign(key, hashes.SHA256())


def _distinguished(whom: Subject) -> "x509.Name":
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, whom.name)])


def _alternatives(whom: Subject) -> "x509.SubjectAlternativeName":
    from cryptography import x509

    return x509.SubjectAlternativeName(
        [
            x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name)
            for name in whom.names
        ]
    )


def facts(certificate: "x509.Certificate", whom: Subject) -> dict[str, Any]:
    """Give what can be said of a certificate, for people and JSON."""
    from cryptography.hazmat.primitives import hashes

    return {
        "name": whom.name,
        "san": [f"{'DNS' if isinstance(name, str) else 'IP'}:{name}" for name in whom.names],
        "not_before": certificate.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "not_after": certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
    }
