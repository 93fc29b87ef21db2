"""Images through a real registry, with skopeo as the independent reader and writer."""

import json
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from registry_parts import Fault, FaultProxy, Registry, make_image

from imagekit.errors import CheckError, EngineError, InputError, UsageError
from imagekit.images.cache import Cache
from imagekit.images.layout import OciLayout
from imagekit.images.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    compact_json,
    digest_of,
)
from imagekit.images.open import open_image
from imagekit.images.progress import NO_PROGRESS
from imagekit.images.references import RegistryReference
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.pull import pull_image
from imagekit.images.registry.push import Pusher
from imagekit.images.rootfs import Rootfs

pytestmark = pytest.mark.integration("docker-registry", "skopeo")
PLAIN = RegistryAccess(insecure=True)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "a")


def at(host: str, repository: str = "team/app", tag: str | None = "1") -> RegistryReference:
    return RegistryReference(host, repository, tag)


def skopeo(*arguments: str) -> bytes:
    return subprocess.run(["skopeo", *arguments], check=True, capture_output=True).stdout


def pull(reference: RegistryReference, folder: Path) -> Image:
    return pull_image(reference, Cache(folder), PLAIN, NO_PROGRESS)


class Counter:
    """A progress that adds up."""

    def __init__(self) -> None:
        self.tasks: dict[str, list[int]] = {}

    @contextmanager
    def task(self, label: str, total: int | None):  # type: ignore[no-untyped-def]
        found = self.tasks.setdefault(label, [0, total or 0])
        lock = threading.Lock()

        def advance(units: int) -> None:
            with lock:
                found[0] += units

        yield advance


def test_an_image_goes_there_and_back(registry: Registry, cache: Cache, tmp_path: Path) -> None:
    image = make_image(cache, 100_000, 3_000_000, 10)
    progress = Counter()
    pushed = Pusher(PLAIN, progress).push(image, at(registry.host))
    blobs = sum(layer.size for layer in image.layers) + image.config_descriptor.size
    assert pushed == (
        f"docker://{registry.host}/team/app:1",
        image.digest,
        blobs + len(image.manifest),
        0,
        0,
        False,
    )
    assert progress.tasks == {f"pushing {registry.host}/team/app": [blobs, blobs]}
    raw = skopeo("inspect", "--raw", "--tls-verify=false", pushed.reference)
    assert raw == image.manifest
    copy = f"oci:{tmp_path / 'copy'}:x"
    skopeo("copy", "--preserve-digests", "--src-tls-verify=false", pushed.reference, copy)
    assert OciLayout.open(tmp_path / "copy").image("x").digest == image.digest

    progress = Counter()
    back = pull_image(at(registry.host), Cache(tmp_path / "b"), PLAIN, progress)
    layers = sum(layer.size for layer in image.layers)
    assert progress.tasks == {f"pulling {registry.host}/team/app": [layers, layers]}
    assert back.descriptor == image.descriptor
    Rootfs.from_image(back, None)
    assert not list((tmp_path / "b" / "partial").iterdir())
    assert open_image(pushed.reference, Cache(tmp_path / "b"), PLAIN).manifest == image.manifest


def test_what_is_there_is_not_done_again(
    registry: Registry, cache: Cache, tmp_path: Path, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(registry)
    image = make_image(cache, 1000, 2000)
    Pusher(PLAIN).push(image, at(proxy.host))
    before = len(proxy.seen)
    again = Pusher(PLAIN).push(image, at(proxy.host))
    assert again.already
    assert again.sent == 0
    assert [item.method for item in proxy.seen[before:]] == ["GET", "GET"]  # /v2/, the tag

    other = Pusher(PLAIN).push(image, at(proxy.host, tag="2"))
    assert (other.already, other.sent) == (False, len(image.manifest))
    assert len(proxy.requests("POST")) == 3  # of the first push

    pull(at(proxy.host), tmp_path / "b")
    before = len(proxy.seen)
    pull(at(proxy.host), tmp_path / "b")
    assert [item.method for item in proxy.seen[before:]] == ["GET", "HEAD"]
    pinned = RegistryReference(proxy.host, "team/app", None, image.digest)
    before = len(proxy.seen)
    assert pull(pinned, tmp_path / "b").digest == image.digest
    assert proxy.seen[before:] == []  # a digest that is in the cache needs no registry


def test_digests_are_pushed_and_pulled(registry: Registry, cache: Cache, tmp_path: Path) -> None:
    image, other = make_image(cache, 100), make_image(cache, 200)
    pusher = Pusher(PLAIN)
    pinned = RegistryReference(registry.host, "team/app", None, image.digest)
    assert pusher.push(image, pinned).reference == f"docker://{registry.host}/team/app"
    assert pull(pinned, tmp_path / "b").digest == image.digest
    with pytest.raises(UsageError, match="has the digest"):
        pusher.push(other, pinned)
    pusher.push(other, at(registry.host))
    both = RegistryReference(registry.host, "team/app", "1", image.digest)
    assert pull(both, tmp_path / "c").digest == image.digest  # the digest counts
    lost = RegistryReference(registry.host, "team/app", None, digest_of(b"lost"))
    with pytest.raises(EngineError, match="no image"):
        pull(lost, tmp_path / "d")


@pytest.mark.parametrize(("form", "kind"), [("v2s2", DOCKER_MANIFEST), ("oci", OCI_MANIFEST)])
def test_what_skopeo_pushes_is_pulled_and_pushed_on(
    registry: Registry, cache: Cache, tmp_path: Path, form: str, kind: str
) -> None:
    layout = OciLayout.create(tmp_path / "layout")
    image = make_image(cache, 5000, 10)
    layout.put(image, "x")
    theirs = f"docker://{registry.host}/theirs:1"
    source = f"oci:{layout.path}:x"
    skopeo("copy", "--dest-tls-verify=false", "--format", form, source, theirs)
    back = pull(at(registry.host, "theirs"), tmp_path / "b")
    assert back.descriptor.media_type == kind
    assert back.diff_ids == image.diff_ids
    Pusher(PLAIN).push(back, at(registry.host, "ours"))
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/ours:1")
    assert raw == back.manifest


def put(registry: Registry, document: bytes, kind: str, tag: str) -> None:
    """Put a manifest or index that no tool would write."""
    import http.client

    connection = http.client.HTTPConnection(registry.host)
    connection.request("PUT", f"/v2/team/app/manifests/{tag}", document, {"Content-Type": kind})
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()


def entry(image: Image, os: str, architecture: str, **more: str) -> dict[str, object]:
    platform = {"os": os, "architecture": architecture, **more}
    return {**image.descriptor.to_json(), "platform": platform}


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST])
def test_an_index_gives_the_image_for_amd64(
    registry: Registry, cache: Cache, tmp_path: Path, kind: str
) -> None:
    ours, arm = make_image(cache, 10), make_image(cache, 20, seed=2)
    for image in (ours, arm):
        Pusher(PLAIN).push(image, RegistryReference(registry.host, "team/app", None, image.digest))

    def index(*entries: dict[str, object]) -> bytes:
        return compact_json({"schemaVersion": 2, "mediaType": kind, "manifests": list(entries)})

    both = index(
        entry(arm, "linux", "arm64", variant="v8"),
        entry(ours, "linux", "amd64"),
        entry(arm, "linux", "amd64", variant="v3"),
        entry(arm, "unknown", "unknown"),
    )
    put(registry, both, kind, "1")
    assert pull(at(registry.host), tmp_path / "b").digest == ours.digest
    pinned = RegistryReference(registry.host, "team/app", None, digest_of(both))
    assert pull(pinned, tmp_path / "b").digest == ours.digest

    put(registry, index(entry(arm, "linux", "arm64"), entry(arm, "windows", "amd64")), kind, "2")
    with pytest.raises(InputError, match="no image for linux/amd64") as caught:
        pull(at(registry.host, tag="2"), tmp_path / "b")
    assert "linux/arm64, windows/amd64" in caught.value.hint
    put(registry, index(entry(arm, "linux", "amd64"), entry(ours, "linux", "amd64")), kind, "3")
    with pytest.raises(InputError, match="several different"):
        pull(at(registry.host, tag="3"), tmp_path / "b")


def test_an_image_for_another_architecture_is_refused_before_its_layers_come(
    registry: Registry, cache: Cache, tmp_path: Path
) -> None:
    image = make_image(cache, 1000)
    config = {**image.config_json, "architecture": "arm64"}
    arm = cache.blobs.add_bytes(compact_json(config), image.config_descriptor.media_type)
    manifest = compact_json({**image.manifest_json, "config": arm.to_json()})
    descriptor = cache.blobs.add_bytes(manifest, OCI_MANIFEST)
    other = Image(descriptor, manifest, compact_json(config), image.layers, cache.blobs)
    Pusher(PLAIN).push(other, at(registry.host))
    with pytest.raises(InputError, match="is an image for linux/arm64"):
        pull(at(registry.host), tmp_path / "b")
    assert not Cache(tmp_path / "b").blobs.has(image.layers[0].digest)


def test_eighteen_cells_send_each_blob_of_their_base_once(
    registry: Registry, cache: Cache, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(registry)
    base = make_image(cache, 2_000_000, 1_000_000, 500_000)
    cells = [make_image(cache, 1000, seed=number, base=base) for number in range(1, 19)]
    pusher = Pusher(PLAIN)
    with ThreadPoolExecutor(6) as pool:
        pushed = list(
            pool.map(
                lambda pair: pusher.push(pair[1], at(proxy.host, f"team/cell-{pair[0]}")),
                enumerate(cells),
            )
        )
    shared = sum(layer.size for layer in base.layers)
    own = sum(
        cell.layers[-1].size + cell.config_descriptor.size + len(cell.manifest) for cell in cells
    )
    assert sum(item.sent for item in pushed) == shared + own
    assert sum(item.mounted for item in pushed) == 17 * shared
    assert sum(item.received for item in proxy.seen) == shared + own  # as the registry sees it
    for layer in base.layers:
        assert len(proxy.requests("PUT", layer.hex)) == 1
    assert [item.digest for item in pushed] == [cell.digest for cell in cells]
    for number, cell in enumerate(cells):
        assert registry.tag(f"team/cell-{number}", "1") == cell.digest


def test_a_base_that_is_in_the_registry_is_mounted_from_there(
    registry: Registry, cache: Cache, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(registry)
    base = make_image(cache, 200_000)
    Pusher(PLAIN).push(base, at(registry.host, "team/base"))
    cell = make_image(cache, 1000, seed=1, base=base)
    elsewhere = RegistryReference("other.example", "team/elsewhere", "1")
    known = (elsewhere, at(proxy.host, "team/base"))
    pushed = Pusher(PLAIN, known=known).push(cell, at(proxy.host, "team/cell"))
    assert pushed.mounted == base.layers[0].size
    assert sum(item.received for item in proxy.seen) == pushed.sent < 10_000
    # A base that is not where it is said to be costs no request more: the upload goes on.
    other = make_image(cache, 3000, seed=5)
    Pusher(PLAIN, known=known).push(other, at(proxy.host, "team/other"))
    assert all("from=team%2Fbase" in item.path for item in proxy.requests("POST", "team/other"))
    assert len(proxy.requests("POST", "team/other")) == 2


def test_a_registry_that_cannot_mount_gets_the_blob(
    registry: Registry, cache: Cache, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(registry)
    image = make_image(cache, 1000)
    pusher = Pusher(PLAIN)
    pusher.push(image, at(proxy.host, "one"))
    proxy.faults = [Fault("POST", "mount=", times=9, status=405)]
    assert pusher.push(image, at(proxy.host, "two")).sent > 1000
    assert registry.tag("two", "1") == image.digest


def test_a_registry_that_fails_at_mounting_gets_the_blob(
    registry: Registry, cache: Cache, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(registry)
    image = make_image(cache, 1000)
    pusher = Pusher(PLAIN)
    pusher.push(image, at(proxy.host, "one"))
    proxy.faults = [Fault("POST", "mount=", times=99, status=500)]
    assert pusher.push(image, at(proxy.host, "two")).sent > 1000
    assert registry.tag("two", "1") == image.digest
    assert len(proxy.requests("POST", "two.*mount=")) == 2  # once for each blob


def test_a_tag_that_moves_during_the_push_is_told(
    registry: Registry, cache: Cache, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(registry)
    ours, theirs = make_image(cache, 100), make_image(cache, 200, seed=2)

    def push_theirs() -> None:
        Pusher(PLAIN).push(theirs, at(registry.host))

    proxy.faults = [Fault("PUT", "manifests/1", after=push_theirs)]
    with pytest.raises(CheckError, match=theirs.digest) as caught:
        Pusher(PLAIN).push(ours, at(proxy.host))
    assert ours.digest in caught.value.problem
    assert "tag" in caught.value.hint
    # Now nobody is in the way.
    assert Pusher(PLAIN).push(ours, at(proxy.host)).digest == ours.digest


def test_a_tag_never_stands_for_an_image_that_is_not_whole(
    registry: Registry, cache: Cache, tmp_path: Path, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(registry)
    old = make_image(cache, 100)
    Pusher(PLAIN).push(old, at(proxy.host))
    for number in range(3):  # each single upload fails in turn
        new = make_image(cache, 200, 300, seed=number + 1)
        blob = (*new.layers, new.config_descriptor)[number]
        proxy.faults = [Fault("PUT", blob.hex, status=403)]
        with pytest.raises(EngineError, match="403"):
            Pusher(PLAIN).push(new, at(proxy.host))
        assert registry.tag("team/app", "1") == old.digest
    cache.blobs.path(new.layers[1].digest).write_bytes(b"x" * new.layers[1].size)
    with pytest.raises(InputError, match="on this disk"):
        Pusher(PLAIN).push(new, at(registry.host, "fresh"))
    cache.blobs.path(new.layers[1].digest).write_bytes(b"short")
    with pytest.raises(InputError, match="on this disk"):
        Pusher(PLAIN).push(new, at(registry.host, "fresh"))
    assert registry.tag("fresh", "1") is None
    assert registry.tag("team/app", "1") == old.digest
    pull(at(registry.host), tmp_path / "b")


def test_the_order_is_blobs_then_manifest_then_a_look(
    registry: Registry, cache: Cache, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(registry)
    Pusher(PLAIN).push(make_image(cache, 100, 200), at(proxy.host))
    methods = [(item.method, "manifests" in item.path) for item in proxy.seen]
    assert methods[-2:] == [("PUT", True), ("GET", True)]
    assert ("PUT", True) not in methods[:-2]
    assert not proxy.requests("PATCH")  # single requests only


def test_a_name_or_tag_that_is_not_there(registry: Registry, cache: Cache, tmp_path: Path) -> None:
    pusher = Pusher(PLAIN)
    for tag in ("2.5.0", "2.5.1", "latest"):
        pusher.push(make_image(cache, 10), at(registry.host, tag=tag))
    with pytest.raises(EngineError, match="no image docker://") as caught:
        pull(at(registry.host, tag="2.5.2"), tmp_path / "b")
    assert caught.value.hint == "tags that are there: 2.5.1, 2.5.0, latest"
    with pytest.raises(EngineError, match="no image") as caught:
        pull(at(registry.host, "team/none"), tmp_path / "b")
    assert "docker login" in caught.value.hint


def test_the_manifest_in_json_is_what_skopeo_reads(registry: Registry, cache: Cache) -> None:
    image = make_image(cache, 10)
    Pusher(PLAIN).push(image, at(registry.host))
    found = json.loads(
        skopeo("inspect", "--tls-verify=false", f"docker://{registry.host}/team/app:1")
    )
    assert found["Digest"] == image.digest
    assert found["Layers"] == [layer.digest for layer in image.layers]
