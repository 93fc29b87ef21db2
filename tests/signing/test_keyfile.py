"""Signing keys: made, read, refused; and never shown."""

import os
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from imagekit.enclave.sigstruct import mr_signer_of, signature_fits
from imagekit.errors import InputError, SigningError, UsageError
from imagekit.signing.keyfile import (
    generate_key,
    load_modulus,
    load_signer,
    permission_warning,
)

MESSAGE = bytes(range(256))
PEM = serialization.Encoding.PEM
PKCS1 = serialization.PrivateFormat.TraditionalOpenSSL
PKCS8 = serialization.PrivateFormat.PKCS8


@pytest.fixture(scope="module")
def key(golden_key):
    return serialization.load_pem_private_key(golden_key.read_bytes(), None)


def write(path, key, shape=PKCS8, passphrase=None):
    protection = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    path.write_bytes(key.private_bytes(PEM, shape, protection))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("shape", [PKCS1, PKCS8])
@pytest.mark.parametrize("passphrase", [None, b"a passphrase"])
def test_all_forms_of_the_same_key_sign_the_same(tmp_path, key, golden_key, shape, passphrase):
    path = write(tmp_path / "key.pem", key, shape, passphrase)
    signer = load_signer(path, lambda: passphrase)
    reference = load_signer(golden_key)
    assert signer.sign(MESSAGE) == reference.sign(MESSAGE)
    assert signature_fits(MESSAGE, signer.modulus, signer.sign(MESSAGE))


def test_a_made_key_is_private_fits_and_is_never_overwritten(tmp_path):
    path = tmp_path / "key.pem"
    before = os.umask(0)
    try:
        modulus = generate_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("-----BEGIN RSA PRIVATE KEY-----")
    assert load_signer(path).modulus == modulus
    content = path.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        generate_key(path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["key.pem"]


def test_a_dangling_link_is_not_written_through(tmp_path):
    (tmp_path / "key.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="exists already"):
        generate_key(tmp_path / "key.pem")
    assert not (tmp_path / "elsewhere").exists()


def test_an_encrypted_key_needs_its_passphrase(tmp_path):
    path = tmp_path / "key.pem"
    modulus = generate_key(path, b"correct")
    assert b"ENCRYPTED" in path.read_bytes()
    assert load_signer(path, lambda: b"correct").modulus == modulus
    for passphrase, words in (
        (None, "a passphrase is needed"),
        (lambda: b"", "empty"),
        (lambda: b"wrong", "cannot decrypt"),
    ):
        with pytest.raises(SigningError, match=words) as caught:
            load_signer(path, passphrase)
        assert "wrong" not in caught.value.problem + caught.value.hint


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rsa.generate_private_key(65537, 3072), "exponent is 65537"),
        (lambda: rsa.generate_private_key(3, 2048), "2048 bits"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), "not an RSA key"),
        (lambda: ed25519.Ed25519PrivateKey.generate(), "not an RSA key"),
    ],
    ids=["exponent", "size", "ec", "ed25519"],
)
def test_keys_that_sgx_cannot_use_are_refused_with_the_way_out(tmp_path, make, words):
    path = write(tmp_path / "key.pem", make())
    with pytest.raises(SigningError, match=words) as caught:
        load_signer(path)
    assert "key generate" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no PEM private key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "a public key"),
        (b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", "readable"),
        (b"x" * 100_000, "too large"),
    ],
)
def test_files_that_hold_no_key(tmp_path, content, words):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_signer(path)


def test_a_missing_key_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such key file"):
        load_signer(tmp_path / "none.pem")
    with pytest.raises(InputError, match="cannot read the key"):
        load_signer(tmp_path)


def test_mr_signer_comes_from_public_and_private_files_alike(tmp_path, key, golden_key):
    public = tmp_path / "public.pem"
    public.write_bytes(
        key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    modulus = load_modulus(public)
    assert modulus == load_modulus(golden_key)
    assert mr_signer_of(modulus).hex() == (
        "a252b71659792e8d0387d8af7659b68dd26b01633476ae2c64fc1dba7f740676"
    )


def test_others_at_the_key_are_warned_of(tmp_path, key):
    path = write(tmp_path / "key.pem", key)
    assert permission_warning(path) is None
    path.chmod(0o640)
    assert "0640" in permission_warning(path)


def test_nothing_that_prints_a_signer_prints_the_key(golden_key, key):
    signer = load_signer(golden_key)
    secret = key.private_numbers()
    shown = repr(signer) + str(signer) + str(vars(signer).keys())
    for number in (secret.p, secret.q, secret.d):
        assert str(number) not in shown
        assert f"{number:x}" not in shown
    assert "mr_signer=a252b7" in repr(signer)
