"""What a PCK certificate says of its platform."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quote_maker import COMPONENTS, FMSPC, PCE_SVN, der, integer, oid, sgx_extension

from imagekit.kms.pck_extension import parse_extension

WHOLE = sgx_extension()
OTHER = der(0x06, bytes.fromhex("2a864886f84d010e04"))  # of another branch, 1.2.840.113741.1.14.4


def sequence(*contents):
    return der(0x30, *contents)


def added(*contents):
    """The extension with more values behind its own."""
    return sequence(WHOLE[4:], *contents)


def test_the_values_are_those_of_the_certificate():
    found = parse_extension(WHOLE)
    assert (found.fmspc, found.pce_id, found.sgx_type) == (FMSPC, "0000", "standard")
    assert (found.components, found.pce_svn) == (COMPONENTS, PCE_SVN)
    assert found.cpu_svn == bytes(COMPONENTS).hex()
    assert parse_extension(sgx_extension(sgx_type=2)).sgx_type == "scalable with integrity"
    assert parse_extension(sgx_extension(sgx_type=9)).sgx_type == "type 9"
    assert parse_extension(sgx_extension(pce_svn=0xFFFF)).pce_svn == 0xFFFF


def test_values_of_other_names_do_not_matter():
    more = sequence(oid(6), der(0x04, bytes(16))), sequence(OTHER, der(0x04, b"\xff" * 6))
    assert parse_extension(added(*more)) == parse_extension(WHOLE)
    assert parse_extension(added(sequence(oid(7), sequence()))) == parse_extension(WHOLE)
    assert parse_extension(added(sequence(der(0x06), integer(1)))) == parse_extension(WHOLE)
    deep = sequence(der(0x06, bytes.fromhex("2a864886f84d010d018104")), der(0x04, bytes(6)))
    assert parse_extension(added(deep)) == parse_extension(WHOLE)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "is not one sequence"),
        (WHOLE + WHOLE, "is not one sequence"),
        (der(0x31, WHOLE[4:]), "is not one sequence"),
        (WHOLE[:1], "is cut off"),
        (WHOLE[:-1], "is cut off"),
        (b"\x30\x80\0\0", "a length that cannot be"),
        (b"\x30\x83\0\0\1\0", "a length that cannot be"),
        (b"\x30\x82\1", "a length that cannot be"),
        (added(integer(1)), "is no list of sequences"),
        (added(sequence(oid(6))), "that is no named value"),
        (added(sequence(oid(6), integer(1), integer(2))), "that is no named value"),
        (added(sequence(integer(6), integer(1))), "that is no named value"),
        (added(sequence(oid(4), der(0x04, bytes(6)))), "has value 4 twice"),
        (sgx_extension(fmspc="00906ed500"), "value 4 is not 6 bytes long"),
        (WHOLE.replace(b"\2\2\0\x80", b"\2\2\1\x80"), "value 6 is not between 0 and 255"),
        (WHOLE.replace(b"\2\2\0\x80", b"\2\2\xff\x80"), "value 6 is not between 0 and 255"),
        (sgx_extension(pce_svn=0x10000), "value 17 is not between 0 and 65535"),
        *((sgx_extension(without=(n,)), f"lacks value {n}") for n in (2, 3, 4, 5)),
    ],
)
def test_what_is_of_another_form_is_refused(data, reason):
    with pytest.raises(ValueError, match=reason):
        parse_extension(data)


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_any_change_gives_values_or_a_reason(place, some, size):
    try:
        found = parse_extension(WHOLE[:place] + some + WHOLE[place + size :])
    except ValueError as error:
        assert str(error).startswith("the SGX extension")
    else:
        assert len(found.fmspc) == 12
        assert all(0 <= component <= 255 for component in found.components)
