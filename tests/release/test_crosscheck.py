"""The base's own tools measure, too: they agree, or the build stops and says why."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import JAVA, PROJECT, error_lines
from engine_parts import CuttingProxy
from python_base import TEST_CACHE, command, gramine_files, python_base, write_python_base

from imagekit.images.daemon.containers import ThrowAway
from imagekit.images.daemon.load import load_image
from imagekit.images.layers import LayerFile
from imagekit.images.progress import NO_PROGRESS
from imagekit.release.crosscheck import CrossCheck

pytestmark = pytest.mark.integration("dockerd", "mmdebstrap", root=True)

CELL = ("build", "--epc", "64m", "--log", "error")
LEVEL = "s/error/debug/"


@pytest.fixture(scope="module")
def engine(running_engine):
    """The engine with the base in it for all tests here: to load it each time takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", running_engine.host)
        name = "local/python-base:1"
        load_image(running_engine.daemon(), python_base(), [name], NO_PROGRESS)
        yield running_engine
        running_engine.clean()


@pytest.fixture
def make(in_folder, golden_key, engine, monkeypatch):
    """Writes a project on the base with further files."""
    monkeypatch.setenv("IMAGEKIT_CACHE", str(TEST_CACHE))

    def write(*files: LayerFile) -> Path:
        write_python_base(in_folder / "base", list(files))
        text = PROJECT.replace("profile: strict", "profile: strict\ngramine: {version: '1.9'}")
        (in_folder / "imagekit.yaml").write_text(text)
        shutil.copy(golden_key, in_folder / "key.pem")
        return in_folder

    return write


def script(name: str, text: str) -> LayerFile:
    return LayerFile(f"/usr/local/bin/{name}", f"#!/bin/sh\n{text}\n".encode(), 0o755)


def leftovers(engine) -> list[str]:
    images = engine.docker("images", "--format", "{{.Repository}}").split()
    return [*engine.containers(), *(name for name in images if "cross-check" in name)]


def test_the_base_s_own_tools_agree(make, imagekit, engine):
    make()
    code, out, err = imagekit(*CELL, "--cross-check", "--json")
    assert code == 0, err
    assert "cross-checking gramine-64m-error-dcap" in err
    (image,) = json.loads(out)["images"]
    assert image["built"]
    assert leftovers(engine) == []
    # asked for again, it is checked again, though the image is there
    code, _, err = imagekit(*CELL, "--cross-check")
    assert (code, "cross-checking" in err) == (0, True), err


def spoiled_manifest() -> list[LayerFile]:
    """A gramine-manifest that writes another log level."""
    inner = LayerFile("/usr/local/bin/inner", command("gramine-manifest"), 0o755)
    text = f"sed -i {LEVEL} $1 && exec inner $1 $2"
    return [inner, script("gramine-manifest", text)]


def other_pal() -> list[LayerFile]:
    """A signer that measures another PAL than the one in the image's place for it."""
    pal = next(file for file in gramine_files(b"another") if file.path.endswith("libpal.so"))
    option = "--libpal /opt/other.so"
    return [
        LayerFile("/opt/other.so", pal.data),
        LayerFile("/usr/local/bin/gramine-sgx-sign", command("gramine-sgx-sign", option), 0o755),
    ]


def changing_file() -> list[LayerFile]:
    """A tool that sees another file than the image has."""
    inner = LayerFile("/usr/local/bin/inner", command("gramine-manifest"), 0o755)
    text = f"echo x >> {JAVA}/lib/modules && exec inner $1 $2"
    return [inner, script("gramine-manifest", text)]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (spoiled_manifest, "loader.log_level is 'error' (imagekit), 'debug' (the base's tools)"),
        (other_pal, "manifest and PAL are the same, the rules are not"),
        (changing_file, f"trusted file file:{JAVA}/lib/modules has other content"),
    ],
)
def test_a_difference_stops_the_build_and_is_explained(make, imagekit, engine, files, told):
    make(*files())
    code, _, err = imagekit(*CELL, "--cross-check")
    assert code == 5, err
    problem, hint = error_lines(err)
    assert told in problem
    assert "gramine.version" in hint
    assert not Path("out").exists()
    assert not Path("imagekit.lock.json").exists()
    assert leftovers(engine) == []


def test_a_base_without_the_tools(make, imagekit, engine):
    make(LayerFile("/usr/local/bin/gramine-manifest", b"no program", 0o644))
    code, _, err = imagekit(*CELL, "--cross-check")
    assert code == 3, err
    assert "no gramine-manifest that runs" in error_lines(err)[0]
    assert leftovers(engine) == []


def test_tools_that_fail_are_quoted(make, imagekit, engine):
    make(script("gramine-sgx-sign", "echo the enclave is too beautiful >&2; exit 7"))
    code, _, err = imagekit(*CELL, "--cross-check")
    assert code == 4, err
    problem, _ = error_lines(err)
    assert "failed (7): the enclave is too beautiful" in problem


def test_the_user_s_key_is_never_in_the_container(make, imagekit, engine, golden_key):
    """A signer that prints every key it can find: there is one, but not the user's."""
    text = "find / -xdev -name '*.pem' -exec cat {} +; exit 9"
    make(script("gramine-sgx-sign", text))
    code, _, err = imagekit(*CELL, "--cross-check")
    assert code == 4
    assert "END RSA PRIVATE KEY" in err
    assert golden_key.read_text().splitlines()[-2] not in err


def test_another_run_s_end_and_an_engine_that_is_gone(engine, monkeypatch):
    """One run that ends leaves the other its image; that a name cannot be removed loses nothing."""
    image = python_base()
    base = SimpleNamespace(image=image, standin=False)
    first = CrossCheck(base)
    engine.docker("rmi", "local/python-base:1")  # only the runs hold it now
    with CrossCheck(base):
        pass
    assert len(leftovers(engine)) == 1
    with first:
        monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
        with ThrowAway(first._engine.daemon, first._engine.image_id) as container:
            assert container.run(["true"]).code == 0
    assert leftovers(engine) == []

    place = engine.socket.parent / "gone.sock"
    with CuttingProxy(place, engine.socket).serving() as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.host)
        lost = CrossCheck(base)
    with lost:
        pass  # no error, though the engine cannot be reached
    engine.docker("rmi", lost._engine._tag)
