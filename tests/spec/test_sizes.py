"""Sizes: every documented spelling is read, everything else is refused in one clear line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import UsageError
from imagekit.spec.matrix import Cell
from imagekit.spec.names import image_name, parse_image_name
from imagekit.spec.sizes import (
    EPC_SIZES,
    GIB,
    LARGEST_EPC,
    MIB,
    SMALLEST_EPC,
    epc_name,
    gramine_size,
    parse_epc,
    parse_size,
)


@pytest.mark.parametrize("unit", ["g", "G", "GB", "gb", "Gi", "gi", "GiB", "gib", "GIB"])
@pytest.mark.parametrize("form", ["16{}", "16 {}", " 16{} ", "16\t{}"])
def test_every_spelling_of_sixteen_gibibytes_is_read(unit: str, form: str) -> None:
    assert parse_epc(form.format(unit)) == 16 * GIB


@pytest.mark.parametrize("unit", ["m", "M", "MB", "Mi", "MiB", "mib"])
def test_every_spelling_of_mebibytes_is_read(unit: str) -> None:
    assert parse_epc(f"64{unit}") == 64 * MIB


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("16", 'enclave size "16" has no unit'),
        ("17179869184", "has no unit"),
        ("9" * 5000, "has no unit"),
        ("9" * 5000 + "g", "is too large"),
        ("0x400000000", "is hexadecimal"),
        ("0xAB", "is hexadecimal"),
        ("0x", "is hexadecimal"),
        ("-0x10", "is hexadecimal"),
        ("16x", 'unknown unit "x"'),
        ("16t", 'unknown unit "t"'),
        ("16gg", 'unknown unit "gg"'),
        ("16k", 'unknown unit "k"'),
        ("-4g", "has a sign"),
        ("+4g", "has a sign"),
        ("1.5g", "is not a whole number"),
        (".5g", "is not a whole number"),
        ("1,5g", "is not a whole number"),
        ("g", "is not a size"),
        ("g16", "is not a size"),
        ("1e3g", "is not a size"),
        ("16_0g", "is not a size"),
        ("\uff11\uff16g", "is not a size"),
        ("\u0661\u0666g", "is not a size"),
        ("16\uff47", "is not a size"),
        ("16g\n", "is not a size"),
        ("16\u00a0g", "is not a size"),
        ("16\x00g", "is not a size"),
        ("\ud800", "is not a size"),
        ("0", "has no unit"),
        ("0g", "is zero"),
        ("12g", "is not a power of two"),
        ("3g", "is not a power of two"),
        ("1536m", "is not a power of two"),
        ("99999g", "is above the limit of 512g"),
        ("1024g", "is above the limit of 512g"),
        ("600g", "is above the limit of 512g"),
        ("8m", "is below the limit of 16m"),
        ("1m", "is below the limit of 16m"),
    ],
)
def test_bad_enclave_sizes_are_refused_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_epc(text)
    assert problem in caught.value.problem
    for line in (caught.value.problem, caught.value.hint):
        assert line.isprintable()
        assert len(line) < 250


@pytest.mark.parametrize("value", [16, 0, -1, 17179869184, 10**30, True, None, 1.5])
def test_what_is_not_text_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        parse_epc(value)  # type: ignore[arg-type]


def test_a_number_too_long_to_be_written_is_refused() -> None:
    with pytest.raises(UsageError, match="too large"):
        parse_epc(10**6000)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("12g", "the nearest are 8g and 16g"),
        ("300g", "the nearest are 256g and 512g"),
        ("17m", "the nearest are 16m and 32m"),
        ("1025m", "the nearest are 1g and 2g"),
        ("17179869184", "17179869184 bytes are 16g"),
        ("16", "16 GiB are written 16g"),
        ("1.5g", "1536m"),
    ],
)
def test_the_hint_names_what_was_probably_meant(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_epc(text)
    assert hint in caught.value.hint


def test_general_sizes_need_no_power_of_two() -> None:
    assert parse_size("12g") == 12 * GIB
    assert parse_size("0m") == 0


def test_the_limits_themselves_are_accepted() -> None:
    assert parse_epc("16m") == SMALLEST_EPC == EPC_SIZES[0]
    assert parse_epc("512g") == LARGEST_EPC == EPC_SIZES[-1]


@pytest.mark.parametrize(
    ("size", "name", "gramine"),
    [
        (16 * GIB, "16g", "16G"),
        (512 * MIB, "512m", "512M"),
        (1024 * MIB, "1g", "1G"),
        (1536 * MIB, "1536m", "1536M"),
    ],
)
def test_names_and_manifests_use_the_largest_exact_unit(size: int, name: str, gramine: str) -> None:
    assert epc_name(size) == name
    assert gramine_size(size) == gramine


def test_manifest_sizes_go_down_to_bytes() -> None:
    assert gramine_size(64 << 10) == "64K"
    assert gramine_size(4097) == "4097"


@pytest.mark.parametrize("size", [0, -GIB])
def test_sizes_that_are_none_have_no_name(size: int) -> None:
    with pytest.raises(ValueError, match="not a positive"):
        epc_name(size)
    with pytest.raises(ValueError, match="not a positive"):
        gramine_size(size)


@given(st.sampled_from(EPC_SIZES))
def test_the_name_of_a_size_reads_back_as_the_size(size: int) -> None:
    assert parse_epc(epc_name(size)) == size
    assert parse_epc(gramine_size(size)) == size


@given(st.one_of(st.text(), st.from_regex(r"[-+]?[0-9]*[.x_ ]?[0-9]*[ ]?[gGmMkKiIbB]*")))
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    try:
        size = parse_epc(text)
    except UsageError as error:
        assert error.problem.isprintable()
    else:
        assert size in EPC_SIZES
        assert parse_epc(epc_name(size)) == size


@pytest.mark.parametrize("text", ["15g", "20GB", "10g", "1536m", "300m", "8g", "9999m"])
def test_occlum_takes_sizes_that_are_no_power_of_two(text: str) -> None:
    size = parse_epc(text, libos="occlum")
    assert parse_epc(epc_name(size), libos="occlum") == size
    cell = Cell("occlum", size, "error", "dcap")
    assert parse_image_name(image_name("team/x", cell))[1] == cell
    if size & (size - 1):
        with pytest.raises(UsageError, match="not a power of two"):
            parse_epc(text)


@pytest.mark.parametrize("text", ["15361m", "8m", "513g", "0g"])
def test_sizes_that_no_name_holds_are_refused_for_occlum_too(text: str) -> None:
    with pytest.raises(UsageError):
        parse_epc(text, libos="occlum")
