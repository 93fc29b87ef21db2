"""Passwords: which are refused, and that none is shown."""

import string
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import InputError
from imagekit.secrets.passwords import GENERATED, LONGEST, SHORTEST, Password

FITTING = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=6, max_size=244)


@given(FITTING)
def test_what_is_printable_and_long_enough_is_taken_and_never_shown(text):
    password = Password(text, "here")
    assert password.reveal() == text.encode()
    assert f"{password} {password!r} {[password]}" == "Password(…) Password(…) [Password(…)]"


@given(st.text(max_size=300))
def test_anything_else_is_refused_without_being_repeated(text):
    fits = text.isascii() and text.isprintable() and " " not in text
    if fits and SHORTEST <= len(text) <= LONGEST:
        Password(text, "here")
        return
    with pytest.raises(InputError) as caught:
        Password(text, "here")
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert caught.value.problem.startswith("here: the password has ")
    if len(text) > 12:
        assert text not in shown


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "fewer than 6"),
        ("12345", "fewer than 6"),
        ("x" * 245, "more than 244"),
        ("two words", "a space or another"),
        ("tab\tinside", "a space or another"),
        ("nul\0inside", "a space or another"),
        ("pässword", "a space or another"),
        ("one\ntwo", "a line break"),
        ("abcdef\n", "a line break"),
        ("abcdef\r", "a line break"),
    ],
)
def test_the_reason_is_said(text, reason):
    with pytest.raises(InputError, match=reason):
        Password(text, "here")


def test_a_generated_one_is_random_and_plain():
    made = [Password.generate() for _ in range(50)]
    texts = {one.reveal().decode() for one in made}
    assert len(texts) == 50
    assert all(
        len(text) == GENERATED and one.is_plain for text, one in zip(texts, made, strict=True)
    )
    assert set("".join(texts)) == set(string.ascii_letters + string.digits)


@pytest.mark.parametrize("text", ["abc#def", "abc\\def", "abc$def", "abc'def", 'abc"def', "abc`ef"])
def test_what_is_read_in_another_way_somewhere_is_known(text):
    assert not Password(text, "here").is_plain
    assert Password("abc.def-1+2/3=", "here").is_plain
