"""Where the launcher runs, as Gramine's files and the sealed size tell."""

import pytest

from imagekit.runtime.java import check_heap, enclave_flags, opens, parse_size
from imagekit.runtime.launch import Java
from imagekit.runtime.place import DIRECT, ENCLAVE, NATIVE, Place, enclave_size, find_place
from imagekit.runtime.stop import Stop

SIZE = {b"IMAGEKIT_ENCLAVE_SIZE": b"8G"}


def test_without_the_folder_it_is_native(tmp_path):
    place = find_place(SIZE, str(tmp_path / "attestation"))
    assert (place.kind, place.quotes, place.enclave_size) == (NATIVE, False, None)


def test_the_folder_without_a_type_is_no_enclave(tmp_path):
    place = find_place(SIZE, str(tmp_path))
    assert (place.kind, place.quotes, place.enclave_size) == (DIRECT, False, 8 << 30)


def test_a_type_that_gramine_denies_is_no_enclave(tmp_path, monkeypatch):
    def denied(*_words, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    assert find_place({}, str(tmp_path)).kind == DIRECT


@pytest.mark.parametrize(("text", "quotes"), [("dcap", True), ("none", False), ("dcap\n", True)])
def test_the_type_says_whether_there_are_quotes(tmp_path, text, quotes):
    (tmp_path / "attestation_type").write_text(text)
    place = find_place(SIZE, str(tmp_path))
    assert (place.kind, place.quotes, place.enclave_size) == (ENCLAVE, quotes, 8 << 30)


def test_another_type_is_not_taken_for_none(tmp_path):
    (tmp_path / "attestation_type").write_text("epid")
    with pytest.raises(Stop, match="neither none nor dcap"):
        find_place({}, str(tmp_path))


@pytest.mark.parametrize("value", [b"", b"8", b"8g", b"-8G", b"8GB", b"\xff", b"8G\n"])
def test_an_enclave_size_of_another_form_is_refused(value):
    with pytest.raises(Stop, match="IMAGEKIT_ENCLAVE_SIZE"):
        enclave_size({b"IMAGEKIT_ENCLAVE_SIZE": value})


def test_sizes_are_binary():
    assert enclave_size({b"IMAGEKIT_ENCLAVE_SIZE": b"512M"}) == 512 << 20
    assert enclave_size({}) is None
    assert [parse_size(text) for text in ("1g", "512m", "2G", "1024", "1gb", "3k")] == [
        1 << 30, 512 << 20, 2 << 30, 1024, 1 << 30, 3072,
    ]  # fmt: skip
    assert parse_size("512", "m") == 512 << 20


@pytest.mark.parametrize("text", ["", "g", "1.5g", "-1g", "0", "0g", "1 g", "1x", "٣g"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


def test_a_heap_is_smaller_than_half_of_the_enclave():
    enclave = Place(ENCLAVE, True, 4 << 30, "")
    check_heap("X", (2 << 30) - 1, enclave)
    for heap in (2 << 30, 3 << 30):
        with pytest.raises(Stop) as stop:
            check_heap("X", heap, enclave)
        assert stop.value.code == 2
        assert stop.value.line.startswith("X: ")
    check_heap("X", 64 << 30, Place(NATIVE, False, None, ""))


def test_flags_follow_java_and_place():
    assert opens(Java("/j", 11)) == ()
    assert "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED" in opens(Java("/j", 17))
    assert enclave_flags(Place(NATIVE, False, None, ""), 4) == ()
    assert "-XX:ActiveProcessorCount=4" in enclave_flags(Place(DIRECT, False, None, ""), 4)
