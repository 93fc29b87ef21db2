"""Flink's roles with real Flink: what a container of an image does when it is started."""

import json
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import private_root
import pytest
from image_layout import PASSWORD, STAND_IN_FOLDER, secrets
from kubernetes_agent import KUBERNETES, SERVICE, TOKEN, Agent, pod_env, service_account
from kubernetes_objects import allows
from real_runs import COMMANDS, NATIVE, STAND_IN, CommandLines, image, ways
from runtime_parts import FLINK_VERSIONS, flink

from imagekit.runtime.paths import FLINK_ENTRYPOINT, FLINK_POD_TEMPLATE
from imagekit.secrets.rbac import rules

pytestmark = pytest.mark.integration(*COMMANDS, "openssl", root=True)

CAPTURES = Path(__file__).parents[1] / "golden" / "kubernetes"
WORD_COUNT = "io.imagekit.jobs.WordCount"
JAR, USER_JAR = "/opt/flink/examples/WordCount.jar", "/opt/flink/usrlib/WordCount.jar"
STORE = "/ppml/flink/keys/flink_internal.keystore"
COUNTS = {
    **dict.fromkeys(("not", "that", "is", "the", "question", "whether", "count", "words"), 1),
    "to": 4,
    "be": 3,
    "or": 2,
}


def tls(kind):
    """Confs for ``internal`` or ``rest`` without passwords, and those."""
    prefix = f"security.ssl.{kind}"
    conf = {f"{prefix}.enabled": "true", f"{prefix}.keystore": STORE, f"{prefix}.truststore": STORE}
    if kind == "rest":
        conf[f"{prefix}.authentication-enabled"] = "true"
    names = ("keystore-password", "key-password", "truststore-password")
    return conf, {f"{prefix}.{name}": PASSWORD for name in names}


SEALED = tls("internal")[0]
PASSWORDS = tls("internal")[1]
REST, REST_PASSWORDS = tls("rest")


def store(number=0):
    """Give the keystore that every process has, truststore as well, or one with another key."""
    return secrets("flink", number)["flink_internal.keystore"]


def properties(conf):
    """Give the variable by which the stock image takes properties."""
    return {"FLINK_PROPERTIES": "".join(f"{name}: {value}\n" for name, value in conf.items())}


HERE = {"jobmanager.rpc.address": "127.0.0.1", "taskmanager.host": "127.0.0.1"}


@contextmanager
def flink_image(version, profile="strict", conf=SEALED, user_jar=False, **more):
    """An image with Flink for the job of the tests."""
    passwords = sorted({*PASSWORDS, *REST_PASSWORDS})
    allowed = {
        "roles": ["jobmanager", "standalone-job", "taskmanager"],
        "classes": [WORD_COUNT],
        "jars": [JAR, USER_JAR],
        "arguments": "--rounds|[0-9]{1,3}",
        "conf": conf,
        "conf_allowed": dict.fromkeys(passwords, r"[!-~]{8,64}"),
    }
    with image(flink(version), profile, {STORE: store()}, **{**allowed, **more}) as made:
        if user_jar:  # where standalone-job looks for it
            made.run("mkdir", "/opt/flink/usrlib")
            made.run("cp", JAR, USER_JAR)
        yield made


def counted(said):
    """Give what the job has printed: word → number."""
    return {word: int(count) for word, count in re.findall(r"\((\w+),(\d+)\)", said)}


def handshake_without_certificate(made, port):
    """Try TLS as a client that has no certificate; gives what openssl says of the server."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"]
    words = [*private_root.nsenter(made.process), *command]
    return subprocess.run(words, input="\n", capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize("version", FLINK_VERSIONS)
def test_a_job_of_the_image_counts_words_over_mutual_tls(version, way):
    env = properties({**HERE, **PASSWORDS})
    words = ("standalone-job", "--job-classname", WORD_COUNT)
    with (
        flink_image(version, user_jar=True) as made,
        CommandLines(made) as processes,
        made.start(*words, way=way, env=env) as manager,
    ):
        manager.wait_for("Pending slot request", "Received resource requirements from job")
        assert "CN = flink.internal" in handshake_without_certificate(made, 6123)
        manager.wait_for("Empty client certificate chain", "Empty server certificate chain")
        with made.start("taskmanager", way=way, env=env) as worker:
            status, managed = manager.end()
            worker.terminate()
            ended, worked = worker.end(30)
    assert status == 0, managed
    assert ended in (0, 1, 143)
    assert counted(worked) == COUNTS
    assert ".ssl.tcp://flink@" in managed
    assert PASSWORD not in managed + worked
    assert [line for line in processes.seen if b"TaskManagerRunner" in line]
    assert not [line for line in processes.seen if PASSWORD.encode() in line]


def test_a_taskmanager_with_another_key_is_not_let_in():
    env = properties({**HERE, **PASSWORDS})
    words = ("standalone-job", "--job-classname", WORD_COUNT)
    with (
        flink_image("1.20.5", user_jar=True) as made,
        made.start(*words, env=env) as manager,
    ):
        manager.wait_for("Received resource requirements from job")
        handshake_without_certificate(made, 6123)  # the JobManager has read its key now
        manager.wait_for("Empty client certificate chain")
        before = len(manager.output())
        made.write({STORE: store(1)})
        with made.start("taskmanager", env=env) as worker:
            worker.wait_for("Could not resolve ResourceManager address")
        assert "SSLHandshakeException" in manager.output()[before:]
        assert "Registering TaskManager" not in manager.output()


@pytest.mark.parametrize(
    ("version", "profile", "way"),
    [("1.16.3", "compat", NATIVE), ("1.20.5", "strict", STAND_IN)],
)
def test_a_session_cluster_takes_a_job_from_a_client(version, profile, way):
    """Strict asks for TLS with a client's certificate on the REST port as well."""
    strict = profile == "strict"
    sealed = {**SEALED, **REST} if strict else {}
    env = properties(
        {**HERE, **(PASSWORDS if strict else {}), **(REST_PASSWORDS if strict else {})}
    )
    client = {"JAVA_HOME": "/opt/java", "FLINK_LOG_DIR": "/tmp", "HOME": "/tmp"}
    options = {"rest.address": "127.0.0.1"}
    if strict:
        options |= {**REST, **REST_PASSWORDS, "security.ssl.rest.verify-hostname": "false"}
    with (
        flink_image(version, profile, sealed) as made,
        made.start("jobmanager", way=way, env=env) as manager,
    ):
        manager.wait_for("Rest endpoint listening")
        with made.start("taskmanager", way=way, env=env) as worker:
            manager.wait_for("Registering TaskManager")
            if strict:
                handshake_without_certificate(made, 8081)
                manager.wait_for("certificate chain")
            words = [f"-D{name}={value}" for name, value in options.items()]
            status, said = made.ends(
                *("run", "-m", "127.0.0.1:8081", *words, "-c", WORD_COUNT, JAR),
                entry=("/opt/flink/bin/flink",),
                env=client,
            )
            assert status == 0, said
            assert counted(worker.wait_for("(words,1)")) == COUNTS
            manager.terminate()
            worker.terminate()
            assert manager.end(60)[0] == worker.end(60)[0] == 143


@pytest.mark.parametrize(
    ("version", "way", "user_jar"), [("1.16.3", NATIVE, False), ("1.20.5", STAND_IN, True)]
)
def test_jobmanager_and_taskmanager_run_as_native_kubernetes_starts_them(
    version, way, user_jar, tmp_path
):
    """With the words, variables and properties that real Flink gave their pods.

    Jars in Flink's folder for them come to the TaskManager by a path that is relative.
    """
    pod = json.loads((CAPTURES / f"flink-{version}-jobmanager.json").read_text())
    name = "word-count"
    passwords = properties(PASSWORDS)

    def added(env):
        return {**env, **KUBERNETES, **passwords}

    deployment = {"kind": "Deployment", "metadata": {"name": name}, "spec": {}}
    words = {"entry": (FLINK_ENTRYPOINT,), "way": way}
    with (
        flink_image(version, user_jar=user_jar) as made,
        service_account(made, tmp_path) as api,
        Agent(api, made, ("component", "taskmanager"), {}, added, **words) as agent,
        CommandLines(made) as processes,
    ):
        made.write({"/etc/hosts": f"127.0.0.1 localhost image {name}.default {SERVICE}\n"})
        made.write({pod["properties_file"]: pod["properties"]})
        api.create("deployments", deployment)
        env = added(pod_env(pod["env"], "jobmanager", {}))
        with made.start(*pod["args"], env=env, **words) as manager:
            status, managed = agent.end_of(manager)
        workers = [container.output() for container in agent.started.values()]
    assert status == 0, managed
    assert ("create", "", "pods") in api.requests
    assert not [request for request in api.requests if not allows(rules("flink"), *request)]
    assert len(workers) == 1
    assert counted(workers[0]) == COUNTS
    assert ".ssl.tcp://flink@" in managed
    assert api.authorization == {f"Bearer {TOKEN}"}
    assert not [output for output in (managed, *workers) if PASSWORD in output or TOKEN in output]
    secrets = (PASSWORD.encode(), TOKEN.encode())
    assert not [line for line in processes.seen if any(secret in line for secret in secrets)]


# Over what Kubernetes has mounted there, as a strict manifest's own memory is.
HIDING = f"""#!/bin/sh
mount -t tmpfs tmpfs {Path(FLINK_POD_TEMPLATE).parent} && exec {STAND_IN_FOLDER}/gramine-direct "$@"
"""


@pytest.mark.parametrize("version", FLINK_VERSIONS)
def test_taskmanagers_get_what_the_pod_template_says_though_its_mount_is_not_seen_inside(
    version, tmp_path
):
    pod = json.loads((CAPTURES / f"flink-{version}-secure-jobmanager.json").read_text())
    assert pod["mounts"][str(Path(FLINK_POD_TEMPLATE).parent)] == "configMap"
    pod = json.loads((CAPTURES / f"flink-{version}-jobmanager.json").read_text())
    container = {"name": "flink-main-container", "env": [{"name": "TEAM", "value": "blue"}]}
    template = {"metadata": {"labels": {"team": "a"}}, "spec": {"containers": [container]}}
    words = {"entry": (FLINK_ENTRYPOINT,), "way": STAND_IN}
    env = {**KUBERNETES, **properties(PASSWORDS)}
    with (
        flink_image(version) as made,
        service_account(made, tmp_path) as api,
    ):
        made.write({"/etc/hosts": f"127.0.0.1 localhost image word-count.default {SERVICE}\n"})
        made.write({pod["properties_file"]: pod["properties"]})
        made.write({FLINK_POD_TEMPLATE: json.dumps(template)})
        made.write({"/opt/hiding/gramine-direct": HIDING}, 0o755)
        api.create("deployments", {"kind": "Deployment", "metadata": {"name": "word-count"}})
        env |= pod_env(pod["env"], "jobmanager", {})
        env["PATH"] = "/opt/hiding:/usr/bin:/bin:/usr/sbin:/sbin"
        with made.start(*pod["args"], env=env, **words) as manager:
            while not (pods := api.objects("pods")):
                assert manager.status() is None, manager.output()
                time.sleep(0.1)
    (given,) = pods[0]["spec"]["containers"]
    assert pods[0]["metadata"]["labels"]["team"] == "a"
    assert {"name": "TEAM", "value": "blue"} in given["env"]


def test_the_wrong_java_is_refused_with_the_ones_that_work():
    with flink_image("1.16.3", java={"home": "/opt/java", "major": 17}) as made:
        status, said = made.ends("jobmanager", env=properties(HERE))
    assert status == 3
    assert said.endswith(
        "imagekit: error: Flink 1.16.3 does not work with Java 17: take an image with Java 8, 11\n"
    )


def test_a_process_that_does_not_fit_the_enclave_is_refused():
    env = properties({**HERE, **PASSWORDS, "taskmanager.memory.process.size": "16g"})
    with flink_image("1.20.5") as made:
        status, said = made.ends("taskmanager", way=STAND_IN, env=env)
    assert status == 2
    assert "taskmanager.memory.process.size: a process of 16384 MiB does not fit" in said
