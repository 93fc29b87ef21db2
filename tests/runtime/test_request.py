"""The launch request: written outside, read inside, never believed beyond its form."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.runtime import inside
from imagekit.runtime.request import LONGEST, VARIABLE, Request, parse_request, write_request
from imagekit.runtime.stop import Stop

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TABLE = st.dictionaries(TEXT.filter(bool), TEXT, max_size=4)


@given(TEXT, st.lists(TEXT, max_size=4), TABLE, TABLE)
def test_a_written_request_reads_back(role, args, env, conf):
    text = write_request(role, args, env, conf)
    assert text.isascii()
    assert parse_request(text) == Request(role, tuple(args), env, conf)
    assert text == write_request(role, args, dict(reversed(env.items())), conf)


@given(st.text(max_size=200))
def test_any_text_is_a_request_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        parse_request(text)


GOOD = {"schema": 1, "role": "driver", "args": ["a"], "env": {"A": "1"}, "conf": {}}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"schema": True},
        {"role": 1},
        {"role": "a\0"},
        {"args": "a"},
        {"args": [1]},
        {"args": ["\ud800"]},
        {"env": []},
        {"env": {"A": 1}},
        {"env": {"": "1"}},
        {"conf": {"a": None}},
        {"conf": {"a": "x\0y"}},
        {"more": 1},
    ],
)
def test_another_form_is_refused(change):
    parse_request(json.dumps(GOOD))
    with pytest.raises(ValueError, match=r".+") as caught:
        parse_request(json.dumps({**GOOD, **change}))
    assert "\n" not in str(caught.value)


def test_what_is_no_json_or_too_deep_or_too_long_is_refused():
    for text in ("", "{", "[" * 50_000, " " * (LONGEST + 1)):
        with pytest.raises(ValueError, match=r".+"):
            parse_request(text)
    with pytest.raises(ValueError, match="longer"):
        write_request("driver", ["x" * LONGEST], {}, {})


def test_neither_repr_nor_error_show_what_is_in_it():
    request = parse_request(write_request("driver", ["s3cret"], {"A": "s3cret"}, {"b": "s3cret"}))
    assert "s3cret" not in repr(request)
    for value in (b'{"s3cret', b"\xff s3cret"):
        with pytest.raises(Stop) as stop:
            inside.read_request({VARIABLE.encode(): value})
        assert stop.value.code == 2
        assert stop.value.line.startswith(f"{VARIABLE}: refused")
        assert "s3cret" not in stop.value.line
