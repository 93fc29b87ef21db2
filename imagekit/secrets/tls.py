"""What ``secrets ssl`` and ``secrets flink`` write: keys and certificates in keystores."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from imagekit.secrets import certificates
from imagekit.secrets.certificates import Subject
from imagekit.secrets.folder import SecretFiles
from imagekit.secrets.keystore import pkcs12
from imagekit.secrets.kubernetes import secret

if TYPE_CHECKING:
    from imagekit.secrets.passwords import Password

SSL_SECRET = "ssl-keys"  # noqa: S105 - the name of a Secret
FLINK_SECRET = "flink-ssl-key"  # noqa: S105
SSL_KEYS = (
    "server.key",
    "server.csr",
    "server.crt",
    "server.pem",
    "keystore.pkcs12",
    "keystore.jks",
)
"""What the Secret holds, by BigDL's names."""
SSL_YAML = "keys.yaml"
SSL_NAMES = (*SSL_KEYS, SSL_YAML)
FLINK_STORE = "flink_internal.keystore"
FLINK_YAML = "flink-ssl-key.yaml"
FLINK_NAMES = (FLINK_STORE, FLINK_YAML)
FLINK_NAME = "flink.internal"
"""Alias and CN, as Flink's documentation has them."""


class Made(NamedTuple):
    """Files, and what can be said of the certificate in them."""

    files: SecretFiles
    certificate: dict[str, Any]


Maker = Callable[[Subject, int, "Password", str | None], Made]
"""Makes files from whom the certificate is for, the key's bits, a password and a namespace."""


def ssl(whom: Subject, key_size: int, password: "Password", namespace: str | None) -> Made:
    """Make key, request, certificate and keystores of a server, and their Secret.

    Args:
        whom: whom the certificate is for.
        key_size: bits.
        password: of the keystores; the PEM files have none.
        namespace: of the Secret.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    key = certificates.new_key(key_size)
    certificate = certificates.self_signed(key, whom)
    request = certificates.signing_request(key, whom).public_bytes(Encoding.PEM)
    private, public = certificates.key_pem(key), certificate.public_bytes(Encoding.PEM)
    store = pkcs12("server", key, certificate, password)
    contents = (private, request, public, private + public, store, store)
    files = SecretFiles(zip(SSL_KEYS, contents, strict=True))
    files[SSL_YAML] = secret(SSL_SECRET, files, namespace)
    return Made(files, certificates.facts(certificate, whom))


def flink(whom: Subject, key_size: int, password: "Password", namespace: str | None) -> Made:
    """Make the keystore by which Flink's processes know each other, and its Secret.

    Keystore and truststore are one file: a process lets in who has the very same key.
    """
    key = certificates.new_key(key_size)
    certificate = certificates.self_signed(key, whom)
    files = SecretFiles({FLINK_STORE: pkcs12(FLINK_NAME, key, certificate, password)})
    files[FLINK_YAML] = secret(FLINK_SECRET, files, namespace)
    return Made(files, certificates.facts(certificate, whom))
