"""A rendered cell and its published base, built by somebody without imagekit."""

import subprocess
from pathlib import Path

import pytest
from conftest import PROJECT, TAG
from image_files import differences, of_archive, of_image

from imagekit.images.cache import Cache
from imagekit.images.open import open_image
from imagekit.images.references import RegistryReference
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.push import Pusher
from imagekit.release.lock import read_lock

pytestmark = pytest.mark.integration("dockerd", "docker-registry", root=True)

CELL = ("--epc", "64m", "--log", "error")
CONTEXT = Path("rendered/gramine-64m-error-dcap")


@pytest.fixture
def published(project, registry):
    """A project whose base is in the registry that its images are named after."""
    text = PROJECT.replace("registry.example:5000", registry.host)
    Path("imagekit.yaml").write_text(text)
    pusher = Pusher(RegistryAccess(insecure=True))
    base = open_image("oci:base:base", Cache())
    pusher.push(base, RegistryReference(registry.host, "team/tiny-gramine-base", "1.0"))
    return project


def build(engine):
    command = ["docker", "--host", engine.host, "build", "--tag", "custom:1", CONTEXT]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_base_comes_from_its_registry_by_digest(published, imagekit, engine, tmp_path):
    """Nothing but docker and what was rendered: same files, same measurement, and it verifies."""
    assert imagekit("build", *CELL)[0] == 0
    code, _, err = imagekit("render", "-o", "rendered", *CELL, "--key", "key.pem")
    assert code == 0, err
    done = build(engine)
    assert done.returncode == 0, done.stderr
    saved = tmp_path / "saved.tar"
    engine.docker("save", "--output", str(saved), "custom:1")
    ours = of_image(open_image(f"oci:out:{TAG}", Cache()))
    assert differences(ours, of_archive(saved)) == []
    entry = next(iter(read_lock(Path("imagekit.lock.json")).values()))
    _, out, err = imagekit("measure", "docker-daemon:custom:1")
    assert out == f"mr_enclave       : {entry.mr_enclave}\n", err
    options = ("--allow-standin", "--name", TAG, "--mr-enclave", entry.mr_enclave)
    code, _, err = imagekit("verify", "docker-daemon:custom:1", *options)
    assert code == 0, err


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
