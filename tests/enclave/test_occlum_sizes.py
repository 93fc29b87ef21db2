"""Sizes of Occlum.json, read as Occlum's own tool reads them, and written so that it does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.enclave.occlum.sizes import LARGEST, UNITS, occlum_size, parse_occlum_size
from imagekit.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GB", 16 << 30),
        ("15GB", 16106127360),
        ("512MB", 512 << 20),
        ("64KB", 64 << 10),
        ("1TB", 1 << 40),
        ("4096B", 4096),
        ("0B", 0),
        ("010MB", 10 << 20),
        ("  1 GB ", 1 << 30),
        ("1\tGB", 1 << 30),
    ],
)
def test_what_occlum_reads(text: str, size: int) -> None:
    assert parse_occlum_size(text) == size


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("1g", '"1g" has no unit', 'write "1GB"'),
        ("1G", '"1G" has no unit', 'write "1GB"'),
        ("1gb", "no unit", 'write "1GB"'),
        ("16Gi", "no unit", 'write "16GB"'),
        ("16GiB", "no whole number", 'write "16GB"'),
        ("1.5GB", "no whole number", 'write "1536MB"'),
        ("1,5 gb", "no unit", 'write "1536MB"'),
        ("0.1GB", "no whole number", "such as 16GB"),
        ("1024", "no unit", '"1KB" if these are bytes, "1024MB" if MB'),
        ("16106127360", "no unit", 'write "15GB" if these are bytes'),
        ("GB", "no whole number", ""),
        ("", "no unit", ""),
        ("-1GB", "no whole number", ""),
        ("+1GB", "no whole number", ""),
        ("0x10GB", "no whole number", ""),
        ("1_0GB", "no whole number", ""),
        ("1 0GB", "no whole number", ""),
        ("\u0661GB", "no whole number", ""),
        ("1GB MB", "no whole number", ""),
        ("9" * 5000 + "B", "more than any program", ""),
        ("65TB", "more than any program", ""),
        (" " * 100000 + "g", "no unit", ""),
        (1024, "1024 is not a text", '"1KB" if these are bytes'),
        (1.5, "not a text", ""),
        (True, "true is not a text", ""),
        (None, "not a text", ""),
        (["1GB"], "not a text", ""),
        (10**5000, "not a text", ""),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) or value < 9999 else "large",
)
def test_what_occlum_does_not_read_is_said_with_the_right_spelling(
    text: object, problem: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_occlum_size(text, "the size")
    assert caught.value.problem.startswith("the size: ")
    assert problem in caught.value.problem
    assert hint in caught.value.hint
    assert len(caught.value.problem) < 200


@given(st.integers(0, LARGEST))
def test_reading_is_the_inverse_of_writing(size: int) -> None:
    assert parse_occlum_size(occlum_size(size)) == size


@given(st.integers(0, 1 << 20), st.sampled_from(sorted(UNITS)))
def test_what_is_read_is_the_number_times_the_unit(number: int, unit: str) -> None:
    size = number * UNITS[unit]
    text = f"{number}{unit}"
    if size > LARGEST:
        with pytest.raises(UsageError):
            parse_occlum_size(text)
    else:
        assert parse_occlum_size(text) == size
        assert len(occlum_size(size)) <= len(text)


@given(st.text(st.sampled_from("0123456789 .,-+xKMGTBkmgtbi"), max_size=12))
def test_every_hint_with_a_spelling_is_one_that_occlum_reads(text: str) -> None:
    try:
        parse_occlum_size(text)
    except UsageError as error:
        for spelling in error.hint.split('"')[1::2]:
            parse_occlum_size(spelling)


def test_a_negative_size_is_not_written() -> None:
    with pytest.raises(ValueError, match="no size"):
        occlum_size(-1)
