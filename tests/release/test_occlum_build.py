"""Cells of Occlum, from the project file to a checked image, on a real engine.

Occlum's own image cannot be had here: a labelled stand-in takes its place in the base.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import error_lines
from key_search import KeySearch, private_needles
from occlum_parts import occlum_base, occlum_files
from python_base import TEST_CACHE, TOOLS, with_layer

from imagekit.errors import CheckError
from imagekit.images.cache import Cache
from imagekit.images.daemon.load import load_image
from imagekit.images.keyscan import find_keys
from imagekit.images.layers import LayerFile
from imagekit.images.layout import OciLayout
from imagekit.images.progress import NO_PROGRESS
from imagekit.images.registry.access import RegistryAccess
from imagekit.release.registering import Accepted, verified

pytestmark = pytest.mark.integration("dockerd", "mmdebstrap", root=True)

INSTANCE = "/opt/occlum_spark"
LIBRARY = f"{INSTANCE}/build/lib/libocclum-libos.signed.so"
NAME = "tiny-occlum-reference-64m:1.0"
REFERENCE = f"registry.example:5000/team/{NAME}"
DEBUG_NAME = "tiny-occlum-reference-64m-debug:1.0"
PROJECT = """\
schema: 1
image: registry.example:5000/team/tiny
tag: "1.0"
libos: occlum
base: {image: "oci:base:base"}
matrix:
  epc: [64m, 128m]
  log: [error, debug]
  attestation: [dcap]
  default: {epc: 64m, log: error, attestation: dcap}
enclave: {max_threads: 8}
occlum: {kernel_heap: 32MB}
signing: {key: ./key.pem}
launch:
  command: [/usr/bin/python3, -c, "print('from inside', open('/etc/hosts').read())"]
  passthrough: [POD_NAME]
"""


MAKE_KEY = (
    "import sys; from imagekit.signing.keyfile import throw_away_key; "
    'open(sys.argv[1], "wb").write(throw_away_key())'
)
"""``openssl genrsa -3 -out FILE``, which the test base does not have."""


@pytest.fixture(scope="module")
def engine(running_engine):
    """The engine with the base in it for all tests here: to load it each time takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", running_engine.host)
        load_image(running_engine.daemon(), occlum_base(), ["local/occlum-base:1"], NO_PROGRESS)
        yield running_engine
        running_engine.clean()


@pytest.fixture
def make(in_folder, golden_key, engine, monkeypatch):
    """Writes a project on the base with further files."""
    monkeypatch.setenv("IMAGEKIT_CACHE", str(TEST_CACHE))

    def write(*files: LayerFile, text: str = PROJECT) -> Path:
        base = with_layer(occlum_base(), list(files)) if files else occlum_base()
        OciLayout.create(in_folder / "base").put(base, "base")
        (in_folder / "imagekit.yaml").write_text(text)
        shutil.copy(golden_key, in_folder / "key.pem")
        return in_folder

    return write


@pytest.fixture(scope="module")
def all_built(engine, tmp_path_factory, golden_key):
    """A project whose four cells were built, with what the build said; not to be changed."""
    folder = tmp_path_factory.mktemp("occlum")
    OciLayout.create(folder / "base").put(occlum_base(), "base")
    (folder / "imagekit.yaml").write_text(PROJECT)
    shutil.copy(golden_key, folder / "key.pem")
    words = [sys.executable, "-m", "imagekit", "build", "--all"]
    env = {**os.environ, "IMAGEKIT_CACHE": str(TEST_CACHE)}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


@pytest.fixture
def shipped(all_built, in_folder, monkeypatch):
    """The current folder, with a copy of that project."""
    monkeypatch.setenv("IMAGEKIT_CACHE", str(TEST_CACHE))
    shutil.copytree(all_built[0], in_folder, dirs_exist_ok=True, copy_function=shutil.copy2)
    return in_folder


def leftovers(engine) -> list[str]:
    images = engine.docker("images", "--format", "{{.Repository}}").split()
    return [*engine.containers(), *(name for name in images if "occlum-build" in name)]


def built(imagekit, *options: str) -> list[dict]:
    code, out, err = imagekit("build", *options, "--json")
    assert code == 0, err
    return json.loads(out)["images"]


def changed(name: str, *files: LayerFile) -> str:
    """A built image with one more layer, as a reference."""
    layout = OciLayout.open(Path("out"))
    OciLayout.create(Path("changed")).put(with_layer(layout.image(name), list(files)), name)
    return f"oci:changed:{name}"


def test_cells_are_built_signed_and_verified(shipped, all_built, imagekit, engine):
    assert "STAND-IN OCCLUM" in all_built[1]
    assert leftovers(engine) == []
    lock = json.loads(Path("imagekit.lock.json").read_text())["images"]
    assert len(lock) == 4
    entry = lock[REFERENCE]
    assert (entry["libos"], entry["occlum"], entry["standin"]) == ("occlum", "0.29.7", True)
    assert entry["debug"] is False
    assert "gramine" not in entry
    for name, one in lock.items():
        reference = f"oci:out:{name.rpartition('/')[2]}"
        code, out, err = imagekit("verify", reference, "--allow-standin", "--lock", *LOCK)
        assert code == 0, err
        assert one["mr_enclave"] in out
        assert (
            "compute other files with the same tag" in err
        )  # what the tags are worth is said each time
        code, out, _ = imagekit("--quiet", "measure", reference)
        assert (code, out) == (0, f"mr_enclave       : {one['mr_enclave']}\n")
    # The log level is no part of the measurement in this version, the size is.
    measured = {one["mr_enclave"] for one in lock.values()}
    assert len(measured) == 2
    # All cells share the file systems.
    layers = [OciLayout.open(Path("out")).image(n.rpartition("/")[2]).layers for n in lock]
    assert len({found[-2].digest for found in layers}) == 1
    assert len({found[-1].digest for found in layers}) == 2


LOCK = ("imagekit.lock.json",)


def test_the_image_says_what_it_is(shipped, imagekit, golden_key):
    code, out, _ = imagekit("inspect", f"oci:out:{NAME}", "--json")
    facts = json.loads(out)
    assert code == 0
    image = json.loads(Path("imagekit.lock.json").read_text())["images"][REFERENCE]
    assert facts["labels"]["io.imagekit.libos"] == "occlum"
    assert facts["labels"]["io.imagekit.standin"] == "true"
    assert facts["sigstruct"]["mr_enclave"] == image["mr_enclave"]
    assert facts["sigstruct"]["debuggable"] is False
    assert facts["memory"]["threads"] == 8
    code, shown, _ = imagekit("key", "show", golden_key, "--json")
    assert json.loads(shown)["mr_signer"] == facts["sigstruct"]["mr_signer"]
    found = OciLayout.open(Path("out")).image(NAME)
    assert found.env["OCCLUM_LOG_LEVEL"] == "error"
    assert found.entrypoint == ("/opt/entrypoint.sh",)


def test_the_same_inputs_give_the_same_image_and_are_not_built_twice(shipped, imagekit):
    (first,) = built(imagekit, "--epc", "64m")
    assert not first["built"]
    (anew,) = built(imagekit, "--epc", "64m", "--rebuild", "--output", "oci:other")
    assert anew["built"]
    assert anew["digest"] == first["digest"]


def test_another_key_changes_the_signer_alone(shipped, imagekit):
    (first,) = built(imagekit, "--epc", "64m")
    assert imagekit("key", "generate", "other.pem")[0] == 0
    (other,) = built(imagekit, "--epc", "64m", "--key", "other.pem")
    assert other["mr_enclave"] == first["mr_enclave"]
    assert other["mr_signer"] != first["mr_signer"]


def test_no_key_is_left_anywhere(shipped, imagekit, engine, golden_key, tmp_path):
    """Neither the user's, nor the one that Occlum signed with, in image, output or engine."""
    (tmp_path / "search").mkdir()
    search = KeySearch(private_needles(golden_key), tmp_path / "search")
    assert search.in_files(Path("out"), Path("imagekit.lock.json")) == []
    if engine.root is not None:
        assert search.in_files(engine.root) == []
    layout = OciLayout.open(Path("out"))
    for layer in layout.image(NAME).layers[-2:]:
        assert find_keys(gzip.decompress(layout.blobs.path(layer.digest).read_bytes())) == []
    code, _, err = imagekit("verify", f"oci:out:{NAME}", "--allow-standin")
    assert code == 0, err
    assert "no private key" in err


def test_a_failed_build_shows_the_tool_s_last_lines(make, imagekit, engine):
    text = b"#!/bin/sh\necho first line; echo no luck today >&2; exit 3\n"
    make(LayerFile("/opt/occlum/build/bin/occlum", text, 0o755))
    code, _, err = imagekit("build", "--epc", "64m")
    assert code == 4, err
    problem, _ = error_lines(err)
    assert "occlum build failed (3)" in problem
    assert "no luck today" in problem
    assert leftovers(engine) == []
    assert not Path("imagekit.lock.json").exists()
    assert not Path("out").exists()


def test_a_tool_that_does_nothing_without_saying_so_is_noticed(make, imagekit, engine):
    """Occlum ends without error on values that it cannot read."""
    script = b"#!/bin/sh\ncase $1 in init) exec inner-occlum init;; esac\nexit 0\n"
    real = next(f for f in occlum_files() if f.path == "/opt/occlum/build/bin/occlum")
    inner = LayerFile("/opt/occlum/build/bin/inner-occlum", real.data, 0o755)
    make(inner, LayerFile("/opt/occlum/build/bin/occlum", script, 0o755))
    code, _, err = imagekit("build", "--epc", "64m")
    assert code == 4, err
    assert "missing or empty after occlum build" in error_lines(err)[0]
    assert leftovers(engine) == []


def test_a_base_without_occlum_is_refused(project, imagekit):
    text = Path("imagekit.yaml").read_text().replace("libos: gramine", "libos: occlum")
    Path("imagekit.yaml").write_text(text.replace("launch: {command", "launch: {command"))
    code, _, err = imagekit("build", "--epc", "64m")
    assert code == 3, err
    assert "no Occlum" in error_lines(err)[0]


def test_a_stand_in_is_refused_unless_accepted(shipped, imagekit):
    code, _, err = imagekit("verify", f"oci:out:{NAME}")
    assert code == 5
    assert "is a stand-in, not Occlum" in error_lines(err)[0]


def test_a_debuggable_enclave_has_to_be_asked_for_twice(make, imagekit):
    make(text=PROJECT.replace("max_threads: 8", "max_threads: 8, debug: true"))
    code, _, err = imagekit("build", "--epc", "64m")
    assert code == 6, err
    assert "metadata.debuggable" in error_lines(err)[0]
    code, _, err = imagekit("build", "--epc", "64m", "--allow-debug")
    assert code == 0, err
    reference = f"oci:out:{NAME}"
    code, _, err = imagekit("verify", reference, "--allow-standin")
    assert code == 5
    assert "debug" in err
    assert imagekit("verify", reference, "--allow-standin", "--allow-debug")[0] == 0


def test_the_log_level_makes_nothing_debuggable(shipped, imagekit):
    code, out, _ = imagekit("inspect", f"oci:out:{DEBUG_NAME}")
    assert code == 0
    assert "debuggable  : false" in out


def read(name: str, path: str) -> bytes:
    from imagekit.images.rootfs import Rootfs

    image = OciLayout.open(Path("out")).image(name)
    return Rootfs.from_image(image, Cache(TEST_CACHE)).read(path)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_whatever_is_changed_is_found(shipped, imagekit):

    def findings(*files: LayerFile) -> str:
        reference = changed(NAME, *files)
        code, out, _ = imagekit("verify", reference, "--allow-standin", "--json")
        verdict = json.loads(out)
        assert (code, verdict["ok"]) == (5, False)
        return "\n".join(verdict["failed"])

    library = read(NAME, LIBRARY)
    assert "measures to" in findings(LayerFile(LIBRARY, flipped(library, 0x1010)))
    at = library.index(bytes.fromhex("06000000e1000000")) + 600
    assert "SIGSTRUCT" in findings(LayerFile(LIBRARY, flipped(library, at)))
    assert "ELF" in findings(LayerFile(LIBRARY, b"no enclave"))

    config = json.loads(read(NAME, f"{INSTANCE}/Occlum.json"))
    config["resource_limits"]["max_num_of_threads"] = 9
    text = json.dumps(config).encode()
    found = findings(LayerFile(f"{INSTANCE}/Occlum.json", text))
    assert "max_num_of_threads" in found
    assert "Occlum.json has the SHA-256" in found

    system = f"{INSTANCE}/build/.Occlum_sys.json.protected"
    data = read(NAME, system)
    found = findings(LayerFile(system, flipped(data, 500)))
    assert f"{system} has the SHA-256" in found
    assert "the tag (MAC) of node 0 is wrong" in found

    inside = f"{INSTANCE}/build/mount/__ROOT/metadata"
    assert "metadata has the SHA-256" in findings(LayerFile(inside, b"x"))
    assert "was added" in findings(LayerFile(f"{INSTANCE}/build/mount/__ROOT/new", b"x"))
    listed = f"{INSTANCE}/imagekit.files.sha256"
    other = read(NAME, listed).replace(b"0", b"1", 1)
    assert "files_sha256" in findings(LayerFile(listed, other))
    assert "/opt/entrypoint.sh was put there by a later layer" in findings(
        LayerFile("/opt/entrypoint.sh", b"#!/bin/sh\n", 0o755)
    )


def test_a_name_that_says_otherwise_is_found(shipped, imagekit):
    reference = f"oci:out:{NAME}"
    other = "tiny-occlum-reference-128m:1.0"
    code, _, err = imagekit("verify", reference, "--allow-standin", "--name", other)
    assert code == 5
    assert "the name" in error_lines(err)[0]


def test_a_job_starts_inside_the_tree_that_was_made(shipped, imagekit, engine):
    """The stand-in goes into the enclave's tree: what the job needs is in it, or it fails."""
    built(imagekit, "--epc", "64m", "--load")
    name = REFERENCE
    said = engine.docker(
        *("run", "--rm", "--device", "/dev/null:/dev/sgx_enclave"),
        *("--volume", f"{Path.cwd()}/key.pem:/var/run/aesmd/aesm.socket"),
        *("--env", "SGX_ENABLED=true", name),
    )
    assert "from inside 127.0.0.1 localhost" in said
    assert leftovers(engine) == []


def test_a_rendered_context_builds_without_imagekit(make, imagekit, engine):
    openssl = f"#!/bin/sh\nPYTHONPATH={TOOLS} exec python3 -c '{MAKE_KEY}' \"$4\"\n"
    make(LayerFile("/usr/local/bin/openssl", openssl.encode(), 0o755))
    (image,) = built(imagekit, "--epc", "64m")
    code, out, err = imagekit("render", "-o", "rendered", "--epc", "64m", "--log", "error")
    assert code == 0, err
    assert "key.pem" not in out
    base = "local/occlum-base:2"
    load_image(engine.daemon(), OciLayout.open(Path("base")).image("base"), [base], NO_PROGRESS)
    folder = Path("rendered/occlum-64m-error-dcap")
    assert json.loads((folder / "instance/Occlum.json").read_text())
    said = engine.docker(
        *("build", "--build-arg", f"BASE={base}", "--tag", "local/x:1", str(folder))
    )
    assert image["mr_enclave"] in said


def test_render_does_not_sign(make, imagekit):
    make()
    code, _, err = imagekit("render", "-o", "x", "--epc", "64m", "--key", "key.pem")
    assert code == 2
    assert "signed where it is built" in error_lines(err)[0]
    assert not Path("x").exists()


def test_without_an_engine_a_cell_cannot_be_built(make, imagekit, monkeypatch, tmp_path):
    make()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    code, _, err = imagekit("build", "--epc", "64m")
    assert code == 4
    error_lines(err)
    assert not Path("out").exists()


def test_the_other_library_os_is_refused(make, imagekit):
    make()
    code, _, err = imagekit("build", "--epc", "64m", "--libos", "gramine")
    assert code == 2
    assert "is for occlum" in error_lines(err)[0]


def test_an_image_is_registered_by_what_was_verified(shipped):
    """``kms register`` takes the measurements from the enclave, once everything holds."""
    entry = json.loads(Path("imagekit.lock.json").read_text())["images"][REFERENCE]
    lock, access = Path("imagekit.lock.json"), RegistryAccess()
    reference = f"oci:out:{NAME}"
    subject = verified(reference, Accepted(standin=True), access, lock=lock)
    assert subject.enclave == (entry["mr_enclave"], entry["mr_signer"], 1, 3)
    with pytest.raises(CheckError, match="stand-in"):
        verified(reference, Accepted(), access, lock=lock)


def test_files_that_the_lock_file_does_not_know_are_found(shipped, imagekit):
    lock = json.loads(Path("imagekit.lock.json").read_text())
    lock["images"][REFERENCE]["files_sha256"] = "0" * 64
    Path("other.lock.json").write_text(json.dumps(lock))
    words = ("verify", f"oci:out:{NAME}", "--allow-standin", "--lock", "other.lock.json")
    code, _, err = imagekit(*words)
    assert code == 5
    assert "the lock file says 0000" in error_lines(err)[0]
