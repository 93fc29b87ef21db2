"""The list of an instance's files: inverse functions, sha256sum's own word, and differences."""

import hashlib
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.enclave.occlum.rootfs_manifest import (
    ListedFile,
    compare_lists,
    list_text,
    listed_link,
    parse_list,
)
from imagekit.errors import ImagekitError, InputError

PATHS = st.text(st.characters(exclude_characters="\0"), max_size=20).map(lambda text: f"/{text}")
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
LISTS = st.dictionaries(PATHS, HASHES, max_size=8).map(
    lambda found: [ListedFile(*item) for item in found.items()]
)


def usable(files):
    try:
        list_text(files)
    except UnicodeEncodeError:  # lone surrogates that no file name gives
        return False
    return True


@given(LISTS.filter(usable))
def test_reading_gives_back_what_was_written(files):
    text = list_text(files)
    assert sorted(parse_list(text, "x")) == sorted(files)
    assert list_text(reversed(files)) == text


@given(st.binary(max_size=200))
def test_whatever_is_read_is_a_list_or_refused(data):
    try:
        files = parse_list(data, "x")
    except ImagekitError:
        return
    assert list_text(files) == data


def test_sha256sum_reads_the_list(tmp_path):
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum")
    files = []
    for name in ("plain", "two words", "back\\slash", "new\nline", "umlaut-ü"):
        path = tmp_path / name
        path.write_text(name)
        files.append(ListedFile(str(path), hashlib.sha256(name.encode()).hexdigest()))
    (tmp_path / "LIST").write_bytes(list_text(files))
    command = ["sha256sum", "--check", "--strict", tmp_path / "LIST"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (tmp_path / "new\nline").write_text("changed")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    "text",
    [
        b"0" * 64 + b"  /a",
        b"0" * 63 + b"  /a\n",
        b"0" * 64 + b" */a\n",
        b"0" * 64 + b"  a\n",
        b"F" * 64 + b"  /a\n",
        b"0" * 64 + b"  /b\n" + b"0" * 64 + b"  /a\n",
        b"0" * 64 + b"  /a\n" + b"0" * 64 + b"  /a\n",
        b"\\" + b"0" * 64 + b"  /a\n",
    ],
)
def test_another_form_is_refused_with_its_line(text):
    with pytest.raises(InputError, match="x"):
        parse_list(text, "x")


def test_differences_are_named_and_counted():
    listed = [ListedFile(f"/{n:02}", "0" * 64) for n in range(20)]
    assert compare_lists(listed, listed) == []
    changed = [ListedFile("/00", "1" * 64), *listed[1:19], ListedFile("/new", "0" * 64)]
    assert compare_lists(listed, changed) == [
        "/00 is not the one listed",
        "/19 is missing",
        "/new is not listed",
    ]
    assert compare_lists(listed, [])[-1] == "… and 15 more: is missing"


def test_a_link_counts_by_what_it_says():
    assert listed_link("/a", "b") != listed_link("/a", "c")
    assert listed_link("/a", "b").sha256 != hashlib.sha256(b"b").hexdigest()
