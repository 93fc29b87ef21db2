"""Java's truststore without the parts that change from build to build.

``/etc/ssl/certs/java/cacerts`` is written by a package script through Java's KeyStore: every entry
carries the time it was added, and the entries stand in the order of a hash table. Here the same
certificates are written sorted by alias with one pinned time.

The JKS format, version 2 (big-endian; as documented for ``sun.security.provider.JavaKeyStore``)::

    u4 0xFEEDFEED   u4 version   u4 count
    per certificate: u4 tag=2  utf alias  u8 milliseconds since 1970  utf type  u4 length  DER
    20 bytes SHA-1 over: password in UTF-16BE, "Mighty Aphrodite", everything before

where ``utf`` is a u2 length and the text. The password only guards against accidents; the stock one
of every cacerts file is ``changeit``.
"""

import hashlib
import hmac
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imagekit.errors import InputError

PASSWORD = "changeit"  # noqa: S105 - the public default of every Java truststore, no secret
MAGIC = b"\xfe\xed\xfe\xed"
_TRUSTED_CERTIFICATE = 2
_WHITENER = b"Mighty Aphrodite"


@dataclass(frozen=True)
class TrustedCertificate:
    """One entry: its alias, the certificate type (``X.509``) and the encoded certificate."""

    alias: str
    kind: str
    der: bytes


def rewrite_truststore(data: bytes, epoch: int, where: str) -> bytes:
    """Give the same certificates as a deterministic JKS file.

    Args:
        data: a JKS file, or a PKCS #12 one (newer Java versions write those, with random salts),
            protected with the stock password.
        epoch: seconds since 1970, written as the time of every entry.
        where: the file's name, for errors.

    Raises:
        InputError: damaged, another format, another password, or it holds private keys.
    """
    if data.startswith(MAGIC):
        entries: Iterable[TrustedCertificate] = parse_jks(data, where)
    else:
        entries = _from_pkcs12(data, where)
    return write_jks({entry.alias: entry for entry in entries}, epoch)


def parse_jks(data: bytes, where: str) -> list[TrustedCertificate]:
    """Read a JKS file of trusted certificates, in the order of the file.

    Raises:
        InputError: as for :func:`rewrite_truststore`.
    """
    if len(data) < 32 or not data.startswith(MAGIC):
        raise _bad(where, "it is no Java truststore")
    body, digest = data[:-20], data[-20:]
    if not hmac.compare_digest(_digest(body), digest):
        raise _bad(where, "its checksum is wrong (damaged, or not the stock password)")
    reader = _Reader(body, where)
    reader.offset = 4
    version, count = reader.number(">I"), reader.number(">I")
    if version != 2:
        raise _bad(where, f"version {version} of the JKS format is not known")
    entries = [_entry(reader) for _ in range(count)]
    if reader.offset != len(body):
        raise _bad(where, "something follows the last entry")
    return entries


def write_jks(entries: Mapping[str, TrustedCertificate], epoch: int) -> bytes:
    """Write trusted certificates, sorted by alias, every time being ``epoch`` (seconds)."""
    parts = [MAGIC, struct.pack(">II", 2, len(entries))]
    for alias in sorted(entries):
        entry = entries[alias]
        parts += [
            struct.pack(">I", _TRUSTED_CERTIFICATE),
            _text(alias),
            struct.pack(">q", epoch * 1000),
            _text(entry.kind),
            struct.pack(">I", len(entry.der)),
            entry.der,
        ]
    body = b"".join(parts)
    return body + _digest(body)


class _Reader:
    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where, self.offset = data, where, 0

    def take(self, size: int) -> bytes:
        found = self.data[self.offset : self.offset + size]
        if len(found) != size:
            raise _bad(self.where, "it ends too early")
        self.offset += size
        return found

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def text(self) -> str:
        try:
            return self.take(self.number(">H")).decode("utf-8")
        except UnicodeDecodeError:
            raise _bad(self.where, "a name in it is not UTF-8") from None


def _entry(reader: _Reader) -> TrustedCertificate:
    if reader.number(">I") != _TRUSTED_CERTIFICATE:
        raise _bad(reader.where, "it holds a private key, which has no place in a base")
    alias = reader.text()
    reader.number(">q")
    kind = reader.text()
    return TrustedCertificate(alias, kind, reader.take(reader.number(">I")))


def _from_pkcs12(data: bytes, where: str) -> list[TrustedCertificate]:
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

    try:
        store = load_pkcs12(data, PASSWORD.encode())
        if store.key is not None:
            raise _bad(where, "it holds a private key, which has no place in a base")
        found = []
        for item in store.additional_certs:
            der = item.certificate.public_bytes(Encoding.DER)
            name = (item.friendly_name or b"").decode("utf-8", "replace")
            found.append(TrustedCertificate(name or hashlib.sha256(der).hexdigest(), "X.509", der))
    except ValueError:
        raise _bad(where, "it is neither JKS nor PKCS #12 with the stock password") from None
    return found


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack(">H", len(data)) + data


def _digest(body: bytes) -> bytes:
    # SHA-1 is the format's checksum, not a signature of ours
    keyed = PASSWORD.encode("utf-16-be") + _WHITENER + body
    return hashlib.sha1(keyed, usedforsecurity=False).digest()


def _bad(where: str, problem: str) -> InputError:
    return InputError(f"{where}: {problem}", "install ca-certificates-java anew, or exclude it")
