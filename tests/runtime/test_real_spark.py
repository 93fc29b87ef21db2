"""Spark's roles with real Spark: what a container of an image does when it is started."""

import json
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import private_root
import pytest
from kubernetes_agent import KUBERNETES, SERVICE, TOKEN, Agent, pod_env, service_account
from process_trace import no_processes
from real_runs import (
    COMMANDS,
    NATIVE,
    PASSWORD,
    STAND_IN,
    CommandLines,
    image,
    keystore,
    ways,
)
from runtime_parts import SPARK_VERSIONS, spark

from imagekit.runtime.java import ADD_OPENS
from imagekit.runtime.properties import parse_properties

pytestmark = pytest.mark.integration(*COMMANDS, root=True)

CAPTURES = Path(__file__).parents[1] / "golden" / "kubernetes"
PI = "org.apache.spark.examples.SparkPi"
MARKER_SHUFFLE = "io.imagekit.jobs.MarkerShuffle"
ROLES = ["driver", "executor", "submit", "thrift"]
LOCAL = ("submit", "--master", "local[2]")


def captured(version, role, case="secure"):
    """What real Spark gave a pod."""
    name = "-".join(filter(None, ("spark", version, case, role)))
    return json.loads((CAPTURES / f"{name}.json").read_text())


def security(version="3.5.9"):
    """The confs of authentication and encryption as a job brings them, passwords among them."""
    protects = ("spark.authenticate", "spark.network.crypto", "spark.io.encryption", "spark.ssl")
    conf = parse_properties(captured(version, "driver")["properties"])
    return {name: value for name, value in conf.items() if name.startswith(protects)}


SECURITY = security()
PASSWORDS = {name for name, value in SECURITY.items() if value == PASSWORD}
SEALED = {name: value for name, value in SECURITY.items() if name not in PASSWORDS}


def jar(runtime):
    """Where the image has the jobs."""
    return f"/opt/spark/{runtime.examples_jar.relative_to(runtime.home)}"


def job(runtime, name=PI):
    return ("--class", name, f"local://{jar(runtime)}")


@contextmanager
def spark_image(version="3.5.9", profile="strict", secure=False, conf=None, **more):
    """An image with Spark for the jobs of the tests, and a job's properties if it is secure."""
    runtime = spark(version)
    allowed = {
        "roles": ROLES,
        "classes": [PI, MARKER_SHUFFLE],
        "jars": [jar(runtime)],
        "arguments": "[A-Za-z0-9/_-]{1,64}",
        "conf": {**(SEALED if secure else {}), **(conf or {})} if profile == "strict" else {},
        "conf_allowed": dict.fromkeys(sorted(PASSWORDS), r"[!-~]{8,64}") if secure else {},
    }
    with image(runtime, profile, **{**allowed, **more}) as made:
        if secure:
            made.write({"/ppml/keys/keystore.jks": keystore("JKS")})
            lines = "".join(f"{name} {value}\n" for name, value in SECURITY.items())
            made.write({"/opt/spark/conf/spark-defaults.conf": lines})
        yield made, runtime


# --- one process ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize("version", SPARK_VERSIONS)
def test_a_local_job_with_the_security_confs_computes_and_shows_no_secret(version, way):
    with spark_image(version, secure=True) as (made, runtime), CommandLines(made) as processes:
        status, said = made.ends(*LOCAL, *job(runtime), "4", way=way)
    assert status == 0, said
    assert "Pi is roughly 3.1" in said
    assert PASSWORD not in said
    seen = [line for line in processes.seen if b"SparkSubmit" in line]
    assert seen and not [line for line in processes.seen if PASSWORD.encode() in line]
    assert ("STAND-IN" in said) == (way == STAND_IN)


def test_the_wrong_java_is_refused_with_the_ones_that_work():
    runtime = spark("3.1.3")
    with image(runtime, roles=ROLES, java={"home": "/opt/java", "major": 17}) as made:
        status, said = made.ends(*LOCAL, *job(runtime))
    assert status == 3
    assert said.endswith(
        "imagekit: error: Spark 3.1.3 does not run on Java 17: it needs Java 8 or 11\n"
    )


def test_a_heap_of_half_the_enclave_is_refused_before_a_jvm_starts():
    with spark_image() as (made, runtime):
        words = (*LOCAL, *job(runtime))
        status, said = made.ends(*words, way=STAND_IN, env={"SGX_DRIVER_JVM_MEM_SIZE": "8g"})
    assert status == 2
    assert re.search(r"error: SGX_DRIVER_JVM_MEM_SIZE: a heap of 8192 MiB does not fit", said)
    assert "16384 MiB" in said


def test_an_unwritable_folder_is_named():
    with spark_image() as (made, runtime):
        script = 'mount -t tmpfs -o ro tmpfs /tmp && exec "$@"'
        around = ("sh", "-c", script, "sh")
        status, said = made.ends(*LOCAL, *job(runtime), around=around)
    assert status == 3
    assert said.endswith(
        "imagekit: error: /tmp/imagekit: cannot be written: Read-only file system\n"
    )


@pytest.mark.parametrize("way", [NATIVE, STAND_IN])
def test_sigterm_ends_a_running_job_with_its_status(way):
    with spark_image() as (made, runtime):
        words = (*LOCAL, *job(runtime), "100000")
        with made.start(*words, way=way, process_one=True) as running:
            running.wait_for("Finished task 0.0")
            running.terminate()
            status, said = running.end(30)
    assert status == 143
    assert "Shutdown hook called" in said


# --- Thrift -----------------------------------------------------------------------------------

QUERY = """\
create database test_db;
use test_db;
create table person(name string, age int, job string)
  row format delimited fields terminated by '\\t';
insert into person values ("Bob", 1, "Engineer");
select * from person;
set fs.file.impl;
"""
BEELINE = ("org.apache.hive.beeline.BeeLine", "-u", "jdbc:hive2://127.0.0.1:10000", "-n", "root")


@pytest.mark.parametrize("way", [NATIVE, STAND_IN])
def test_the_thrift_server_makes_tables_without_a_process_and_ends_by_sigterm(way):
    """Where it can start none, as inside; a client makes the table of BigDL's guide."""
    server = ("thrift", "--master", "local[2]")
    beeline = ("/opt/java/bin/java", *ADD_OPENS, "-cp", "/opt/spark/jars/*")
    with (
        spark_image(secure=True) as (made, _),
        made.start(*server, way=way, around=tuple(no_processes(()))) as running,
    ):
        made.write({"/opt/query.sql": QUERY})
        running.wait_for("Starting ThriftBinaryCLIService on port 10000")
        words = (*BEELINE, "-f", "/opt/query.sql")
        status, said = made.ends(*words, entry=beeline)
        running.terminate()
        ended, log = running.end(30)
    assert status == 0, said
    assert re.search(r"\| Bob +\| 1 +\| Engineer +\|", said)
    assert "io.imagekit.hadoop.NoForkFileSystem" in said
    assert "Cannot run program" not in log
    assert PASSWORD not in log
    assert ended == 143


# --- strict and compat ------------------------------------------------------------------------

LIBRARY = "/usr/lib/x86_64-linux-gnu/libc_malloc_debug.so.0"
EXECUTOR = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:7078",
    "SPARK_EXECUTOR_ID": "1",
    "SPARK_EXECUTOR_CORES": "1",
    "SPARK_EXECUTOR_MEMORY": "512m",
    "SPARK_APPLICATION_ID": "spark-0",
    "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
    "SPARK_EXECUTOR_POD_NAME": "spark-exec-1",
    "SPARK_RESOURCE_PROFILE_ID": "0",
}
OPTION = "-Dhost.was.here=1"


def test_under_compat_the_host_gets_its_way_with_class_library_and_java_options():
    env = {"LD_PRELOAD": LIBRARY, "JAVA_TOOL_OPTIONS": OPTION}
    with spark_image(profile="compat", classes=[MARKER_SHUFFLE]) as (made, runtime):
        with made.start(*LOCAL, *job(runtime, PI), env=env) as running:
            running.wait_for("Running Spark version")
            assert LIBRARY in Path(f"/proc/{running.pid}/maps").read_text()
            status, said = running.end()
        with made.start("executor", env={**EXECUTOR, "SPARK_JAVA_OPT_0": OPTION}) as running:
            running.wait_for("Started daemon", "Failed to connect")
            words = Path(f"/proc/{running.pid}/cmdline").read_bytes().split(b"\0")
    assert status == 0, said
    assert "profile compat: the host chooses the command" in said
    assert f"Picked up JAVA_TOOL_OPTIONS: {OPTION}" in said
    assert "Pi is roughly 3.1" in said
    assert OPTION.encode() in words


def test_under_compat_the_host_gets_its_way_with_the_command():
    with spark_image(profile="compat") as (made, _):
        status, said = made.ends(way=STAND_IN, env={"sgx_command": "echo host was here"})
    assert status == 0, said
    assert "sgx_command is set by the host: it runs as it is" in said
    assert said.endswith("host was here\n")


@pytest.mark.parametrize("way", [NATIVE, STAND_IN])
def test_under_strict_the_host_is_refused_all_of_it_by_name(way):
    with spark_image(classes=[MARKER_SHUFFLE]) as (made, runtime):
        words = (*LOCAL, *job(runtime, MARKER_SHUFFLE))
        for name, asked, env in (
            ("--class", (*LOCAL, *job(runtime, PI)), {}),
            ("sgx_command", words, {"sgx_command": "echo host was here"}),
            ("LD_PRELOAD", words, {"LD_PRELOAD": LIBRARY}),
            ("JAVA_TOOL_OPTIONS", words, {"JAVA_TOOL_OPTIONS": OPTION}),
            ("SPARK_JAVA_OPT_0", ("executor",), {**EXECUTOR, "SPARK_JAVA_OPT_0": OPTION}),
        ):
            status, said = made.ends(*asked, way=way, env=env)
            assert status == 2, said
            assert said.splitlines()[-1].startswith(f"imagekit: error: {name}: ")
            assert "host was here" not in said and OPTION not in said


# --- several processes ------------------------------------------------------------------------


class Wire:
    """Counts words in all that goes over ``lo`` of an image, while its block runs."""

    def __init__(self, made, *words):
        self.counts = dict.fromkeys(words, 0)
        self._socket = private_root.in_network(made.process, self._open)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._count)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()
        self._socket.close()

    @staticmethod
    def _open():
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        opened.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        opened.bind(("lo", 0))
        opened.settimeout(0.2)
        return opened

    def _count(self):
        while not self._stopped.is_set():
            with suppress(TimeoutError):
                frame = self._socket.recv(1 << 18)
                for word in self.counts:
                    self.counts[word] += frame.count(word.encode())


CLUSTER_ENV = {
    "SPARK_HOME": "/opt/spark",
    "SPARK_LOCAL_IP": "127.0.0.1",
    "SPARK_LOCAL_DIRS": "/opt/local",
    "SPARK_WORKER_DIR": "/opt/work",
    "JAVA_HOME": "/opt/java",
}
CLUSTER_JAVA = ("/opt/java/bin/java", "-cp", "/opt/spark/jars/*", "-Xmx512m")
CLUSTER_CONF = ("--properties-file", "/opt/cluster/conf", "--host", "127.0.0.1")


@contextmanager
def standalone_master(made, conf):
    """Spark's own Master."""
    lines = "".join(f"{name} {value}\n" for name, value in conf.items() if name != "spark.ssl.port")
    made.write({"/opt/cluster/conf": lines})
    words = ("org.apache.spark.deploy.master.Master", *CLUSTER_CONF, "--port", "7077")
    with made.start(*words, entry=CLUSTER_JAVA, env=CLUSTER_ENV) as master:
        master.wait_for("New state: ALIVE")
        yield master


@contextmanager
def standalone_cluster(made, runtime, conf):
    """Spark's own Master and Worker; gives the Master."""
    made.run("mkdir", "-p", "/opt/local", "/opt/work")
    resources = ("-c", "2", "-m", "2g", "spark://127.0.0.1:7077")
    words = ("org.apache.spark.deploy.worker.Worker", *CLUSTER_CONF, *resources)
    env = {**CLUSTER_ENV, "SPARK_SCALA_VERSION": runtime.scala}
    with (
        standalone_master(made, conf) as master,
        made.start(*words, entry=CLUSTER_JAVA, env=env) as worker,
    ):
        worker.wait_for("Successfully registered with master")
        yield master


MARKER = "MARKER-of-the-shuffle"
ON_CLUSTER = ("submit", "--master", "spark://127.0.0.1:7077")
SMALL = ("--executor-memory", "512m", "--executor-cores", "1")
PLAINLY = {"spark.shuffle.readHostLocalDisk": "false", "spark.shuffle.compress": "false"}
"""All of a shuffle goes over the wire, as it would between machines, and as it is."""


@pytest.mark.parametrize("secure", [False, True], ids=["without-confs", "with-the-confs"])
def test_the_confs_encrypt_what_goes_over_the_wire_and_onto_the_disk(secure):
    """Without them the marker is seen in both, so the look is a look."""
    with (
        spark_image(secure=secure, conf=PLAINLY) as (made, runtime),
        standalone_cluster(made, runtime, SECURITY if secure else {}) as master,
        Wire(made, MARKER, "org.apache.spark") as wire,
    ):
        words = (*ON_CLUSTER, *SMALL, *job(runtime, MARKER_SHUFFLE), MARKER, "/opt/local")
        status, said = made.ends(*words)
        assert "Registering app" in master.output()
    assert status == 0, said
    found = re.search(r"groups: 20000, shuffle files: ([0-9]+), with the marker: ([0-9]+)", said)
    assert found is not None, said
    files, with_marker = map(int, found.groups())
    assert files > 0
    assert with_marker == (0 if secure else files)
    if secure:
        assert wire.counts == {MARKER: 0, "org.apache.spark": 0}
    else:
        assert wire.counts[MARKER] > 1000 and wire.counts["org.apache.spark"] > 10


def test_a_job_with_another_secret_is_refused_by_the_cluster():
    other = {**SECURITY, "spark.authenticate.secret": "another-one"}
    with (
        spark_image(secure=True) as (made, runtime),
        standalone_master(made, other) as master,
        made.start(*ON_CLUSTER, *SMALL, *job(runtime)) as running,
    ):
        said = running.wait_for("Failed to connect to master")
        assert "New auth protocol failed" in said
        assert "Registering app" not in master.output()  # as it says of the job with the right one


# --- Kubernetes -------------------------------------------------------------------------------

ELSEWHERE = ("ATTESTATION", "ENCRYPTED_FSD", "LOCAL_DATA_KEY", "USING_LOCAL_DATA_KEY")
"""Variables of pods whose effect has tests of its own."""


def without_services(env):
    return {name: value for name, value in env.items() if not name.startswith(ELSEWHERE)}


SECRETS = {
    "spark-secret": {"secret": PASSWORD},
    "kms-secret": dict.fromkeys(("app_id", "api_key", "policy_id"), "unused"),
}
TEMPLATE = {"metadata": {}, "spec": {"containers": [{"name": "spark-kubernetes-executor"}]}}


@pytest.mark.parametrize(
    ("version", "case", "way"),
    [("3.1.3", "secure", STAND_IN), ("3.5.9", "secure", STAND_IN), ("4.3.0", "", NATIVE)],
)
def test_driver_and_executors_run_as_kubernetes_starts_them(version, case, way, tmp_path):
    """With the words, variables and properties that real Spark gave their pods."""
    pod = captured(version, "driver", case)
    properties = parse_properties(pod["properties"])
    name = properties["spark.kubernetes.driver.pod.name"]
    env = {**without_services(pod_env(pod["env"], name, SECRETS)), **KUBERNETES}
    hosts = f"127.0.0.1 localhost {properties['spark.driver.host']} {SERVICE}\n"
    with (
        spark_image(version, secure=bool(case)) as (made, _),
        service_account(made, tmp_path) as api,
        Agent(api, made, ("spark-role", "executor"), SECRETS, without_services, way=way) as agent,
        CommandLines(made) as processes,
    ):
        made.write({"/etc/hosts": hosts, pod["properties_file"]: pod["properties"]})
        made.write({"/opt/spark/pod-template/pod-spec-template.yml": json.dumps(TEMPLATE)})
        api.create("pods", {"kind": "Pod", "metadata": {"name": name}, "spec": {}})
        with made.start(*pod["args"], way=way, env=env) as driver:
            while driver.status() is None:
                agent.check()
                time.sleep(0.1)
            status, said = driver.end()
        executors = [container.output() for container in agent.started.values()]
    assert status == 0, said
    assert "Pi is roughly 3.1" in said
    assert len(agent.variables) == len(executors) == 2
    assert all("Finished task" in output for output in executors)
    assert api.authorization == {f"Bearer {TOKEN}"}
    if case:
        for variables in agent.variables.values():
            assert {"SGX_ENABLED": "true", "SGX_MODE": "direct"}.items() <= variables.items()
            secret = variables["_SPARK_AUTH_SECRET"]
            assert not [line for line in processes.seen if secret.encode() in line]
            assert not [output for output in (said, *executors) if secret in output]
    assert not [line for line in processes.seen if PASSWORD.encode() in line]
    assert not [output for output in (said, *executors) if PASSWORD in output]
