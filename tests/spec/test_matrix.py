"""The matrix: expansion, exclusions, the default cell, and choosing cells by pattern."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import UsageError
from imagekit.spec.matrix import (
    Cell,
    Exclusion,
    Matrix,
    Point,
    default_cell,
    default_of,
    expand,
    parse_cell,
    select,
)
from imagekit.spec.sizes import EPC_SIZES, GIB

FULL = Matrix(
    epc=(16 * GIB, 4 * GIB, 8 * GIB), log=("error", "debug", "all"), attestation=("dcap", "none")
)


def with_(**changes: object) -> Matrix:
    values = {"epc": FULL.epc, "log": FULL.log, "attestation": FULL.attestation, **changes}
    return Matrix(**values)  # type: ignore[arg-type]


def ids(cells: tuple[Cell, ...]) -> list[str]:
    return [cell.id for cell in cells]


def test_three_sizes_three_levels_and_two_attestations_are_eighteen_cells_in_order() -> None:
    cells = expand(FULL, "gramine")
    assert len(cells) == 18
    assert list(cells) == sorted(cells)
    assert cells[0].id == "gramine-4g-all-dcap"
    assert cells[-1].id == "gramine-16g-error-none"


def test_the_order_in_the_file_does_not_matter() -> None:
    turned = Matrix(FULL.epc[::-1], FULL.log[::-1], FULL.attestation[::-1])
    assert expand(turned, "gramine") == expand(FULL, "gramine")


def test_an_exclusion_removes_every_cell_that_agrees_in_all_its_axes() -> None:
    cells = expand(with_(exclude=(Exclusion(epc=4 * GIB, log="debug"),)), "gramine")
    assert len(cells) == 16
    assert not [c for c in cells if c.epc == 4 * GIB and c.log == "debug"]


def test_an_exclusion_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"exclude\[1\]: \{epc: 32g\} matches no cell"):
        expand(with_(exclude=(Exclusion(log="all"), Exclusion(epc=32 * GIB))), "gramine")


def test_an_exclusion_of_another_libos_is_kept_for_its_turn() -> None:
    matrix = with_(log=("error", "debug"), exclude=(Exclusion(libos="occlum", log="debug"),))
    assert len(expand(matrix, "gramine")) == 12
    assert len(expand(matrix, "occlum")) == 6


def test_an_exclusion_of_another_libos_is_still_checked_for_its_other_axes() -> None:
    with pytest.raises(UsageError, match="matches no cell"):
        expand(with_(exclude=(Exclusion(libos="occlum", log="trace"),)), "gramine")


def test_two_exclusions_may_overlap() -> None:
    matrix = with_(exclude=(Exclusion(log="all"), Exclusion(epc=4 * GIB, log="all")))
    assert len(expand(matrix, "gramine")) == 12


def test_an_exclusion_without_axes_is_refused() -> None:
    with pytest.raises(UsageError, match="names no axis"):
        expand(with_(exclude=(Exclusion(),)), "gramine")


def test_a_matrix_that_excludes_everything_is_refused() -> None:
    with pytest.raises(UsageError, match="no cell at all"):
        expand(with_(exclude=(Exclusion(libos="gramine"),)), "gramine")


@pytest.mark.parametrize(
    ("axis", "values", "name"),
    [
        ("epc", (8 * GIB, 4 * GIB, 8 * GIB), "8g"),
        ("log", ("error", "error"), "error"),
        ("attestation", ("none", "none"), "none"),
    ],
)
def test_a_value_twice_in_an_axis_is_refused(axis: str, values: object, name: str) -> None:
    with pytest.raises(UsageError, match=f"matrix.{axis} names {name} twice"):
        expand(with_(**{axis: values}), "gramine")


@pytest.mark.parametrize("axis", ["epc", "log", "attestation"])
def test_an_empty_axis_is_refused(axis: str) -> None:
    with pytest.raises(UsageError, match=f"matrix.{axis} is empty"):
        expand(with_(**{axis: ()}), "gramine")


def test_log_levels_belong_to_their_libos() -> None:
    with pytest.raises(UsageError, match=r'"all" is no log level of occlum'):
        expand(FULL, "occlum")
    with pytest.raises(UsageError, match=r'"info" is no log level of gramine'):
        expand(with_(log=("info",)), "gramine")


def test_the_default_is_the_fields_own_if_the_matrix_has_it() -> None:
    assert (
        default_of(FULL, "gramine")
        == default_cell("gramine")
        == Cell("gramine", 8 * GIB, "error", "dcap")
    )
    assert default_of(with_(epc=(4 * GIB,)), "gramine") is None


def test_a_default_outside_the_matrix_is_refused() -> None:
    wanted = Point(epc=32 * GIB, log="error", attestation="dcap")
    with pytest.raises(UsageError, match="is gramine-32g-error-dcap, which is not in"):
        expand(with_(default=wanted), "gramine")


def test_a_default_that_is_excluded_is_refused() -> None:
    wanted = Point(epc=8 * GIB, log="all", attestation="dcap")
    with pytest.raises(UsageError, match="not in the matrix"):
        expand(with_(default=wanted, exclude=(Exclusion(log="all"),)), "gramine")


def test_a_default_without_attestation_is_refused_because_its_name_says_reference() -> None:
    wanted = Point(epc=8 * GIB, log="error", attestation="none")
    with pytest.raises(UsageError, match="promises attestation"):
        expand(with_(default=wanted), "gramine")


def test_flags_make_a_cell() -> None:
    assert parse_cell("gramine", "16G", "all", "none").id == "gramine-16g-all-none"


@pytest.mark.parametrize(
    ("values", "problem", "hint"),
    [
        (("gramin", "8g", "error", "dcap"), '"gramin" is no libos', 'did you mean "gramine"?'),
        (("gramine", "8g", "eror", "dcap"), "no log level of gramine", '"error"'),
        (("gramine", "8g", "error", "epid"), '"epid" is no attestation', "dcap"),
        (("gramine", "9g", "error", "dcap"), "not a power of two", "8g and 16g"),
    ],
)
def test_a_flag_that_its_axis_does_not_have_is_refused(
    values: tuple[str, str, str, str], problem: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_cell(*values)
    assert problem in caught.value.problem
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("*", 18),
        ("gramine-16g-error-dcap", 1),
        ("*-16g-*", 6),
        ("*-{4g,8g}-error-*", 4),
        ("{*-4g-all-*,*-16g-{error,debug}-none}", 4),
        ("*-?g-*-none", 6),
        ("*-[48]g-*-none", 6),
        ("gramine-noattest-8g", 1),
        ("registry.example:5000/team/x-gramine-reference-16g-all", 1),
        ("x-gramine-reference-*", 9),
        ("registry.example:5000/*-noattest-*", 9),
    ],
)
def test_patterns_choose_by_cell_and_by_image_name(pattern: str, count: int) -> None:
    cells = expand(FULL, "gramine")
    assert len(select(cells, [pattern], "registry.example:5000/team/x")) == count


def test_no_pattern_chooses_everything_and_several_join_in_order_without_doubles() -> None:
    cells = expand(FULL, "gramine")
    assert select(cells, []) == cells
    chosen = select(cells, ["*-16g-*", "*-error-*", "*-16g-all-*"])
    assert chosen == tuple(c for c in cells if c.epc == 16 * GIB or c.log == "error")


def test_a_pattern_that_matches_nothing_is_refused_and_the_cells_are_listed() -> None:
    cells = expand(FULL, "gramine")
    with pytest.raises(UsageError, match=r'pattern "\*-16G-\*" matches no cell') as caught:
        select(cells, ["*", "*-16G-*"])
    assert "gramine-16g-error-dcap" in caught.value.hint


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("{a", "brace without its partner"),
        ("a}", "brace without its partner"),
        ("{a,b}" * 30, "more than 1000 alternatives"),
        ("{" * 900, "brace without its partner"),
        ("a" * 5000, "too long"),
        ("", "matches no cell"),
    ],
)
def test_unusable_patterns_are_refused(pattern: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        select(expand(FULL, "gramine"), [pattern])


@given(st.text(alphabet="{},*?[]!-agmine148 ", max_size=60))
def test_any_pattern_selects_or_is_a_usage_error(pattern: str) -> None:
    cells = expand(FULL, "gramine")
    try:
        chosen = select(cells, [pattern])
    except UsageError as error:
        assert error.problem.isprintable()
    else:
        assert chosen
        assert set(chosen) <= set(cells)


@given(
    st.lists(st.sampled_from(EPC_SIZES), unique=True, min_size=1),
    st.lists(st.sampled_from(["error", "all", "debug"]), unique=True, min_size=1),
    st.lists(st.sampled_from(["dcap", "none"]), unique=True, min_size=1),
)
def test_cells_are_sorted_distinct_and_each_selects_itself_alone(
    epc: list[int], log: list[str], attestation: list[str]
) -> None:
    cells = expand(Matrix(tuple(epc), tuple(log), tuple(attestation)), "gramine")
    assert len(set(ids(cells))) == len(cells) == len(epc) * len(log) * len(attestation)
    assert list(cells) == sorted(cells)
    for cell in cells:
        assert select(cells, [cell.id]) == (cell,)
