"""A base on top of an image, by the command line: built, locked, rendered, planned, used."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import PROJECT, TAG, error_lines
from dockerfile_rules import lint, parse

from imagekit.images.bases.lock import BaseLock, ImageBelow
from imagekit.images.cache import Cache
from imagekit.images.layout import OciLayout
from imagekit.images.open import open_image
from imagekit.images.progress import NO_PROGRESS
from imagekit.images.references import parse_reference
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.push import Pusher
from imagekit.images.rootfs import Rootfs
from imagekit.release.derived_context import source_name
from imagekit.spec.base_values import DerivedSpec

DIGEST = "sha256:" + "ab" * 32
FILES = 'files: [{path: /opt/more, text: "more"}], env: {MORE: "1"}'


def on(text, more=FILES):
    """The project file with a base on top of an image."""
    Path("imagekit.yaml").write_text(
        PROJECT.replace('{image: "oci:base:base"}', f'{{from: "{text}", {more}}}')
    )


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")


def test_it_is_made_once_and_written_with_the_images_own_layers(project, imagekit, no_engine):
    on("oci:base:base")
    code, out, err = imagekit("base", "build", "--output", "oci:made")
    assert code == 0, err
    below, made = OciLayout.open(project / "base").image("base"), open_image("oci:made", Cache())
    assert made.layers[: len(below.layers)] == below.layers
    assert made.digest == out.strip() and made.env["MORE"] == "1"
    code, out, _ = imagekit("base", "build", "--json", "--engine", "assemble")
    assert (code, json.loads(out)["cached"]) == (0, True)


def test_cells_are_built_on_it_and_verified(project, imagekit, no_engine):
    on("oci:base:base")
    code, _, err = imagekit("build", "--epc", "64m", "--log", "error")
    assert code == 0, err
    assert "base: made on an image as said in imagekit.yaml" in err
    image = open_image(f"oci:out:{TAG}", Cache())
    assert Rootfs.from_image(image, None).read("/opt/more") == b"more"
    code, _, err = imagekit("verify", f"oci:out:{TAG}", "--allow-standin")
    assert code == 0, err


def test_the_lock_holds_the_image_and_locked_builds_keep_to_it(project, imagekit, no_engine):
    on("oci:base:base")
    code, _, err = imagekit("base", "build", "--locked")
    assert code == 3 and "locks no image" in error_lines(err)[0]
    code, out, err = imagekit("base", "lock", "--json")
    assert code == 0, err
    digest = OciLayout.open(project / "base").image("base").digest
    assert json.loads(out)["from"] == {"image": "oci:base:base", "digest": digest}
    assert imagekit("base", "build", "--locked")[0] == 0
    shutil.rmtree(project / "base")
    code, _, err = imagekit("base", "build")
    assert code == 3 and "no such folder" in error_lines(err)[0]


def test_a_changed_image_is_told_and_refused_when_locked(project, imagekit, no_engine):
    on("oci:base:base")
    assert imagekit("base", "lock")[0] == 0
    assert imagekit("base", "build", "--output", "oci:made")[0] == 0
    layout = OciLayout.open(project / "base")
    layout.put(open_image("oci:made", Cache()), "base")
    code, _, err = imagekit("base", "build")
    assert code == 0 and "is not what imagekit.base.lock.json names: oci:base:base" in err
    code, _, err = imagekit("base", "build", "--locked")
    assert code == 3 and "base lock" in error_lines(err)[1]


def test_packages_without_an_engine_are_refused_with_who_does_it(project, imagekit, no_engine):
    on("oci:base:base", "packages: [tini]")
    code, _, err = imagekit("base", "build")
    assert code == 3 and "no /usr/bin/apt-get" in error_lines(err)[0]  # the tiny base has none
    on("oci:base:base", "files: [{path: /usr/bin/apt-get, text: x}]")
    assert imagekit("base", "build", "--output", "oci:apt")[0] == 0
    on("oci:apt:base", "packages: [tini]")
    code, _, err = imagekit("base", "build", "--engine", "assemble")
    assert code == 2
    assert "needs a container engine" in error_lines(err)[0]
    assert "--engine docker" in error_lines(err)[1]
    code, _, err = imagekit("base", "build")
    assert code == 4
    error_lines(err)


def test_an_image_that_is_not_there_is_named(project, imagekit, no_engine):
    for reference, code in (("oci:nowhere", 3), ("docker-archive:x.tar", 3), ("zzz:x", 2)):
        on(reference)
        found, _, err = imagekit("base", "build")
        assert found == code, err
        assert reference.partition(":")[2] in error_lines(err)[0]


def push(registry, project, name):
    image = OciLayout.open(project / "base").image("base")
    target = parse_reference(f"docker://{registry.host}/{name}")
    Pusher(RegistryAccess(insecure=True), NO_PROGRESS).push(image, target)
    return image.digest


@pytest.mark.integration("docker-registry")
def test_a_name_without_a_digest_is_warned_of_and_the_lock_pins_it(
    registry, project, imagekit, no_engine
):
    digest = push(registry, project, "occlum/occlum:1")
    on(f"docker://{registry.host}/occlum/occlum:1")
    code, _, err = imagekit("base", "build", "--insecure")
    assert code == 0, err
    assert f"not pinned, the same name can mean another image tomorrow; now it is @{digest}" in (
        " ".join(err.split())
    )
    on(f"docker://{registry.host}/occlum/occlum:1@{digest}")
    code, _, err = imagekit("base", "build", "--insecure")
    assert code == 0 and "not pinned" not in err
    code, _, err = imagekit("base", "lock", "--insecure")
    assert code == 0, err
    on(f"docker://{registry.host}/occlum/none:1")
    code, _, err = imagekit("base", "build", "--insecure")
    assert code == 4 and "occlum/none" in error_lines(err)[0]


@pytest.mark.integration("docker-registry")
def test_the_layers_below_are_not_sent_again(registry, project, imagekit, no_engine):
    push(registry, project, "occlum/occlum:1")
    on(f"docker://{registry.host}/occlum/occlum:1")
    code, out, err = imagekit(
        "base", "build", "--insecure", "--push", f"{registry.host}/x", "--json"
    )
    assert code == 0, err
    (delivered,) = json.loads(out)["delivered"]
    below = OciLayout.open(project / "base").image("base")
    assert delivered["mounted"] >= sum(layer.size for layer in below.layers)


def test_the_context_is_written_without_the_image_and_planned(project, imagekit, no_engine):
    name = f"docker.io/occlum/occlum:0.29.7-ubuntu20.04@{DIGEST}"
    on(f"docker://{name}", "packages: [tini], " + FILES)
    code, out, err = imagekit("render", "-o", "files", "--only-base")
    assert code == 0, err
    text = Path("files/base/Dockerfile").read_text()
    assert lint(text) == []
    assert f"ARG IMAGE={name}\n" in text
    assert text.endswith("USER root\n")
    there = {str(p.relative_to("files/base")) for p in Path("files/base").rglob("*") if p.is_file()}
    copied = set()
    for line in parse(text)[0]:
        if line.name == "COPY" and "--from" not in line.rest:
            for source in line.rest.split()[:-1]:
                found = {n for n in there if n == source or n.startswith(source.rstrip("/") + "/")}
                assert found, source
                copied |= found
    assert copied == there - {"Dockerfile", ".dockerignore"}
    ignore = Path("files/base/.dockerignore").read_text().splitlines()
    assert ignore[0] == "*" and {line[1:] for line in ignore[1:]} == copied
    code, out, err = imagekit("plan", "--format", "bake")
    assert code == 0, err
    document = json.loads(out)
    assert document["group"]["default"]["targets"] == ["base"] and "base" in document["target"]


def test_render_writes_base_and_cells_and_keeps_the_images_user(project, imagekit, no_engine):
    on("oci:base:base", 'user: "1000", ' + FILES)
    assert imagekit("base", "build", "--output", "oci:users")[0] == 0
    on("oci:users:base")
    code, _, err = imagekit("render", "-o", "files", "--epc", "64m")
    assert code == 0, err
    text = Path("files/base/Dockerfile").read_text()
    assert "USER" not in text  # nothing is installed: it stays as it is
    assert "COPY --from=tree /tree/files/0 /opt/more\n" in text
    assert "goes by a name of this machine's engine" in text
    assert "USER 1000" in next(Path("files").glob("gramine-*/Dockerfile")).read_text()


@pytest.mark.parametrize(
    ("text", "lock", "name", "pinned"),
    [
        (f"docker://h.example/a/b:1@{DIGEST}", None, f"h.example/a/b:1@{DIGEST}", True),
        ("docker://h.example/a/b:1", None, "h.example/a/b:1", False),
        (
            "docker://h.example/a/b:1",
            BaseLock({}, below=ImageBelow("docker://h.example/a/b:1", DIGEST)),
            f"h.example/a/b:1@{DIGEST}",
            True,
        ),
        (
            "docker://h.example/a/b:1",
            BaseLock({}, below=ImageBelow("docker://h.example/a/b:2", DIGEST)),
            "h.example/a/b:1",
            False,
        ),
        ("docker-daemon:a:1", None, "a:1", False),
    ],
)
def test_engines_name_the_image_below(text, lock, name, pinned):
    assert source_name(DerivedSpec(text), lock) == (name, True, pinned)


def test_an_image_in_a_file_gets_a_name_of_its_own():
    one, two = (source_name(DerivedSpec(text), None) for text in ("oci:a", "docker-archive:a"))
    assert one.name != two.name
    for found in (one, two):
        assert found.name.startswith("imagekit-below:") and not found.own and not found.pinned
