import json
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.images.keyscan import KeyScanner, find_keys

RSA = rsa.generate_private_key(3, 3072)
SMALL = rsa.generate_private_key(65537, 1024)
NOISE = random.Random(7).randbytes(150_000)
SECRET = BestAvailableEncryption(b"secret")


def key(private: object, encoding: Encoding, form: PrivateFormat, lock: object = None) -> bytes:
    data: bytes = private.private_bytes(encoding, form, lock or NoEncryption())  # type: ignore[attr-defined]
    return data


PEM, DER = Encoding.PEM, Encoding.DER
OLD, PKCS8, SSH = PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8, PrivateFormat.OpenSSH
CURVE, EDWARDS = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
KEYS = {
    "RSA private key (PEM)": key(RSA, PEM, OLD),
    "private key (PEM)": key(RSA, PEM, PKCS8),
    "RSA private key (DER)": key(RSA, DER, OLD),
    "RSA private key (PEM, encrypted)": key(RSA, PEM, OLD, SECRET),
    "ENCRYPTED private key (PEM)": key(RSA, PEM, PKCS8, SECRET),
    "OPENSSH private key (PEM)": key(CURVE, PEM, SSH),
    "EC private key (PEM)": key(CURVE, PEM, OLD),
}


@pytest.mark.parametrize(("kind", "data"), KEYS.items())
def test_every_form_of_key_is_found_where_it_begins(kind: str, data: bytes) -> None:
    for lead in (0, 1, 2, 3, 100, 40_001):
        found = find_keys(NOISE[:lead] + data + NOISE[:500])
        assert [(item.offset, item.kind) for item in found] == [(lead, kind)]


@pytest.mark.parametrize(("kind", "data"), KEYS.items())
def test_a_key_across_the_border_of_blocks_is_found_once(kind: str, data: bytes) -> None:
    whole = NOISE + data + NOISE
    for cut in range(len(NOISE) - 90, len(NOISE) + len(data) + 20, 61):
        scanner = KeyScanner()
        for block in (whole[:cut], whole[cut : cut + 10], whole[cut + 10 : cut + 40_000]):
            scanner.feed(block)
        scanner.feed(whole[cut + 40_000 :])
        assert scanner.finish() == [(len(NOISE), kind)]


def test_small_and_other_keys_are_found() -> None:
    for data in (key(SMALL, DER, OLD), key(EDWARDS, PEM, PKCS8), key(SMALL, PEM, PKCS8)):
        assert len(find_keys(data)) == 1
    assert find_keys(key(RSA, DER, PKCS8))[0].kind == "RSA private key (DER, PKCS#8)"


@pytest.mark.parametrize("ending", ["\r\n", "\\n", "\n    "])
def test_a_key_in_json_or_indented_text_is_found(ending: str) -> None:
    text = key(CURVE, PEM, PKCS8).decode().replace("\n", ending)
    assert len(find_keys(b"x = " + text.encode())) == 1
    assert len(find_keys(json.dumps({"Env": ["K=" + text]}).encode())) == 1


def test_a_key_that_is_cut_off_is_found() -> None:
    assert len(find_keys(KEYS["private key (PEM)"][:800])) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"-----BEGIN RSA PRIVATE KEY-----\0-----END RSA PRIVATE KEY-----\0",
        b"-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 64 + b"\n-----END PRIVATE KEY-----\n",
        b"%s-----BEGIN PRIVATE KEY-----%s-----END PRIVATE KEY-----",
        b"-----BEGIN CERTIFICATE-----\n" + KEYS["private key (PEM)"][28:],
        RSA.public_key().public_bytes(PEM, PublicFormat.SubjectPublicKeyInfo),
        RSA.public_key().public_bytes(DER, PublicFormat.PKCS1),
        b"\x30\x82\x06\xe4\x02\x01\x00\x02\x82\x01\x81\x00" + NOISE[:2000],
        b"\x02\x01\x00\x02" * 1000,
        bytes(100_000),
    ],
)
def test_what_only_looks_like_a_key_is_none(data: bytes) -> None:
    assert find_keys(data) == []


def test_findings_hold_no_key_material() -> None:
    text = repr(find_keys(KEYS["private key (PEM)"])) + str(find_keys(KEYS["private key (PEM)"])[0])
    body = KEYS["private key (PEM)"].split(b"\n")[1].decode()
    assert not any(body[at : at + 6] in text for at in range(len(body) - 6))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([*KEYS.values(), b"-----BEGIN PRIVATE KEY-----", b"x\n"])), st.data()
)
def test_cutting_into_blocks_changes_nothing(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"\n".join(parts)
    scanner = KeyScanner()
    at = 0
    while at < len(whole):
        size = data.draw(st.integers(500, 50_000))
        scanner.feed(whole[at : at + size])
        at += size
    expected = [(item.offset, item.kind) for item in find_keys(whole)]
    assert scanner.finish() == expected
    assert len(expected) == sum(part in KEYS.values() for part in parts)
