"""Compression with always the same bytes."""

import gzip
import hashlib
import random
import subprocess

import pytest

from imagekit.images.gzipped import MEMBER, GzipStream
from imagekit.images.streams import decompress


def packed(data: bytes, piece: int, threads: int) -> bytes:
    stream = GzipStream(threads)
    try:
        pieces = []
        for start in range(0, len(data), piece):
            pieces += stream.feed(data[start : start + piece])
        return b"".join(pieces + stream.finish())
    finally:
        stream.close()


def content(size: int) -> bytes:
    block = random.Random(1).randbytes(1000) + bytes(1000)
    return (block * (size // len(block) + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, MEMBER - 1, MEMBER, MEMBER + 1, 5 * MEMBER + 7])
def test_what_is_packed_unpacks_to_the_same(size: int) -> None:
    data = content(size)
    zipped = packed(data, 1 << 20, 2)
    assert gzip.decompress(zipped) == data
    assert b"".join(decompress(iter([zipped]), "gzip", "test")) == data


def test_threads_and_pieces_change_nothing() -> None:
    data = content(3 * MEMBER + 12345)
    expected = packed(data, 1 << 20, 1)
    assert packed(data, 777_777, 3) == expected
    assert packed(data, len(data), 8) == expected


def test_other_programs_unpack_several_members(tmp_path) -> None:
    data = content(2 * MEMBER + 1)
    path = tmp_path / "x.gz"
    path.write_bytes(packed(data, MEMBER, 2))
    assert subprocess.run(["gzip", "-dc", path], capture_output=True, check=True).stdout == data


def test_these_bytes_are_in_published_digests() -> None:
    """If this changes, so does the digest of every image: raise RULES and BUILDER."""
    found = hashlib.sha256(packed(content(MEMBER + 1), MEMBER, 2)).hexdigest()
    assert found == "0bda6d7c4950ff36054140605543cda5438de84fd758c2dfc942acda601bf7a1"
