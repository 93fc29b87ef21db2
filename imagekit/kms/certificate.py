"""What a service's certificate says, for people who compare it by another way."""

import hashlib
from typing import Any

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from imagekit.errors import printable


def describe_certificate(der: bytes) -> dict[str, Any]:
    """Describe a certificate.

    Args:
        der: as it was presented; nothing of it is checked.

    Returns:
        ``sha256`` (of the DER, hexadecimal), ``subject``, ``issuer``, ``not_before`` and
        ``not_after`` (RFC 3339), ``version`` (1 or 3), ``names`` (alternative names); all but the
        first are empty if it cannot be read.
    """
    import warnings

    facts: dict[str, Any] = {"sha256": hashlib.sha256(der).hexdigest()}
    empty = {"subject": "", "issuer": "", "not_before": "", "not_after": "", "version": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # odd, but only shown
        try:
            found = x509.load_der_x509_certificate(der)
            facts |= {
                "subject": printable(found.subject.rfc4514_string()),
                "issuer": printable(found.issuer.rfc4514_string()),
                "not_before": found.not_valid_before_utc.isoformat(),
                "not_after": found.not_valid_after_utc.isoformat(),
                "version": {x509.Version.v1: 1, x509.Version.v3: 3}[found.version],
            }
            names = _names(found)
        except ValueError:
            return {**facts, **empty, "names": []}
    return {**facts, "names": names}


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [printable(str(name.value)) for name in found.value]
