"""The project file: what is read, and that everything else is refused with file, line and key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.errors import UsageError
from imagekit.spec.base_values import BaseReference, BaseSpec
from imagekit.spec.fields import parse_yaml
from imagekit.spec.keys import KEYS, names
from imagekit.spec.options import EnclaveOptions, LaunchOptions, PathOptions
from imagekit.spec.project import Project, load_project, parse_project
from imagekit.spec.sizes import GIB

LEAST = """\
schema: 1
image: team/x
tag: 1.0
base: {image: "oci:base"}
matrix: {epc: [8g]}
"""

FULL = """\
schema: 1
image: registry.example/team/bigdl-ppml-trusted-bigdata
tag: 2.5.0
libos: gramine
profile: strict
base:
  image: docker://registry.example/base@sha256:00
matrix:
  epc: [4g, 8G, 16GiB]
  log: [error, debug, all]
  attestation: [dcap, none]
  exclude: [{epc: 4g, log: debug}]
  default: {epc: 8g, log: error, attestation: dcap}
enclave: {max_threads: 512, isv_prod_id: 7, isv_svn: 9, debug: true, edmm: true}
signing: {key: ./enclave-key.pem}
gramine: {version: 1.9, template: my.template, define: {b: 2, a: "1"}}
launch:
  command: [/usr/bin/java, -version, ""]
  env: {B: "2", A: 1}
  passthrough: [Z, Y]
paths:
  {java_home: /opt/jdk, spark_home: /opt/spark, flink_home: /opt/flink, python: /usr/bin/python3}
trusted: [/etc/ssl/certs/, "file:/opt/x"]
cache: ../cache
"""


def read(text: str) -> Project:
    return parse_project(parse_yaml(text, "imagekit.yaml"), Path("folder/imagekit.yaml"))


def refused(text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read(text)
    for line in (caught.value.problem, caught.value.hint):
        assert line.isprintable(), line
        assert line
    return caught.value


def test_every_key_of_a_full_file_is_read() -> None:
    project = read(FULL)
    assert project.image == "registry.example/team/bigdl-ppml-trusted-bigdata"
    assert (project.tag, project.libos, project.profile) == ("2.5.0", "gramine", "strict")
    assert project.base == BaseReference("docker://registry.example/base@sha256:00")
    assert project.matrix.epc == (4 * GIB, 8 * GIB, 16 * GIB)
    assert len(project.cells) == 16
    assert project.default_cell is not None
    assert project.default_cell.id == "gramine-8g-error-dcap"
    assert project.enclave == EnclaveOptions(512, 7, 9, True, True)
    assert project.signing.key == Path("folder/enclave-key.pem")
    assert project.gramine.version == "1.9"
    assert project.gramine.template == Path("folder/my.template")
    assert project.gramine.define == (("a", "1"), ("b", "2"))
    assert project.launch == LaunchOptions(
        ("/usr/bin/java", "-version", ""), (("A", "1"), ("B", "2")), ("Y", "Z")
    )
    assert project.paths == PathOptions("/opt/jdk", "/opt/spark", "/opt/flink", "/usr/bin/python3")
    assert project.trusted == ("file:/etc/ssl/certs/", "file:/opt/x")
    assert project.cache == Path("folder/../cache")
    assert project.folder == Path("folder")


def test_the_least_file_has_the_documented_defaults() -> None:
    project = read(LEAST)
    assert project.tag == "1.0"  # as written, not as a number
    assert (project.libos, project.profile) == ("gramine", "strict")
    assert [cell.id for cell in project.cells] == ["gramine-8g-error-dcap"]
    assert project.signing.key is None
    assert project.gramine.version is None
    assert project.launch.command == ()
    assert project.cache is None
    assert project.default_cell == project.cells[0]
    assert project.reference(project.cells[0]) == "team/x-gramine-reference-8g:1.0"


def test_the_defaults_in_the_table_of_keys_are_the_defaults_of_the_values() -> None:
    options = EnclaveOptions()
    for name in names("enclave"):
        assert KEYS[f"enclave.{name}"].default == getattr(options, name)
    matrix = read(LEAST).matrix
    assert list(matrix.log) == KEYS["matrix.log"].default
    assert list(matrix.attestation) == KEYS["matrix.attestation"].default


def test_a_base_specification_is_read() -> None:
    text = LEAST.replace('{image: "oci:base"}', "{distribution: {suite: bookworm}, packages: [x1]}")
    base = read(text).base
    assert isinstance(base, BaseSpec)
    assert base.packages == ("x1",)


def test_absolute_and_home_paths_do_not_start_from_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert read(LEAST + "signing: {key: /k.pem}").signing.key == Path("/k.pem")
    assert read(LEAST + "signing: {key: file:k.pem}").signing.key == Path("folder/k.pem")
    assert read(LEAST + "cache: ~/c").cache == Path("/home/someone/c")


def with_line(**replaced: str) -> str:
    """The full file with some top-level values replaced; an empty value drops the key."""
    lines, skip = [], False
    for line in FULL.splitlines():
        key = line.partition(":")[0]
        if not line.startswith(" "):
            skip = key in replaced
        if not skip:
            lines.append(line)
    lines += [f"{key}: {value}" for key, value in replaced.items() if value]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        # the whole file
        ("", "imagekit.yaml:1: the file is empty", "imagekit init"),
        ("# only a comment\n", "the file is empty", "imagekit init"),
        ("---\n...\n", "found nothing", "mapping"),
        ("[1, 2]", "expected a mapping (key: value), found a list", ""),
        ("hello", 'found "hello"', ""),
        ("a: 1\n\tb: 2\n", "imagekit.yaml:2: not valid YAML", "indentation"),
        ("a: [1\n", "not valid YAML", ""),
        (LEAST + "---\n" + LEAST, "not valid YAML", ""),
        ("[" * 100000, "nested too deeply", ""),
        ("- " * 50000, "nested too deeply", ""),
        (LEAST + "image: team/y\n", "imagekit.yaml:6: image: key given twice", "line 2"),
        (LEAST + "x: &a 1\ny: *b\n", "not valid YAML", ""),
        (LEAST + "<<: {libos: occlum}\n", "merge keys", ""),
        (LEAST + "? [a]\n: 1\n", "a key must be a plain word", ""),
        # schema
        (LEAST.replace("schema: 1", "x: 1"), 'the key "schema" is missing', "schema: 1"),
        ("schema: 2\nnew: things\n", "schema 2 is not known", "a later one may read"),
        ("schema: 0\n", "schema 0 is not known", "write that"),
        ("schema: one\n", '"one" is not a whole number', ""),
        ("schema: [1]\n", "expected a whole number", ""),
        ("schema: 1\n", 'the key "image" is missing', ""),
        # unknown and missing keys
        (LEAST + "matrx: 1\n", "imagekit.yaml:6: matrx: unknown key", 'did you mean "matrix"?'),
        (LEAST + "zzzzz: 1\n", "zzzzz: unknown key", "known here: base, cache"),
        (with_line(matrix="{epcs: [8g]}"), "matrix.epcs: unknown key", 'did you mean "epc"?'),
        (with_line(matrix="{log: [all]}"), 'matrix: the key "epc" is missing', "epc"),
        (with_line(tag=""), 'the key "tag" is missing', ""),
        (with_line(base=""), 'the key "base" is missing', ""),
        (with_line(enclave="{threads: 1}"), "enclave.threads: unknown key", '"max_threads"'),
        # names
        (with_line(image="Team/x"), "has upper case", "team"),
        (with_line(image="team/x:1"), "has a tag", ""),
        (with_line(image="[a]"), "image: expected a string, found a list", ""),
        (with_line(image='""'), "image: expected a string, found an empty text", ""),
        (with_line(image="t/x-gramine-reference-8g"), "name of a cell", "out: t/x"),
        (with_line(image="t/x-gramine-reference"), "name of a cell", "out: t/x"),
        (with_line(image="x" * 240), "more than 255 characters", ""),
        (with_line(tag="'-1'"), '"-1" is not a tag', ""),
        (with_line(tag="true"), "tag: expected a string, found true", "quote it"),
        (with_line(tag="null"), "found nothing", ""),
        (with_line(libos="sgx"), 'libos: "sgx" is not allowed', "gramine, occlum"),
        (with_line(profile="strickt"), '"strickt" is not allowed', 'did you mean "strict"?'),
        # base
        (with_line(base="oci:x"), "base: expected a mapping", ""),
        (with_line(base="{image: base}"), "base.image", "transport"),
        # matrix
        (with_line(matrix="[]"), "matrix: expected a mapping", ""),
        (with_line(matrix="{epc: 8g}"), "matrix.epc: expected a list", ""),
        (with_line(matrix="{epc: []}"), "matrix.epc: the list is empty", ""),
        (with_line(matrix="{epc: [12g]}"), "matrix.epc[0]: enclave size", "8g and 16g"),
        (with_line(matrix="{epc: [8g, 16]}"), 'matrix.epc[1]: enclave size "16" has no unit', "g"),
        (with_line(matrix="{epc: [0x10]}"), "is hexadecimal", ""),
        (with_line(matrix="{epc: [8g, 8192m]}"), "matrix.epc[1]: 8g given twice", "already"),
        (with_line(matrix="{epc: [8g], log: [loud]}"), '"loud" is no log level of gramine', ""),
        (with_line(matrix="{epc: [8g], log: [info]}"), '"info" is no log level of gramine', ""),
        (with_line(matrix="{epc: [8g], log: [no]}"), "found no", "quote it"),
        (with_line(matrix="{epc: [8g], log: [all, all]}"), "log[1]: all given twice", ""),
        (with_line(matrix="{epc: [8g], attestation: [epid]}"), '"epid" is not allowed', "dcap"),
        (
            with_line(matrix="{epc: [8g], exclude: [{epc: 4g}]}"),
            "matrix.exclude[0]: {epc: 4g} matches no cell",
            "correct it",
        ),
        (with_line(matrix="{epc: [8g], exclude: [{}]}"), "exclude[0] names no axis", "epc"),
        (with_line(matrix="{epc: [8g], exclude: [{epc: 8g}]}"), "leaves no cell at all", ""),
        (with_line(matrix="{epc: [8g], exclude: {}}"), "exclude: expected a list", ""),
        (with_line(matrix="{epc: [8g], exclude: [8g]}"), "exclude[0]: expected a mapping", ""),
        (with_line(matrix="{epc: [8g], exclude: &x [*x]}"), "expected a mapping", ""),
        (with_line(matrix="{epc: [8g], exclude: [{size: 8g}]}"), "exclude[0].size: unknown", ""),
        (
            with_line(matrix="{epc: [8g], default: {epc: 4g}}"),
            "matrix.default is gramine-4g-error-dcap, which is not in the matrix",
            "cells: gramine-8g-error-dcap",
        ),
        (
            with_line(matrix="{epc: [8g], attestation: [none], default: {attestation: none}}"),
            "promises attestation",
            "",
        ),
        # enclave
        (with_line(enclave="{max_threads: 0}"), "0 is out of range", "1 to 4096"),
        (with_line(enclave="{max_threads: 4097}"), "4097 is out of range", "1 to 4096"),
        (with_line(enclave="{max_threads: many}"), "not a whole number", ""),
        (with_line(enclave="{max_threads: 1_000}"), "not a whole number", ""),
        (with_line(enclave="{isv_svn: 65536}"), "65536 is out of range", "0 to 65535"),
        (with_line(enclave="{isv_prod_id: -1}"), "-1 is out of range", "0 to 65535"),
        (with_line(enclave="{debug: yes}"), "expected true or false", ""),
        (with_line(enclave="{debug: 'true'}"), "expected true or false", "without quotes"),
        (with_line(enclave="{edmm: 1}"), "expected true or false", ""),
        (with_line(gramine="{version: 1.3}"), "edmm needs Gramine 1.4", "edmm: false"),
        # signing
        (with_line(signing="{key: ''}"), "found an empty text", ""),
        (with_line(signing="{key: pkcs11:token=x}"), "only key files", "PEM"),
        (with_line(signing="./key.pem"), "signing: expected a mapping", ""),
        # gramine
        (with_line(gramine="{version: 1.5}"), '"1.5" is not allowed', "1.9, 1.3"),
        (with_line(gramine="{define: {a-b: 1}}"), '"a-b" is not a variable name', ""),
        (with_line(gramine="{define: {a: true}}"), "found true", "quote it"),
        (with_line(gramine="{define: {a: [1]}}"), "gramine.define.a: expected a string", ""),
        # launch
        (with_line(launch="{command: java -version}"), "command: expected a list", ""),
        (with_line(launch="{command: []}"), "the list is empty", ""),
        (with_line(launch="{command: ['', x]}"), "expected a program, found an empty", ""),
        (with_line(launch="{command: [java]}"), "command[0]", "begin with /"),
        (with_line(launch="{command: [/a, {b: c}]}"), "command[1]: expected a string", ""),
        (with_line(launch='{command: [/a, "x\\0y"]}'), "command[1]: the text holds a zero", ""),
        (with_line(launch="{env: {1A: x}}"), '"1A" is not a variable name', ""),
        (with_line(launch="{passthrough: [A=B]}"), '"A=B" is not a variable name', ""),
        (with_line(launch="{passthrough: [A, A]}"), "given twice", ""),
        (
            with_line(launch="{env: {A: x}, passthrough: [B, A]}"),
            "launch.passthrough: A has a sealed value",
            "one of the two",
        ),
        (with_line(profile="compat"), "launch: profile compat takes command and", "strict"),
        # paths in the image
        (with_line(paths="{java_home: opt/jdk}"), "not an absolute path in the image", ""),
        (with_line(paths="{java_home: /opt/../jdk}"), "not an absolute path in the image", ""),
        (with_line(paths="{java_home: /opt/jdk/}"), "not an absolute path in the image", ""),
        (with_line(paths="{jdk: /opt}"), "paths.jdk: unknown key", ""),
        (with_line(trusted="/etc/x"), "trusted: expected a list", ""),
        (with_line(trusted="[etc/x]"), "trusted[0]", "begin with /"),
        (with_line(trusted="[/a//b]"), "not an absolute path in the image", ""),
        (with_line(trusted="[/]"), "not an absolute path in the image", ""),
        (with_line(trusted='["/a\\nb"]'), "do not print", ""),
        (with_line(trusted="[/a, file:/a]"), "given twice", ""),
        (with_line(trusted="[http:/a]"), "not an absolute path in the image", ""),
        # paths on this machine
        (with_line(cache="''"), "cache: expected a path, found an empty text", ""),
        (with_line(cache='"a\\eb"'), "is not a path", ""),
        (with_line(cache="~nobody-of-that-name/x"), "home folder is not known", "whole path"),
    ],
)
def test_what_is_wrong_is_said_with_line_key_and_a_way_out(
    text: str, problem: str, hint: str
) -> None:
    error = refused(text)
    assert problem in error.problem
    assert error.problem.startswith("imagekit.yaml:")
    assert hint in error.hint
    assert len(error.problem) < 500


def test_the_message_names_the_line_of_the_key() -> None:
    text = FULL.replace("  epc: [4g", "  epcs: [4g")
    error = refused(text)
    assert error.problem == "imagekit.yaml:9: matrix.epcs: unknown key"


def test_the_message_about_an_exclusion_names_its_own_line() -> None:
    text = LEAST.replace(
        "matrix: {epc: [8g]}",
        "matrix:\n  epc: [4g, 8g]\n  exclude:\n    - {epc: 4g}\n    - {epc: 16g}\n",
    )
    assert refused(text).problem.startswith("imagekit.yaml:9: matrix.exclude[1]: {epc: 16g}")


@pytest.mark.parametrize(
    "key", ["passphrase", "password", "key_passphrase", "pin", "Secret", "token"]
)
def test_secrets_are_refused_and_not_shown(key: str) -> None:
    error = refused(with_line(signing=f"{{key: k.pem, {key}: hunter2}}"))
    assert "secrets do not belong in the project file" in error.problem
    assert "hunter2" not in error.problem + error.hint


def test_a_private_key_in_the_file_is_refused_and_not_shown() -> None:
    pem = '"-----BEGIN RSA PRIVATE KEY-----\\nMIIG4w\\n"'
    error = refused(with_line(signing=f"{{key: {pem}}}"))
    assert "secrets do not belong" in error.problem
    assert "MIIG4w" not in error.problem + error.hint


def test_log_levels_are_those_of_the_projects_libos() -> None:
    text = LEAST.replace("{epc: [8g]}", "{epc: [8g], log: [info, warn]}")
    assert len(read(text + "libos: occlum\n").cells) == 2
    assert "log level of gramine" in refused(text).problem


def test_an_exclusion_may_name_the_log_level_of_the_libos_it_is_about() -> None:
    axes = "{epc: [8g], log: [error, debug], exclude: [{libos: occlum, log: %s}]}"
    assert len(read(with_line(matrix=axes % "debug")).cells) == 2
    assert "of occlum" in refused(with_line(matrix=axes % "all")).problem


def test_empty_sections_mean_the_defaults() -> None:
    sections = "".join(f"{name}: {{}}\n" for name in ("enclave", "signing", "gramine", "launch"))
    project = read(LEAST + sections + "paths: {}\ntrusted: []\n")
    assert project == read(LEAST)


def test_a_file_that_is_not_there_points_to_init(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file") as caught:
        load_project(tmp_path / "imagekit.yaml")
    assert "imagekit init" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff\xfe\xfd", "imagekit.yaml"),
        (b"schema: 1\nimage: \xe4\n", "not readable as text"),
        (b"schema: 1\nimage: a\x00b\n", "not readable as text"),
        (b"a: 1\n" * 1000000, "larger than"),
        (b"\xef\xbb\xbf", "empty"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "imagekit.yaml"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=problem):
        load_project(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="directory"):
        load_project(tmp_path)


def test_an_alias_bomb_is_read_without_being_expanded() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)
    )
    assert "unknown key" in refused(LEAST + bomb).problem
    deep = "{epc: [8g], exclude: [&a [&b [&c [x, x], *c], *b], *a]}"
    assert "expected a mapping" in refused(with_line(matrix=deep)).problem


# The parser never raises anything but UsageError, whatever YAML it gets.

WORDS = st.sampled_from(
    [*(part.rstrip("[]") for path in KEYS for part in path.split(".")), "8g", "16g", "error"]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    WORDS,
    st.sampled_from(["/x", "oci:x", "x", "none", "dcap", "all", "1.9", "~", "a\nb"]),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, child in items:
        yield from places(child, (*path, key))


TREE = yaml.load(FULL, yaml.BaseLoader)
PLACES = list(places(TREE))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_anywhere_is_read_or_a_usage_error(path: tuple[Any, ...], value: Any) -> None:
    tree = yaml.load(FULL, yaml.BaseLoader)
    target = tree
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    check(yaml.safe_dump(tree))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, len(FULL)), st.integers(0, 20), st.text("{}[]:,&*!|>'\"\t\n #-a1", max_size=6)
)
def test_any_damage_to_the_text_is_read_or_a_usage_error(at: int, cut: int, new: str) -> None:
    check(FULL[:at] + new + FULL[at + cut :])


def check(text: str) -> None:
    try:
        project = read(text)
    except UsageError as error:
        assert error.problem.isprintable()
        assert error.hint.isprintable()
    else:
        assert project.cells
        assert hash(project) is not None
