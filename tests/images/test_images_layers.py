import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.errors import InputError
from imagekit.images.layers import Layer, LayerFile, write_layer
from imagekit.images.oci import OCI_LAYER_GZIP
from imagekit.images.store import BlobStore
from imagekit.images.tarindex import build_index


def tar_of(store: BlobStore, layer: Layer) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(store.path(layer.descriptor.digest).read_bytes()))


def quiet(_: int) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs" / "sha256")


NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=90
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 250)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(PATHS, st.binary(max_size=2000), max_size=8),
    st.integers(0, 2**34),
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_read_back_by_python_and_by_our_index(
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[str, bytes],
    epoch: int,
    mode: int,
    uid: int,
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("s") / "sha256")
    files = {p: d for p, d in files.items() if not any(q.startswith(p + "/") for q in files)}
    entries = [LayerFile(path, data, mode, uid=uid) for path, data in files.items()]
    layer = write_layer(entries, store, epoch)
    with tar_of(store, layer) as tar:
        members = {"/" + member.name: member for member in tar}
        for path, data in files.items():
            member = members[path]
            content = tar.extractfile(member)
            assert content is not None
            assert content.read() == data
            found = (member.mode, member.uid, member.gid, member.mtime, member.uname, member.gname)
            assert found == (mode, uid, 0, epoch, "", "")
        names = [member.name for member in tar]
    assert names == sorted(names, key=str.encode)
    index = build_index(layer.descriptor, store, quiet)
    assert index.diff_id == layer.diff_id
    hashes = {"/" + entry.path: entry.sha256 for entry in index.entries if entry.kind == "file"}
    assert hashes == {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def test_layer_bytes_do_not_depend_on_order_umask_locale_or_file_times(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.store import BlobStore
folder = Path(sys.argv[1])
(folder / "f").write_bytes(b"content")
entries = [LayerFile("/b/ä", b"1"), LayerFile("/a", link="b"), LayerFile("/c", folder / "f")]
if sys.argv[2] == "1":
    entries.reverse()
print(write_layer(entries, BlobStore(folder / "sha256"), 1700000000).diff_id)
"""
    digests = set()
    for number, locale in ((0, "C"), (1, "C.UTF-8")):
        folder = tmp_path / str(number)
        folder.mkdir()
        digests.add(
            subprocess.run(
                [sys.executable, "-c", script, str(folder), str(number)],
                env={**os.environ, "LC_ALL": locale, "PYTHONHASHSEED": str(number), "TZ": locale},
                umask=0o077 if number else 0,
                check=True,
                capture_output=True,
            ).stdout
        )
    assert len(digests) == 1


def test_the_layer_of_a_small_file_has_these_bytes(store: BlobStore) -> None:
    layer = write_layer([LayerFile("/ppml/x", b"hi\n", 0o600)], store, 1)
    packed = store.path(layer.descriptor.digest).read_bytes()
    assert layer.descriptor.media_type == OCI_LAYER_GZIP
    assert packed[:10] == b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # no name, no time, no system
    data = gzip.decompress(packed)
    assert layer.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert len(data) == 5 * 512
    assert data[:6] == b"ppml/\0"
    assert data[156:157] + data[257:265] == b"5ustar\x0000"
    assert data[512 + 100 : 512 + 124] == b"0000600\x000000000\x000000000\x00"
    assert data[512 + 136 : 512 + 148] == b"00000000001\0"
    assert data[1024:] == b"hi\n" + bytes(1533)


def test_parents_take_their_mode_from_the_image_below(store: BlobStore) -> None:
    below = {"/tmp": LayerFile("/tmp", mode=0o1777, directory=True)}
    layer = write_layer([LayerFile("/tmp/a/x", b"")], store, 0, parents=below.get)
    with tar_of(store, layer) as tar:
        assert [(m.name, m.mode) for m in tar.getmembers()[:2]] == [
            ("tmp", 0o1777),
            ("tmp/a", 0o755),
        ]


@pytest.mark.parametrize(
    "entries",
    [
        [LayerFile("relative", b"")],
        [LayerFile("/a/../b", b"")],
        [LayerFile("/a//b", b"")],
        [LayerFile("/", directory=True)],
        [LayerFile("/a\0", b"")],
        [LayerFile("/a")],
        [LayerFile("/a", b"", link="x")],
        [LayerFile("/a", link="")],
        [LayerFile("/a", b"", uid=-1)],
        [LayerFile("/a", b"1"), LayerFile("/a", b"2")],
        [LayerFile("/a", b""), LayerFile("/a/b", b"")],
        [LayerFile("/a", Path("/nonexistent/file"))],
        [LayerFile("/a", Path("/dev/null"))],
    ],
)
def test_an_unfit_entry_is_refused_and_nothing_stays(
    store: BlobStore, entries: list[LayerFile]
) -> None:
    with pytest.raises(InputError):
        write_layer(entries, store, 0)
    assert not [path for path in store.folder.parent.rglob("*") if path.is_file()]


def test_a_layer_below_a_link_of_the_base_is_refused(store: BlobStore) -> None:
    with pytest.raises(InputError, match="no directory"):
        write_layer(
            [LayerFile("/lib/x", b"")],
            store,
            0,
            parents=lambda path: LayerFile(path, link="usr/lib"),
        )
