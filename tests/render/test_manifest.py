"""Completing manifests: what no recorded case covers."""

import hashlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.enclave.releases import GRAMINE_1_3, GRAMINE_1_9
from imagekit.errors import InputError
from imagekit.render.manifest import complete_manifest, trusted_hashes
from imagekit.render.templates import render_text, toml_literal
from imagekit.render.toml_text import parse_toml
from imagekit.render.tree import ChrootTree, HostTree
from imagekit.render.variables import GramineVariables, ldd, machine_variables

PINNED = 'loader.entrypoint.uri = "file:/libos"\nloader.entrypoint.sha256 = "00"\n'


def complete(text, tree, release=GRAMINE_1_9, **options):
    return complete_manifest(text, release, name="m", libos="/libos", tree=tree, **options)


def uris(text, tree, release=GRAMINE_1_9):
    manifest, _ = complete(PINNED + text if release is GRAMINE_1_9 else text, tree, release)
    return [entry["uri"] for entry in manifest["sgx"]["trusted_files"]]


def sha(data):
    return hashlib.sha256(data).hexdigest()


def test_a_uri_stands_once_and_a_given_hash_wins(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    pin = "ab" * 32
    text = f'sgx.trusted_files = ["file:a", {{uri = "file:a", sha256 = "{pin}"}}, "file:a"]\n'
    manifest, _ = complete(PINNED + text, HostTree(tmp_path))
    assert manifest["sgx"]["trusted_files"] == [{"uri": "file:a", "sha256": pin}]


def test_release_1_3_lists_what_it_meets_as_often_as_it_does(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_bytes(b"x")
    text = 'sgx.trusted_files = ["file:d/x", "file:d/"]\n'
    assert uris(text, HostTree(tmp_path), GRAMINE_1_3) == ["file:d/x", "file:d/x"]
    assert uris(text, HostTree(tmp_path)) == ["file:d/x"]


def test_files_that_cannot_be_found_or_named_are_refused(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_bytes(b"")
    tree = HostTree(tmp_path)
    for item, words in (
        ('"file:none"', "none"),
        ('"file:d"', "is a folder"),
        ('"file:f/"', "file"),
        ('"f"', "does not start with file:"),
        ('{uri = "file:d/", sha256 = "00"}', "is a folder and has a sha256"),
        ("7", "neither a string nor a table"),
        ("{}", "neither a string nor a table"),
    ):
        with pytest.raises(InputError, match=words):
            uris(f"sgx.trusted_files = [{item}]\n", tree)
    with pytest.raises(InputError, match="not an array"):
        uris('sgx.trusted_files = "file:f"\n', tree)


@pytest.mark.parametrize("key", ["sgx", "loader", "sgx.cpu_features", "loader.entrypoint"])
def test_a_value_where_a_table_belongs(tmp_path, key):
    with pytest.raises(InputError, match=key.replace(".", r"\.")):
        complete(f"{key} = 7\n", HostTree(tmp_path))


def test_a_name_that_is_not_unicode_is_refused_by_its_line(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / b"x\xff".decode("utf-8", "surrogateescape")).write_bytes(b"x")
    with pytest.raises(InputError, match="not UTF-8") as caught:
        uris('sgx.trusted_files = ["file:d/"]\n', HostTree(tmp_path))
    caught.value.problem.encode()


def test_a_relative_uri_has_no_meaning_in_a_chroot(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(InputError, match="not an absolute path"):
        uris('sgx.trusted_files = ["file:f"]\n', ChrootTree(tmp_path))


def test_known_expansions_are_used_again(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_bytes(b"x")
    memo = {}
    text = PINNED + 'sgx.trusted_files = ["file:d/"]\n'
    first = complete(text, HostTree(tmp_path), expansions=memo)
    (tmp_path / "d/x").write_bytes(b"changed")
    assert complete(text, HostTree(tmp_path), expansions=memo) == first
    assert memo == {"file:d/": (("file:d/x", sha(b"x")),)}


def test_the_default_entry_point_is_hashed_where_gramine_is(tmp_path):
    libos = tmp_path / "libsysdb.so"
    libos.write_bytes(b"libos")
    manifest, _ = complete_manifest(
        "",
        GRAMINE_1_9,
        name="m",
        libos=str(libos),
        tree=ChrootTree(tmp_path),
        entry_tree=HostTree(),
    )
    assert manifest["loader"]["entrypoint"] == {"uri": f"file:{libos}", "sha256": sha(b"libos")}
    assert trusted_hashes(manifest) == {str(libos): sha(b"libos")}


names = st.sampled_from(["a", "b", "c", "dir", ".x"])
targets = st.lists(st.one_of(names, st.just(".."), st.just("")), min_size=1, max_size=6).map(
    "/".join
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(names, names, targets), max_size=8), targets)
def test_links_never_lead_out_of_a_chroot(tmp_path_factory, links, question):
    top = tmp_path_factory.mktemp("chroot")
    (top / "a").write_bytes(b"outside")
    root = top / "root"
    for folder, name, target in links:
        (root / folder).mkdir(parents=True, exist_ok=True)
        link = root / folder / name
        if not link.is_symlink() and target:
            link.symlink_to(target)
    root.mkdir(exist_ok=True)
    tree = ChrootTree(root)
    try:
        inside = tree.resolve(f"/{question}")
    except InputError:
        return
    real = (root / inside.lstrip("/")).resolve()
    assert real == root.resolve() or root.resolve() in real.parents


def test_a_host_file_with_several_names_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to("a")
    calls = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: calls.append(1) or real(*a))
    tree = HostTree(tmp_path)
    assert {tree.sha256(name) for name in "abc"} == {sha(b"a")}
    assert len(calls) == 1


toml_values = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(st.characters(codec="utf-8"))
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(toml_values)
def test_toml_literals_read_back(value):
    assert tomllib.loads(f"x = {toml_literal(value)}")["x"] == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\n{{ nope }}", "t:2: 'nope' is undefined"),
        ("{{ nope | toml }}", "t:1: 'nope' is undefined"),
        ("{% if %}", "t:1: Expected an expression"),
        ("a\n\n{{ 1 / 0 }}", "t:3: ZeroDivisionError"),
        ("{{ word.missing }}", "t:1: 'str object' has no attribute 'missing'"),
    ],
)
def test_template_errors_name_file_and_line(text, problem):
    with pytest.raises(InputError) as caught:
        render_text(text, {"word": "x"}, "t")
    assert caught.value.problem.startswith(problem)
    assert "\n" not in caught.value.problem


def test_the_last_newline_is_kept():
    assert render_text("a\n", {}, "t") == "a\n"
    assert render_text("a", {}, "t") == "a"


def test_gramine_variables():
    text = "{{ gramine.libos }} {{ gramine.runtimedir() }} {{ gramine.runtimedir('musl') }} "
    text += "{{ gramine.runtimedir }} {{ gramine.runtimedir / 'x' }}"
    assert render_text(text, {"gramine": GramineVariables("/g")}, "t") == (
        "/g/libsysdb.so /g/runtime/glibc /g/runtime/musl /g/runtime/glibc /g/runtime/glibc/x"
    )


@pytest.mark.integration("ldd")
def test_ldd_lists_absolute_paths_once_and_sorted():
    found = ldd("/bin/sh", "/bin/sh")
    assert found == sorted(set(found))
    assert any("libc.so" in path for path in found)
    assert all(Path(path).is_file() for path in found)
    with pytest.raises(InputError, match="ldd"):
        ldd("/none")


def test_python_variables_describe_the_interpreter():
    python = machine_variables()["python"]
    assert Path(python.stdlib).is_dir()
    assert python.implementation == "CPython"
    assert str(Path(python.stdlib)) in " ".join(python.get_sys_path())


@given(st.text(max_size=200))
def test_any_text_is_toml_or_one_line_of_error(text):
    for release in (GRAMINE_1_9, GRAMINE_1_3):
        try:
            assert isinstance(parse_toml(text, release, "m"), dict)
        except InputError as error:
            assert "\n" not in error.problem
            assert error.problem.startswith("m: ")
