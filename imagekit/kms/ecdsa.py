"""ECDSA over P-256 with SHA-256, as quotes have it: raw numbers, no DER."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey


def point(raw: bytes) -> "EllipticCurvePublicKey":
    """Read a public key.

    Args:
        raw: x and y, 32 big-endian bytes each.

    Raises:
        ValueError: no point of the curve.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + raw)


def fits(key: "EllipticCurvePublicKey", signature: bytes, message: bytes) -> bool:
    """Say whether a signature is of this key over this message.

    Args:
        key: public key.
        signature: r and s, 32 big-endian bytes each.
        message: what is signed.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA256

    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True
