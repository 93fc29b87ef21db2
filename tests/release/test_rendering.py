"""``render``: build contexts of cells, and what a plain docker build makes of them."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import PROJECT, TAG, base_files
from dockerfile_rules import lint
from image_files import differences, of_archive, of_image, run_settings

from imagekit.images.cache import Cache
from imagekit.images.compose import new_image
from imagekit.images.daemon.load import load_image
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.layout import OciLayout
from imagekit.images.open import open_image
from imagekit.images.progress import NO_PROGRESS

CELL = "gramine-64m-error-dcap"
BASE = re.compile(r"^ARG BASE=(.+)$", re.MULTILINE)


def render(imagekit, *more, key=False):
    signing = ("--key", "key.pem") if key else ()
    code, out, err = imagekit("render", "-o", "files", "--select", CELL, *signing, *more)
    assert code == 0, err
    return Path("files") / CELL, out.splitlines()


def text_of(context):
    return (context / "Dockerfile").read_text()


def test_unsigned_it_says_so_and_has_no_signature_and_no_labels_of_one(project, imagekit):
    context, written = render(imagekit)
    assert sorted(written) == sorted(str(p) for p in context.rglob("*") if p.is_file())
    assert not (context / "rootfs/ppml/bash.sig").exists()
    assert "Not signed yet" in text_of(context) and "mr_" not in text_of(context)
    assert "rootfs/ppml/bash.sig /ppml/" in text_of(context)
    assert lint(text_of(context)) == []


def test_signed_it_has_what_the_built_image_has(project, imagekit):
    context, _ = render(imagekit, key=True)
    code, _, err = imagekit("build", "--epc", "64m", "--log", "error")
    assert code == 0, err
    image = open_image(f"oci:out:{TAG}", Cache())
    files = of_image(image).files
    for path in (context / "rootfs").rglob("*"):
        if path.is_file():
            entry = files[str(path.relative_to(context / "rootfs"))]
            assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
            assert entry.mode == stat.S_IMODE(path.stat().st_mode)
    for name, value in image.labels.items():
        assert f'LABEL {name}="{value}"\n' in text_of(context)
    assert "Not signed yet" not in text_of(context)
    assert lint(text_of(context)) == []


def test_a_signature_of_an_earlier_rendering_does_not_stay(project, imagekit):
    context, _ = render(imagekit, key=True)
    assert (context / "rootfs/ppml/bash.sig").exists()
    render(imagekit)
    assert not (context / "rootfs/ppml/bash.sig").exists()


def test_the_key_is_in_none_of_the_files(project, imagekit):
    render(imagekit, key=True)
    secret = Path("key.pem").read_bytes().splitlines()[5]
    assert secret not in b"".join(p.read_bytes() for p in Path("files").rglob("*") if p.is_file())


def test_two_renderings_are_equal(project, imagekit):
    _, written = render(imagekit, key=True)
    before = {path: Path(path).read_bytes() for path in written}
    shutil.rmtree("files")
    assert render(imagekit, key=True)[1] == written
    assert {path: Path(path).read_bytes() for path in written} == before


@pytest.mark.parametrize(("umask"), [0o022, 0o077, 0o002])
def test_modes_do_not_depend_on_the_umask(project, imagekit, umask):
    before = os.umask(umask)
    try:
        context, _ = render(imagekit)
    finally:
        os.umask(before)
    assert stat.S_IMODE((context / "rootfs/opt/entrypoint.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((context / "rootfs/ppml/bash.manifest").stat().st_mode) == 0o644


def test_the_base_is_named_by_its_digest(project, imagekit):
    context, _ = render(imagekit)
    digest = open_image("oci:base:base", Cache()).digest
    found = BASE.search(text_of(context))[1]
    assert found == f"registry.example:5000/team/tiny-gramine-base:1.0@{digest}"


def write_user_base(folder: Path) -> None:
    layout = OciLayout.create(folder)
    files = [*base_files(), LayerFile("/ppml", directory=True, mode=0o1770, uid=7, gid=8)]
    layer = write_layer(files, layout.blobs, 0)
    image = new_image(
        [layer],
        layout.blobs,
        created=0,
        user="1000:1000",
        env={"PATH": "/usr/bin", "A": "b"},
        command=["/bin/sh"],
    )
    layout.put(image, "base")


def test_the_bases_user_is_kept(project, imagekit):
    shutil.rmtree("base")
    write_user_base(Path("base"))
    Path("imagekit.yaml").write_text(PROJECT + "paths: {java_home: /usr/lib/jvm/java-17}\n")
    context, _ = render(imagekit)
    assert lint(text_of(context), user=True) == []
    assert "USER 1000:1000\n" in text_of(context)


# -- in an engine


def docker(engine, *words, buildkit=False):
    return subprocess.run(
        ["docker", "--host", engine.host, *map(str, words)],
        env={**os.environ, "DOCKER_BUILDKIT": str(int(buildkit))},
        capture_output=True,
        text=True,
        check=False,
    )


def load_base(engine, name):
    load_image(engine.daemon(), open_image("oci:base:base", Cache()), [name], NO_PROGRESS)


def saved(engine, name, tmp_path):
    engine.docker("save", "--output", str(tmp_path / "saved.tar"), name)
    return of_archive(tmp_path / "saved.tar")


@pytest.mark.parametrize("buildkit", [False, True])
def test_a_plain_docker_build_gives_the_same_image(
    engine, buildx, project, imagekit, tmp_path, buildkit
):
    shutil.rmtree("base")
    write_user_base(Path("base"))
    Path("imagekit.yaml").write_text(PROJECT + "paths: {java_home: /usr/lib/jvm/java-17}\n")
    context, _ = render(imagekit, key=True)
    code, out, err = imagekit("build", "--epc", "64m", "--log", "error")
    assert code == 0, err
    load_base(engine, "tiny-base:1")
    command = ("buildx", "build", "--load") if buildkit else ("build",)
    done = docker(
        engine, *command, "--tag", "cell:1", "--build-arg", "BASE=tiny-base:1", context,
        buildkit=buildkit,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = of_image(open_image(f"oci:out:{TAG}", Cache()))
    seen = saved(engine, "cell:1", tmp_path)
    assert expected.files["ppml"].mode == 0o1770 and expected.files["ppml"].uid == 7
    assert differences(expected, seen) == []
    assert run_settings(seen) == run_settings(expected)
    code, measured, err = imagekit("measure", "docker-daemon:cell:1")
    assert code == 0, err
    (mr_enclave,) = re.findall(r"mr_enclave +: ([0-9a-f]{64})", out)
    assert mr_enclave in measured
    code, _, err = imagekit("verify", "docker-daemon:cell:1", "--allow-standin", "--name", TAG)
    assert code == 0, err


def test_without_a_signature_nothing_is_built(engine, project, imagekit):
    context, _ = render(imagekit)
    load_base(engine, "tiny-base:1")
    done = docker(engine, "build", "--tag", "cell:1", "--build-arg", "BASE=tiny-base:1", context)
    assert done.returncode != 0 and "bash.sig" in done.stdout + done.stderr
    assert "cell:1" not in engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}")


def test_a_key_beside_the_files_is_not_sent(engine, project, imagekit, tmp_path):
    context, _ = render(imagekit, key=True)
    for folder in (context, context / "rootfs/ppml"):
        shutil.copy("key.pem", folder / "enclave-key.pem")
    text = "FROM scratch\nCOPY . /\n"
    (tmp_path / "Dockerfile").write_text(text)
    done = docker(engine, "build", "--tag", "all:1", "--file", tmp_path / "Dockerfile", context)
    assert done.returncode == 0, done.stderr
    sent = saved(engine, "all:1", tmp_path).files
    assert "rootfs/ppml/bash.sig" in sent
    assert [path for path in sent if "key" in path] == []
    (context / ".dockerignore").unlink()  # the search can fail
    done = docker(engine, "build", "--tag", "all:2", "--file", tmp_path / "Dockerfile", context)
    assert done.returncode == 0, done.stderr
    assert "rootfs/ppml/enclave-key.pem" in saved(engine, "all:2", tmp_path).files


def test_the_base_alone_is_rendered_without_being_made(project, imagekit, monkeypatch, tmp_path):
    """No engine, no mmdebstrap, no network: nothing is made."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    base = "base: {distribution: {suite: bookworm}, packages: [tini]}"
    Path("imagekit.yaml").write_text(PROJECT.replace('base: {image: "oci:base:base"}', base))
    code, out, err = imagekit("render", "-o", "files", "--only-base")
    assert code == 0, err
    assert sorted(out.splitlines()) == sorted(
        str(path) for path in Path("files").rglob("*") if path.is_file()
    )
    assert lint(text_of(Path("files/base"))) == []
    assert {path.name for path in Path("files").iterdir()} == {"base"}


@pytest.mark.parametrize(
    "option", [("--key", "key.pem"), ("--all",), ("--base", "oci:base:base"), ("--epc", "64m")]
)
def test_what_means_nothing_for_the_base_alone_is_refused(project, imagekit, option):
    assert imagekit("render", "-o", "files", "--only-base", *option)[0] == 2
    assert not Path("files").exists()


def test_a_base_that_is_an_image_has_no_context(project, imagekit):
    code, _, err = imagekit("render", "-o", "files", "--only-base")
    assert code == 2
    assert "oci:base:base" in err
    assert not Path("files").exists()
