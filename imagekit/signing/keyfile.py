"""Enclave signing keys in PEM files: making, reading, signing.

SGX wants RSA-3072 with public exponent 3 (Intel SDM vol. 3D, "SIGSTRUCT"). Keys are read from
PKCS#1 or PKCS#8, encrypted or not.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from imagekit.enclave.sigstruct import EXPONENT, KEY_BYTES, mr_signer_of
from imagekit.errors import InputError, SigningError, UsageError
from imagekit.files import write_new

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

KEY_BITS = 8 * KEY_BYTES
_MAX_FILE = 64 * 1024
_GENERATE = "make one with: imagekit key generate"

Passphrase = Callable[[], bytes]
"""Gives the passphrase when a key turns out to be encrypted; it is not asked before."""


class FileSigner:
    """A signer whose private key was read from a PEM file.

    The key stays inside `cryptography`'s object; no representation of this class shows it.
    """

    def __init__(self, key: "RSAPrivateKey") -> None:
        self._key = key
        self._modulus = key.public_key().public_numbers().n

    def __repr__(self) -> str:
        """Show mr_signer only."""
        return f"FileSigner(mr_signer={mr_signer_of(self._modulus).hex()})"

    @property
    def modulus(self) -> int:
        """See :class:`imagekit.signing.signer.Signer`."""
        return self._modulus

    def sign(self, message: bytes) -> int:
        """See :class:`imagekit.signing.signer.Signer`."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        return int.from_bytes(self._key.sign(message, PKCS1v15(), SHA256()), "big")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such key file", _GENERATE) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the key: {error.strerror}", "check the path and its permissions"
        ) from None
    if len(data) > _MAX_FILE:
        raise InputError(f"{path}: too large for a key file", "give a PEM file")
    return data


def _check(path: Path, key: object) -> None:
    """Refuse what SGX cannot use; works on private and public keys."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    if not isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        kind = type(key).__name__.removeprefix("_").removesuffix("Key").removesuffix("Private")
        raise SigningError(
            f"{path}: this is not an RSA key but {kind}", f"SGX wants RSA; {_GENERATE}"
        )
    public = key.public_key() if isinstance(key, rsa.RSAPrivateKey) else key
    if key.key_size != KEY_BITS:
        raise SigningError(
            f"{path}: the key has {key.key_size} bits", f"SGX wants {KEY_BITS}; {_GENERATE}"
        )
    exponent = public.public_numbers().e
    if exponent != EXPONENT:
        raise SigningError(
            f"{path}: the public exponent is {exponent}", f"SGX wants {EXPONENT}; {_GENERATE}"
        )


def load_signer(path: Path, passphrase: Passphrase | None = None) -> FileSigner:
    """Read a private key.

    Args:
        path: PEM file, PKCS#1 or PKCS#8.
        passphrase: asked only when the key is encrypted.

    Raises:
        InputError: missing, unreadable, not a PEM key.
        SigningError: not RSA-3072 with e = 3; encrypted and no or a wrong passphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    if b"PRIVATE KEY-----" not in data:
        what = "a public key" if b"PUBLIC KEY-----" in data else "no PEM private key"
        raise InputError(f"{path}: holds {what}", "give the private key's PEM file")
    secret: bytes | None = None
    if b"ENCRYPTED" in data:
        if passphrase is None:
            raise SigningError(
                f"{path}: a passphrase is needed and none was given",
                "give --passphrase-file, set IMAGEKIT_KEY_PASSPHRASE or run in a terminal",
            )
        secret = passphrase()
        if not secret:
            raise SigningError(f"{path}: the passphrase is empty", "give the key's passphrase")
    try:
        key = load_pem_private_key(data, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own text is dropped on purpose: it may quote what it was given.
        if secret is not None:
            raise SigningError(f"{path}: cannot decrypt the key", "check the passphrase") from None
        raise InputError(f"{path}: not a readable PEM private key", _GENERATE) from None
    _check(path, key)
    return FileSigner(key)  # type: ignore[arg-type]  # _check leaves nothing but RSA


def load_modulus(path: Path, passphrase: Passphrase | None = None) -> int:
    """Read the modulus of a public or private key.

    Raises:
        InputError, SigningError: as :func:`load_signer`.
    """
    data = _read(path)
    if b"PUBLIC KEY-----" not in data:
        return load_signer(path, passphrase).modulus
    return _public_modulus(path, data)


def load_public_modulus(path: Path) -> int:
    """Read the modulus of a public key; a private one has no business where that is wanted.

    Raises:
        InputError: missing, unreadable, not a PEM public key.
        SigningError: not RSA-3072 with e = 3.
    """
    data = _read(path)
    if b"PRIVATE KEY-----" in data or b"PUBLIC KEY-----" not in data:
        what = "a private key" if b"PRIVATE KEY-----" in data else "no PEM public key"
        raise InputError(
            f"{path}: holds {what}", "give the public key: openssl pkey -in KEY -pubout"
        )
    return _public_modulus(path, data)


def _public_modulus(path: Path, data: bytes) -> int:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key: RSAPublicKey = load_pem_public_key(data)  # type: ignore[assignment]
    except ValueError:
        raise InputError(f"{path}: not a readable PEM public key", "check the file") from None
    _check(path, key)
    return key.public_numbers().n


def permission_warning(path: Path) -> str | None:
    """Give a line to print when others than the owner may read or change a key file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return f"{path}: mode {mode:04o} lets others than its owner at the key; chmod 600 {path}"
    return None


def generate_key(path: Path, passphrase: bytes | None = None) -> int:
    """Make an RSA-3072 key with e = 3 and write it, mode 0600, PEM; give its modulus.

    Args:
        path: must not exist.
        passphrase: encrypts the file (PKCS#8); without it the file is PKCS#1, as openssl and
            Gramine write it.

    Raises:
        UsageError: the file exists.
        InputError: it cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    if passphrase is not None and not passphrase:
        raise UsageError("the passphrase is empty", "give one, or none at all")
    refusal = UsageError(f"{path}: exists already", "a key is never overwritten; give another name")
    if os.path.lexists(path):
        raise refusal
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder", "make it, or give another path")
    key = rsa.generate_private_key(EXPONENT, KEY_BITS)
    if passphrase is None:
        shape = serialization.PrivateFormat.TraditionalOpenSSL
        protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    else:
        shape = serialization.PrivateFormat.PKCS8
        protection = serialization.BestAvailableEncryption(passphrase)
    pem = key.private_bytes(serialization.Encoding.PEM, shape, protection)
    try:
        write_new(path, pem, 0o600)
    except FileExistsError:
        raise refusal from None
    return key.public_key().public_numbers().n


def throw_away_key() -> bytes:
    """Make an RSA-3072 key with e = 3 that never was a file here, as PEM.

    For tools that sign as they measure, where what they signed is thrown away.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(EXPONENT, KEY_BITS).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
