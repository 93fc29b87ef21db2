"""Networks that break and registries that refuse, in front of a real registry."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from registry_parts import (
    Certificates,
    Fault,
    FaultProxy,
    Registry,
    make_image,
    start_registry,
)

from imagekit.errors import EngineError, ImagekitError, InputError
from imagekit.images.cache import Cache
from imagekit.images.oci import Image, digest_of
from imagekit.images.progress import NO_PROGRESS
from imagekit.images.references import RegistryReference
from imagekit.images.registry import transport
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.client import RegistryClient
from imagekit.images.registry.download import fetch_blob
from imagekit.images.registry.pull import pull_image
from imagekit.images.registry.push import Pusher

pytestmark = [
    pytest.mark.integration("docker-registry"),
    pytest.mark.usefixtures("no_waiting"),
]
PLAIN = RegistryAccess(insecure=True)
SIZE = 3_000_000


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "a")


@pytest.fixture
def proxy(registry: Registry, fault_proxy: Callable[..., FaultProxy]) -> FaultProxy:
    return fault_proxy(registry)


@pytest.fixture
def image(registry: Registry, cache: Cache) -> Image:
    """An image with one large layer that is in the registry as team/app:1."""
    image = make_image(cache, SIZE)
    Pusher(PLAIN).push(image, at(registry.host))
    return image


def at(host: str, repository: str = "team/app", tag: str | None = "1") -> RegistryReference:
    return RegistryReference(host, repository, tag)


def pull(proxy: FaultProxy, folder: Path) -> Image:
    return pull_image(at(proxy.host), Cache(folder), PLAIN, NO_PROGRESS)


def check(error: ImagekitError, *words: str) -> None:
    for line in (error.problem, error.hint):
        assert line.isprintable()
        assert line
    for word in words:
        assert word in error.problem + error.hint


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond that size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Downloads


def test_a_cut_download_goes_on_where_it_stopped(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    layer = image.layers[0]
    proxy.faults = [Fault("GET", layer.hex, cut_answer=n) for n in (1_000_000, 500_000, 0, 7)]
    assert pull(proxy, tmp_path / "b").digest == image.digest
    gets = proxy.requests("GET", layer.hex)
    assert [item.headers.get("Range") for item in gets] == [
        None,
        "bytes=1000000-",
        "bytes=1500000-",
        "bytes=1500000-",
        "bytes=1500007-",
    ]
    assert sum(item.sent for item in gets) == layer.size


def test_progress_counts_each_byte_once_and_tries_anew_after_progress(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    layer = image.layers[0]
    proxy.faults = [Fault("GET", layer.hex, cut_answer=100_000, times=20)]
    assert pull(proxy, tmp_path / "b").digest == image.digest
    assert len(proxy.requests("GET", layer.hex)) == 21


def test_a_download_that_gets_nowhere_ends(proxy: FaultProxy, image: Image, tmp_path: Path) -> None:
    layer = image.layers[0]
    proxy.faults = [Fault("GET", layer.hex, cut_answer=0, times=99)]
    with pytest.raises(EngineError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, "cut", "tried 6 times", proxy.host)
    assert len(proxy.requests("GET", layer.hex)) == 6


_PULL = """
import sys
from pathlib import Path
from imagekit.images.cache import Cache
from imagekit.images.open import open_image
from imagekit.images.registry.access import RegistryAccess
open_image(sys.argv[1], Cache(Path(sys.argv[2])), RegistryAccess(insecure=True))
"""


def test_after_a_kill_only_the_rest_is_fetched(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    layer, arrived = image.layers[0], 1_234_567
    partial = tmp_path / "b" / "partial" / layer.hex
    command = [sys.executable, "-c", _PULL, f"docker://{proxy.host}/team/app:1", tmp_path / "b"]

    def kill() -> None:
        deadline = time.monotonic() + 20
        while partial.stat().st_size < arrived:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()

    proxy.faults = [Fault("GET", layer.hex, cut_answer=arrived, at_cut=kill)]
    process = subprocess.Popen(command)
    assert process.wait() < 0
    assert not Cache(tmp_path / "b").blobs.has(layer.digest)
    assert pull(proxy, tmp_path / "b").digest == image.digest
    gets = proxy.requests("GET", layer.hex)
    assert [item.sent for item in gets] == [arrived, layer.size - arrived]
    assert not partial.exists()


def test_ctrl_c_ends_a_download_at_once(proxy: FaultProxy, image: Image, tmp_path: Path) -> None:
    layer, late = image.layers[0], threading.Event()
    command = [sys.executable, "-c", _PULL, f"docker://{proxy.host}/team/app:1", tmp_path / "b"]

    def interrupt() -> None:
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        late.wait(20)

    proxy.faults = [Fault("GET", layer.hex, cut_answer=1_000_000, at_cut=interrupt)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    _, err = process.communicate(timeout=15)
    late.set()
    assert "KeyboardInterrupt" in err
    assert not Cache(tmp_path / "b").blobs.has(layer.digest)


def test_a_server_without_ranges_sends_everything_anew(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    layer = image.layers[0]
    proxy.faults = [
        Fault("GET", layer.hex, cut_answer=1_000_000),
        Fault("GET", layer.hex, drop=("Range",), cut_answer=2_000_000),
        Fault("GET", layer.hex, status=416),
    ]
    assert pull(proxy, tmp_path / "b").digest == image.digest
    gets = proxy.requests("GET", layer.hex)
    assert [item.headers.get("Range") for item in gets] == [
        None,
        "bytes=1000000-",
        "bytes=2000000-",
        None,
    ]


def test_a_wrong_range_is_not_pasted_in(
    proxy: FaultProxy, image: Image, cache: Cache, tmp_path: Path
) -> None:
    layer = image.layers[0]
    whole = {"Content-Range": f"bytes 0-{layer.size - 1}/{layer.size}"}
    data = cache.blobs.path(layer.digest).read_bytes()
    proxy.faults = [
        Fault("GET", layer.hex, cut_answer=1_000_000),
        Fault("GET", layer.hex, status=206, headers=whole, body=data),
    ] * 2
    proxy.faults = [replace(fault) for fault in proxy.faults]
    assert pull(proxy, tmp_path / "b").digest == image.digest
    gets = proxy.requests("GET", layer.hex)
    assert [item.headers.get("Range") for item in gets] == [None, "bytes=1000000-", None, None]


@pytest.mark.parametrize("left", [b"x" * 100, b"x" * 4_000_000])
def test_a_partial_file_that_does_not_fit_is_thrown_away(
    proxy: FaultProxy, image: Image, tmp_path: Path, left: bytes
) -> None:
    layer = image.layers[0]
    partial = tmp_path / "b" / "partial" / layer.hex
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    assert pull(proxy, tmp_path / "b").digest == image.digest
    assert not partial.exists()


def test_altered_bytes_are_never_taken(
    proxy: FaultProxy, image: Image, cache: Cache, tmp_path: Path
) -> None:
    layer = image.layers[0]

    def alter(content: bytes) -> bytes:
        return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]

    proxy.faults = [Fault("GET", layer.hex, swap=alter)]
    assert pull(proxy, tmp_path / "b").digest == image.digest  # the second time they were right
    proxy.faults = [Fault("GET", layer.hex, swap=alter, times=2)]
    with pytest.raises(InputError) as caught:
        pull(proxy, tmp_path / "c")
    data = cache.blobs.path(layer.digest).read_bytes()
    check(caught.value, layer.digest, digest_of(alter(data)), proxy.host)
    assert not Cache(tmp_path / "c").blobs.has(layer.digest)


def test_more_bytes_than_announced_are_never_written(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    layer = image.layers[0]
    longer = {"Content-Length": str(layer.size + 10)}
    proxy.faults = [
        Fault("GET", layer.hex, swap=lambda c: c + b"0123456789", headers=longer, times=2)
    ]
    with largest_file(layer.size), pytest.raises(InputError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, layer.digest, "bytes, twice")


def test_two_pulls_at_once_fetch_each_blob_once(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    layer = image.layers[0]
    proxy.faults = [Fault("GET", layer.hex, before=lambda: time.sleep(0.2))]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: pull(proxy, tmp_path / "b"), range(3)))
    assert {item.digest for item in found} == {image.digest}
    assert len(proxy.requests("GET", layer.hex)) == 1


def test_a_disk_that_is_full_is_told_and_nothing_is_lost(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    with largest_file(1_000_000), pytest.raises(InputError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, "partial", "too large")
    proxy.seen.clear()
    pull(proxy, tmp_path / "b")
    assert sum(item.sent for item in proxy.requests("GET", image.layers[0].hex)) < SIZE


def test_one_layer_that_fails_ends_the_others(
    registry: Registry, proxy: FaultProxy, cache: Cache, tmp_path: Path
) -> None:
    image = make_image(cache, SIZE, SIZE, seed=3)
    Pusher(PLAIN).push(image, at(registry.host))
    reached, late = threading.Event(), threading.Event()

    def stall() -> None:
        reached.set()
        late.wait(20)

    proxy.faults = [
        Fault("GET", image.layers[0].hex, cut_answer=1000, at_cut=stall),
        Fault("GET", image.layers[1].hex, before=lambda: reached.wait(20) and None, status=403),
    ]
    began = time.monotonic()
    with pytest.raises(EngineError, match="403"):
        pull(proxy, tmp_path / "b")
    assert time.monotonic() - began < 10
    late.set()


# What manifests claim


def test_a_manifest_with_another_digest_is_refused(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    pinned = RegistryReference(proxy.host, "team/app", None, image.digest)
    proxy.faults = [Fault("GET", "manifests", swap=lambda c: c.replace(b'"layers"', b'"1ayers"'))]
    with pytest.raises(InputError) as caught:
        pull_image(pinned, Cache(tmp_path / "b"), PLAIN, NO_PROGRESS)
    altered = digest_of(image.manifest.replace(b'"layers"', b'"1ayers"'))
    check(caught.value, image.digest, altered)
    lie = {"Docker-Content-Digest": digest_of(b"lie")}
    proxy.faults = [Fault("GET", "manifests", headers=lie)]
    with pytest.raises(InputError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, image.digest, digest_of(b"lie"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"schemaVersion":1,"fsLayers":[]}', "schema 1"),
        (b"<html>hello</html>", "JSON"),
        (b'{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}', "no image manifest"),
        (b"{}", "no image manifest"),
        (b"[]", "object"),
        (b"x" * (17 << 20), "more than"),
    ],
)
def test_documents_that_are_no_manifest(
    proxy: FaultProxy, image: Image, tmp_path: Path, body: bytes, words: str
) -> None:
    proxy.faults = [Fault("GET", "manifests", status=200, body=body)]
    with pytest.raises((InputError, EngineError)) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, words, proxy.host)


def test_a_layer_that_is_elsewhere_is_refused(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    kind = b"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    body = image.manifest.replace(image.layers[0].media_type.encode(), kind)
    proxy.faults = [
        Fault("GET", "manifests", status=200, body=body),
        Fault("HEAD", "manifests", status=404),
    ]
    with pytest.raises(InputError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, "another address")


# Servers in trouble


def test_a_busy_registry_is_asked_again_when_it_says(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    proxy.faults = [
        Fault("GET", "manifests", status=429, headers={"Retry-After": "1"}),
        Fault("GET", "manifests", status=503),
        Fault("GET", image.layers[0].hex, status=500, times=5),
        Fault("GET", r"/v2/$", status=502),
    ]
    began = time.monotonic()
    assert pull(proxy, tmp_path / "b").digest == image.digest
    assert time.monotonic() - began >= 1
    assert not any(fault.times for fault in proxy.faults)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_registry_that_stays_in_trouble_is_given_up(
    proxy: FaultProxy, image: Image, tmp_path: Path, status: int
) -> None:
    body = b'{"errors":[{"code":"BUSY","message":"come\\nback \\u001b[31mlater' + b"x" * 900
    proxy.faults = [Fault("GET", "manifests", status=status, times=99, body=body + b'"}]}')]
    with pytest.raises(EngineError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, str(status), "tried 6 times", "BUSY: come back", proxy.host)
    assert len(caught.value.problem) < 500
    assert len(proxy.requests("GET", "manifests")) == 6


def test_a_wait_that_is_too_long_is_told(proxy: FaultProxy, image: Image, tmp_path: Path) -> None:
    late = {"Retry-After": "86400"}
    proxy.faults = [Fault("GET", "manifests", status=429, headers=late, times=9)]
    with pytest.raises(EngineError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, "86400 s", "docker login")
    assert len(proxy.requests("GET", "manifests")) == 1


@pytest.mark.parametrize("status", [400, 403, 405, 410, 422])
def test_a_refusal_is_not_repeated(
    proxy: FaultProxy, image: Image, tmp_path: Path, status: int
) -> None:
    proxy.faults = [Fault("GET", "manifests", status=status, times=9)]
    with pytest.raises(EngineError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, str(status), proxy.host)
    assert len(proxy.requests("GET", "manifests")) == 1


def test_silence_has_a_limit(
    proxy: FaultProxy, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "SILENCE_SECONDS", 0.4)
    late = threading.Event()
    proxy.faults = [Fault("GET", "manifests", times=9, before=lambda: late.wait(9) and None)]
    with pytest.raises(EngineError) as caught:
        pull(proxy, tmp_path / "b")
    late.set()
    check(caught.value, "silent", "tried 6 times")


# Uploads


def test_a_cut_upload_begins_anew(registry: Registry, proxy: FaultProxy, cache: Cache) -> None:
    image = make_image(cache, SIZE)
    layer = image.layers[0]
    proxy.faults = [
        Fault("PUT", layer.hex, cut_request=1_000_000, times=2),
        Fault("PUT", layer.hex, status=503),
        Fault("PUT", layer.hex, status=404, body=b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}'),
        Fault("POST", "uploads", status=500),
        Fault("PUT", "manifests", status=502),
    ]
    pushed = Pusher(PLAIN).push(image, at(proxy.host))
    assert registry.tag("team/app", "1") == image.digest
    assert pushed.sent == layer.size + image.config_descriptor.size + len(image.manifest)
    assert not any(fault.times for fault in proxy.faults)


def test_an_upload_whose_answer_is_lost_is_not_sent_again(
    registry: Registry, proxy: FaultProxy, cache: Cache
) -> None:
    image = make_image(cache, SIZE)
    cut = {"Content-Length": "9"}
    proxy.faults = [Fault("PUT", image.layers[0].hex, headers=cut, cut_answer=0)]
    Pusher(PLAIN).push(image, at(proxy.host))
    assert registry.tag("team/app", "1") == image.digest
    assert len(proxy.requests("PUT", image.layers[0].hex)) == 1


def test_an_upload_that_gets_nowhere_leaves_the_tag(
    registry: Registry, proxy: FaultProxy, image: Image, cache: Cache
) -> None:
    other = make_image(cache, SIZE, seed=8)
    proxy.faults = [Fault("PUT", other.layers[0].hex, cut_request=70_000, times=99)]
    with pytest.raises(EngineError) as caught:
        Pusher(PLAIN).push(other, at(proxy.host))
    check(caught.value, "cut", "tried 6 times", proxy.host)
    assert registry.tag("team/app", "1") == image.digest


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    ("size", "method", "path"),
    [
        (20_000_000, "PUT", "uploads"),  # more than the buffers on the way take up
        (1000, "PUT", "uploads"),  # all is sent, the answer does not come
        (1000, "POST", "uploads"),
        (1000, "HEAD", "blobs"),
        (1000, "GET", "manifests"),
        (1000, "GET", "/v2/$"),
    ],
)
def test_a_push_is_given_up_at_once(
    registry: Registry,
    fault_proxy: Callable[..., FaultProxy],
    certificates: Certificates,
    cache: Cache,
    size: int,
    method: str,
    path: str,
    secure: bool,
) -> None:
    proxy = fault_proxy(registry, *([certificates] if secure else []))
    image, late, reached = make_image(cache, size), threading.Event(), threading.Event()

    def hang() -> None:
        reached.set()
        late.wait(30)

    proxy.faults = [Fault(method, path, before=hang, times=99)]
    pusher = Pusher(RegistryAccess(ca_file=certificates.ca) if secure else PLAIN)
    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(pusher.push, image, at(proxy.host))
        assert reached.wait(20)
        time.sleep(0.1)
        began = time.monotonic()
        pusher.abort()
        try:
            with pytest.raises(EngineError, match=r"interrupted.*team/app:1") as caught:
                pushing.result(20)
            assert time.monotonic() - began < 2
        finally:
            late.set()
    check(caught.value, "push again")
    proxy.faults = []
    before = len(proxy.seen)
    with pytest.raises(EngineError, match="interrupted"):
        pusher.push(image, at(proxy.host, tag="2"))
    assert len(proxy.seen) == before
    assert not proxy.requests("PUT", "manifests")
    assert registry.tag("team/app", "1") is None


def test_a_wait_of_a_push_is_given_up(registry: Registry, proxy: FaultProxy, cache: Cache) -> None:
    reached = threading.Event()
    busy = {"Retry-After": "50"}
    proxy.faults = [
        Fault("PUT", "manifests", status=503, headers=busy, before=reached.set, times=99)
    ]
    pusher = Pusher(PLAIN)
    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(pusher.push, make_image(cache, 10), at(proxy.host))
        assert reached.wait(20)
        pusher.abort()
        with pytest.raises(EngineError, match="interrupted"):
            pushing.result(5)
    assert len(proxy.requests("PUT", "manifests")) == 1
    assert registry.tag("team/app", "1") is None


def test_an_immutable_tag_whose_answer_is_lost_is_ours(
    registry: Registry, proxy: FaultProxy, cache: Cache
) -> None:
    image, other = make_image(cache, 1000), make_image(cache, 10, seed=2)
    said = b'{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}'
    immutable = Fault("PUT", "manifests", status=409, body=said)
    proxy.faults = [Fault("PUT", "manifests", cut_answer=0, status=0), replace(immutable)]
    proxy.faults[0].headers = {"Content-Length": "1"}
    assert Pusher(PLAIN).push(image, at(proxy.host)).digest == image.digest
    assert [item.status for item in proxy.requests("PUT", "manifests")] == [201, 409]
    assert registry.tag("team/app", "1") == image.digest
    proxy.faults = [replace(immutable)]
    with pytest.raises(EngineError, match="stands for another image and is immutable"):
        Pusher(PLAIN).push(other, at(proxy.host))


def test_a_tag_that_shows_late_is_waited_for(
    registry: Registry, proxy: FaultProxy, cache: Cache
) -> None:
    image = make_image(cache, 1000)

    def hide(times: int) -> None:
        proxy.faults = [Fault("GET", "manifests/1", status=404, times=times)]

    proxy.faults = [Fault("PUT", "manifests", after=lambda: hide(3))]
    assert Pusher(PLAIN).push(image, at(proxy.host)).digest == image.digest
    proxy.faults = [
        Fault("GET", "manifests/2", status=404, times=99),
    ]
    with pytest.raises(EngineError) as caught:
        Pusher(PLAIN).push(image, at(proxy.host, tag="2"))
    check(caught.value, f"docker://{proxy.host}/team/app:2", "does not show it", "later")


def test_relative_upload_locations(cache: Cache, tmp_path: Path) -> None:
    with start_registry(tmp_path / "relative", http="  relativeurls: true\n") as registry:
        image = make_image(cache, 1000)
        Pusher(PLAIN).push(image, at(registry.host))
        assert registry.tag("team/app", "1") == image.digest


IMMUTABLE = [
    (400, "TAG_INVALID", "The image tag '1' already exists in the repository and is immutable"),
    (412, "PRECONDITION", "Failed to process request due to 'app:1' configured as immutable."),
    (409, "CONFLICT", "tag exists"),
    (400, "ImageTagAlreadyExistsException", ""),
    (403, "DENIED", "cannot be overwritten"),
]


@pytest.mark.parametrize(("status", "code", "message"), IMMUTABLE)
def test_a_tag_that_cannot_be_moved(
    registry: Registry,
    proxy: FaultProxy,
    image: Image,
    cache: Cache,
    status: int,
    code: str,
    message: str,
) -> None:
    body = f'{{"errors":[{{"code":"{code}","message":"{message}"}}]}}'.encode()
    proxy.faults = [Fault("PUT", "manifests", status=status, body=body)]
    with pytest.raises(EngineError) as caught:
        Pusher(PLAIN).push(make_image(cache, 10, seed=4), at(proxy.host))
    check(caught.value, "immutable", "choose another tag", code, f"{proxy.host}/team/app")
    assert registry.tag("team/app", "1") == image.digest


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (413, "", ""),
        (507, "", ""),
        (403, "DENIED", "adding 5 MiB of storage will exceed the quota"),
        (412, "PRECONDITION", "adding 5 MiB will exceed the configured upper limit of 1 MiB"),
    ],
)
def test_a_registry_that_is_full(
    proxy: FaultProxy, cache: Cache, status: int, code: str, message: str
) -> None:
    body = f'{{"errors":[{{"code":"{code}","message":"{message}"}}]}}'.encode() if code else b""
    for method, path in (("POST", "uploads"), ("PUT", "blobs"), ("PUT", "manifests")):
        proxy.faults = [Fault(method, path, status=status, body=body, times=9)]
        with pytest.raises(EngineError) as caught:
            Pusher(PLAIN).push(make_image(cache, 10), at(proxy.host, "fresh"))
        check(caught.value, "make room", proxy.host)


def test_a_repository_that_must_be_made_first(proxy: FaultProxy, cache: Cache) -> None:
    body = b'{"errors":[{"code":"NAME_UNKNOWN","message":"The repository does not exist"}]}'
    proxy.faults = [Fault("POST", "uploads", status=404, body=body, times=9)]
    with pytest.raises(EngineError) as caught:
        Pusher(PLAIN).push(make_image(cache, 10), at(proxy.host))
    check(caught.value, "NAME_UNKNOWN", "made first", f"{proxy.host}/team/app")


# No registry at all


def test_what_is_no_registry(proxy: FaultProxy, image: Image, tmp_path: Path) -> None:
    page = {"Content-Type": "text/html; charset=utf-8"}
    for status in (200, 404):
        proxy.faults = [Fault("GET", status=status, headers=page, body=b"<html>", times=9)]
        with pytest.raises(EngineError) as caught:
            pull(proxy, tmp_path / "b")
        check(caught.value, "web page", "port", proxy.host)
    proxy.faults = [Fault("GET", status=404, times=9)]
    with pytest.raises(EngineError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, "no container registry", "404")


def test_a_host_that_never_worked_is_given_up_soon(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    proxy.faults = [Fault("GET", "/v2/$", status=503, times=99)]
    with pytest.raises(EngineError, match="tried 2 times"):
        pull(proxy, tmp_path / "b")


def test_hosts_that_do_not_answer(tmp_path: Path) -> None:
    unknown = "no such host|no name server answers"  # the latter without any network
    for host, words in (("registry.invalid", unknown), ("127.0.0.1:1", "refused")):
        for access in (RegistryAccess(), PLAIN):
            with pytest.raises(EngineError, match=words) as caught:
                pull_image(at(host), Cache(tmp_path / "b"), access, NO_PROGRESS)
            check(caught.value, host, "https_proxy")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_location_that_is_no_url(
    proxy: FaultProxy, image: Image, cache: Cache, tmp_path: Path, method: str
) -> None:
    status = 202 if method == "POST" else 307
    proxy.faults = [
        Fault(method, "team/", status=status, headers={"Location": "http://["}, times=99)
    ]
    with pytest.raises(EngineError) as caught:
        if method == "GET":
            pull(proxy, tmp_path / "b")
        else:
            Pusher(PLAIN).push(make_image(cache, 10, seed=5), at(proxy.host))
    check(caught.value, proxy.host, "a URL that is none")


def test_a_list_of_tags_that_is_none(proxy: FaultProxy, image: Image, tmp_path: Path) -> None:
    proxy.faults = [Fault("GET", "tags/list", status=200, body=b'{"tags": 5}')]
    with pytest.raises(EngineError, match="no image"):
        pull_image(at(proxy.host, tag="none"), Cache(tmp_path / "b"), PLAIN, NO_PROGRESS)


def test_old_partial_files_are_removed(proxy: FaultProxy, image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "b" / "partial"
    folder.mkdir(parents=True)
    for name, days in (("old", 8), ("held", 8), ("new", 6)):
        (folder / name).write_bytes(b"x")
        then = time.time() - days * 86400
        os.utime(folder / name, (then, then))
    (folder / "link").symlink_to(tmp_path / "none")
    with (folder / "held").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert pull(proxy, tmp_path / "b").digest == image.digest
    assert sorted(path.name for path in folder.iterdir()) == ["held", "link", "new"]


def test_the_wait_for_another_download_can_be_given_up(
    proxy: FaultProxy, image: Image, tmp_path: Path
) -> None:
    layer, cache = image.layers[0], Cache(tmp_path / "b")
    client = RegistryClient(proxy.host, PLAIN)
    with (cache.folder("partial") / layer.hex).open("wb") as stream, ThreadPoolExecutor(1) as pool:
        fcntl.flock(stream, fcntl.LOCK_EX)
        waiting = pool.submit(fetch_blob, client, "team/app", layer, cache, lambda _: None)
        time.sleep(0.3)
        assert not waiting.done()
        client.abort()
        with pytest.raises(EngineError, match="given up"):
            waiting.result(5)


def test_an_endless_redirect(proxy: FaultProxy, image: Image, tmp_path: Path) -> None:
    target = {"Location": "/v2/team/app/manifests/1"}
    proxy.faults = [Fault("GET", "manifests", status=307, headers=target, times=99)]
    with pytest.raises(EngineError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, "redirects")
    proxy.faults = [Fault("GET", "manifests", status=307, headers={"Location": "file:///etc/x"})]
    with pytest.raises(EngineError) as caught:
        pull(proxy, tmp_path / "b")
    check(caught.value, "file")
