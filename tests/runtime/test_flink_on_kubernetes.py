"""Flink on native Kubernetes: what it gives its pods is taken, what it leaves out is found."""

import base64
import json
import socket
from pathlib import Path

import pytest

from imagekit.runtime import flink, flink_job, gather
from imagekit.runtime.command import TEMPORARY
from imagekit.runtime.flink_args import parse_args
from imagekit.runtime.flink_conf import parse_conf
from imagekit.runtime.kubernetes import FLINK_TEMPLATE
from imagekit.runtime.launch import launch_spec, parse_launch
from imagekit.runtime.paths import FLINK_POD_TEMPLATE
from imagekit.runtime.place import DIRECT, ENCLAVE, NATIVE, Place
from imagekit.runtime.request import Request
from imagekit.runtime.stop import Stop

JAR = "/opt/flink/usrlib/job.jar"
SPEC = parse_launch(launch_spec(jars=[JAR], flink={"home": "/opt/flink", "version": "1.20.5"}))
HERE = Place(NATIVE, False, None, "/dev/attestation")
IN_ENCLAVE = Place(ENCLAVE, True, 16 << 30, "/dev/attestation")
TLS = {"security.ssl.internal.enabled": "true"}
REST_TLS = dict.fromkeys(
    ("security.ssl.rest.enabled", "security.ssl.rest.authentication-enabled"), "true"
)


CAPTURES = sorted((Path(__file__).parents[1] / "golden" / "kubernetes").glob("flink-*manager.json"))
WORD_COUNT, ITS_JAR = "io.imagekit.jobs.WordCount", "/opt/flink/examples/WordCount.jar"


@pytest.mark.parametrize("place", [HERE, IN_ENCLAVE], ids=["native", "enclave"])
@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_what_real_flink_gives_its_pods_is_taken_under_strict(path, place, tmp_path):
    pod = json.loads(path.read_text())
    version = path.stem.split("-")[1]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / f"flink-dist-{version}.jar").touch()
    keys = ("keystore", "truststore", "keystore-password", "truststore-password", "key-password")
    session = "-session-" in path.name
    spec = parse_launch(
        launch_spec(
            roles=["jobmanager", "taskmanager"],
            classes=[WORD_COUNT],
            jars=[ITS_JAR],
            arguments="--rounds|3",
            conf={**TLS, **(REST_TLS if session else {})},
            conf_allowed=dict.fromkeys([f"security.ssl.internal.{key}" for key in keys], ".+"),
            java={"home": "/opt/java", "major": 11},
            flink={"home": str(tmp_path), "version": version},
        )
    )
    found = gather.role_of(pod["args"])
    assert found is not None
    role, args = found
    env = {name: value for name, value in pod["env"].items() if name.startswith("FLINK_")}
    env["_POD_IP_ADDRESS"] = "10.1.2.3"
    conf = parse_conf(pod["properties"], Path(pod["properties_file"]).name)
    command = flink.compose(spec, Request(role, args, env, conf), place)
    kubernetes = "org.apache.flink.kubernetes."
    assert [word for word in command.argv if word.startswith(kubernetes)]


def gathered(role="taskmanager", **env):
    return gather.gather(role, (), env, SPEC).env


def test_a_taskmanager_brings_the_address_from_which_it_reaches_its_jobmanager():
    env = gathered(FLINK_PROPERTIES="jobmanager.rpc.address: 127.0.0.1")
    assert env["_POD_IP_ADDRESS"] == "127.0.0.1"
    assert gathered(JOB_MANAGER_RPC_ADDRESS="127.0.0.1")["_POD_IP_ADDRESS"] == "127.0.0.1"


def test_a_taskmanager_whose_jobmanager_is_not_known_brings_that_of_its_own_name(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    for manager in ("jobmanager.invalid", "x" * 300, ""):
        env = gathered(FLINK_PROPERTIES=f"jobmanager.rpc.address: {manager}")
        assert env["_POD_IP_ADDRESS"] in ("127.0.0.1", "::1")


def test_an_address_that_cannot_be_found_is_left_out(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "pod.invalid")
    assert "_POD_IP_ADDRESS" not in gathered(JOB_MANAGER_RPC_ADDRESS="jobmanager.invalid")


@pytest.mark.parametrize("name", ["_POD_IP_ADDRESS", "LOCAL_IP"])
def test_an_address_that_is_given_is_the_one(name):
    env = gathered(**{name: "10.1.2.3", "JOB_MANAGER_RPC_ADDRESS": "127.0.0.1"})
    assert env[name] == "10.1.2.3"
    assert env.get("_POD_IP_ADDRESS", "10.1.2.3") == "10.1.2.3"


def test_other_roles_bring_no_address():
    for role in ("jobmanager", "standalone-job"):
        assert "_POD_IP_ADDRESS" not in gathered(role, JOB_MANAGER_RPC_ADDRESS="127.0.0.1")


TEMPLATE = b"kind: Pod\nmetadata: {labels: {team: a}}\n"
PACKED = {FLINK_TEMPLATE: base64.b64encode(TEMPLATE).decode()}


@pytest.mark.parametrize(
    ("role", "profile", "there"),
    [
        ("jobmanager", "strict", True),
        ("jobmanager", "compat", False),  # it sees the file itself
        ("standalone-job", "strict", False),
        ("taskmanager", "strict", False),
    ],
)
def test_the_pod_template_that_flink_mounts_comes_with_the_request(role, profile, there, tmp_path):
    path = tmp_path / "taskmanager-pod-template.yaml"
    spec = SPEC._replace(profile=profile)
    env = {"_POD_IP_ADDRESS": "10.1.2.3"}
    assert FLINK_TEMPLATE not in gather.gather(role, (), env, spec, "/none", str(path)).env
    path.write_bytes(TEMPLATE)
    found = gather.gather(role, (), env, spec, "/none", str(path)).env
    assert (found.get(FLINK_TEMPLATE) == PACKED[FLINK_TEMPLATE]) == there


def test_a_pod_template_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(Stop, match="pod template"):
        gather.gather("jobmanager", (), {}, SPEC, "/none", str(tmp_path))


JOB_MANAGER = ("kubernetes-jobmanager.sh", "kubernetes-session")


@pytest.fixture
def files(tmp_path):
    """Gives the files that a start writes."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "flink-dist-1.jar").touch()

    def run(env, place=IN_ENCLAVE, role="jobmanager", words=JOB_MANAGER, profile="strict"):
        spec = parse_launch(
            launch_spec(
                profile=profile,
                roles=[role],
                conf={**TLS, **REST_TLS},
                java={"home": "/opt/java", "major": 17},
                flink={"home": str(tmp_path), "version": "1.20.5"},
            )
        )
        conf = {
            "jobmanager.memory.process.size": "1600m",
            "taskmanager.memory.process.size": "1728m",
            "jobmanager.rpc.address": "jm",
        }
        env = {"_POD_IP_ADDRESS": "10.1.2.3", **env}
        return flink.compose(spec, Request(role, words, env, conf), place).files

    return run


def test_a_jobmanager_inside_has_the_pod_template_where_flink_looks_for_it(files):
    assert files(PACKED)[FLINK_POD_TEMPLATE] == TEMPLATE
    in_direct = IN_ENCLAVE._replace(kind=DIRECT)
    assert files(PACKED, in_direct)[FLINK_POD_TEMPLATE] == TEMPLATE
    assert FLINK_POD_TEMPLATE not in files({})


def test_who_sees_the_mounted_file_or_starts_no_pods_is_given_none(files):
    worker = {"role": "taskmanager", "words": ("kubernetes-taskmanager.sh",)}
    for change in ({"place": HERE}, {"profile": "compat"}, {"words": ()}, worker):
        assert FLINK_POD_TEMPLATE not in files(PACKED, **change)


@pytest.mark.parametrize(
    "value", ["", "a", "a===", "kind: Pod", "YQ==\n", "YQ\0==", "é", "A" * 65540]
)
def test_a_pod_template_that_is_not_base64_is_refused(files, value):
    with pytest.raises(Stop, match=FLINK_TEMPLATE) as stop:
        files({FLINK_TEMPLATE: value})
    assert stop.value.code == 2


def check(classpath):
    conf = {"pipeline.classpaths": classpath, **TLS}
    flink_job.check_job(SPEC, parse_args("taskmanager", ()), conf, HERE)


def test_a_jar_that_is_named_from_the_working_folder_is_the_one_that_is_meant():
    """A JobManager names the jars of ``usrlib`` to its TaskManagers so."""
    assert TEMPORARY == "/tmp"
    check("file:../opt/flink/usrlib/job.jar")
    check("file:./../opt/flink/usrlib/../usrlib/job.jar")


@pytest.mark.parametrize(
    "item",
    [
        "file:opt/flink/usrlib/job.jar",
        "file:../opt/flink/usrlib/other.jar",
        "file:../opt/flink/usrlib/job.jar?x",
        "file:..%2fopt/flink/usrlib/job.jar",
        "../opt/flink/usrlib/job.jar",
        "http:../opt/flink/usrlib/job.jar",
        "file:",
    ],
)
def test_any_other_jar_is_refused(item):
    with pytest.raises(Stop, match=r"pipeline\.classpaths: refused"):
        check(item)
