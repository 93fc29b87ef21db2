"""Configuration files: read as Flink reads them, or refused; what is written is read again."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from imagekit.runtime.flink_conf import (
    FILE_KEY,
    LEGACY,
    STANDARD,
    items_of,
    parse_conf,
    parse_flat,
    with_lists,
    write_conf,
)  # fmt: skip
from imagekit.runtime.flink_yaml import join_list, parse_yaml, split_list

GOLDEN = Path(__file__).parent.parent / "golden" / "flink"
RECORDED = json.loads((GOLDEN / "conf.json").read_text())

NAMES = st.from_regex(r"[A-Za-z$_][A-Za-z0-9_$-]{0,8}", fullmatch=True)
PRINTABLE = st.characters(
    exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff\ufffe\uffff"
)
TEXTS = st.text(PRINTABLE, max_size=20)
YAML_LIKE = st.text(alphabet="ab1. :-#'\"[]{},&*!|>%@?~\\\n", max_size=40)


@pytest.mark.parametrize("case", RECORDED, ids=[case["name"] for case in RECORDED])
def test_a_file_is_read_as_flink_reads_it(case):
    for version, expected in case["flink"].items():
        if case["file"] == STANDARD and version.startswith("1.16"):
            continue  # does not know this file
        if expected is None or case["refused"]:
            with pytest.raises(ValueError, match=r"line \d+: "):
                parse_conf(case["text"], case["file"])
        else:
            conf = parse_conf(case["text"], case["file"])
            assert conf.pop(FILE_KEY) == case["file"]
            lists = {name for name in expected if expected[name].startswith("[")}
            for name in lists & set(conf):  # Flink quotes items only where they need it
                if case["file"] == STANDARD:
                    assert split_list(conf.pop(name)) == split_list(expected.pop(name))
            assert conf == expected


def test_some_recorded_files_are_refused_by_flink_and_some_by_us_alone():
    """So that the test above does not pass because all are of one kind."""
    of_flink = [case for case in RECORDED if None in case["flink"].values()]
    of_ours = [case for case in RECORDED if case["refused"]]
    assert of_flink
    assert of_ours
    assert len(RECORDED) - len(of_flink) - len(of_ours) > 10


@given(
    st.recursive(TEXTS, lambda of: st.dictionaries(NAMES, of, min_size=1, max_size=3), max_leaves=6)
)
def test_nested_maps_are_flattened(tree):
    tree = {"top": tree}
    text = yaml.safe_dump(tree, width=10_000, allow_unicode=True)
    expected = dict(flat(tree))
    try:
        assert parse_yaml(text) == expected
    except ValueError:
        # PyYAML leaves texts plain that are numbers to Flink, and writes some with odd escapes.
        assert any(is_odd(value) for value in expected.values())


def flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield prefix + name, join_list(value, standard=True)
        else:
            yield prefix + name, value


def is_odd(value):
    text = yaml.safe_dump(value, width=10_000, allow_unicode=True)
    return text.startswith(('"', "? ")) or bool(re.fullmatch(r"[-+.0-9eEoxXA-Fa-f]+", value))


@given(YAML_LIKE)
@example("a:\n- b\n- 'c d'\ne: [f, \"g\"]\n")
@example("a: b #c\nd:\n  e: 'f''g'\n")
def test_yaml_that_is_read_is_what_another_reader_reads(text):
    try:
        ours = parse_yaml(text)
    except ValueError as error:
        assert re.match(r"line \d+: ", str(error))
        return
    theirs = yaml.load(text, yaml.BaseLoader)
    assert ours == dict(flat(as_texts(theirs)) if theirs else ())


def as_texts(tree):
    """Booleans and empty maps as the flattening has them."""
    if isinstance(tree, dict):
        return {name: as_texts(value) for name, value in tree.items() if value != {}}
    if isinstance(tree, list):
        return [as_texts(item) for item in tree]
    return tree.lower() if re.fullmatch("(?i:true|false)", tree) else tree


@given(st.text())
def test_any_text_is_read_or_refused_in_one_line_without_showing_it(text):
    for name in (None, LEGACY, STANDARD):
        try:
            parse_conf(text, name)
        except ValueError as error:
            assert "\n" not in str(error)
            for line in text.split("\n"):
                assert len(line) < 15 or line not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x b", "a: *x", "a: !t b", "a: |\n  b", "a: >\n  b", "a: {b: c}", "a: [[b]]", "a: [b",
        "a:\n  - b: c", "a:\n  - [b]", "- a", "a: b\n  c: d", "a:\n    b: c\n  d: e", "\ta: b",
        "a: b\na: c", "a.b: c\na:\n  b: d", "a:", "a: ~", "a: null", "a:\nb: c", "a: 'b", 'a: "b',
        "a: 'b' c", 'a: "\\q"', 'a: "\\ud800"', "a: b: c", "a: @b", "a: 007", "a: 0x1F", "a: 1.50",
        "a: 1e3", "a: +5", "a: .inf", "a: 0.0001", "a b", "a:b", "? a", "<<: b", "a: b\n---\nc: d",
        "...", "%YAML 1.2", "a: \x07", "a:\n  b: c\n - d", "a: [b, c: d]", "a: [b] c", "{a: b}",
        "a: \x85b", "a:\n- b\n - c",
    ],
)  # fmt: skip
def test_yaml_outside_of_the_subset_is_refused_by_line(text):
    with pytest.raises(ValueError, match=r"^line \d+: "):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["a:b", "novalue", ": v", "a=b"])
def test_lines_that_flink_would_pass_over_are_refused(text):
    with pytest.raises(ValueError, match="line 2: "):
        parse_flat(f"x: y\n{text}\n")


@given(st.dictionaries(st.from_regex(r"[ -~]{1,12}", fullmatch=True) | NAMES, TEXTS))
@example({"a b'c": "x # y: 'z'"})
def test_what_is_written_is_read_again(conf):
    assert parse_yaml(write_conf(conf, STANDARD).decode()) == conf
    try:
        text = write_conf(conf, LEGACY).decode()
    except ValueError:
        assert any(
            "#" in key + value or ": " in key or key.endswith(":") or key != key.strip()
            or value != value.strip() for key, value in conf.items()
        )  # fmt: skip
    else:
        assert parse_flat(text) == {key: value for key, value in conf.items() if value}


@pytest.mark.parametrize("name", [LEGACY, STANDARD])
@pytest.mark.parametrize(
    "value", ["a\nb: c", "a\rb", "a\x85b", "a\u2028b", "\ud800", "\x00", "\ufeff"]
)
def test_a_value_cannot_bring_a_line_of_its_own(name, value):
    with pytest.raises(ValueError, match=r"^s3\.secret-key: ") as error:
        write_conf({"s3.secret-key": value}, name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["a#b", " a", "a "])
def test_what_the_old_file_would_cut_off_is_refused(value):
    with pytest.raises(ValueError, match=r"flink-conf\.yaml cannot hold its value"):
        write_conf({"s3.secret-key": value}, LEGACY)


@given(st.lists(TEXTS))
@example(["a;b", "it's", "", "[x]", " y "])
def test_lists_are_read_again_in_both_forms(items):
    assert split_list(join_list(items, standard=True)) == items
    assert split_list(join_list(items, standard=False)) == items


@pytest.mark.parametrize(
    ("text", "items"),
    [  # as Flink 1.16.3 and 1.20.5 read them
        ("a;b", ["a", "b"]),
        ("'a;b';c", ["a;b", "c"]),
        ("a;'it''s'", ["a", "it's"]),
        (" a ; b ", ["a", "b"]),
        ("a; 'b'", ["a", "b"]),
        ("''", [""]),
        ("a;;b", ["a", "", "b"]),
        ("a;", ["a"]),
        (";a", ["a"]),
        ("x'y;z", ["x'y", "z"]),
        ('"q""r";s', ['q"r', "s"]),
        ("", []),
        ("a;''", ["a", ""]),
        ("'a' ;b", ["a", "b"]),
        ("[]", []),
        ("['file:/tmp/wc.jar']", ["file:/tmp/wc.jar"]),
        ("[--input, a b, it's]", ["--input", "a b", "it's"]),
    ],
)
def test_lists_are_split_as_flink_does(text, items):
    assert split_list(text) == items


@pytest.mark.parametrize("text", ["'a'b", "'a", '"a', "[a", "[a] b", "[[a]]", "[a: b]", "[*a]"])
def test_what_is_no_list_is_refused(text):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        split_list(text)
    with pytest.raises(ValueError, match=r"^pipeline\.jars: "):
        items_of({"pipeline.jars": text}, "pipeline.jars")


def test_lists_are_written_in_the_form_of_the_file():
    conf = {"pipeline.jars": "a;'b;c'", "$internal.application.program-args": "[x, 'y z']"}
    assert with_lists(conf, STANDARD) == {
        "pipeline.jars": "['a', 'b;c']", "$internal.application.program-args": "['x', 'y z']",
    }  # fmt: skip
    assert with_lists(conf, LEGACY) == {
        "pipeline.jars": "'a';'b;c'", "$internal.application.program-args": "'x';'y z'",
    }  # fmt: skip


def test_without_a_name_nested_text_is_yaml_and_other_text_is_not():
    assert parse_conf("a:\n  b: 'c'\n") == {"a.b": "c"}
    assert parse_conf("a:\n- b\n") == {"a": "['b']"}
    assert parse_conf("pipeline.classpaths: \na.b: 'c'\n") == {"a.b": "'c'"}


def test_another_name_of_the_file_is_refused():
    with pytest.raises(ValueError, match="its name is neither"):
        parse_conf("a: b", "flink.yaml")


def test_whether_sgx_is_wanted_is_found_in_either_form():
    for text in ("kubernetes:\n  sgx:\n    enabled: 'true'\n", "kubernetes.sgx.enabled: true\n"):
        assert parse_conf(text) == {"kubernetes.sgx.enabled": "true"}


@pytest.mark.parametrize("piece", ["'", '"\\', "\\", "a:", "[a, ", "- ", "1", "1.", " ", "#", "' "])
def test_long_input_is_read_in_no_time(piece):
    """No pattern goes wild: these would take hours if one did."""
    for text in (
        piece * 20_000,
        f"a: {piece * 20_000}",
        f'a: "{piece * 20_000}',
        f"a: [{piece * 20_000}",
    ):
        for read in (parse_flat, parse_yaml, split_list):
            with suppress(ValueError):
                read(text)
