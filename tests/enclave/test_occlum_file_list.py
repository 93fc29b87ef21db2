"""The list of hashes of an instance's files: one text per list, read strictly, compared by path."""

import hashlib
import itertools
import subprocess

import hypothesis
import pytest
from hypothesis import strategies as st

from imagekit.enclave.occlum.rootfs_manifest import (
    ListedFile,
    compare_lists,
    list_text,
    listed_link,
    parse_list,
)
from imagekit.errors import InputError

NAMES = ("plain", "with blank", "back\\slash", "line\nfeed", "é", "*star", "#hash", "tab\there")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_text_is_that_of_sha256sum(tmp_path):
    files = []
    for name in NAMES:
        path = tmp_path / name
        path.write_bytes(name.encode())
        files.append(ListedFile(str(path), digest(name.encode())))
    ordered = sorted((file.path for file in files), key=str.encode)
    said = subprocess.run(
        ["sha256sum", "--", *ordered], cwd=tmp_path, capture_output=True, check=True
    )
    assert list_text(files).encode() == said.stdout


def test_sha256sum_checks_the_list_and_passes_over_links(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes(b"x")
    files = [ListedFile(str(tmp_path / name), digest(b"x")) for name in NAMES]
    files.append(listed_link("/a link", "/no\nwhere"))
    (tmp_path / "list").write_text(list_text(files))
    command = ["sha256sum", "--check", "--strict", "--quiet", "list"]
    subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "line\nfeed").write_bytes(b"y")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert done.returncode == 1 and b"line\\nfeed: FAILED" in done.stdout


PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map("/{}".format)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
FILES = st.builds(ListedFile, PATHS, DIGESTS, st.booleans())
LISTS = st.lists(FILES, unique_by=lambda file: file.path)


@hypothesis.given(LISTS)
def test_writing_and_reading_are_inverse(files):
    text = list_text(files)
    assert text == list_text(reversed(files))
    assert parse_list(text.encode(), "x") == tuple(sorted(files, key=lambda f: f.path.encode()))


@hypothesis.given(LISTS, st.data())
def test_each_list_has_one_text(files, draw):
    """Whatever is read at all is what is written."""
    text = bytearray(list_text(files).encode())
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(text)))
        length = draw.draw(st.integers(0, 2))
        text[at : at + length] = draw.draw(
            st.sampled_from(
                [b"", b"\n", b"\\", b"\\n", b"\r", b" ", b"#link ", b"0", b"\xff", b"\0"]
            )
        )
    try:
        parsed = parse_list(bytes(text), "x")
    except InputError as error:
        assert error.problem.startswith("x:") and "\n" not in error.problem
        return
    assert list_text(parsed).encode() == bytes(text)


@hypothesis.given(st.binary(max_size=300))
def test_any_bytes_give_a_list_or_an_error(data):
    try:
        parse_list(data, "x")
    except InputError as error:
        assert error.hint


ONE, TWO = "1" * 64, "2" * 64


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{ONE}  /a", 1),
        (f"{ONE}  a\n", 1),
        (f"{ONE}  /a\n{TWO}  /b", 2),
        (f"{ONE}  /b\n{TWO}  /a\n", 2),
        (f"{ONE}  /a\n{ONE}  /a\n", 2),
        (f"{ONE} */a\n", 1),
        (f"{ONE} /a\n", 1),
        (f"{ONE[1:]}  /a\n", 1),
        (f"{ONE[1:]}A  /a\n", 1),
        (f"{ONE}  \n", 1),
        ("\n", 1),
        (f"{ONE}  /a\n\n{ONE}  /b\n", 2),
        ("# a remark\n", 1),
        (f"#link{ONE}  /a\n", 1),
        (f"#link  {ONE}  /a\n", 1),
        (f"{ONE}  /a\r\n", 1),
        (f"{ONE}  /back\\slash\n", 1),
        (f"\\{ONE}  /plain\n", 1),
        (f"\\{ONE}  /a\\x\n", 1),
        (f"\\{ONE}  /a\\\n", 1),
        (f"\\{ONE}  /a\\n\\\n", 1),
        (f"{ONE}  /a\0b\n", 1),
    ],
)
def test_what_is_no_list_is_refused_with_the_line(text, line):
    with pytest.raises(InputError) as caught:
        parse_list(text.encode(), "list")
    assert caught.value.problem.startswith(f"list:{line}: ")


def test_bytes_that_are_no_text_are_refused_with_the_line():
    with pytest.raises(InputError, match=r"list:2: no UTF-8"):
        parse_list(f"{ONE}  /a\n{ONE}  /".encode() + b"\xff\n", "list")


@pytest.mark.parametrize("path", ["/a\udcff", "/\udc80", "", "a", "/a\0b"])
def test_a_name_that_cannot_be_listed_is_refused(path):
    with pytest.raises(InputError, match="cannot stand in the list"):
        list_text([ListedFile(path, ONE)])


def test_a_path_that_is_there_twice_is_refused():
    with pytest.raises(InputError, match="/a: is in the list twice"):
        list_text([ListedFile("/a", ONE), listed_link("/a", "b")])


def test_no_list_is_a_list():
    assert list_text([]) == ""
    assert parse_list(b"", "x") == ()


LISTED = (
    ListedFile("/a", ONE),
    ListedFile("/b", ONE),
    listed_link("/c", "b"),
    ListedFile("/d", TWO),
)


def test_equal_lists_have_no_differences():
    for order in itertools.permutations(LISTED):
        assert compare_lists(LISTED, order) == []


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        (LISTED[1:], "/a is missing"),
        ((*LISTED, ListedFile("/e", ONE)), "/e was added: it is not in the list"),
        ((*LISTED[:3], ListedFile("/d", ONE)), f"/d has the SHA-256 {ONE}, the list says {TWO}"),
        (
            (*LISTED[:2], listed_link("/c", "a"), LISTED[3]),
            "/c leads elsewhere than the list says",
        ),
        (
            (*LISTED[:2], ListedFile("/c", digest(b"b")), LISTED[3]),
            "/c is a file, the list has a link",
        ),
        (
            (ListedFile("/a", ONE, is_link=True), *LISTED[1:]),
            "/a is a link, the list has a file",
        ),
    ],
)
def test_a_difference_is_named(found, difference):
    assert compare_lists(LISTED, found) == [difference]


def test_a_file_with_the_text_of_a_link_is_no_link():
    link, file = listed_link("/c", "b"), ListedFile("/c", digest(b"b"))
    assert link.sha256 == file.sha256
    assert list_text([link]) != list_text([file])


def test_differences_come_by_path_and_odd_names_in_one_line():
    found = [ListedFile("/x\n\x1b[1m\udcff", ONE), ListedFile("/0", ONE), *LISTED]
    lines = compare_lists(LISTED, found)
    assert [line[:2] for line in lines] == ["/0", "/x"]
    assert all(line.isprintable() for line in lines)


def test_the_first_of_a_kind_are_named_and_the_others_counted():
    listed = [ListedFile(f"/{number:02}", ONE) for number in range(20)]
    found = [
        ListedFile("/00", TWO),
        *listed[1:3],
        *(ListedFile(f"/new/{n}", ONE) for n in range(5)),
    ]
    assert compare_lists(listed, found) == [
        f"/00 has the SHA-256 {TWO}, the list says {ONE}",
        *(f"/{number:02} is missing" for number in range(3, 8)),
        "… and 12 more missing",
        *(f"/new/{n} was added: it is not in the list" for n in range(5)),
    ]


def test_it_is_the_list_of_a_whole_folder(tmp_path):
    """As somebody without imagekit makes it."""
    for name in ("b/2", "a", "b/1"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    script = 'find "$0" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum --'
    said = subprocess.run(["sh", "-c", script, tmp_path], capture_output=True, check=True)
    files = [
        ListedFile(str(path), digest(path.read_bytes()))
        for path in tmp_path.rglob("*")
        if path.is_file()
    ]
    assert list_text(files).encode() == said.stdout
