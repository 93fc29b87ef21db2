"""The quickstart for real: Debian, Java and Spark from the package registries, then the job runs.

The base is made once per checkout and kept in ``.imagekit/test-cache``.
"""

import json
import os
import shutil
import subprocess
import sys
import time
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


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The image's files, unpacked by umoci."""
    bundle = tmp_path_factory.mktemp("unpacked") / "bundle"
    subprocess.run(
        ["umoci", "unpack", "--image", f"{built}/out:{IMAGE}", bundle],
        check=True,
        capture_output=True,
    )
    return bundle / "rootfs"


def start(root, *words, **env):
    """Start the image's own entry point in its files, with an own /tmp."""
    script = (
        "mount -t proc proc $0/proc && mount -t tmpfs tmpfs $0/tmp && "
        'mount --bind /dev $0/dev && exec chroot $0 /opt/entrypoint.sh "$@"'
    )
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, root, *words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_the_sealed_job_runs_and_computes(unpacked):
    """Started through the stand-in launcher, which takes everything from the manifest."""
    done = start(unpacked, SGX_ENABLED="true", SGX_MODE="direct")
    assert done.returncode == 0, done.stderr
    assert "499500" in done.stdout
    assert "STAND-IN" in done.stderr
    assert not (unpacked / "metastore_db").exists()


SQL_CLI = "org.apache.spark.sql.hive.thriftserver.SparkSQLCLIDriver"
SQL_JAR = "local:///opt/spark/jars/spark-hive-thriftserver_2.12-3.5.9.jar"
QUERY = ("submit", "--master", "local[2]", "--class", SQL_CLI, SQL_JAR, "-e")


def test_a_role_takes_what_the_host_may_choose(unpacked):
    words = (*QUERY, "SELECT sum(id) + 1 FROM range(1000)")
    done = start(unpacked, *words, SGX_ENABLED="true", SGX_MODE="direct")
    assert done.returncode == 0, done.stderr
    assert "499501" in done.stdout


@pytest.mark.parametrize(
    ("words", "env", "named"),
    [
        ((), {"JAVA_TOOL_OPTIONS": "-Dhost.was.here=1"}, "JAVA_TOOL_OPTIONS"),
        ((), {"LD_PRELOAD": "/host.so"}, "LD_PRELOAD"),
        ((), {"sgx_command": "/usr/bin/id"}, "sgx_command"),
        ((*QUERY, "DROP TABLE host"), {}, "argument 2"),
        (("submit", "--class", "host.Other", SQL_JAR), {}, "--class"),
        (("submit", "--class", SQL_CLI, "local:///tmp/host.jar"), {}, "jar"),
        ((QUERY[0], "--conf", "spark.authenticate=false", *QUERY[1:]), {}, "spark.authenticate"),
        ((QUERY[0], "--conf", "spark.plugins=host.P", *QUERY[1:]), {}, "spark.plugins"),
        (("driver-py", "host.py"), {}, "driver-py"),
        (("jobmanager",), {}, "jobmanager"),
    ],
)
def test_what_the_host_may_not_choose_is_refused_by_name(unpacked, words, env, named):
    done = start(unpacked, *words, SGX_ENABLED="true", SGX_MODE="direct", **env)
    assert done.returncode == 2
    refusal = done.stderr.splitlines()[-1]
    assert refusal.startswith("imagekit: error: ")
    assert named in refusal
    assert "host." not in refusal  # no value of the host's is shown
    assert "499" not in done.stdout


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


@pytest.mark.integration("dockerd", root=True)
def test_docker_runs_a_driver_as_kubernetes_starts_it(built, engine, tmp_path):
    """Spark's own words, with the properties in a mounted file and a secret in a variable."""
    imagekit("build", "--epc", "16g", "--log", "error", "--load", cwd=built)
    conf = tmp_path / "spark.properties"
    conf.write_text(
        "spark.master=local[2]\nspark.app.name=as-kubernetes\nspark.submit.deployMode=cluster\n"
        "spark.driver.port=7078\n"
        "spark.kubernetes.submitInDriver=true\nspark.kubernetes.sgx.enabled=true\n"
    )
    inside = "/opt/spark/conf/spark.properties"
    flags = ("run", "--rm", "--tmpfs", "/tmp:exec", "--volume", f"{conf}:{inside}:ro")
    env = ("--env", "SGX_MODE=direct", "--env", "SPARK_DRIVER_BIND_ADDRESS=127.0.0.1")
    env += ("--env", "SPARK_AUTHENTICATE_SECRET=s3cret-of-a-job")
    words = ("driver", "--properties-file", inside, "--class", SQL_CLI, SQL_JAR, "-e")
    command = ["docker", "--host", engine.host, *flags, *env, f"localhost/{IMAGE}", *words]
    done = subprocess.run(
        [*command, "SELECT sum(id) + 2 FROM range(1000)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "499502" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.integration("dockerd", root=True)
def test_docker_stops_a_server_and_sees_its_status(built, engine):
    """Process 1 passes SIGTERM on; the status is the JVM's; nobody sees the secret."""
    imagekit("build", "--epc", "16g", "--log", "error", "--load", cwd=built)
    flags = ("run", "--detach", "--tmpfs", "/tmp:exec", "--env", "SGX_ENABLED=false")
    secret = ("--env", "SPARK_AUTHENTICATE_SECRET=s3cret-of-a-server")
    image = f"localhost/{IMAGE}"
    name = engine.docker(*flags, *secret, image, "thrift", "--master", "local[2]")
    try:
        end = time.monotonic() + 120
        while "ThriftBinaryCLIService" not in logs(engine, name):
            assert time.monotonic() < end, logs(engine, name)
            time.sleep(0.5)
        seen = engine.docker("exec", name, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\\\0' ' '")
        assert "HiveThriftServer2" in seen
        assert "s3cret" not in seen
        assert "s3cret" not in logs(engine, name)
        engine.docker("stop", "--time", "30", name)
        assert engine.docker("inspect", "--format", "{{.State.ExitCode}}", name) == "143"
    finally:
        engine.docker("rm", "--force", name)


def logs(engine, name):
    """What a container has said so far."""
    done = subprocess.run(
        ["docker", "--host", engine.host, "logs", name], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr
