"""SIGSTRUCT: both ways, and everything that must not pass."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.enclave.sigstruct import (
    SIZE,
    SigStructBody,
    decode_date,
    encode_date,
    parse_sigstruct,
)
from imagekit.errors import CheckError, SigningError, UsageError
from imagekit.signing.keyfile import load_signer
from imagekit.signing.signer import sign_body

BODY = SigStructBody(
    mr_enclave=bytes(range(32)),
    flags=4,
    xfrm=0x60203,
    xfrm_mask=0xFFFFFFFFFFF9FF1B,
    date=encode_date("2026-11-22"),
    misc_select=1,
    isv_prod_id=65535,
    isv_svn=258,
    isv_family_id=bytes(range(16)),
    isv_ext_prod_id=bytes(range(16, 32)),
)


@pytest.fixture(scope="module")
def signer(golden_key):
    return load_signer(golden_key)


def test_parsing_gives_back_what_was_signed(signer):
    signed = sign_body(BODY, signer)
    data = signed.to_bytes()
    assert len(data) == SIZE
    assert parse_sigstruct(data) == signed
    assert parse_sigstruct(data).body == BODY


def test_every_single_byte_counts(signer):
    data = sign_body(BODY, signer).to_bytes()
    for position in range(SIZE):
        changed = bytearray(data)
        changed[position] ^= 0x10
        with pytest.raises(CheckError):
            parse_sigstruct(bytes(changed))


@given(st.binary(max_size=2000))
def test_no_bytes_make_the_parser_fail_otherwise(data):
    for candidate in (data, data.ljust(SIZE, b"\0")[:SIZE]):
        with pytest.raises(CheckError) as caught:
            parse_sigstruct(candidate, "x.sig")
        assert caught.value.problem.startswith("x.sig: ")


def test_a_wrong_signature_is_caught_before_it_is_used(signer):
    class Liar:
        modulus = signer.modulus

        def sign(self, message):
            return signer.sign(message + b"!")

    with pytest.raises(SigningError, match="does not fit"):
        sign_body(BODY, Liar())


@pytest.mark.parametrize(
    ("text", "bcd", "stored"),
    [
        ("2026-11-22", True, "22112620"),
        ("2026-11-22", False, "ea070b16"),
        ("0000-00-00", True, "00000000"),
        ("1999-12-31", True, "31129919"),
    ],
)
def test_dates_as_stored(text, bcd, stored):
    assert encode_date(text, bcd=bcd).hex() == stored
    assert decode_date(bytes.fromhex(stored)) == text


@given(st.dates(date(2000, 1, 1), date(2047, 12, 31)))
def test_dates_read_back_in_both_encodings(day):
    text = day.isoformat()
    assert decode_date(encode_date(text)) == text
    assert decode_date(encode_date(text, bcd=False)) == text


@pytest.mark.parametrize("text", ["", "2026-1-2", "22-11-2026", "2026-11-22\n", "٢٠٢٦-11-22"])
def test_other_dates_are_refused(text):
    with pytest.raises(UsageError, match="YYYY-MM-DD"):
        encode_date(text)
