"""What Flink on native Kubernetes leaves out, and the launcher needs."""

import socket

import pytest

from imagekit.runtime import flink_job, gather
from imagekit.runtime.flink_args import parse_args
from imagekit.runtime.inside import WORKING_FOLDER
from imagekit.runtime.launch import launch_spec, parse_launch
from imagekit.runtime.place import NATIVE, Place
from imagekit.runtime.stop import Stop

JAR = "/opt/flink/usrlib/job.jar"
SPEC = parse_launch(launch_spec(jars=[JAR], flink={"home": "/opt/flink", "version": "1.20.5"}))
HERE = Place(NATIVE, False, None, "/dev/attestation")
TLS = {"security.ssl.internal.enabled": "true"}


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


def check(classpath):
    conf = {"pipeline.classpaths": classpath, **TLS}
    flink_job.check_job(SPEC, parse_args("taskmanager", ()), conf, HERE)


def test_a_jar_that_is_named_from_the_working_folder_is_the_one_that_is_meant():
    """A JobManager names the jars of ``usrlib`` to its TaskManagers so."""
    assert WORKING_FOLDER == "/tmp"
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
