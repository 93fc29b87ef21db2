import base64
import hashlib
import json
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.images.keyscan import KeyScanner, _all, _MarkSearch, find_keys

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
        assert [(item.offset, item.kind) for item in scanner.finish()] == [(len(NOISE), kind)]


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
    assert [(item.offset, item.kind) for item in scanner.finish()] == expected
    assert len(expected) == sum(part in KEYS.values() for part in parts)


COMMON = rsa.generate_private_key(65537, 2048)
LARGE = rsa.generate_private_key(65537, 3072)
DSA = dsa.generate_private_key(1024)
FORMS = [(PEM, OLD), (PEM, PKCS8), (DER, OLD), (DER, PKCS8), (PEM, SSH)]


def mr_signer(private: rsa.RSAPrivateKey) -> str:
    modulus = private.public_key().public_numbers().n
    return hashlib.sha256(modulus.to_bytes(384, "little")).hexdigest()


@pytest.mark.parametrize(("encoding", "form"), FORMS)
def test_a_key_that_can_sign_an_enclave_is_told_from_others(
    encoding: Encoding, form: PrivateFormat
) -> None:
    for private, sgx, signer in (
        (RSA, True, mr_signer(RSA)),
        (LARGE, False, mr_signer(LARGE)),
        (COMMON, False, ""),
    ):
        (found,) = find_keys(NOISE[:999] + key(private, encoding, form) + NOISE[:99])
        assert (found.sgx, found.signer, found.program) == (sgx, signer, False)


def test_an_exponent_of_3_alone_signs_no_enclave() -> None:
    small = rsa.generate_private_key(3, 2048)
    for encoding, form in FORMS:
        assert not find_keys(key(small, encoding, form))[0].sgx


@pytest.mark.parametrize(
    ("private", "form"),
    [
        *((CURVE, form) for form in (OLD, PKCS8, SSH)),
        *((EDWARDS, form) for form in (PKCS8, SSH)),
        *((DSA, form) for form in (OLD, PKCS8)),
    ],
)
def test_keys_of_other_algorithms_sign_no_enclave(private: object, form: PrivateFormat) -> None:
    (found,) = find_keys(key(private, PEM, form))
    assert (found.sgx, found.signer) == (False, "")


@pytest.mark.parametrize(
    "data",
    [
        key(COMMON, PEM, OLD, SECRET),
        key(COMMON, PEM, PKCS8, SECRET),
        key(COMMON, PEM, PKCS8)[:200],
        b"-----BEGIN PRIVATE KEY-----\n" + b"\n".join(KEYS["private key (PEM)"].split()[5:20]),
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNye"
        b"XB0AAAAGAAAABDjkyZ8p\n",
    ],
)
def test_a_key_that_cannot_be_looked_into_may_be_an_enclaves(data: bytes) -> None:
    (found,) = find_keys(data)
    assert (found.sgx, found.signer) == (True, "")


@given(st.binary(max_size=300), st.integers(0, 1700), st.data())
def test_damaged_keys_are_judged_without_an_error(
    noise: bytes, cut: int, data: st.DataObject
) -> None:
    raw = bytearray(key(COMMON, DER, data.draw(st.sampled_from([OLD, PKCS8]))))
    at = data.draw(st.integers(0, 60))
    raw[at : at + len(noise) % 40] = noise[: len(noise) % 40]
    for body in (noise, bytes(raw[:cut]), b"openssh-key-v1\0" + noise):
        armoured = b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(body) + b"\n"
        find_keys(bytes(raw) + armoured)


@pytest.mark.parametrize(
    "filler", [b"--", b"-", b"\x02\x01", b"\x02\x01\x00", b"Y-----", b"\x01\x00"]
)
def test_marks_are_found_among_many_bytes_that_are_like_them(filler: bytes) -> None:
    block = filler * (300_000 // len(filler))
    for lead in range(4):
        data = block[: 100_000 + lead] + b"\n" + KEYS["RSA private key (PEM)"] + b"\n"
        data += KEYS["RSA private key (DER)"] + block
        kinds = [item.kind for item in find_keys(data)]
        assert kinds == ["RSA private key (PEM)", "RSA private key (DER)"]


@given(
    st.lists(
        st.sampled_from(
            [
                b"PRIVATE KEY-----",
                b"\x02\x01\x00\x02",
                b"\x02\x01",
                b"\x00",
                b"KEY----",
                b"Y-",
                b"-",
            ]
        )
        | st.binary(max_size=40),
        max_size=60,
    )
)
def test_the_search_for_marks_gives_what_a_plain_search_gives(parts: list[bytes]) -> None:
    data = b"".join(parts)
    pem, der = _MarkSearch().marks(data)
    assert sorted(set(pem)) == _all(data, b"PRIVATE KEY-----")
    assert sorted(der) == _all(data, b"\x02\x01\x00\x02")
