import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagekit.errors import InputError, UsageError
from imagekit.images.cache import Cache, default_cache_folder
from imagekit.images.compose import append, new_image, rfc3339
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.layout import CONTAINERD_NAME, OciLayout
from imagekit.images.oci import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Image,
    compact_json,
    read_image,
)
from imagekit.images.open import open_image
from imagekit.images.references import (
    DaemonReference,
    Reference,
    RegistryReference,
    parse_reference,
)
from imagekit.images.rootfs import Rootfs


def build(cache: Cache, data: bytes = b"1") -> Image:
    made = write_layer([LayerFile("/etc/x", data)], cache.blobs, 7)
    return new_image(
        [made], cache.blobs, created=7, env={"A": "1", "B": "2"}, labels={"l": "1"}, history=["h"]
    )


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def layout(tmp_path: Path) -> OciLayout:
    return OciLayout.create(tmp_path / "out")


def test_an_image_comes_back_by_tag_by_digest_and_alone(cache: Cache, layout: OciLayout) -> None:
    first, second = build(cache), build(cache, b"2")
    layout.put(first, "registry.example/a/b:1", {CONTAINERD_NAME: "registry.example/a/b:1"})
    assert layout.image().manifest == first.manifest
    layout.put(second, "two")
    again = OciLayout.open(layout.path)
    assert again.tags() == ("registry.example/a/b:1", "two")
    assert again.image("two").digest == second.digest
    assert again.image(first.digest).config == first.config
    with pytest.raises(InputError, match="several images"):
        again.image()
    with pytest.raises(InputError, match="no image") as caught:
        again.image("three")
    assert "two" in caught.value.hint
    layout.put(first, "two")
    assert layout.image("two").digest == first.digest


def test_the_index_does_not_depend_on_the_order_of_puts(cache: Cache, tmp_path: Path) -> None:
    texts = set()
    for order in ("ab", "ba"):
        layout = OciLayout.create(tmp_path / order)
        for tag in order:
            layout.put(build(cache, tag.encode()), tag)
        texts.add((layout.path / "index.json").read_bytes())
    assert len(texts) == 1


@pytest.mark.parametrize("tag", ["", "a b", "-a", "a--", "../x", "a\n"])
def test_a_bad_tag_is_refused(cache: Cache, layout: OciLayout, tag: str) -> None:
    with pytest.raises(UsageError):
        layout.put(build(cache), tag)


def test_the_linux_amd64_image_of_a_nested_index_is_chosen(cache: Cache, layout: OciLayout) -> None:
    image, other = build(cache), build(cache, b"arm")
    layout.put(image, "x")
    layout.put(other, "y")
    nested = compact_json(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    **other.descriptor.to_json(),
                    "platform": {"os": "linux", "architecture": "arm64"},
                },
                {
                    **image.descriptor.to_json(),
                    "platform": {"os": "linux", "architecture": "amd64"},
                },
                {
                    **other.descriptor.to_json(),
                    "platform": {"os": "unknown", "architecture": "unknown"},
                },
            ],
        }
    )
    entry = layout.blobs.add_bytes(nested, OCI_INDEX).to_json()
    (layout.path / "index.json").write_bytes(
        compact_json({"schemaVersion": 2, "manifests": [entry]})
    )
    assert layout.image().digest == image.digest


def test_each_kind_of_damage_is_one_error(cache: Cache, layout: OciLayout, tmp_path: Path) -> None:
    image = build(cache)
    layout.put(image, "x")
    config = image.config_descriptor.digest

    def damage(name: str, content: bytes | None) -> None:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(layout.path, copy)
        if content is None:
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            Rootfs.from_image(OciLayout.open(copy).image("x"), None)
        assert caught.value.hint
        assert "\n" not in caught.value.problem

    for name in (
        "oci-layout",
        "index.json",
        f"blobs/sha256/{image.descriptor.hex}",
        f"blobs/sha256/{config[7:]}",
        f"blobs/sha256/{image.layers[0].hex}",
    ):
        good = (layout.path / name).read_bytes()
        for content in (None, b"", b"[]", b"{", b"[" * 100_000, good[:-1], good + b"x", b"{}"):
            damage(name, content)
    damage("oci-layout", b'{"imageLayoutVersion":"2.0.0"}')
    for manifests in ("1", "[1]", '[{"mediaType":"x"}]', '[{"digest":"sha256:1"}]'):
        damage("index.json", b'{"manifests":%b}' % manifests.encode())
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError):
            OciLayout.open(path)


def test_a_folder_with_other_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"")
    with pytest.raises(InputError, match="other content"):
        OciLayout.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


PUT = """
import sys
from pathlib import Path
from imagekit.images.cache import Cache
from imagekit.images.compose import new_image
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.layout import OciLayout
cache, name = Cache(Path(sys.argv[1])), sys.argv[3]
for number in range(int(sys.argv[4])):
    data = f"{name} {number}".encode() * 20000
    layer = write_layer([LayerFile("/x", data)], cache.blobs, 0)
    image = new_image([layer], cache.blobs, created=0)
    OciLayout.create(Path(sys.argv[2])).put(image, f"{name}{number}")
    print(number, flush=True)
"""


def start(cache: Path, out: Path, name: str, count: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", PUT, str(cache), str(out), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_processes_that_put_at_once_all_land(tmp_path: Path) -> None:
    out = tmp_path / "out"
    running = [start(tmp_path / "c", out, name, 6) for name in "abc"]
    for process in running:
        process.communicate()
        assert process.returncode == 0
    layout = OciLayout.open(out)
    assert len(layout.tags()) == 18
    for tag in layout.tags():
        assert Rootfs.from_image(layout.image(tag), None).kind("/x") == "file"


def test_a_put_that_is_killed_leaves_a_whole_layout(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for delay in (0.0, 0.004, 0.009, 0.015, 0.023):
        with start(tmp_path / "c", out, "a", 500) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        layout = OciLayout.open(out)
        for tag in layout.tags():
            Rootfs.from_image(layout.image(tag), None)
    with start(tmp_path / "c", out, "b", 1) as process:
        process.communicate()
    assert process.returncode == 0
    assert not [path for path in out.rglob("*") if ".imagekit-tmp" in path.name]


def test_append_keeps_the_base_and_merges_its_settings(cache: Cache) -> None:
    base = build(cache)
    layer = write_layer([LayerFile("/ppml/x", b"")], cache.blobs, 9)
    image = append(
        base,
        layer,
        cache.blobs,
        created=9,
        history="signed",
        labels={"m": "2"},
        env={"B": "3", "C": "4"},
        entrypoint=["/run"],
    )
    assert image.layers == (*base.layers, layer.descriptor)
    assert image.env == {"A": "1", "B": "3", "C": "4"}
    assert image.labels == {"l": "1", "m": "2"}
    assert (image.entrypoint, image.created) == (("/run",), "1970-01-01T00:00:09Z")
    assert [item["created_by"] for item in image.config_json["history"]] == ["h", "signed"]
    assert image.config == compact_json(image.config_json)
    assert read_image(image.descriptor, cache.blobs) == image


def test_a_docker_base_becomes_an_oci_image(cache: Cache) -> None:
    oci = build(cache)
    value = {**oci.config_json, "container_config": {"Hostname": "builder"}}
    value.pop("history")
    config = cache.blobs.add_bytes(compact_json(value), DOCKER_CONFIG)
    layers = [{**item.to_json(), "mediaType": DOCKER_LAYER_GZIP} for item in oci.layers]
    manifest = {"schemaVersion": 2, "config": config.to_json(), "layers": layers}
    base = read_image(cache.blobs.add_bytes(compact_json(manifest), DOCKER_MANIFEST), cache.blobs)
    assert Rootfs.from_image(base, cache).read("/etc/x") == b"1"
    top = write_layer([LayerFile("/y", b"")], cache.blobs, 0)
    image = append(base, top, cache.blobs, created=0, history="top")
    assert image.descriptor.media_type == OCI_MANIFEST
    assert image.config_descriptor.media_type == OCI_CONFIG
    assert {item.media_type for item in image.layers} == {OCI_LAYER_GZIP}
    assert "container_config" not in image.config_json
    assert [item.get("created_by") for item in image.config_json["history"]] == [None, "top"]


def test_a_base_for_another_platform_is_refused(cache: Cache) -> None:
    base = build(cache)
    config = cache.blobs.add_bytes(
        compact_json({**base.config_json, "architecture": "arm64"}), OCI_CONFIG
    )
    manifest = {**base.manifest_json, "config": config.to_json()}
    other = read_image(cache.blobs.add_bytes(compact_json(manifest), OCI_MANIFEST), cache.blobs)
    layer = write_layer([], cache.blobs, 0)
    with pytest.raises(InputError, match="linux/arm64"):
        append(other, layer, cache.blobs, created=0, history="")


def test_times_outside_the_calendar_are_refused() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    for epoch in (-1, 10**12, 10**30):
        with pytest.raises(InputError):
            rfc3339(epoch)


def test_references_are_parsed() -> None:
    reference = parse_reference("oci:some/dir:registry.example:5000/x:1")
    assert isinstance(reference, Reference)
    assert (str(reference.path), reference.tag) == ("some/dir", "registry.example:5000/x:1")
    assert str(parse_reference("docker-archive:f.tar")) == "docker-archive:f.tar"
    for text in ("", "x", "oci:", "oci::tag", "foo:bar", "/path", "docker:x", "docker-daemon:"):
        with pytest.raises(UsageError):
            parse_reference(text)


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "called"),
    [
        ("docker://debian", "docker.io", "library/debian", "latest", "debian:latest"),
        ("docker://team/x:1", "docker.io", "team/x", "1", "x:1"),
        ("docker://index.docker.io/debian:1", "docker.io", "library/debian", "1", "debian:1"),
        ("docker://localhost/x:1", "localhost", "x", "1", "x:1"),
        ("docker://[::1]:5000/a/b:1", "[::1]:5000", "a/b", "1", "b:1"),
        (f"docker://r.example:5000/a@sha256:{'0' * 64}", "r.example:5000", "a", None, None),
    ],
)
def test_names_in_registries(
    text: str, host: str, repository: str, tag: str | None, called: str | None
) -> None:
    found = parse_reference(text)
    assert isinstance(found, RegistryReference)
    assert (found.host, found.repository, found.tag) == (host, repository, tag)
    assert found.called == called
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "docker://",
        "docker://X/y",
        "docker://a/b:",
        "docker://a@sha512:" + "0" * 128,
        "docker://r.example:99999/x",
        "docker-daemon:x",
        "docker-daemon:X:1",
    ],
)
def test_names_no_registry_takes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)


def test_names_in_engines() -> None:
    found = parse_reference("docker-daemon:r.example:5000/team/x:1")
    assert isinstance(found, DaemonReference)
    assert (found.name, found.called) == ("r.example:5000/team/x:1", "x:1")
    by_id = parse_reference(f"docker-daemon:sha256:{'a' * 64}")
    assert by_id.called is None
    assert str(by_id) == f"docker-daemon:sha256:{'a' * 64}"


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIT_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert default_cache_folder() == Path("/a")
    monkeypatch.delenv("IMAGEKIT_CACHE")
    assert default_cache_folder() == Path("/b/imagekit")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/x")
    assert default_cache_folder() == Path("/home/x/.cache/imagekit")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.integration("skopeo", "umoci")
def test_skopeo_and_umoci_read_what_is_written(
    cache: Cache, layout: OciLayout, tmp_path: Path
) -> None:
    name = "d" * 120 + "/ä"
    files = [
        LayerFile(f"/{name}", b"1", 0o640),
        LayerFile("/l", link=name),
        LayerFile("/t", mode=0o1777, directory=True),
    ]
    image = new_image([write_layer(files, cache.blobs, 5)], cache.blobs, created=5, env={"A": "b"})
    layout.put(image, "x")
    shown = json.loads(run("skopeo", "inspect", f"oci:{layout.path}:x"))
    assert (shown["Digest"], shown["Env"]) == (image.digest, ["A=b"])
    run("umoci", "unpack", "--rootless", "--image", f"{layout.path}:x", str(tmp_path / "u"))
    root = tmp_path / "u" / "rootfs"
    assert (root / "l").read_bytes() == b"1"
    assert (root / name).stat().st_mode & 0o777 == 0o640
    assert (root / "t").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.integration("skopeo", "umoci")
@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_archives_of_skopeo_are_read_once(
    cache: Cache, layout: OciLayout, tmp_path: Path, transport: str
) -> None:
    image = build(cache)
    layout.put(image, "x")
    reference = f"{transport}:{tmp_path}/a.tar:registry.example/x:1"
    run("skopeo", "copy", f"oci:{layout.path}:x", reference)
    fresh = Cache(tmp_path / "fresh")
    opened = open_image(reference, fresh)
    assert Rootfs.from_image(opened, fresh).read("/etc/x") == b"1"
    assert opened.diff_ids == image.diff_ids
    assert open_image(reference, fresh) == opened
