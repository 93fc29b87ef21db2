import gzip
import io
import random
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.errors import InputError
from imagekit.images import tarread
from imagekit.images.streams import Prefetch, Worker, decompress, sniff
from imagekit.images.tarread import Member, TarReader


def read(data: bytes, total: bool = True, **options: bool) -> list[tuple[Member, bytes]]:
    reader = TarReader(
        iter([data[i : i + 700] for i in range(0, len(data), 700)]),
        "layer X",
        total=len(data) if total else None,
        **options,
    )
    return [(member, b"".join(map(bytes, reader.content()))) for member in reader]


def archive(*members: tuple[str, bytes | str], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def patched(at: int, new: bytes, name: str = "victim", checksum: bool = True) -> bytes:
    raw = bytearray(archive((name, b"content")))
    raw[at : at + len(new)] = new
    if checksum:
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_are_read_in_both_dialects(form: int) -> None:
    name = "d" * 120 + "/" + "é" * 80
    data = archive((name, b"1"), ("./a//b/./c", b"22"), ("l", "t/" * 80), form=form)
    found = read(data)
    assert [(m.path, m.kind, content) for m, content in found] == [
        (name, "0", b"1"),
        ("a/b/c", "0", b"22"),
        ("l", "2", b""),
    ]
    assert found[2][0].link == "t/" * 80
    assert data[found[1][0].offset :][:2] == b"22"


def test_numbers_beyond_octal_are_read() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo("f")
        info.uid, info.gid, info.mtime = 3_000_000, 4_000_000_000, -5
        tar.addfile(info)
    ((member, _),) = read(out.getvalue())
    assert (member.uid, member.gid, member.mtime) == (3_000_000, 4_000_000_000, -5)


@pytest.mark.parametrize("name", ["plain", "é" * 45, "\udcff" * 90])
def test_checksums_of_all_names_are_checked(name: str) -> None:
    raw = bytearray(archive((name, b""), form=tarfile.GNU_FORMAT))
    assert read(bytes(raw))[0][0].path == name
    for change in (1, 65521, -1):
        wrong = int(raw[148:154], 8) + change
        broken = raw[:148] + b"%06o\0 " % wrong + raw[156:]
        with pytest.raises(InputError, match="wrong checksum"):
            read(bytes(broken))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./a/b", "a/b"),
        (".//a", "a"),
        ("././a", "a"),
        ("/a/", "a"),
        ("a/.hidden", "a/.hidden"),
        (".hidden", ".hidden"),
        ("a/./b", "a/b"),
        ("a//b", "a/b"),
        ("a..b/c.d", "a..b/c.d"),
        ("a/.", "a"),
    ],
)
def test_names_are_brought_into_one_form(name: str, path: str) -> None:
    assert read(archive((name, b"")))[0][0].path == path


@pytest.mark.parametrize("name", ["..", "./..", "../a", "./../a", "a/..", "a/../b", ".//../a"])
def test_no_spelling_of_a_name_leads_out(name: str) -> None:
    with pytest.raises(InputError, match=r"'\.\.' in a name"):
        read(archive((name, b"")))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (archive(("a/../../b", b"")), r"'\.\.' in a name"),
        (patched(0, b"../x\0"), r"'\.\.' in a name"),
        (patched(0, b"x", checksum=False), "wrong checksum"),
        (patched(148, b"zzzzzzzz", checksum=False), "checksum that is no number"),
        (patched(124, b"\xff" * 12), "a size of -1 bytes"),
        (patched(124, b"\x80" + b"\x7f" * 11), r"a size of \d+ bytes"),
        (patched(124, b"77777777777\0"), "more than the archive has left"),
        (patched(124, b"0000009\0"), "size that is no number"),
        (patched(156, b"S"), "a sparse file"),
        (patched(156, b"Z"), "unknown type 'Z'"),
        (patched(0, bytes(100)), "without a name"),
        (archive(("victim", b"x" * 2000))[:1500], "more than the archive has left"),
        (archive(("victim", b"x"))[:300], "ends in the middle"),
        (archive(("victim", b"x"))[:1024] + bytes(512) + b"x" * 512, "data after a zero block"),
        (patched(156, b"x"), "damaged pax header|ends in the middle|without its entry"),
    ],
)
def test_an_unsafe_or_damaged_archive_is_one_error(data: bytes, problem: str) -> None:
    with pytest.raises(InputError, match=rf"^layer X.*({problem})"):
        read(data)


def test_the_error_names_the_entry() -> None:
    with pytest.raises(InputError, match="victim"):
        read(patched(156, b"Z"))


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    raw = bytearray(archive(("PaxHeader", records)))
    raw[156:157] = kind
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw[: 512 + len(records) + -len(records) % 512])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (pax(b"19 GNU.sparse.a=1\n\n"), "sparse|damaged"),
        (pax(b"22 GNU.sparse.major=1\n"), "sparse"),
        (pax(b"12 path=a/x\n", b"g"), "global"),
        (pax(b"99 path=a\n"), "damaged pax"),
        (pax(b"path=a\n"), "damaged pax"),
        (pax(b"10 size=x\n"), "size that is no number"),
        (pax(b"10 path=a\n") + pax(b"10 path=b\n"), "two pax headers"),
        (pax(b"10 path=a\n") + pax(b"longname\0", b"L"), "a GNU and a pax name"),
        (pax(b"12 path=a\0b\n"), "zero byte"),
        (pax(b"11 mtime=x\n"), "mtime"),
        (pax(b"x" * ((1 << 20) + 1)), "an extended header of"),
    ],
)
def test_a_doubtful_extended_header_is_one_error(data: bytes, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read(data + archive(("victim", b"1")))


def test_a_harmless_global_header_is_passed_over() -> None:
    assert read(pax(b"15 comment=abc\n", b"g") + archive(("v", b"1")))[0][1] == b"1"


def test_too_many_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarread, "MAX_MEMBERS", 2)
    with pytest.raises(InputError, match="more than 2 entries"):
        read(archive(("a", b""), ("b", b""), ("c", b"")))


def test_the_end_mark_is_needed_where_no_digest_vouches() -> None:
    data = archive(("a", b"1"))[:1024]
    assert len(read(data)) == 1
    with pytest.raises(InputError, match="without its end mark"):
        read(data, require_end=True)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_but_an_input_error_comes_out_of_the_parser(data: st.DataObject) -> None:
    raw = bytearray(archive(("some/name", b"abc" * 300), ("é" * 120, b"x"), ("l", "t")))
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):  # make the checksum right again, to get further
            block = at // 512 * 512
            raw[block + 148 : block + 156] = b" " * 8
            raw[block + 148 : block + 156] = b"%06o\0 " % sum(raw[block : block + 512])
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        read(bytes(raw), total=data.draw(st.booleans()))
    except InputError as error:
        assert "layer X" in error.problem
        assert error.hint


@given(st.binary(max_size=2000))
def test_random_bytes_are_never_more_than_an_input_error(raw: bytes) -> None:
    with suppress(InputError):
        read(raw, total=False)


DATA = random.Random(5).randbytes(50_000) * 40


def compressors() -> list[tuple[str, Callable[[bytes], bytes]]]:
    import bz2
    import lzma

    return [("gzip", gzip.compress), ("xz", lzma.compress), ("bzip2", bz2.compress)]


@pytest.mark.parametrize(("form", "compress"), compressors())
def test_compressed_streams_of_several_members_are_read(
    form: str, compress: Callable[[bytes], bytes]
) -> None:
    packed = compress(DATA[:1_000_000]) + compress(DATA[1_000_000:])
    assert sniff(packed) == form
    for size in (1 << 16, 1 << 20):
        blocks = iter([packed[i : i + size] for i in range(0, len(packed), size)])
        assert b"".join(decompress(blocks, form, "x")) == DATA


@pytest.mark.parametrize(("form", "compress"), compressors())
def test_damaged_compressed_streams_are_one_error(
    form: str, compress: Callable[[bytes], bytes]
) -> None:
    packed = compress(DATA)
    for bad in (b"", packed[:-5], packed + b"trailing rubbish", packed[:200] + b"!" * 300):
        with pytest.raises(InputError, match=f"x: .*{form}"):
            list(decompress(iter([bad] if bad else []), form, "x"))


def test_zstd_without_support_is_a_clear_error() -> None:
    try:
        import compression.zstd  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="zstd"):
            list(decompress(iter([b"\x28\xb5\x2f\xfd"]), "zstd", "x"))


def test_a_bomb_is_handed_out_in_small_blocks() -> None:
    packed = gzip.compress(bytes(30 << 20))
    assert max(map(len, decompress(iter([packed]), "gzip", "x"))) <= 1 << 20


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def broken() -> Iterator[bytes]:
        yield b"1"
        raise InputError("p", "h")

    with Prefetch(broken()) as ahead, pytest.raises(InputError):
        list(ahead)

    def fail(_: bytes) -> None:
        raise InputError("p", "h")

    with Worker(fail) as worker:
        for _ in range(20):
            worker.feed(b"x")
        with pytest.raises(InputError):
            worker.finish()


def test_leaving_early_stops_the_thread() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1000

    with Prefetch(endless()) as ahead:
        assert len(next(ahead)) == 1000
