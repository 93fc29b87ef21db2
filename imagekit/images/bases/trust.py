"""A company's own CA: certificates that are trusted while a base is made, and never put into it."""

import os
import re
import ssl
from pathlib import Path

from imagekit.errors import InputError
from imagekit.files import disk_error

CA_HINT = (
    "the server's certificate is signed by a CA that is not known here: name its certificate in "
    "base.ca_bundle or in SSL_CERT_FILE, or install it on this machine"
)

_SYSTEM = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]+\n)+-----END CERTIFICATE-----\n"
)
_MARK = b"-----BEGIN "
_HINT = "name a file of PEM certificates and nothing else"


def read_ca_bundle(path: Path) -> bytes:
    """Read ``base.ca_bundle`` and give its certificates as PEM, without anything around them.

    Raises:
        InputError: missing, no certificates, a damaged one, or anything else in PEM (a private
            key): what is read here goes into build contexts.
    """
    try:
        data = path.read_bytes().replace(b"\r\n", b"\n") + b"\n"
    except OSError as error:
        raise disk_error(error, path, "read the CA bundle") from None
    if b"PRIVATE KEY" in data:
        raise InputError(f"{path}: holds a private key, which must not stand in a CA bundle", _HINT)
    found = _CERTIFICATE.findall(data)
    if not found or len(found) != data.count(_MARK):
        raise InputError(f"{path}: is not a file of PEM certificates alone", _HINT)
    text = b"".join(found)
    try:
        ssl.create_default_context().load_verify_locations(cadata=text.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise InputError(f"{path}: a certificate in it is damaged", _HINT) from None
    return text


def with_system(ca_bundle: bytes) -> bytes:
    """Give the bundle and all certificates that this machine's programs trust, for one file."""
    places = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_SYSTEM)
    parts = [ca_bundle]
    for place in dict.fromkeys(places):
        if place is not None:
            try:
                parts.append(Path(place).read_bytes())
            except OSError:
                continue  # a variable that names nothing counts for nothing
    return b"\n".join(parts)
