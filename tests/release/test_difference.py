"""Two manifests that differ: what is said about it."""

import pytest

from imagekit.enclave.releases import NEWEST
from imagekit.errors import InputError
from imagekit.release.difference import file_difference, manifest_differences

FIRST = b"""
sgx.enclave_size = "8G"
sgx.debug = false
loader.log_level = "error"
[[sgx.trusted_files]]
uri = "file:/a"
sha256 = "00"
[[sgx.trusted_files]]
uri = "file:/b"
sha256 = "11"
"""
NAMES = ("ours", "theirs")


def differences(*pairs: tuple[str, str]) -> list[str]:
    text = FIRST.decode()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return manifest_differences(FIRST, text.encode(), NAMES, NEWEST)


def test_equal_manifests_have_no_difference():
    assert differences() == []


def test_values_are_named_with_both_sides():
    assert differences(('"8G"', '"16G"'), ("sgx.debug = false\n", "")) == [
        "sgx.debug is there only for ours",
        "sgx.enclave_size is '8G' (ours), '16G' (theirs)",
    ]
    assert differences(("loader.", "libos.x = 1\nloader.")) == ["libos.x is there only for theirs"]


def test_trusted_files_are_compared_by_uri_whatever_their_order():
    assert differences(('"00"', '"22"'), ("file:/b", "file:/c")) == [
        "trusted file file:/a has other content for each",
        "trusted file file:/b only for ours",
        "trusted file file:/c only for theirs",
    ]


def test_many_differences_are_counted():
    more = "".join(f'[[sgx.trusted_files]]\nuri = "file:/x{n}"\nsha256 = "3"\n' for n in range(9))
    lines = manifest_differences(FIRST, FIRST + more.encode(), NAMES, NEWEST)
    assert len(lines) == 6
    assert lines[-1] == "… and 4 more of this kind"


def test_a_difference_of_the_text_alone():
    (line,) = differences(("sgx.debug = false", "sgx.debug  =  false"))
    assert line == "the text differs at byte 35, the content does not"
    (line,) = manifest_differences(FIRST, FIRST + b"\n", NAMES, NEWEST)
    assert f"byte {len(FIRST)}" in line


def test_what_is_no_manifest_is_an_error_that_names_it():
    with pytest.raises(InputError, match="theirs"):
        manifest_differences(FIRST, b"[[", NAMES, NEWEST)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"a = '\xff'", "not UTF-8"),
        (b"sgx = 5", "sgx is no table"),
        (b"sgx.trusted_files = 5", "trusted_files is no list of tables"),
        (b"sgx.trusted_files = [5]", "trusted_files is no list of tables"),
        (b"sgx.trusted_files.a = 5", "trusted_files is no list of tables"),
        (b"a" + b".a" * 5000 + b" = 1", "nested too deeply"),
    ],
)
def test_what_tools_may_write_that_is_no_manifest(data, told):
    for pair in ((FIRST, data), (data, FIRST)):
        name = NAMES[pair.index(data)]
        with pytest.raises(InputError, match=f"manifest of {name}: .*{told}"):
            manifest_differences(*pair, NAMES, NEWEST)


def test_files_are_compared_by_content():
    assert file_difference("/x", b"a", b"a", NAMES) == []
    (line,) = file_difference("/x", b"a", b"b", NAMES)
    assert line.startswith("/x: sha256 ca978112")
    assert "(theirs)" in line
