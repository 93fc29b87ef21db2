"""Image names: composing and reading are inverse, and only what a registry takes is a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import UsageError
from imagekit.spec.matrix import ATTESTATIONS, LOG_LEVELS, Cell
from imagekit.spec.names import (
    ImageReference,
    check_stem,
    check_tag,
    default_reference,
    image_name,
    image_reference,
    parse_image_name,
    parse_image_reference,
)
from imagekit.spec.sizes import EPC_SIZES, GIB, MIB

BIGDL = "intelanalytics/bigdl-ppml-trusted-bigdata"
SHA = "sha256:" + "0" * 64

COMPONENT = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-|--)[a-z0-9]{1,5}){0,2}", fullmatch=True)
HOST = st.sampled_from(
    ["", "localhost/", "registry.example/", "registry.example:5000/", "R.Example/", "[::1]:5000/"]
)
# A first part with a dot in it is a registry, so only host names may stand there.
PLAIN = COMPONENT.filter(lambda part: "." not in part)
STEM = st.one_of(
    COMPONENT,
    st.builds(lambda h, p, q: f"{h}{p}/{q}", HOST, PLAIN, COMPONENT),
    st.builds(lambda h, p, q: f"{h}{p}/{q}/{q}", HOST, PLAIN, COMPONENT),
)
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
CELL = st.sampled_from(sorted(LOG_LEVELS)).flatmap(
    lambda libos: st.builds(
        Cell,
        st.just(libos),
        st.sampled_from(EPC_SIZES),
        st.sampled_from(LOG_LEVELS[libos]),
        st.sampled_from(ATTESTATIONS),
    )
)


@pytest.mark.parametrize(
    ("name", "epc", "log", "attestation", "tag"),
    [
        ("reference:latest", 8, "error", "dcap", "latest"),
        ("reference-16g:2.3.0-SNAPSHOT", 16, "error", "dcap", "2.3.0-SNAPSHOT"),
        ("reference-8g:2.3.0-SNAPSHOT", 8, "error", "dcap", "2.3.0-SNAPSHOT"),
        ("reference-4g:2.3.0-SNAPSHOT", 4, "error", "dcap", "2.3.0-SNAPSHOT"),
        ("reference-16g-all:2.3.0-SNAPSHOT", 16, "all", "dcap", "2.3.0-SNAPSHOT"),
        ("reference-8g-all:2.3.0-SNAPSHOT", 8, "all", "dcap", "2.3.0-SNAPSHOT"),
        ("reference-4g-all:2.3.0-SNAPSHOT", 4, "all", "dcap", "2.3.0-SNAPSHOT"),
        ("noattest-4g:2.3.0-SNAPSHOT", 4, "error", "none", "2.3.0-SNAPSHOT"),
        ("noattest-8g:2.3.0-SNAPSHOT", 8, "error", "none", "2.3.0-SNAPSHOT"),
        ("noattest-16g:2.3.0-SNAPSHOT", 16, "error", "none", "2.3.0-SNAPSHOT"),
        ("reference-32g-debug:latest", 32, "debug", "dcap", "latest"),
    ],
)
def test_the_published_images_of_the_field_are_read(
    name: str, epc: int, log: str, attestation: str, tag: str
) -> None:
    cell = Cell("gramine", epc * GIB, log, attestation)
    assert parse_image_name(f"{BIGDL}-gramine-{name}") == (BIGDL, cell, tag)


@pytest.mark.parametrize(
    ("cell", "suffix"),
    [
        (Cell("gramine", 16 * GIB, "error", "dcap"), "gramine-reference-16g"),
        (Cell("gramine", 16 * GIB, "all", "dcap"), "gramine-reference-16g-all"),
        (Cell("gramine", 16 * GIB, "debug", "none"), "gramine-noattest-16g-debug"),
        (Cell("gramine", 64 * MIB, "none", "none"), "gramine-noattest-64m-none"),
        (Cell("occlum", 1 * GIB, "warn", "dcap"), "occlum-reference-1g-warn"),
    ],
)
def test_cells_are_named_as_the_field_names_them(cell: Cell, suffix: str) -> None:
    assert image_name(BIGDL, cell) == f"{BIGDL}-{suffix}"
    assert image_reference(BIGDL, cell, "2.5.0") == f"{BIGDL}-{suffix}:2.5.0"


@given(STEM, CELL, TAG)
def test_composing_and_reading_are_inverse(stem: str, cell: Cell, tag: str) -> None:
    assert parse_image_name(image_name(stem, cell)) == (stem, cell, None)
    assert parse_image_name(image_reference(stem, cell, tag)) == (stem, cell, tag)
    assert parse_image_name(f"{image_name(stem, cell)}@{SHA}") == (stem, cell, None)


@given(STEM, CELL, CELL)
def test_a_stem_that_looks_like_a_cell_itself_is_kept(stem: str, inner: Cell, cell: Cell) -> None:
    odd = image_name(stem, inner)
    assert parse_image_name(image_name(odd, cell)) == (odd, cell, None)


@given(STEM, CELL)
def test_the_second_name_of_the_default_cell_is_read_back(stem: str, cell: Cell) -> None:
    name = default_reference(stem, cell.libos)
    assert parse_image_name(name, default=cell) == (stem, cell, "latest")


def test_the_default_name_needs_no_tag_but_takes_no_other() -> None:
    assert parse_image_name("x-gramine-reference") == (
        "x",
        Cell("gramine", 8 * GIB, "error", "dcap"),
        None,
    )
    with pytest.raises(UsageError, match="names no enclave size"):
        parse_image_name("x-gramine-reference:2.5.0")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("debian", "does not name a cell"),
        ("x-gramine-base:1", "does not name a cell"),
        ("x-gramine-noattest:latest", "does not name a cell"),
        ("gramine-reference-8g", "does not name a cell"),
        ("-gramine-reference-8g", "which registries refuse"),
        ("x-sgx-reference-8g", "does not name a cell"),
        ("x-gramine-reference-8", "does not name a cell"),
        ("x-gramine-reference-8g-", "which registries refuse"),
        ("x-gramine-reference-8g-ALL", "has upper case"),
        ("x-gramine-reference-8g-loud", '"loud" is no log level of gramine'),
        ("x-gramine-reference-8g-info", '"info" is no log level of gramine'),
        ("x-occlum-reference-8g-all", '"all" is no log level of occlum'),
        ("x-gramine-reference-8g-error", "says -error"),
        ("x-gramine-reference-12g", "not a power of two"),
        ("x-gramine-reference-1024m", "writes its size as 1024m"),
        ("x-gramine-reference-08g", "writes its size as 08g"),
        ("x-gramine-reference-8g:", '"" is not a tag'),
        ("x-gramine-reference-8g:-a", '"-a" is not a tag'),
        ("x-gramine-reference-8g:a b", "is not a tag"),
        ("x-gramine-reference-8g:" + "a" * 129, "is not a tag"),
        ("x-gramine-reference-8g:1:2", "is not a tag"),
        ("x-gramine-reference-8g@sha256:12", "has a bad digest"),
        ("x-gramine-reference-8g@", "has a bad digest"),
        ("x-gramine-reference-8g@sha256:" + "A" * 64, "has a bad digest"),
        ("docker://x-gramine-reference-8g", "starts with a transport"),
        ("x" * 300 + "-gramine-reference-8g", "more than 255"),
        ("x\n-gramine-reference-8g", "which registries refuse"),
    ],
)
def test_names_of_another_form_are_refused_in_one_line(name: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_image_name(name)
    assert problem in caught.value.problem
    assert caught.value.problem.isprintable()
    assert caught.value.hint.isprintable()


@pytest.mark.parametrize(
    "stem",
    [
        "x",
        "team/x",
        "registry.example/x",
        "registry.example:5000/team/x",
        "localhost/x",
        "localhost:5000/x",
        "127.0.0.1:5000/x",
        "[::1]:5000/x",
        "a_b/c__d/e--f/g.h",
    ],
)
def test_stems_that_registries_take_are_taken(stem: str) -> None:
    assert check_stem(stem) == stem


@pytest.mark.parametrize(
    ("stem", "problem"),
    [
        ("Team/x", "has upper case"),
        ("team/X", "has upper case"),
        ("registry.example/Team/x", "has upper case"),
        ("x:1", "has a tag"),
        ("registry.example:5000/x:1", "has a tag"),
        (f"x@{SHA}", "has a digest"),
        ("oci://x", "starts with a transport"),
        ("a//b", "has an empty part"),
        ("/a", "has an empty part"),
        ("a/", "has an empty part"),
        ("a..b", "which registries refuse"),
        ("a___b", "which registries refuse"),
        ("a b", "which registries refuse"),
        (" a", "which registries refuse"),
        ("-a", "which registries refuse"),
        ("ä", "which registries refuse"),
        ("bad_host.example:5000/x", "has a bad registry"),
        ("registry.example:/x", "has a bad registry"),
        ("registry.example:99999/x", "has a bad registry"),
        ("registry.example:0/x", "has a bad registry"),
        (":5000/x", "has a bad registry"),
        (".example/x", "has a bad registry"),
        ("registry.example\n/x", "has a bad registry"),
    ],
)
def test_stems_that_registries_refuse_are_refused(stem: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_stem(stem)
    assert problem in caught.value.problem


def test_a_name_that_grows_too_long_is_refused() -> None:
    with pytest.raises(UsageError, match="more than 255 characters"):
        image_name("x" * 240, Cell("gramine", 8 * GIB, "error", "dcap"))


def test_a_reference_is_taken_apart_and_put_together() -> None:
    text = f"registry.example:5000/team/x:1.0@{SHA}"
    reference = parse_image_reference(text)
    assert reference == ImageReference("registry.example:5000/team/x", "1.0", SHA)
    assert str(reference) == text


@pytest.mark.parametrize("tag", ["2.5.0", "latest", "_x", "a" * 128, "2.3.0-SNAPSHOT"])
def test_tags_that_registries_take_are_taken(tag: str) -> None:
    assert check_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a/b", "a:b", "a b", "ä", "a" * 129, "a\n"])
def test_tags_that_registries_refuse_are_refused(tag: str) -> None:
    with pytest.raises(UsageError, match="is not a tag"):
        check_tag(tag)


@given(st.one_of(st.text(), st.from_regex(r"[a-zA-Z./:@_-]{0,20}-gramine-[a-z]+-[0-9]*[gm].{0,9}")))
def test_any_text_is_a_name_that_is_written_back_equal_or_a_usage_error(text: str) -> None:
    try:
        stem, cell, tag = parse_image_name(text)
    except UsageError as error:
        assert error.problem.isprintable()
    else:
        name = image_name(stem, cell) if tag is None else image_reference(stem, cell, tag)
        default = default_reference(stem, cell.libos)
        assert text.partition("@")[0] in (name, default, default.removesuffix(":latest"))
