"""Keystores for Java: PKCS #12, in the one form that every Java from 8 on opens.

``keystore.jks`` is PKCS #12 too, under the name that BigDL's confs have. Why not Java's own JKS:

- Java's KeyStore of type ``JKS`` reads both formats, since 8u60 (``keystore.type.compat``), and so
  does ``keytool`` with ``-storetype JKS``, ``-storetype PKCS12`` and without. Tried with Java
  8u504, 11.0.10, 11.0.13, 17 and 25, reading the private key too.
- Java itself calls its JKS outdated; its key protection is one of its own, built on SHA-1. The only
  library that writes it, pyjks, had its last release in April 2020, and needs two more ciphers
  compiled from C.

The encryption is the older one of PKCS #12, triple DES and HMAC with SHA-1. Java before 8u301 and
11.0.12, BigDL's 8u192 among them, says "keystore password was incorrect" to PBES2 with AES-256 or
to an HMAC with SHA-256 (tried with 11.0.10). Both forms are as strong as the password: the hash
that it is checked by takes 2048 rounds in either.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from imagekit.secrets.passwords import Password


def pkcs12(
    alias: str, key: "RSAPrivateKey", certificate: "x509.Certificate", password: "Password"
) -> bytes:
    """Write a keystore with one key and its certificate.

    It is a truststore for that certificate, too: Java trusts the certificate of a key entry.

    Args:
        alias: name of the entry.
        key: the private key.
        certificate: of that key.
        password: of the store and of the key, which PKCS #12 does not keep apart.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import PrivateFormat
    from cryptography.hazmat.primitives.serialization.pkcs12 import (
        PBES,
        serialize_key_and_certificates,
    )

    protection = (
        PrivateFormat.PKCS12.encryption_builder()
        .key_cert_algorithm(PBES.PBESv1SHA1And3KeyTripleDESCBC)
        .hmac_hash(hashes.SHA1())  # noqa: S303 - what older Java reads; see above
        .build(password.reveal())
    )
    return serialize_key_and_certificates(alias.encode(), key, certificate, None, protection)
