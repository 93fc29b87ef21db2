"""Whom to trust: the TLS settings for one host.

Which CAs count, the first that applies:

1. the bundle of ``--cacert``, and none else;
2. the store of this machine, or what ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name (OpenSSL's rule);
3. without these two variables, the bundle or folder of ``REQUESTS_CA_BUNDLE``.

To the last two come Docker's CAs for the host: ``/etc/docker/certs.d/HOST[:PORT]/*.crt``. A client
certificate is taken from ``*.cert`` with its ``*.key`` there (Docker's "Verify repository client
with certificates"). The bundle that comes with Python packages is never used: who runs a machine
decides what it trusts.
"""

import os
import ssl
from pathlib import Path

from imagekit.errors import InputError
from imagekit.images.registry.access import RegistryAccess

CERTIFICATES = Path("/etc/docker/certs.d")
"""Docker's folder with a folder per registry."""


def tls_context(host: str, access: RegistryAccess) -> ssl.SSLContext:
    """Give the TLS settings for a host.

    Args:
        host: with its port, as in references and URLs.
        access: how registries are reached.

    Raises:
        InputError: a file with certificates or a key is missing or unusable.
    """
    if access.insecure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif access.ca_file is not None:
        context = _trusting(access.ca_file)
    else:
        context = _machine()
        for path in _docker_files(host, "*.crt"):
            _load(context, path)
    for certificate in _docker_files(host, "*.cert"):
        key = certificate.with_suffix(".key")
        try:
            # Without a password callback OpenSSL would ask at the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError):
            raise InputError(
                f"the client certificate {certificate} cannot be used with {key}",
                "put the certificate and its key, not encrypted, there as PEM files",
            ) from None
    return context


def _machine() -> ssl.SSLContext:
    named = os.environ.get("REQUESTS_CA_BUNDLE")
    if named and not os.environ.get("SSL_CERT_FILE") and not os.environ.get("SSL_CERT_DIR"):
        return _trusting(Path(named))
    return ssl.create_default_context()


def _trusting(bundle: Path) -> ssl.SSLContext:
    """A context that trusts the CAs of one file or folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, bundle)
    return context


def _load(context: ssl.SSLContext, bundle: Path) -> None:
    try:
        if bundle.is_dir():
            context.load_verify_locations(capath=bundle)
        else:
            context.load_verify_locations(cafile=bundle)
    except ssl.SSLError:
        problem = "holds no CA certificates in PEM form"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    else:
        return
    raise InputError(f"{bundle} {problem}", "name a file with PEM certificates of CAs") from None


def _docker_files(host: str, pattern: str) -> list[Path]:
    return sorted((CERTIFICATES / host).glob(pattern))
