"""Spark's roles with real Spark in several processes: a standalone cluster, and Kubernetes."""

import json
import re
import socket
import subprocess
import threading
from contextlib import contextmanager, suppress

import private_root
import pytest
from image_layout import PASSWORD, secrets
from kubernetes_agent import KUBERNETES, SERVICE, TOKEN, Agent, pod_env, service_account
from kubernetes_objects import allows
from real_runs import COMMANDS, NATIVE, STAND_IN, CommandLines
from spark_images import MARKER_SHUFFLE, SECURITY, captured, job, spark_image

from imagekit.runtime.properties import parse_properties
from imagekit.secrets.rbac import rules

pytestmark = pytest.mark.integration(*COMMANDS, "openssl", root=True)

# --- standalone -------------------------------------------------------------------------------


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


WEB = ("-connect", "127.0.0.1:8480", "-servername", "localhost", "-verify_hostname", "localhost")
"""The master's pages with spark.ssl: their port and 400."""


def handshake(made, certificate):
    """Connect to the master's pages as a client that trusts a certificate; gives what it says."""
    made.write({"/opt/cluster/server.crt": certificate})
    command = ["openssl", "s_client", *WEB, "-CAfile", "/opt/cluster/server.crt"]
    words = [*private_root.nsenter(made.process), *command]
    return subprocess.run(words, input="\n", capture_output=True, text=True, check=False).stdout


def test_a_job_with_another_secret_is_refused_by_the_cluster():
    """And the cluster's pages show who they are to whom has the certificate."""
    other = {**SECURITY, "spark.authenticate.secret": "another-one"}
    with (
        spark_image(secure=True) as (made, runtime),
        standalone_master(made, other) as master,
        made.start(*ON_CLUSTER, *SMALL, *job(runtime)) as running,
    ):
        said = running.wait_for("Failed to connect to master")
        assert "New auth protocol failed" in said
        assert "Verify return code: 0 (ok)" in handshake(made, secrets("ssl")["server.crt"])
        assert "self-signed certificate" in handshake(made, secrets("ssl", 1)["server.crt"])
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
            status, said = agent.end_of(driver)
        executors = [container.output() for container in agent.started.values()]
    assert status == 0, said
    assert "Pi is roughly 3.1" in said
    assert ("create", "", "pods") in api.requests
    assert not [request for request in api.requests if not allows(rules("spark"), *request)]
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
