"""Occlum's protected files: golden ones, broken ones, and what their tags are worth."""

import hashlib
import json
import struct
from pathlib import Path

import hypothesis
import protected_files
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import strategies as st

from imagekit.enclave.occlum.protected_file import (
    gmac,
    is_encrypted,
    mac_text,
    parse_mac_text,
    read_protected_file,
)
from imagekit.enclave.occlum.rootfs_manifest import ListedFile, compare_lists
from imagekit.errors import CheckError, ImagekitError, InputError

FOLDER = Path(__file__).parent.parent / "golden" / "sgx-sdk" / "protected-files"
GOLDEN = ("a", "b", "c")
NODE = 4096
META = slice(95, 95 + 3392)
SIZE = 95 + 260


def golden_file(letter: str) -> bytes:
    return (FOLDER / f"{letter}.json.protected").read_bytes()


def with_root_tag(data: bytes) -> bytes:
    """The file with the tag that its first node has by now."""
    return data[:77] + gmac(data[META]) + data[93:]


def changed(data: bytes, at: int, content: bytes, *, tagged: bool = True) -> bytes:
    data = data[:at] + content + data[at + len(content) :]
    return with_root_tag(data) if tagged else data


@pytest.fixture
def quick(monkeypatch):
    """The writer of the tests with a cipher instead of plain Python; the tags are the same."""
    plain = protected_files.gmac(b"tag" * 1000)
    cipher = AESGCM(bytes(16))
    monkeypatch.setattr(
        protected_files, "gmac", lambda data: cipher.encrypt(bytes(12), b"", bytes(data))
    )
    assert protected_files.gmac(b"tag" * 1000) == plain


@pytest.mark.parametrize("letter", GOLDEN)
def test_golden_files_are_read(letter):
    found = read_protected_file(golden_file(letter), "x")
    content = (FOLDER / f"{letter}.json").read_bytes()
    assert (found.content, found.size) == (content, len(content))
    assert found.filename == f"{letter}.json.protected"
    text = (FOLDER / f"{letter}.mac").read_bytes()
    assert mac_text(found.mac) == text.decode().strip()
    assert parse_mac_text(text, "x") == found.mac


@pytest.mark.parametrize("letter", GOLDEN)
def test_the_writer_of_the_tests_gives_the_golden_bytes(letter, quick):
    content = (FOLDER / f"{letter}.json").read_bytes()
    data, text = protected_files.protected_file(f"{letter}.json.protected", content)
    assert data == golden_file(letter)
    assert f"{text}\n" == (FOLDER / f"{letter}.mac").read_text()


# Where another node, tree node or level of the tree begins.
NODES = (96, 97, 3 * 96, 33 * 96, 33 * 96 + 1, 35 * 96)


@pytest.mark.parametrize("size", [0, 1, 3072, 3073, *(3072 + n * NODE for n in NODES)])
@pytest.mark.parametrize("more", [0, 1, -1])
def test_files_of_all_shapes(size, more, quick):
    content = bytes(range(251)) * (max(size + more, 0) // 251 + 1)
    content = content[: max(size + more, 0)]
    data, text = protected_files.protected_file("f", content)
    found = read_protected_file(data, "x")
    assert found.content == content
    assert mac_text(found.mac) == text


@pytest.fixture(scope="module")
def deep():
    """A file whose tree has three levels, and where its nodes are."""
    content = b"deep" * (34 * 96 * NODE // 4)
    with pytest.MonkeyPatch.context() as patch:
        cipher = AESGCM(bytes(16))
        patch.setattr(
            protected_files, "gmac", lambda data: cipher.encrypt(bytes(12), b"", bytes(data))
        )
        return protected_files.protected_file("deep", content)[0]


@pytest.mark.parametrize(
    ("node", "name"),
    [
        (0, "node 0 "),
        (1, "node 1 (the tree's root)"),
        (2, "node 2 (data 0)"),
        (97, "node 97 (data 95)"),
        (98, "node 98 (tree 1)"),
        (99, "node 99 (data 96)"),
        (1 + 32 * 97, "(tree 32)"),
        (1 + 33 * 97, "(tree 33)"),  # a child of tree 1
        (2 + 33 * 97, f"(data {33 * 96})"),
    ],
)
def test_a_wrong_tag_is_told_with_its_node(deep, node, name):
    for at in (node * NODE + 400, node * NODE + 2222):
        broken = changed(deep, at, bytes([deep[at] ^ 0x10]), tagged=False)
        with pytest.raises(CheckError, match=r"the tag \(MAC\) of ") as caught:
            read_protected_file(broken, "the file")
        assert caught.value.problem.startswith("the file: ")
        assert name in caught.value.problem


def test_nodes_that_change_places_are_found(deep):
    one, two = deep[2 * NODE : 3 * NODE], deep[98 * NODE : 99 * NODE]
    for swapped in (two, bytes(NODE), one[::-1]):
        with pytest.raises(CheckError, match=r"node 2 \(data 0\)"):
            read_protected_file(changed(deep, 2 * NODE, swapped, tagged=False), "x")


A = golden_file("a")
C = golden_file("c")
BROKEN = {
    "empty": (b"", "not a protected file"),
    "short": (A[:7], "not a protected file"),
    "magic": (b"\0" + A[1:], "not a protected file"),
    "text": (b'{"a": 1}' * 512, "not a protected file"),
    "a byte short": (A[:-1], "truncated"),
    "a byte long": (A + b"\0", "truncated"),
    "half": (C[: len(C) // 2 // NODE * NODE], "holds 200000 bytes, but has 25 nodes"),
    "a node short": (C[:-NODE], "holds 200000 bytes, but has 50 nodes"),
    "a node long": (C + bytes(NODE), "holds 200000 bytes, but has 52 nodes"),
    "major": (changed(A, 8, b"\2"), "version 2.0"),
    "minor": (changed(A, 9, b"\1"), "version 1.1"),
    "encrypted": (changed(A, 94, b"\0"), "encrypted"),
    "neither": (changed(A, 94, b"\2"), "encrypted"),
    "sealed": (changed(A, 60, b"\0"), "key of one machine"),
    "updating": (changed(A, 93, b"\1"), "not written to its end"),
    "behind the first node": (changed(A, 3487, b"x"), "behind the tagged part"),
    "at the first node's end": (changed(C, 4095, b"x"), "behind the tagged part"),
    "negative": (changed(A, SIZE, struct.pack("<q", -1)), "holds -1 bytes"),
    "most": (changed(A, SIZE, struct.pack("<q", (1 << 63) - 1)), "but has 1 nodes"),
    "one too many": (changed(A, SIZE, struct.pack("<q", 3073)), "holds 3073 bytes"),
    "less": (changed(C, SIZE, struct.pack("<q", 3072)), "but has 51 nodes"),
    "a node's less": (changed(C, SIZE, struct.pack("<q", 200000 - NODE)), "but has 51 nodes"),
    "no name": (changed(A, 95, bytes(260)), "no name"),
    "no end of the name": (changed(A, 95, b"n" * 260), "no name"),
    "the root's key": (changed(C, 95 + 288, b"k"), "node 1 has a key"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused(name):
    data, words = BROKEN[name]
    with pytest.raises(InputError) as caught:
        read_protected_file(data, "the file")
    assert words in caught.value.problem
    assert caught.value.problem.startswith("the file: ")
    assert "\n" not in caught.value.problem
    assert caught.value.hint


@pytest.mark.parametrize("letter", GOLDEN)
def test_what_says_that_it_is_encrypted(letter):
    data = golden_file(letter)
    assert not is_encrypted(data)
    assert is_encrypted(changed(data, 94, b"\0"))
    for other in (changed(data, 94, b"\2"), b"\0" * NODE, b"", changed(data, 94, b"\0")[:95]):
        assert not is_encrypted(other)


def test_the_key_of_a_node_is_refused():
    """Under its own key, the tag would even be right."""
    key = b"k" * 16
    tag = AESGCM(key).encrypt(bytes(12), b"", C[2 * NODE : 3 * NODE])
    data = changed(C, NODE, key + tag, tagged=False)
    data = changed(data, 95 + 304, gmac(data[NODE : 2 * NODE]))
    with pytest.raises(InputError, match="node 2 has a key of its own"):
        read_protected_file(data, "x")


def test_the_name_of_a_file_is_text_whatever_it_is():
    data = changed(A, 95, b"\xff\n\x1b[1m" + bytes(20))
    assert read_protected_file(data, "x").filename == "\\xff\n\x1b[1m"


@hypothesis.given(st.sampled_from([A, golden_file("b"), C]), st.data())
@hypothesis.settings(max_examples=300)
def test_no_change_gives_other_content_unnoticed(data, draw):
    """Except a change that was computed to do that: see below."""
    at = draw.draw(st.integers(0, len(data) - 1))
    flip = draw.draw(st.integers(1, 255))
    broken = changed(data, at, bytes([data[at] ^ flip]), tagged=False)
    try:
        found = read_protected_file(broken, "x")
    except ImagekitError:
        return
    assert 10 <= at < 77, "of what is not tagged, only ids and versions of the machine are open"
    assert found == read_protected_file(data, "x")


@hypothesis.given(st.binary(max_size=200), st.integers(0, 3), st.data())
def test_hostile_files_give_errors_alone(start, nodes, draw):
    meta = draw.draw(st.binary(max_size=400))
    data = (A[:8] + start).ljust(95, b"\0")[:95] + meta
    data = data.ljust(max(nodes, 1) * NODE, draw.draw(st.sampled_from([b"\0", b"\xff"])))
    for given in (data, with_root_tag(A[:95] + data[95:3487] + bytes(609)) + bytes(nodes * NODE)):
        try:
            read_protected_file(given, "x")
        except ImagekitError as error:
            assert error.hint


@pytest.mark.parametrize("mac", [bytes(16), bytes(range(16)), b"\xff" * 16])
def test_tags_as_text(mac):
    text = mac_text(mac)
    assert len(text) == 47
    for spelled in (text, f"{text}\n", text.upper(), text.encode(), f"{text}\n".encode()):
        assert parse_mac_text(spelled, "x") == mac
    assert text == protected_files.mac_text(mac)
    with pytest.raises(ValueError):
        mac_text(mac[1:])


TEXT = mac_text(bytes(range(16)))


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", TEXT[:-1], f"{TEXT}\n\n", f" {TEXT}", f"{TEXT} ", f"{TEXT}0", f"{TEXT}-00"),
        *(TEXT.replace("-", ":"), TEXT.replace("0e", "0g"), TEXT.replace("0e", "+e")),
        *(TEXT.replace("0e", "0٣"), TEXT.replace("-", ""), "x" * 100_000, "0-1-" * 12),
    ],
)
def test_what_is_no_tag_is_refused(text):
    for given in (text, text.encode()):
        with pytest.raises(InputError, match=r"file: .* is no tag") as caught:
            parse_mac_text(given, "file")
        assert "\n" not in caught.value.problem
        assert len(caught.value.problem) < 200


# -- forged tags: linear algebra over GF(2^128), from NIST SP 800-38D alone


def times(one: int, two: int) -> int:
    product = 0
    for bit in range(127, -1, -1):
        if one >> bit & 1:
            product ^= two
        two = two >> 1 ^ (0xE1 << 120 if two & 1 else 0)
    return product


def power(base: int, exponent: int) -> int:
    result = 1 << 127  # the one: the first bit is the lowest coefficient
    while exponent:
        if exponent & 1:
            result = times(result, base)
        base = times(base, base)
        exponent >>= 1
    return result


H = 0x66E94BD4EF8A2C3B884CFA59CA342B2E


def weight(block: int, size: int) -> int:
    """What a block of `size` tagged bytes is multiplied with."""
    return power(H, size // 16 - block + 1)


def forged(tagged: bytes, mac: bytes, block: int) -> bytes:
    """The same bytes with one block chosen so that they have this tag."""
    difference = int.from_bytes(gmac(tagged), "big") ^ int.from_bytes(mac, "big")
    inverse = power(weight(block, len(tagged)), 2**128 - 2)
    fix = int.from_bytes(tagged[16 * block : 16 * block + 16], "big") ^ times(difference, inverse)
    return tagged[: 16 * block] + fix.to_bytes(16, "big") + tagged[16 * block + 16 :]


def test_another_file_with_the_same_tag_is_made_by_calculation():
    """Which the reader has to accept, and the list of hashes does not."""
    good = read_protected_file(A, "x")
    evil = b'{"entry_points": ["/bin/sh"], "debuggable": true}'
    meta = bytearray(A[META])
    meta[260:268] = struct.pack("<q", len(evil))
    meta[320 : 320 + len(evil)] = evil
    # The block that makes up for it is behind the content, where nobody looks.
    data = A[:95] + forged(bytes(meta), good.mac, block=100) + A[3487:]
    found = read_protected_file(data, "x")
    assert found.mac == good.mac
    assert found.content == evil != good.content
    differing = compare_lists([listed(A)], [listed(data)])
    assert len(differing) == 1 and "has the SHA-256" in differing[0]


def listed(data: bytes) -> ListedFile:
    return ListedFile("/f", hashlib.sha256(data).hexdigest())


def test_a_data_node_is_forged_without_touching_another_node():
    good = read_protected_file(C, "x")
    node = bytearray(C[2 * NODE : 3 * NODE])
    mac = gmac(bytes(node))
    node[:5] = b"EVIL\n"
    data = C[: 2 * NODE] + forged(bytes(node), mac, block=9) + C[3 * NODE :]
    found = read_protected_file(data, "x")
    assert found.mac == good.mac
    assert found.content[3072:3077] == b"EVIL\n"
    assert data[: 2 * NODE] == C[: 2 * NODE] and data[3 * NODE :] == C[3 * NODE :]


def test_even_a_forged_file_that_looks_right_in_every_byte_is_made():
    """Sensible JSON, nothing behind it: no rule about what a file looks like saves a tag."""
    good = read_protected_file(A, "x")
    letters = 48  # each of ` a b … o has four bits that may be chosen
    start, end = b'{"entry_points": ["/bin/sh"], "note": "', b'"}\n'
    evil = start + b"`" * letters + end
    meta = bytearray(A[META])
    meta[260:268] = struct.pack("<q", len(evil))
    meta[320 : 320 + len(evil)] = evil
    wanted = int.from_bytes(gmac(bytes(meta)), "big") ^ int.from_bytes(good.mac, "big")
    # What each of these bits changes in the tag.
    effects = []
    for letter in range(letters):
        block, byte = divmod(320 + len(start) + letter, 16)
        factor = weight(block, len(meta))
        effects += [times(1 << 8 * (15 - byte) + bit, factor) for bit in range(4)]
    for place, bit in ((number // 4, number % 4) for number in combination(effects, wanted)):
        meta[320 + len(start) + place] ^= 1 << bit
    found = read_protected_file(A[:95] + bytes(meta) + A[3487:], "x")
    assert found.mac == good.mac
    document = json.loads(found.content)
    assert document["entry_points"] == ["/bin/sh"]
    assert set(document["note"]) <= set("`abcdefghijklmno")
    assert found.content == evil[: len(start)] + document["note"].encode() + end


def combination(vectors: list[int], wanted: int) -> list[int]:
    """Indices of vectors over GF(2) that add up to the wanted one: Gauss."""
    basis: dict[int, tuple[int, int]] = {}
    for number, vector in enumerate(vectors):
        members = 1 << number
        while vector and vector.bit_length() in basis:
            other, more = basis[vector.bit_length()]
            vector, members = vector ^ other, members ^ more
        if vector:
            basis[vector.bit_length()] = vector, members
    chosen = 0
    while wanted:
        vector, members = basis[wanted.bit_length()]  # KeyError: more letters are needed
        wanted, chosen = wanted ^ vector, chosen ^ members
    return [number for number in range(len(vectors)) if chosen >> number & 1]
