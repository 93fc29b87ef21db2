import gzip
import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from imagekit.errors import InputError
from imagekit.images.cache import Cache
from imagekit.images.compose import append, new_image
from imagekit.images.layers import Layer, LayerFile, write_layer
from imagekit.images.oci import OCI_LAYER, OCI_LAYER_GZIP, Descriptor, Image, digest_of
from imagekit.images.rootfs import Rootfs
from imagekit.images.tarindex import _entries, dump_index, parse_index
from imagekit.images.tarread import TarReader

Spec = tuple[str, bytes | str | None]
"""("path", content), ("link", "-> target"), ("hard", "= target"), ("folder/", None)."""


def layer(cache: Cache, *specs: Spec, packed: bool = False) -> Layer:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in specs:
            info = tarfile.TarInfo(name)
            info.devmajor, info.devminor = 1, 3
            if content is None:
                info.type, info.mode = (
                    (tarfile.DIRTYPE, 0o700)
                    if name.endswith("/")
                    else (
                        tarfile.CHRTYPE,
                        0,
                    )
                )
            elif isinstance(content, str):
                info.type = tarfile.SYMTYPE if content.startswith("-> ") else tarfile.LNKTYPE
                info.linkname = content.partition(" ")[2]
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    data = out.getvalue()
    blob = gzip.compress(data) if packed else data
    found = cache.blobs.add_bytes(blob, OCI_LAYER_GZIP if packed else OCI_LAYER)
    return Layer(found, digest_of(data))


def image(cache: Cache, *layers: Sequence[Spec]) -> Image:
    return new_image([layer(cache, *specs) for specs in layers], cache.blobs, created=0)


def view(cache: Cache, *layers: Sequence[Spec]) -> Rootfs:
    return Rootfs.from_image(image(cache, *layers), cache)


def walk(rootfs: Rootfs, path: str = "") -> list[str]:
    found = []
    for name in rootfs.children(path or "/"):
        entry = rootfs.entry(f"{path}/{name}", follow=False)
        assert entry is not None
        found.append(f"{path}/{name}")
        if entry.kind == "dir":
            found += walk(rootfs, f"{path}/{name}")
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([[("a/x", b"1"), ("a/y", b"2")], [("a/.wh.x", b"")]], ["/a", "/a/y"]),
        ([[("a/x", b"1")], [(".wh.a", b"")]], []),
        ([[("a/x", b"1")], [(".wh.a", b""), ("a/z", b"2")]], ["/a", "/a/z"]),
        ([[("a/x", b"1")], [("a/z", b"2"), (".wh.a", b"")]], ["/a", "/a/z"]),
        ([[("a/x", b""), ("a/d/e", b"")], [("a/.wh..wh..opq", b"")]], ["/a"]),
        ([[("a/x", b"")], [("a/n", b""), ("a/.wh..wh..opq", b"")]], ["/a", "/a/n"]),
        ([[("a/d/x", b"")], [("a/d/n", b""), ("a/.wh..wh..opq", b"")]], ["/a", "/a/d", "/a/d/n"]),
        ([[("a/x", b"")], [("a/", None)]], ["/a", "/a/x"]),
        ([[("a/x", b"")], [("a", b"file")]], ["/a"]),
        ([[("a", b"file")], [("a/", None), ("a/x", b"")]], ["/a", "/a/x"]),
        ([[("a", b"")], [(".wh.none", b""), ("none/.wh.x", b"")]], ["/a"]),
        ([[("a", b"")], [(".wh..wh.plnk/", None)]], ["/a"]),
        ([[("d/x", b""), ("l", "-> d")], [("l/.wh.x", b"")]], ["/d", "/l"]),
        ([[("d/x", b""), ("l", "-> d")], [("l/", None), ("l/y", b"")]],
         ["/d", "/d/x", "/l", "/l/y"]),
        ([[("usr/lib/a", b""), ("lib", "-> usr/lib")], [("lib/b", b"")]],
         ["/lib", "/usr", "/usr/lib", "/usr/lib/a", "/usr/lib/b"]),
        ([[("l", "-> ../../../out")], [("l/x", b"")]], ["/l", "/out", "/out/x"]),
    ],
)  # fmt: skip
def test_layers_are_merged_like_an_engine_does(
    cache: Cache, layers: list[list[Spec]], expected: list[str]
) -> None:
    assert walk(view(cache, *layers)) == expected


def test_links_are_followed_inside_the_image_and_never_leave_it(cache: Cache) -> None:
    rootfs = view(
        cache,
        [
            ("usr/lib/x", b"1"),
            ("lib", "-> usr/lib"),
            ("abs", "-> /lib/x"),
            ("out", "-> ../../../../usr/lib/../lib/x"),
            ("dangling", "-> none"),
            ("loop", "-> loop2"),
            ("loop2", "-> /loop"),
        ],
    )
    for path in ("/lib/x", "/abs", "/out", "/../../lib/x", "//lib//./x"):
        assert rootfs.resolve(path) == "/usr/lib/x"
        assert rootfs.read(path) == b"1"
        assert rootfs.sha256(path) == hashlib.sha256(b"1").hexdigest()
    assert [rootfs.kind(p) for p in ("/lib", "/abs", "/dangling", "/loop", "/no", "/abs/x")] == [
        "dir",
        "file",
        None,
        None,
        None,
        None,
    ]
    link = rootfs.entry("/abs", follow=False)
    assert link is not None
    assert (link.kind, link.target) == ("symlink", "/lib/x")
    for path, problem in (("/loop", "ELOOP"), ("/abs/x", "ENOTDIR"), ("/dangling", "not there")):
        with pytest.raises(InputError, match=problem):
            rootfs.resolve(path)
    assert rootfs.entry("/dangling") is None


def test_hard_links_share_content_also_with_lower_layers(cache: Cache) -> None:
    rootfs = view(
        cache,
        [("d/a", b"one"), ("b", "= d/a"), ("l", "-> d")],
        [("c", "= l/a"), ("d/a", b"two")],
    )
    assert [rootfs.read(path) for path in ("/b", "/c", "/d/a")] == [b"one", b"one", b"two"]
    entry = rootfs.entry("/c")
    assert entry is not None
    assert (entry.kind, entry.layer) == ("file", 1)


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ([[("a", "= none")]], "hard link to 'none'"),
        ([[("d/", None), ("a", "= d")]], "hard link to 'd'"),
        ([[("a", b"")], [("a/x", b"")]], "ENOTDIR"),
        ([[("a", "-> b"), ("b", "-> a")], [("a/x", b"")]], "ELOOP"),
        ([[("dev/null", None)]], "device node"),
    ],
)
def test_a_layer_that_does_not_fit_is_one_error(
    cache: Cache, layers: list[list[Spec]], problem: str
) -> None:
    built = image(cache, *layers)
    with pytest.raises(InputError, match=problem) as caught:
        Rootfs.from_image(built, cache)
    assert built.layers[-1].digest in caught.value.problem


def test_a_compressed_layer_gives_the_same_view(cache: Cache) -> None:
    specs: list[Spec] = [("a", b"x" * 3_000_000), ("b", b"second")]
    packed = new_image([layer(cache, *specs, packed=True)], cache.blobs, created=0)
    rootfs = Rootfs.from_image(packed, cache)
    assert rootfs.read("/b") == b"second"
    assert rootfs.sha256("/a") == view(cache, specs).sha256("/a")


def test_files_on_top_change_a_new_view_only(cache: Cache, tmp_path: Path) -> None:
    below = view(cache, [("usr/lib/a", b"1"), ("lib", "-> usr/lib"), ("tmp/", None)])
    (tmp_path / "f").write_bytes(b"disk")
    files = [
        LayerFile("/usr/lib/new", b"new"),
        LayerFile("/tmp/f", tmp_path / "f"),
        LayerFile("/link", link="lib/new"),
    ]
    above = below.with_files(files)
    assert [above.read(path) for path in ("/lib/new", "/tmp/f", "/link")] == [
        b"new",
        b"disk",
        b"new",
    ]
    assert walk(below) == ["/lib", "/tmp", "/usr", "/usr/lib", "/usr/lib/a"]
    again = above.with_files([LayerFile("/usr/lib/new", b"newer")])
    assert (again.read("/lib/new"), above.read("/lib/new")) == (b"newer", b"new")
    written = write_layer(files, cache.blobs, 0, parents=below.directory)
    base = below._image
    real = Rootfs.from_image(append(base, written, cache.blobs, created=0, history=""), cache)
    assert walk(real) == walk(above)
    assert [real.entry(path) for path in walk(real)] == [above.entry(path) for path in walk(real)]
    with pytest.raises(InputError, match="no directory"):
        below.with_files([LayerFile("/lib/x", b"")])


def test_the_second_time_the_blob_is_not_read(cache: Cache) -> None:
    built = image(cache, [("a", b"1")])
    Rootfs.from_image(built, cache)
    cache.blobs.path(built.layers[0].digest).unlink()
    assert Rootfs.from_image(built, cache).sha256("/a") == hashlib.sha256(b"1").hexdigest()
    with pytest.raises(InputError, match="is missing"):
        Rootfs.from_image(built, None)


def test_a_corrupt_index_in_the_cache_is_redone(cache: Cache) -> None:
    built = image(cache, [("a", b"1")])
    Rootfs.from_image(built, cache)
    (saved,) = (cache.root / "layers").iterdir()
    good = saved.read_bytes()
    for bad in (b"", good[:-3], good.replace(b'"a"', b'"b"'), b"{}", bytes(100)):
        saved.write_bytes(bad)
        assert walk(Rootfs.from_image(built, cache)) == ["/a"]
        assert saved.read_bytes() == good
    index = parse_index(good)
    assert index is not None
    assert dump_index(index) == good


def test_a_changed_blob_is_caught_when_read_and_when_rechecked(cache: Cache) -> None:
    built = image(cache, [("a", b"good")])
    rootfs = Rootfs.from_image(built, cache)
    path = cache.blobs.path(built.layers[0].digest)
    path.write_bytes(path.read_bytes().replace(b"good", b"evil"))
    with pytest.raises(InputError, match="changed"):
        rootfs.read("/a")
    with pytest.raises(InputError, match="does not have this digest"):
        Rootfs.from_image(built, None)
    lenient = Rootfs.from_image(built, None, lenient=True)
    assert lenient.read("/a") == b"evil"
    assert any("does not have this digest" in problem for problem in lenient.problems)


def test_a_cut_blob_is_one_error_about_the_digest(cache: Cache) -> None:
    built = image(cache, [("a", b"x" * 5000)])
    path = cache.blobs.path(built.layers[0].digest)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=built.layers[0].digest):
        Rootfs.from_image(built, cache)
    assert not list((cache.root / "layers").glob("*")) if (cache.root / "layers").exists() else True


def test_a_wrong_diff_id_is_refused(cache: Cache) -> None:
    good = layer(cache, ("a", b"1"))
    built = new_image([Layer(good.descriptor, digest_of(b"other"))], cache.blobs, created=0)
    with pytest.raises(InputError, match="config says"):
        Rootfs.from_image(built, cache)
    assert Rootfs.from_image(built, cache, lenient=True).problems


def test_an_unknown_layer_type_is_refused(cache: Cache) -> None:
    good = layer(cache, ("a", b"1")).descriptor
    odd = Descriptor("application/x", good.digest, good.size)
    built = new_image([Layer(odd, good.digest)], cache.blobs, created=0)
    with pytest.raises(InputError, match="not supported"):
        Rootfs.from_image(built, cache)


def test_keys_are_found_in_files_that_a_higher_layer_hides(cache: Cache) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    secret = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    built = image(cache, [("x", b"")], [("root/k", b"# mine\n" + secret)], [(".wh.root", b"")])
    for _ in range(2):  # read anew, and from the cache
        (finding,) = Rootfs.from_image(built, cache).key_findings
        assert (finding.layer, finding.path, finding.offset) == (1, "/root/k", 7)


def test_a_key_in_an_elf_file_is_known_to_be_in_a_program(cache: Cache) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    secret = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    specs: list[Spec] = [
        ("filler", b"x" * ((1 << 20) - 2048)),  # what follows lies across the border of blocks
        ("bin/tool", b"\x7fELF" + bytes(700) + secret * 3),
        ("etc/tool.key", b"\x7fEL" + bytes(700) + secret),
        ("etc/short", b"\x7fELF"),
        ("etc/next", secret),
    ]
    expected = [("/bin/tool", True)] * 3 + [("/etc/tool.key", False), ("/etc/next", False)]
    for packed in (False, True):
        built = new_image([layer(cache, *specs, packed=packed)], cache.blobs, created=0)
        for _ in range(2):  # read anew, and from the cache
            found = Rootfs.from_image(built, cache).key_findings
            assert [(key.path, key.program) for key in found] == expected
            assert not any(key.sgx or key.signer for key in found)


@pytest.mark.parametrize("cut", range(1, 6))
def test_an_elf_file_is_known_when_its_first_bytes_come_in_pieces(cut: int) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo("tool")
        info.size = 9
        tar.addfile(info, io.BytesIO(b"\x7fELFrest."))
    data = raw.getvalue()
    pieces = [data[:512], *(data[at : at + cut] for at in range(512, 530, cut))]
    pieces.append(data[512 + len(b"".join(pieces[1:])) :])
    assert _entries(TarReader(iter(pieces), "x"), "x")[1] == {512}


def test_an_index_of_an_older_version_is_redone(cache: Cache) -> None:
    built = image(cache, [("a", b"1")])
    Rootfs.from_image(built, cache)
    (saved,) = (cache.root / "layers").iterdir()
    good = saved.read_bytes()
    body = good[65:].replace(b'"version":2', b'"version":1')
    saved.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    Rootfs.from_image(built, cache)
    assert saved.read_bytes() == good


def test_a_file_larger_than_the_limit_is_not_read(cache: Cache) -> None:
    with pytest.raises(InputError, match="more than 2"):
        view(cache, [("a", b"123")]).read("/a", limit=2)
