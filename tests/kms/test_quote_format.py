"""Taking quotes apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quote_maker import ENCLAVE, NOW, SIGNER, V3, V4, V4_TD, raw_key, root_der

from imagekit.errors import InputError
from imagekit.kms.quote_format import parse_parts
from imagekit.kms.quotes import Expectation, check_quote
from imagekit.runtime.quote import parse_quote

WHOLE = {"v3": V3.build(), "v4": V4.build(), "td": V4_TD.build()}


@pytest.mark.parametrize("maker", [V3, V4, V4_TD], ids=WHOLE)
def test_the_parts_are_what_was_put_in(maker):
    maker = maker.change(prod_id=258, svn=772, qe_svn=9)
    parts = parse_parts(maker.build())
    assert parts.signed == maker.signed()
    assert parts.attestation_key == raw_key(maker.attestation)
    assert parts.qe_report.data == maker.qe_report()
    assert parts.qe_report.isv_svn == 9
    assert parts.qe_auth == maker.auth
    assert (parts.certification_type, parts.certification) == (5, maker.chain)
    assert parts.qe_vendor == maker.vendor
    if maker.tdx:
        assert parts.report is None
        assert parts.seam_signer == bytes(56)
        return
    assert (parts.quote.mr_enclave, parts.quote.mr_signer) == (ENCLAVE, SIGNER)
    assert (parts.report.isv_prod_id, parts.report.isv_svn) == (258, 772)
    assert parts.report.mr_signer == SIGNER
    assert not parts.report.debug


@pytest.mark.parametrize("name", WHOLE)
def test_zeros_may_follow_and_nothing_else(name):
    assert parse_parts(WHOLE[name] + bytes(70)) == parse_parts(WHOLE[name])
    for after in (b"\1", b"\0\1", b"\0" * 70 + b"x", WHOLE[name]):
        with pytest.raises(InputError, match="something follows its end"):
            parse_parts(WHOLE[name] + after)


@pytest.mark.parametrize(
    "maker, reason",
    [
        (V3.change(version=5), "its version is neither 3 nor 4"),
        (V3.change(key_type=3), "not of ECDSA with P-256"),
        (V3.change(key_type=1), "it is not signed with ECDSA"),
        (V3.change(in_data=b"\0"), "1 bytes too many"),
        (V4.change(in_data=b"\0"), "1 bytes too many"),
        (V4.change(outer_type=5), "of type 5, not 6"),
        (V3.change(auth=bytes(0xFFFF), after=bytes(9)), "longer than 65536"),
    ],
)
def test_what_is_no_quote_of_these_is_refused(maker, reason):
    with pytest.raises(InputError, match=reason) as caught:
        parse_parts(maker.build())
    assert caught.value.problem.startswith("the quote is unusable: ")


def test_a_version_that_others_learn_to_read_is_not_read_by_the_layout_of_these(monkeypatch):
    def parse(data):
        return parse_quote(b"\3" + data[1:])._replace(version=5)

    monkeypatch.setattr("imagekit.kms.quote_format.parse_quote", parse)
    with pytest.raises(InputError, match="version 5 cannot be checked here"):
        parse_parts(V3.change(version=5).build())


@pytest.mark.parametrize("name", WHOLE)
def test_a_quote_cut_off_anywhere_is_refused(name):
    whole = WHOLE[name]
    for size in range(len(whole)):
        with pytest.raises(InputError):
            parse_parts(whole[:size])


def outcome(data):
    """Any bytes give a verdict or one clear error."""
    try:
        verdict = check_quote(data, Expectation(), NOW, root=root_der())
    except InputError as error:
        assert "\n" not in error.problem
    else:
        lines = verdict.passed + verdict.failed + verdict.not_proved
        assert all(line and line.isprintable() for line in lines)


@given(st.binary(max_size=2000))
def test_any_bytes_give_a_value_or_one_clear_error(data):
    outcome(data)


@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_any_change_of_a_quote_gives_a_value_or_one_clear_error(name, draw):
    whole = bytearray(WHOLE[name])
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(whole) - 1))
        some = draw.draw(st.binary(max_size=8))
        whole[place : place + draw.draw(st.integers(0, 8))] = some
    outcome(bytes(whole))


@given(st.binary(max_size=600))
def test_any_bytes_as_chain_give_a_value(chain):
    outcome(V3.change(chain=chain).build())
    outcome(V3.change(chain=pem_of(chain)).build())


def pem_of(data):
    from base64 import b64encode

    return b"-----BEGIN CERTIFICATE-----\n" + b64encode(data) + b"\n-----END CERTIFICATE-----\n"


@given(st.integers(0, 2), st.data())
def test_any_change_inside_a_certificate_gives_a_value(which, draw):
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificates

    certs = [c.public_bytes(Encoding.DER) for c in load_pem_x509_certificates(CHAIN)]
    changed = bytearray(certs[which])
    for _ in range(draw.draw(st.integers(1, 3))):
        changed[draw.draw(st.integers(0, len(changed) - 1))] = draw.draw(st.integers(0, 255))
    certs[which] = bytes(changed)
    outcome(V3.change(chain=b"".join(pem_of(c) for c in certs)).build())


CHAIN = V3.chain.rstrip(b"\0")
