"""The rendered Dockerfile of a cell, built by somebody without imagekit: the same image."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import PROJECT, TAG

from imagekit.images.cache import Cache
from imagekit.images.open import open_image
from imagekit.images.references import RegistryReference
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.push import Pusher
from imagekit.images.rootfs import Rootfs
from imagekit.release.lock import read_lock

pytestmark = pytest.mark.integration("dockerd", "docker-registry", root=True)

CELL = ("--epc", "64m", "--log", "error")
CONTEXT = Path("rendered/gramine-64m-error-dcap")


def everything(reference: str) -> dict[str, tuple[object, ...]]:
    """All that can be said of an image's files, but their times."""
    rootfs = Rootfs.from_image(open_image(reference, Cache()), None)
    found: dict[str, tuple[object, ...]] = {}
    todo = ["/"]
    while todo:
        folder = todo.pop()
        for name in rootfs.children(folder):
            path = f"{folder.rstrip('/')}/{name}"
            entry = rootfs.entry(path, follow=False)
            content = rootfs.sha256(path) if entry.kind == "file" else entry.target
            found[path] = (entry.kind, entry.mode, entry.uid, entry.gid, content)
            if entry.kind == "dir":
                todo.append(path)
    return found


@pytest.fixture
def published(project, registry):
    """A project whose base is in the registry that its images are named after."""
    text = PROJECT.replace("registry.example:5000", registry.host)
    Path("imagekit.yaml").write_text(text)
    pusher = Pusher(RegistryAccess(insecure=True))
    base = open_image("oci:base:base", Cache())
    pusher.push(base, RegistryReference(registry.host, "team/tiny-gramine-base", "1.0"))
    return project


def build(engine, *options: str, environment: dict[str, str] | None = None):
    command = ["docker", "--host", engine.host, "build", "--tag", "custom:1", *options, CONTEXT]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("builder", ["classic", "buildx"])
def test_a_plain_docker_build_gives_the_same_files_and_measurement(
    published, imagekit, engine, builder, request
):
    if builder == "buildx":
        request.getfixturevalue("buildx")
    assert imagekit("build", *CELL)[0] == 0
    code, _, err = imagekit("render", "-o", "rendered", *CELL, "--key", "key.pem")
    assert code == 0, err
    if builder == "classic":
        done = build(engine)
        assert done.returncode == 0, done.stderr
    else:
        engine.docker("buildx", "build", "--load", "--tag", "custom:1", str(CONTEXT))
    ours, theirs = f"oci:out:{TAG}", "docker-daemon:custom:1"
    assert everything(theirs) == everything(ours)
    entry = next(iter(read_lock(Path("imagekit.lock.json")).values()))
    code, out, err = imagekit("measure", theirs)
    assert out == f"mr_enclave       : {entry.mr_enclave}\n", err
    one, other = (open_image(image, Cache()) for image in (ours, theirs))
    assert one.labels == other.labels
    for key in ("Entrypoint", "User", "WorkingDir", "Cmd"):
        assert (one.run_config.get(key) or None) == (other.run_config.get(key) or None), key
    # Docker gives an image whose base has no PATH one
    added = set(other.run_config["Env"]) - set(one.run_config["Env"])
    assert all(variable.startswith("PATH=") for variable in added)
    assert set(one.run_config["Env"]) <= set(other.run_config["Env"])
    code, _, err = imagekit("verify", theirs, "--allow-standin", "--name", TAG)
    assert code == 0, err


def test_an_unsigned_context_builds_nothing(published, imagekit, engine):
    assert imagekit("render", "-o", "rendered", *CELL, "--key", "key.pem")[0] == 0
    assert (CONTEXT / "rootfs/ppml/bash.sig").exists()
    assert imagekit("render", "-o", "rendered", *CELL)[0] == 0
    done = build(engine)
    assert done.returncode != 0
    assert "bash.sig" in done.stderr
    assert "custom" not in engine.docker("images", "--format", "{{.Repository}}")


def test_another_base_gives_an_image_that_is_refused(published, imagekit, engine):
    """Whoever builds on something else gets files that do not fit the signature."""
    assert imagekit("render", "-o", "rendered", *CELL, "--key", "key.pem")[0] == 0
    text = (CONTEXT / "Dockerfile").read_text()
    other = "FROM ${BASE}\nCOPY rootfs/ppml/bash.sig /opt/spark/jars/spark-core.jar\n"
    changed = text.replace("FROM ${BASE}\n", other)
    assert changed != text
    (CONTEXT / "Dockerfile").write_text(changed)
    assert build(engine).returncode == 0
    code, _, err = imagekit("verify", "docker-daemon:custom:1", "--allow-standin", "--name", TAG)
    assert code == 5
    assert "spark-core.jar" in err


def test_rendering_with_a_key_leaves_no_key(published, imagekit, golden_key):
    code, out, err = imagekit(
        "render", "-o", "rendered", *CELL, "--key", "key.pem", "--artifacts", "--json"
    )
    assert code == 0, err
    line = golden_key.read_bytes().splitlines()[3]
    for name in json.loads(out)["files"]:
        assert line not in Path(name).read_bytes()
