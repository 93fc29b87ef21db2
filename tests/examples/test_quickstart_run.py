"""The quickstart for real: Debian, Java and Spark from the package registries, then the job runs.

The base is made once per checkout and kept in ``.imagekit/test-cache``.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".imagekit" / "test-cache"
IMAGE = "imagekit-quickstart-gramine-reference-16g:0.1.0"
TOOLS = ("mmdebstrap", "skopeo", "umoci")

pytestmark = pytest.mark.integration(*TOOLS, root=True)


def imagekit(*arguments, cwd, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "imagekit", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "IMAGEKIT_CACHE": str(CACHE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    for name in ("imagekit.yaml", "make_standin.py"):
        shutil.copy(ROOT / "examples" / "quickstart" / name, folder)
    key = ROOT / "tests" / "golden" / "gramine" / "test-only-enclave-key.pem"
    shutil.copy(key, folder / "enclave-key.pem")
    (folder / "enclave-key.pem").chmod(0o600)
    subprocess.run([sys.executable, "make_standin.py"], cwd=folder, check=True)
    # not in an engine of this machine's user, if one answers
    imagekit("build", "--epc", "16g", "--log", "error", "--engine", "assemble", cwd=folder)
    return folder


def test_it_verifies_as_a_standin_and_not_otherwise(built):
    reference = f"oci:out:{IMAGE}"
    done = imagekit("verify", "--allow-standin", reference, cwd=built)
    assert "trusted files" in done.stderr
    done = imagekit("verify", reference, cwd=built, code=5)
    assert "stand-in" in done.stderr


def test_skopeo_reads_the_layout(built):
    shown = json.loads(
        subprocess.run(
            ["skopeo", "inspect", f"oci:{built}/out:{IMAGE}"], check=True, capture_output=True
        ).stdout
    )
    lock = json.loads((built / "imagekit.lock.json").read_text())
    entry = lock["images"][f"localhost/{IMAGE}"]
    assert shown["Digest"] == entry["digest"]
    assert shown["Labels"]["io.imagekit.mr_enclave"] == entry["mr_enclave"]


def test_a_second_output_is_the_same_image_and_reads_the_base_no_more(built):
    done = imagekit(
        "build", "--epc", "16g", "--log", "error", "--output", "oci:again", "--json", cwd=built
    )
    entry = json.loads((built / "imagekit.lock.json").read_text())["images"][f"localhost/{IMAGE}"]
    assert json.loads(done.stdout)["images"][0]["digest"] == entry["digest"]
    assert "from the cache" in done.stderr


def test_the_sealed_job_runs_and_computes(built, tmp_path):
    """Unpacked by umoci and started by its own entry point, through the stand-in launcher."""
    bundle = tmp_path / "bundle"
    subprocess.run(
        ["umoci", "unpack", "--image", f"{built}/out:{IMAGE}", bundle],
        check=True,
        capture_output=True,
    )
    root = bundle / "rootfs"
    script = (
        "mount -t proc proc $0/proc && mount -t tmpfs tmpfs $0/tmp && "
        "mount --bind /dev $0/dev && exec chroot $0 /opt/entrypoint.sh"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, root],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "SGX_ENABLED": "true",
            "SGX_MODE": "direct",
            "JAVA_TOOL_OPTIONS": "-Dhost.was.here=1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "499500" in done.stdout
    assert "STAND-IN" in done.stderr
    assert "host.was.here" not in done.stderr  # java announces the variable when it sees it
    assert not (root / "metastore_db").exists()


@pytest.mark.integration("dockerd", "docker-registry", root=True)
def test_the_whole_matrix_is_accepted_everywhere(built, engine, registry):
    """Eighteen images in a registry and in an engine: each base blob goes over once."""
    push = ("--push", f"{registry.host}/team", "--insecure", "--load")
    done = imagekit("build", "--all", *push, "--metadata-file", "meta.json", cwd=built)
    assert "18 cells: 17 built, 1 there already, 0 failed" in done.stderr
    images = json.loads((built / "meta.json").read_text())["images"]
    assert len({image["mr_enclave"] for image in images}) == 18
    for image in images:
        name = image["reference"].removeprefix("localhost/")
        docker = f"docker://{registry.host}/team/{name}"
        command = ["skopeo", "inspect", "--tls-verify=false", docker]
        shown = subprocess.run(command, check=True, capture_output=True).stdout
        assert json.loads(shown)["Digest"] == image["digest"]
        # a plain docker run takes it, and finds the signature of this very cell
        argv = [*("run", "--rm", "--network", "none"), "--entrypoint", "/usr/bin/od"]
        text = engine.docker(
            *argv, image["reference"], "-An", "-v", "-tx1", "-j960", "-N32", "/ppml/bash.sig"
        )
        assert "".join(text.split()) == image["mr_enclave"]
    pushed = [
        one for image in images for one in image["delivered"] if "docker://" in one["reference"]
    ]
    base = sum(layer["size"] for layer in base_layers(built))
    sent = sum(one["sent"] for one in pushed)
    assert base < sent < base * 1.05
    again = imagekit("build", "--all", *push, "--json", cwd=built)
    assert "18 cells: 0 built, 18 there already, 0 failed, 0 bytes sent" in again.stderr
    copy = ["skopeo", "copy", "--src-tls-verify=false", docker, f"oci:{built}/copied:x"]
    subprocess.run(copy, check=True, capture_output=True)


def base_layers(folder):
    """The layers of the base, as the OCI layout lists them."""
    shown = imagekit("inspect", f"oci:out:{IMAGE}", "--json", cwd=folder)
    return json.loads(shown.stdout)["layers"][:-1]


@pytest.mark.integration("dockerd", root=True)
def test_docker_runs_the_job(built, engine):
    imagekit("build", "--epc", "16g", "--log", "error", "--load", cwd=built)
    flags = ("run", "--rm", "--tmpfs", "/tmp:exec", "--env", "SGX_ENABLED=true")
    said = engine.docker(*flags, "--env", "SGX_MODE=direct", f"localhost/{IMAGE}")
    assert "499500" in said
