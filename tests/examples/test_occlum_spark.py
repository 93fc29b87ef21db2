"""Real Java and Spark in the tree that is made for an enclave of Occlum.

Occlum cannot be had here; the stand-in builds the instance with the same script and list as a
container would, and a start goes into the instance's own files by chroot: what the list has left
out is not there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from occlum_parts import BINARIES, occlum_files
from python_base import tool_files, with_layer

from imagekit.images.layout import OciLayout

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".imagekit" / "test-cache"
PATH = f"{BINARIES}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CELL = "occlum-4g-error-dcap"

pytestmark = pytest.mark.integration("mmdebstrap", "umoci", "openssl", root=True)


def imagekit(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "imagekit", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "IMAGEKIT_CACHE": str(CACHE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def project(quickstart: str) -> str:
    """The quickstart's project for Occlum: the same job on the same base."""
    head = 'schema: 1\nimage: localhost/quick\ntag: "1"\nlibos: occlum\n'
    head += 'base: {image: "oci:base:base"}\n'
    rest = quickstart[quickstart.index("matrix:") :]
    return head + rest.replace("[error, debug, all]", "[error]").replace("[dcap, none]", "[dcap]")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A container's files, as far as they are not mounted: the base, and an instance in it."""
    folder = tmp_path_factory.mktemp("occlum-spark")
    for name in ("imagekit.yaml", "make_standin.py"):
        shutil.copy(ROOT / "examples" / "quickstart" / name, folder)
    subprocess.run([sys.executable, "make_standin.py"], cwd=folder, check=True)
    imagekit("base", "build", "--engine", "assemble", "--output", "oci:plain:base", cwd=folder)
    base = OciLayout.open(folder / "plain").image("base")
    image = with_layer(base, [*tool_files(), *occlum_files()])
    OciLayout.create(folder / "base").put(image, "base")
    text = project((folder / "imagekit.yaml").read_text())
    (folder / "imagekit.yaml").write_text(text)
    imagekit("render", "-o", "rendered", "--select", CELL, cwd=folder)
    unpack = ["umoci", "unpack", "--image", "base:base", "bundle"]
    subprocess.run(unpack, cwd=folder, check=True, capture_output=True)
    root = folder / "bundle" / "rootfs"
    context = folder / "rendered" / CELL
    shutil.copytree(context / "rootfs", root, dirs_exist_ok=True)
    shutil.copytree(context / "instance", root / "imagekit")
    make = ["openssl", "genrsa", "-3", "-out", root / "imagekit" / "key.pem", "3072"]
    subprocess.run(make, check=True, capture_output=True)
    words = (f"/imagekit/{name}" for name in ("Occlum.json", "bom.yaml", "key.pem"))
    done = inside(root, "/bin/sh", "/imagekit/build-instance.sh", *words, "/opt/occlum_spark")
    assert done.returncode == 0, done.stderr
    assert not (root / "imagekit" / "key.pem").exists()
    (root / "run" / "aesmd").mkdir(parents=True)
    (root / "run" / "aesmd" / "aesm.socket").touch()
    return root


def inside(root: Path, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run something in a container's files, with devices of its own."""
    script = (
        "mount -t proc proc $0/proc && mount -t tmpfs tmpfs $0/tmp && "
        "mount -t tmpfs tmpfs $0/dev && mknod $0/dev/sgx_enclave c 1 3 && "
        "for name in null zero random urandom; do "
        "touch $0/dev/$name && mount --bind /dev/$name $0/dev/$name; done && "
        'exec chroot $0 "$@"'
    )
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, root, *words],
        env={"PATH": PATH, "SOURCE_DATE_EPOCH": "0", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_the_sealed_job_runs_on_what_is_in_the_tree(machine):
    done = inside(machine, "/opt/entrypoint.sh", SGX_ENABLED="true")
    assert done.returncode == 0, done.stderr
    assert "499500" in done.stdout
    assert "in the enclave of /opt/occlum_spark" in done.stderr


SQL_CLI = "org.apache.spark.sql.hive.thriftserver.SparkSQLCLIDriver"
SQL_JAR = "local:///opt/spark/jars/spark-hive-thriftserver_2.12-3.5.9.jar"
QUERY = ("submit", "--master", "local[2]", "--class", SQL_CLI, SQL_JAR, "-e")


def test_a_role_takes_what_the_host_may_choose(machine):
    words = (*QUERY, "SELECT sum(id) + 1 FROM range(1000)")
    done = inside(machine, "/opt/entrypoint.sh", *words, SGX_ENABLED="true")
    assert done.returncode == 0, done.stderr
    assert "499501" in done.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((*QUERY, "CREATE TABLE x (y int)"), "argument"),
        (("submit", "--class", "org.example.Evil", SQL_JAR), "class"),
    ],
)
def test_what_the_grammar_has_not_is_refused(machine, words, named):
    done = inside(machine, "/opt/entrypoint.sh", *words, SGX_ENABLED="true")
    assert done.returncode == 2, done.stderr
    assert named in done.stderr


def test_the_host_starts_nothing_else(machine):
    """Neither Java nor a shell, nor the start with arguments of the host's."""
    for words in (
        ("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "-version"),
        ("/bin/sh", "-c", "true"),
        ("/opt/imagekit/enclave/start", "outside", "/bin/sh"),
    ):
        run = ["/bin/sh", "-c", 'cd /opt/occlum_spark && exec occlum run "$@"', "x", *words]
        done = inside(machine, *run)
        assert done.returncode != 0, words


def test_nothing_of_the_building_machine_is_in_the_tree(machine):
    names = {path.name for path in (machine / "opt" / "occlum_spark").iterdir()}
    assert "image" not in names
    assert not list((machine / "opt" / "occlum_spark").rglob("*.pem"))
