import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from imagekit import files
from imagekit.errors import InputError
from imagekit.files import TEMPORARY_PREFIX, Aside, remove_stale, write_atomically
from imagekit.images.oci import BlobChain, Descriptor, digest_of
from imagekit.images.store import BlobStore


def everything(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "s" / "blobs" / "sha256")


def test_a_blob_comes_back_and_adding_it_twice_keeps_one(store: BlobStore) -> None:
    first, second = store.add_bytes(b"data"), store.add_bytes(b"data")
    assert first == second
    with store.open_blob(first.digest) as stream:
        assert stream.read() == b"data"
    assert everything(store.folder) == [first.hex]


@pytest.mark.parametrize("wrong", [{"digest": digest_of(b"other")}, {"size": 3}, {"size": 5}])
def test_a_wrong_digest_or_size_is_refused_and_nothing_stays(
    store: BlobStore, tmp_path: Path, wrong: dict[str, object]
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    with pytest.raises(InputError, match="has digest"):
        store.add_file(source, **wrong)  # type: ignore[arg-type]
    assert everything(store.folder.parent) == []


def test_a_damaged_blob_of_another_size_is_replaced(store: BlobStore) -> None:
    blob = store.add_bytes(b"data")
    store.path(blob.digest).write_bytes(b"da")
    store.add_bytes(b"data")
    assert store.path(blob.digest).read_bytes() == b"data"


def test_a_missing_blob_and_a_bad_digest_are_one_error_each(store: BlobStore) -> None:
    with pytest.raises(InputError, match="is missing"):
        store.open_blob(digest_of(b""))
    for text in ("sha256:../../etc/passwd", "sha512:" + "0" * 128, "sha256:" + "A" * 64):
        with pytest.raises(InputError, match="not a SHA-256 digest"):
            store.open_blob(text)


def test_blobs_are_hard_linked_between_stores(store: BlobStore, tmp_path: Path) -> None:
    other = BlobStore(tmp_path / "o" / "blobs" / "sha256")
    blob = store.add_bytes(b"data")
    other.add_from(blob, BlobChain((BlobStore(tmp_path / "none"), store)))
    assert other.path(blob.digest).samefile(store.path(blob.digest))


def test_blobs_are_copied_and_checked_where_links_are_not_possible(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "cross-device")

    monkeypatch.setattr(os, "link", refuse)
    other = BlobStore(tmp_path / "o" / "blobs" / "sha256")
    blob = store.add_bytes(b"data")
    other.add_from(blob, store)
    assert other.path(blob.digest).read_bytes() == b"data"
    store.path(blob.digest).write_bytes(b"evil")
    with pytest.raises(InputError, match="has digest"):
        BlobStore(tmp_path / "p" / "sha256").add_from(blob, store)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "write", refuse)
    with pytest.raises(InputError, match=f"cannot write in {store.folder}") as caught:
        store.add_bytes(b"data")
    assert caught.value.hint
    monkeypatch.undo()
    assert everything(store.folder.parent) == []


@pytest.mark.parametrize("name", ["fsync", "open"])
@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_refused_system_call_is_one_error(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    store.add_bytes(b"first")

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, name, refuse)
    with pytest.raises(InputError, match=str(store.folder)):
        store.add_bytes(b"data")
    monkeypatch.undo()
    assert everything(store.folder.parent) == [digest_of(b"first")[7:]]


def test_a_file_in_the_folders_place_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"")
    with pytest.raises(InputError, match="cannot make the folder"):
        BlobStore(tmp_path / "s" / "sha256").add_bytes(b"data")


def test_the_file_size_limit_is_one_error_and_leaves_nothing(store: BlobStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match=f"cannot write in {store.folder}"):
            store.add_bytes(bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything(store.folder.parent) == []


WRITER = """
import sys, time
from pathlib import Path
from imagekit.images.store import BlobStore
writer = BlobStore(Path(sys.argv[1])).writer()
writer.write(b"half")
print("ready", flush=True)
time.sleep(60)
"""


def test_leftovers_of_a_killed_writer_go_and_a_live_writers_stay(store: BlobStore) -> None:
    command = [sys.executable, "-c", WRITER, str(store.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        store.add_bytes(b"one")
        (left,) = (n for n in everything(store.folder.parent) if n.startswith(TEMPORARY_PREFIX))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert left in everything(store.folder.parent)
        BlobStore(store.folder).add_bytes(b"two")
        assert left not in everything(store.folder.parent)


def test_a_temporary_that_was_taken_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = files.fcntl.flock, []

    def late(fd: int, operation: int) -> None:
        if not calls:  # a cleaner comes between open and flock
            calls.append(1)
            next(tmp_path.glob(TEMPORARY_PREFIX + "*")).unlink()
        flock(fd, operation)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with Aside(tmp_path) as aside:
        aside.write(b"x")
        aside.commit(tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"x"


def test_foreign_files_are_not_taken_for_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".other").write_bytes(b"")
    remove_stale(tmp_path)
    remove_stale(tmp_path / "none")
    assert everything(tmp_path) == [".other"]


def test_an_atomic_write_that_fails_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "fault")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(InputError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert everything(tmp_path) == ["file"]


def test_a_descriptor_survives_json_and_bad_ones_are_named() -> None:
    blob = Descriptor("type", digest_of(b""), 0, {"a": "b"})
    assert Descriptor.from_json(blob.to_json(), "x") == blob
    good = blob.to_json()
    for key, value in (
        ("size", -1),
        ("size", True),
        ("size", "1"),
        ("digest", 5),
        ("mediaType", None),
        ("annotations", {"a": 1}),
    ):
        with pytest.raises(InputError, match="index"):
            Descriptor.from_json({**good, key: value}, "index")
