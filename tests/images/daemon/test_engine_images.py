"""Images out of engines and into them."""

import gzip
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from engine_parts import TINY, CuttingProxy, Engine, FakeEngine, connected

from imagekit.errors import EngineError, InputError
from imagekit.images.cache import Cache
from imagekit.images.compose import append, new_image
from imagekit.images.daemon.export import export_image
from imagekit.images.daemon.load import Loaded, load_image
from imagekit.images.layers import Layer, LayerFile, write_layer
from imagekit.images.layout import OciLayout
from imagekit.images.oci import OCI_LAYER, Image, compact_json
from imagekit.images.open import open_image
from imagekit.images.progress import NO_PROGRESS, Advance
from imagekit.images.references import DaemonReference
from imagekit.images.rootfs import Rootfs

NAME = "registry.example/team/x:1"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def export(name: str, cache: Cache) -> Image:
    return export_image(connected(), DaemonReference(name), cache, NO_PROGRESS)


def load(image: Image, *names: str) -> Loaded:
    return load_image(connected(), image, names or (NAME,), NO_PROGRESS)


def grown(base: Image, cache: Cache, data: bytes = b"new", *, plain: bool = False) -> Image:
    """The base with a layer of one file, /ppml/new."""
    layer = write_layer([LayerFile("/ppml/new", data)], cache.blobs, 0)
    if plain:
        with cache.blobs.open_blob(layer.descriptor.digest) as stream:
            found = cache.blobs.add_bytes(gzip.decompress(stream.read()), OCI_LAYER)
        layer = Layer(found, layer.diff_id)
    return append(base, layer, cache.blobs, created=0, history="new", labels={"a": "b"})


def tree(image: Image, cache: Cache) -> dict[str, object]:
    """Every path of an image with what stands there, and the digest of a file's content."""
    rootfs = Rootfs.from_image(image, cache)
    found: dict[str, object] = {}
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        entry = rootfs.entry(path, follow=False)
        assert entry is not None
        found[path] = (entry, rootfs.sha256(path) if entry.kind == "file" else None)
        if entry.kind == "dir":
            waiting += [f"{path.rstrip('/')}/{name}" for name in rootfs.children(path)]
    return found


class Bytes:
    """Progress that counts what is done."""

    def __init__(self) -> None:
        self.done = 0

    @contextmanager
    def _task(self) -> Iterator[Advance]:
        def advance(units: int) -> None:
            self.done += units

        yield advance

    def task(self, label: str, total: int | None) -> AbstractContextManager[Advance]:
        return self._task()


def leftovers(cache: Cache) -> list[Path]:
    return [path for path in cache.root.rglob("*") if "imagekit-tmp" in path.name]


# -- out


def test_an_image_is_read_once(any_engine: Engine, cache: Cache, tmp_path: Path) -> None:
    first, second = Bytes(), Bytes()
    reference = DaemonReference(TINY)
    image = export_image(any_engine.daemon(), reference, cache, first)
    assert first.done > sum(layer.size for layer in image.layers) > 1_000_000
    assert Rootfs.from_image(image, cache).kind("/bin/sh") == "file"
    again = export_image(any_engine.daemon(), reference, cache, second)
    assert (again, second.done) == (image, 0)
    cache.blobs.path(image.layers[0].digest).unlink()
    assert export_image(any_engine.daemon(), reference, cache, second) == image
    assert second.done == first.done
    Rootfs.from_image(image, Cache(tmp_path / "other"))


def test_it_is_found_by_name_by_id_and_by_digest(any_engine: Engine, cache: Cache) -> None:
    image = export(TINY, cache)
    with any_engine.daemon().talk("look") as client:
        found = client.inspect_image(TINY)
    names = [found["Id"], *(found.get("RepoDigests") or [])]
    for name in names:
        assert export(name, cache).digest == image.digest
    assert open_image(f"docker-daemon:{TINY}", cache).digest == image.digest
    assert len(list((cache.root / "engines").glob("*.lock"))) == 1


@pytest.mark.integration("skopeo")
def test_the_files_are_those_that_skopeo_reads(
    engine: Engine, cache: Cache, tmp_path: Path
) -> None:
    load(grown(export(TINY, cache), cache))
    fresh = Cache(tmp_path / "fresh")
    ours = export(NAME, fresh)
    source = ["--src-daemon-host", engine.host, f"docker-daemon:{NAME}"]
    subprocess.run(
        ["skopeo", "copy", *source, f"oci:{tmp_path}/theirs:x"], check=True, capture_output=True
    )
    theirs = OciLayout.open(tmp_path / "theirs").image("x")
    assert theirs.diff_ids == ours.diff_ids
    assert theirs.labels == ours.labels
    seen = tree(ours, fresh)
    assert "/ppml/new" in seen
    assert seen == tree(theirs, fresh)


def test_an_unknown_image(any_engine: Engine, cache: Cache) -> None:
    with pytest.raises(EngineError, match="has no image local/tiny:2") as caught:
        export("local/tiny:2", cache)
    assert "docker pull local/tiny:2" in caught.value.hint
    assert TINY in caught.value.hint
    with pytest.raises(EngineError, match="has no image sha256:000"):
        export("sha256:" + "0" * 64, cache)


def test_a_cut_connection_leaves_nothing(
    any_engine: Engine, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = any_engine.socket.parent / "cut.sock"
    with CuttingProxy(path, any_engine.socket).serving() as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.host)
        for cut in (500_000, 1_200_000):
            proxy.cut = cut
            with pytest.raises((EngineError, InputError)) as caught:
                export(TINY, cache)
            assert caught.value.exit_code == 4
            assert "cut" in caught.value.problem
            assert not leftovers(cache)
            assert not [p for p in (cache.root / "engines").iterdir() if p.suffix != ".lock"]
        proxy.cut = None
        assert Rootfs.from_image(export(TINY, cache), cache).kind("/bin/sh") == "file"


def inspected(tar: Path, **changes: str) -> tuple[int, list[bytes]]:
    with tarfile.open(tar) as archive:
        file = archive.extractfile("manifest.json")
        assert file is not None
        name = json.load(file)[0]["Config"]
    image_id = "sha256:" + name.removesuffix(".json").removeprefix("blobs/sha256/")
    value = {"Id": image_id, "Os": "linux", "Architecture": "amd64", "Size": 1, **changes}
    return 200, [json.dumps(value).encode()]


@pytest.fixture
def saved(engine: Engine, tmp_path: Path) -> Path:
    """What the real engine saves."""
    path = tmp_path / "saved.tar"
    engine.docker("save", "--output", str(path), TINY)
    return path


def fake_engine(folder: Path, saved: Path, body: list[bytes], **changes: str) -> FakeEngine:
    version = {"ApiVersion": "1.41", "Version": "20.10.24", "Os": "linux"}
    return FakeEngine(
        folder / "fake.sock",
        {
            "GET /version": (200, [json.dumps(version).encode()]),
            "GET /info": (200, [b"{}"]),
            "GET /images/.*/json": inspected(saved, **changes),
            "GET /images/.*/get": (200, body),
        },
    )


@pytest.mark.parametrize(
    "end", [b"", b'{"errorDetail":{"message":"layer x: i/o error"},"error":"y"}']
)
def test_an_archive_that_ends_early(
    engine: Engine, saved: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    """An engine that fails in the middle says so in the archive, if at all."""
    data = saved.read_bytes()
    with fake_engine(
        engine.socket.parent, saved, [data[:700_000], end] if end else [data[:700_032]]
    ).serving() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        with pytest.raises((EngineError, InputError)) as caught:
            export(TINY, cache)
    assert ("y" if end else "ends") in caught.value.problem
    assert not leftovers(cache)


def test_another_image_than_was_asked_for(
    engine: Engine, saved: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_engine(engine.socket.parent, saved, [saved.read_bytes()], Id="sha256:" + "1" * 64)
    with fake.serving():
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        with pytest.raises(InputError, match="came instead"):
            export(TINY, cache)


def test_an_image_of_another_architecture_is_not_even_read(
    engine: Engine, saved: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_engine(engine.socket.parent, saved, [b"x"], Architecture="arm64")
    with fake.serving():
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        with pytest.raises(InputError, match="linux/arm64"):
            export(TINY, cache)
    assert not [request for request in fake.requests if request.endswith("/get")]


@pytest.mark.integration("skopeo")
def test_what_newer_engines_save(
    engine: Engine, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Docker 25 on the archive is an OCI layout, too; with containerd the id is its digest."""
    image = grown(export(TINY, cache), cache)
    layout = OciLayout.create(tmp_path / "layout")
    layout.put(image, "x")
    entry = image.descriptor.to_json()
    (layout.path / "index.json").write_bytes(
        compact_json({"schemaVersion": 2, "manifests": [entry]})
    )
    files = [f"blobs/sha256/{layer.hex}" for layer in image.layers]
    config = f"blobs/sha256/{image.config_descriptor.hex}"
    (layout.path / "manifest.json").write_bytes(
        compact_json([{"Config": config, "RepoTags": None, "Layers": files}])
    )
    with tarfile.open(tmp_path / "new.tar", "w") as tar:
        for path in sorted(layout.path.rglob("*")):
            tar.add(path, str(path.relative_to(layout.path)), recursive=False)
    for image_id in (image.digest, image.config_descriptor.digest):
        fake = fake_engine(
            engine.socket.parent,
            tmp_path / "new.tar",
            [(tmp_path / "new.tar").read_bytes()],
            Id=image_id,
        )
        with fake.serving():
            monkeypatch.setenv("DOCKER_HOST", fake.host)
            fresh = Cache(tmp_path / image_id[-9:])
            found = export(image_id, fresh)
        assert found.diff_ids == image.diff_ids
        assert found.config == image.config
        assert (found.digest == image.digest) or image_id != image.digest


# -- in


def test_a_loaded_image_runs_and_its_sibling_costs_one_layer(
    any_engine: Engine, cache: Cache
) -> None:
    base = export(TINY, cache)
    first, second = grown(base, cache, os.urandom(9000)), grown(base, cache, os.urandom(9000))
    third = grown(second, cache, os.urandom(9000), plain=True)
    path = any_engine.socket.parent / "count.sock"
    with (
        CuttingProxy(path, any_engine.socket).serving() as proxy,
        pytest.MonkeyPatch.context() as p,
    ):
        p.setenv("DOCKER_HOST", proxy.host)
        for image in (first, second, third):
            before = proxy.up
            loaded = load(image)
            top = image.layers[-1].size
            assert top < loaded.sent < top + 10_000, loaded
            # counted on the wire, requests and all
            assert loaded.sent <= proxy.up - before < loaded.sent + 20_000
            assert loaded.present == sum(layer.size for layer in image.layers[:-1])
            assert (loaded.already, loaded.note) == (False, "")
    shown = any_engine.docker("run", "--rm", "--network", "none", NAME, "wc", "-c", "/ppml/new")
    assert shown == "9000 /ppml/new"
    assert any_engine.docker("image", "inspect", "--format", "{{.Id}}", NAME) == loaded.image_id
    assert any_engine.docker("image", "inspect", "--format", "{{.Config.Labels.a}}", NAME) == "b"


def test_an_image_that_is_there_is_not_sent(any_engine: Engine, cache: Cache) -> None:
    image = grown(export(TINY, cache), cache)
    load(image)
    again = load(image)
    assert (again.sent, again.already) == (0, True)
    renamed = load(image, NAME, "registry.example/team/y:2")
    assert (renamed.sent, renamed.already) == (0, False)
    assert (
        any_engine.docker("image", "inspect", "--format", "{{.Id}}", "registry.example/team/y:2")
        == again.image_id
    )
    other = grown(export(TINY, cache), cache, b"other")
    assert not load(other).already  # the name moves
    assert any_engine.docker("image", "inspect", "--format", "{{.Id}}", NAME) != again.image_id
    any_engine.daemon().untag("registry.example/team/y:2")
    any_engine.daemon().untag("registry.example/team/y:2")


def test_an_image_of_unknown_layers_is_sent_whole(any_engine: Engine, cache: Cache) -> None:
    layer = write_layer([LayerFile("/bin/x", os.urandom(50_000))], cache.blobs, 0)
    image = new_image([layer], cache.blobs, created=0)
    loaded = load(image)
    assert loaded.sent > 50_000
    assert loaded.present == 0
    back = export(NAME, Cache(cache.root / "back"))
    assert back.config == image.config


def test_an_engine_that_wants_everything_gets_it(
    engine: Engine, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is gone between the look and the sending."""
    files = [LayerFile(f"/{name}", os.urandom(9000)) for name in "ab"]
    layers = [write_layer([file], cache.blobs, 0) for file in files]
    image = new_image(layers, cache.blobs, created=0)
    monkeypatch.setattr("imagekit.images.daemon.load.known_prefix", lambda *_: 1)
    loaded = load(image)
    assert loaded.sent > sum(layer.size for layer in image.layers)
    assert loaded.present == 0
    assert "wants all layers" in loaded.note


def test_a_damaged_blob_does_not_become_an_image(any_engine: Engine, cache: Cache) -> None:
    image = grown(export(TINY, cache), cache, b"0" * 9000 + os.urandom(8), plain=True)
    path = cache.blobs.path(image.layers[-1].digest)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"000", b"001", 1))
    with pytest.raises(EngineError, match=r"cannot load|another image"):
        load(image)
    path.write_bytes(data[:-512])
    with pytest.raises(InputError, match="does not have"):
        load(image)
    with any_engine.daemon().talk("look") as client:
        assert not [found for found in client.images() if NAME in (found["RepoTags"] or [])]
    cache.blobs.path(image.layers[-1].digest).write_bytes(data)
    assert not load(image).already


def test_a_cut_while_loading(any_engine: Engine, cache: Cache) -> None:
    image = grown(export(TINY, cache), cache, os.urandom(3_000_000))
    path = any_engine.socket.parent / "cut.sock"
    with (
        CuttingProxy(path, any_engine.socket).serving() as proxy,
        pytest.MonkeyPatch.context() as p,
    ):
        p.setenv("DOCKER_HOST", proxy.host)
        proxy.cut_up = 1_000_000
        with pytest.raises(EngineError) as caught:
            load(image)
        assert "\n" not in caught.value.problem
        with any_engine.daemon().talk("look") as client:
            assert not [found for found in client.images() if NAME in (found["RepoTags"] or [])]
        proxy.cut_up = None
        assert load(image).sent > 3_000_000
