"""Quantities of Kubernetes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import UsageError
from imagekit.spec.quantities import QUANTITY, parse_quantity


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16106127360", 16106127360),
        ("15Gi", 15 << 30),
        ("512Mi", 512 << 20),
        ("1.5Gi", 3 << 29),
        ("1Ki", 1024),
        ("1Ti", 1 << 40),
        ("1Ei", 1 << 60),
        ("16G", 16 * 10**9),
        ("1k", 1000),
        ("1E", 10**18),
        ("16e9", 16 * 10**9),
        ("5E3", 5000),
        ("1024e-2", None),
        (".5Gi", 1 << 29),
        ("5.", 5),
    ],
)
def test_quantities_of_bytes(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(UsageError, match="whole bytes"):
            parse_quantity(text)
    else:
        assert parse_quantity(text) == size


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("16g", "not a quantity", "write 16Gi"),
        ("16GB", "not a quantity", "write 16Gi"),
        ("16 GiB", "not a quantity", "write 16Gi"),
        ("1K", "not a quantity", "write 1Ki"),
        ("1m", "not a quantity", "write 1Mi"),
        ("-1Gi", "not a quantity", "16Gi"),
        ("", "not a quantity", ""),
        ("0", "is nothing", ""),
        ("0.3", "not whole bytes", ""),
        ("9e99", "more than Kubernetes", ""),
        ("8Ei", "more than Kubernetes", ""),
        ("1e999999999", "not a quantity", ""),
        ("9" * 5000, "not a quantity", ""),
        ("\uff11Gi", "not a quantity", ""),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_quantity_is_refused(text: str, problem: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_quantity(text, "epc_request")
    assert caught.value.problem.startswith("epc_request ")
    assert problem in caught.value.problem
    assert hint in caught.value.hint


@given(st.text(st.sampled_from("0123456789.eE+-kKMGTPim"), max_size=8))
def test_what_is_taken_has_the_shape_that_the_schema_has(text: str) -> None:
    try:
        size = parse_quantity(text)
    except UsageError:
        return
    assert 0 < size < 1 << 63
    assert re.search(QUANTITY, text)
