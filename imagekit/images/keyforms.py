"""The forms in which private keys are written, recognised and judged; none of a key is kept.

PEM: RFC 7468, and older encrypted keys with ``Proc-Type`` headers in between. DER: RSAPrivateKey
(RFC 8017, A.1.2), also inside PKCS#8 (RFC 5208). Of each key it is told whether an SGX enclave can
be signed with it (Intel SDM vol. 3D, "SIGSTRUCT": RSA, 3072 bits, exponent 3).
"""

import base64
import binascii
import hashlib
import re
from typing import NamedTuple

PEM_MARK = b"PRIVATE KEY-----"
DER_MARK = b"\x02\x01\x00\x02"
"""Bytes that every key has: the end of PEM's begin line; version 0 and the tag of the modulus."""

_PEM_BEGIN = re.compile(rb"-----BEGIN ((?:[A-Z0-9]{1,12} ){0,3})PRIVATE KEY-----")
# How a line ends inside PEM: truly, or escaped in JSON and in environment variables.
_PEM_LINE = re.compile(rb"[ \t]*(?:\r\n|\n|\r|(?:\\{1,4}r)?\\{1,4}n|\\{1,4}r)[ \t]*")
_PEM_HEADER = re.compile(rb"[A-Za-z][A-Za-z-]{1,30}: [^\r\n\\]{1,200}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{1,76}={0,2}")
_BASE64_LONG = re.compile(rb"[A-Za-z0-9+/]{48,}={0,2}")
_SMALLEST_PEM = 40  # an Ed25519 key in PKCS#8 is 48 bytes
_SMALLEST_MODULUS = 64
_LARGEST_MODULUS = 2048
_PKCS8_RSA = bytes.fromhex("020100300d06092a864886f70d01010105000482")
_RSA_ALGORITHMS = bytes.fromhex("06092a864886f70d0101")  # OID 1.2.840.113549.1.1, PKCS #1
_OPENSSH = b"openssh-key-v1\0"
_SEQUENCE, _INTEGER, _OCTETS = b"\x30", b"\x02", b"\x04"


class Found(NamedTuple):
    """A key in a stream: offset of its begin (bytes), kind, and what :class:`KeyFinding` tells."""

    offset: int
    kind: str
    sgx: bool
    signer: str


def pem_key(data: bytes, mark: int) -> Found | None:
    """Give the key whose begin line has :data:`PEM_MARK` at `mark`, or None if it is no key."""
    end = mark + len(PEM_MARK)
    first = data.rfind(b"-----BEGIN ", 0, mark)
    match = _PEM_BEGIN.fullmatch(data, first, end) if first >= 0 else None
    body = _pem_body(data[end:]) if match else None
    if not match or body is None:
        return None
    raw, encrypted = body
    label = match[1].decode("ascii").strip()
    name = f"{label} private key" if label else "private key"
    sgx, signer = (True, "") if encrypted else _usable(raw)
    return Found(first, f"{name} (PEM{', encrypted' if encrypted else ''})", sgx, signer)


def der_key(data: bytes, mark: int) -> Found | None:
    """Give the RSA key that has :data:`DER_MARK` at `mark`, or None if it is no key."""
    begin = _der_begin(data, mark)
    if begin is None or not _is_rsa_key(data[mark + 3 :]):
        return None
    pkcs8 = _PKCS8_RSA in data[max(0, begin - 24) : begin]
    kind = "RSA private key (DER, PKCS#8)" if pkcs8 else "RSA private key (DER)"
    return Found(begin, kind, *_usable(data[begin:]))


def _pem_body(data: bytes) -> tuple[bytes, bool] | None:
    """What follows the begin line, decoded, and whether it is encrypted; None if it is no key."""
    at, body, encrypted = 0, b"", False
    while True:
        line = _PEM_LINE.match(data, at)
        at = line.end() if line else at
        header = _PEM_HEADER.match(data, at)
        if header and not body:
            encrypted = encrypted or b"ENCRYPTED" in header[0]
            at = header.end()
            continue
        # Without a line end the whole body may stand on one line.
        text = (_BASE64_LONG if line is None or not body else _BASE64).match(data, at)
        text = text or (_BASE64.match(data, at) if line else None)
        if not text:
            if line and _PEM_LINE.match(data, at):
                continue
            break
        body += text[0]
        at = text.end()
        if not _PEM_LINE.match(data, at):
            break
    raw = _decoded(body)
    return None if raw is None else (raw, encrypted)


def _decoded(body: bytes) -> bytes | None:
    """Base64 decoded, if it is as large and as varied as a key."""
    body = body.rstrip(b"=")
    body = body[: len(body) - (len(body) % 4 == 1)]
    try:
        raw = base64.b64decode(body + b"=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    # "AAAA…" and "xxxx…" in documentation are no keys.
    return raw if len(raw) >= _SMALLEST_PEM and len(set(raw)) >= 16 else None


def _der_begin(data: bytes, version: int) -> int | None:
    """Where the SEQUENCE begins whose first element is the version at that offset."""
    for width, mark in ((4, b"\x30\x82"), (3, b"\x30\x81")):
        begin = version - width
        if begin >= 0 and data.startswith(mark, begin):
            return begin
    return None


def _is_rsa_key(data: bytes) -> bool:
    """Whether the data begins with n, e, d, p, q of the sizes an RSA key has."""
    sizes = list[int]()
    for _ in range(5):
        body, data = _element(data, _INTEGER)
        if not body or body[0] & 0x80:
            return False
        sizes.append(len(body) - (body[0] == 0))
    n, e, d, p, q = sizes
    return (
        _SMALLEST_MODULUS <= n <= _LARGEST_MODULUS
        and 1 <= e <= 8
        and n // 2 <= d <= n
        and abs(p - n / 2) <= n / 4
        and abs(p + q - n) <= 2
    )


# -- whether an enclave can be signed with a key


def _usable(raw: bytes) -> tuple[bool, str]:
    """``sgx`` and ``signer`` of :class:`KeyFinding` for a key that is not encrypted.

    Args:
        raw: PKCS#1 (RFC 8017), PKCS#8 (RFC 5208), SEC1 (RFC 5915), the older DSA form, or
            OpenSSH's. What is none of these may be any key.
    """
    if raw.startswith(_OPENSSH):
        return _usable_openssh(raw[len(_OPENSSH) :])
    version, rest = _element(_element(raw, _SEQUENCE)[0], _INTEGER)
    algorithm, wrapped = _element(rest, _SEQUENCE)
    if algorithm:
        inside = _element(_element(wrapped, _OCTETS)[0], _SEQUENCE)[0]
        pair = _pair(_element(inside, _INTEGER)[1])
        if pair is None:  # of another algorithm, if not damaged
            return algorithm[:1] != b"\x06" or algorithm.startswith(_RSA_ALGORITHMS), ""
    elif version == b"\1" and _element(rest, _OCTETS)[0]:
        return False, ""  # an elliptic curve's
    else:
        pair = _pair(rest)
    return (True, "") if pair is None else _judge(*pair)


def _usable_openssh(data: bytes) -> tuple[bool, str]:
    """The same for OpenSSH's form (PROTOCOL.key), whose public half comes first."""
    cipher, data = _string(data)
    _, data = _string(data)  # key derivation
    _, data = _string(data)  # its options
    public, _ = _string(data[4:])
    name, public = _string(public)
    exponent, public = _string(public)
    modulus, _ = _string(public)
    if cipher != b"none" or not name:
        return True, ""
    if name == b"ssh-rsa":
        return _judge(int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big"))
    return False, ""


def _judge(modulus: int, exponent: int) -> tuple[bool, str]:
    if modulus.bit_length() != 3072:
        return False, ""
    return exponent == 3, hashlib.sha256(modulus.to_bytes(384, "little")).hexdigest()


def _pair(data: bytes) -> tuple[int, int] | None:
    """Modulus and exponent, the first two numbers. A DSA key's p and q are judged like them."""
    modulus, rest = _element(data, _INTEGER)
    exponent, _ = _element(rest, _INTEGER)
    if not modulus or not exponent:
        return None
    return int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")


def _element(data: bytes, tag: bytes) -> tuple[bytes, bytes]:
    """(content, what follows) of the DER element; (b"", b"") if there is none of that tag.

    A sequence or octet string may be cut off, an integer may not.
    """
    if data[:1] != tag or len(data) < 2:
        return b"", b""
    size, at = data[1], 2
    if size & 0x80:
        width = size & 0x7F
        if width not in (1, 2):
            return b"", b""
        size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
    if tag == _INTEGER and at + size > len(data):
        return b"", b""
    return data[at : at + size], data[at + size :]


def _string(data: bytes) -> tuple[bytes, bytes]:
    """(content, what follows) of a string with its size in four bytes before it (RFC 4251)."""
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]
