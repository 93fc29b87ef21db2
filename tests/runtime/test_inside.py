"""The launcher inside: who answers for which variable, what strict refuses and compat takes."""

import json
import os
import stat
import subprocess
import sys

import pytest

from imagekit.runtime import command, inside
from imagekit.runtime.command import Command
from imagekit.runtime.files import build_zipapp
from imagekit.runtime.launch import launch_spec, parse_launch
from imagekit.runtime.place import NATIVE, Place
from imagekit.runtime.request import VARIABLE, Request, write_request
from imagekit.runtime.stop import Stop

HERE = Place(NATIVE, False, None, "/nonexistent")


def spec(**more):
    return parse_launch(launch_spec(more.pop("argv", ["/x"]), **more))


def request(role="", args=(), env=None, conf=None):
    return Request(role, tuple(args), env or {}, conf or {})


# --- variables --------------------------------------------------------------------------------


def test_each_variable_goes_to_who_answers_for_it():
    env = {
        "ATTESTATION": "true", "API_KEY": "k", "ENCRYPTED_FSD": "false", "MALLOC_ARENA_MAX": "2",
        "SGX_ENABLED": "true", "SPARK_USER": "u",
    }  # fmt: skip
    left, service, settings = inside.split_request(spec(), request("driver", env=env))
    assert left.env == {"SPARK_USER": "u"}
    assert service == {"ATTESTATION": "true", "API_KEY": "k", "ENCRYPTED_FSD": "false"}
    assert settings == {"MALLOC_ARENA_MAX": "2"}


@pytest.mark.parametrize("name", inside.INJECTIONS)
def test_strict_refuses_what_injects_code_by_name(name):
    with pytest.raises(Stop, match=f"{name}: refused") as stop:
        inside.split_request(spec(), request("driver", env={name: "s3cret"}))
    assert stop.value.code == 2
    assert "s3cret" not in stop.value.line


@pytest.mark.parametrize("name", inside.INJECTIONS)
def test_compat_takes_it(name):
    left, _, _ = inside.split_request(spec(profile="compat"), request("driver", env={name: "x"}))
    assert left.env == {}  # the host's whole environment reaches the program anyhow


def test_a_variable_that_the_project_passes_through_is_not_refused():
    sealed = spec(passthrough={"JAVA_TOOL_OPTIONS": "-Da=[a-z]+"})
    with pytest.raises(Stop):
        inside.split_request(spec(), request(env={"JAVA_TOOL_OPTIONS": "-Da=b"}))
    left, _, _ = inside.split_request(sealed, request(env={"JAVA_TOOL_OPTIONS": "-Da=b"}))
    assert left.env == {}


@pytest.mark.parametrize("value", ["", "x", "-1", "1;id", "9" * 20])
def test_limits_are_numbers(value):
    for profile in ("strict", "compat"):
        with pytest.raises(Stop, match="MALLOC_ARENA_MAX"):
            inside.split_request(spec(profile=profile), request(env={"MALLOC_ARENA_MAX": value}))


def test_a_value_of_another_form_is_refused_by_name():
    with pytest.raises(Stop, match="ATTESTATION_PIN_SHA256: refused"):
        inside.split_request(spec(), request(env={"ATTESTATION_PIN_SHA256": "zz"}))


# --- roles ------------------------------------------------------------------------------------


def test_a_role_that_the_image_does_not_name_is_refused():
    with pytest.raises(Stop, match=r"role driver is refused: launch\.roles"):
        inside.compose(spec(roles=["executor"]), request("driver"), HERE)
    with pytest.raises(Stop, match="not one that the launcher knows"):
        inside.compose(spec(profile="compat"), request("root"), HERE)


def test_without_a_role_the_sealed_command_runs():
    assert inside.compose(spec(argv=["/x", "a"]), None, HERE).argv == ("/x", "a")
    assert inside.compose(spec(argv=["/x", "a"]), request(), HERE).argv == ("/x", "a")


def test_an_image_without_a_command_names_its_roles():
    with pytest.raises(Stop, match="executor, thrift") as stop:
        inside.compose(spec(argv=[], roles=["executor", "thrift"]), None, HERE)
    assert stop.value.code == 2


def test_the_sealed_command_takes_nothing_from_outside():
    for given in (request(args=["x"]), request(conf={"a": "b"}), request(env={"A": "b"})):
        with pytest.raises(Stop, match="sealed"):
            inside.compose(spec(), given, HERE)


# --- files ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    path = tmp_path / "imagekit"
    monkeypatch.setattr(inside, "FOLDER", str(path))
    return path


def test_files_are_for_their_owner_alone(folder):
    before = os.umask(0)
    try:
        inside.prepare(Command(("/x",), {}, {f"{folder}/a/b": b"s3cret"}, {}))
    finally:
        os.umask(before)
    modes = {
        path: stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "a", folder / "a/b")
    }
    assert modes == {folder: 0o700, folder / "a": 0o700, folder / "a/b": 0o600}


def test_a_link_that_waits_there_is_not_followed(folder, tmp_path):
    folder.mkdir(0o700)
    (folder / "b").symlink_to(tmp_path / "victim")
    with pytest.raises(Stop, match="cannot be written"):
        inside.prepare(Command(("/x",), {}, {f"{folder}/b": b"x"}, {}))
    assert not (tmp_path / "victim").exists()


def test_a_folder_that_others_may_enter_is_closed_first(folder):
    folder.mkdir()
    folder.chmod(0o777)
    inside.prepare(Command(("/x",), {}, {f"{folder}/b": b"x"}, {}))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_somebody_else_is_not_written_to(folder, monkeypatch):
    folder.mkdir(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Stop, match="another user"):
        inside.prepare(Command(("/x",), {}, {f"{folder}/b": b"x"}, {}))
    assert list(folder.iterdir()) == []


def test_the_pod_template_of_flink_is_written_where_flink_looks_for_it(
    folder, tmp_path, monkeypatch
):
    path = tmp_path / "pod-template" / "taskmanager-pod-template.yaml"
    monkeypatch.setattr(inside, "FLINK_POD_TEMPLATE", str(path))
    inside.prepare(Command(("/x",), {}, {str(path): b"kind: Pod", f"{folder}/b": b"x"}, {}))
    assert path.read_bytes() == b"kind: Pod"
    for other in (path.with_name("other"), path.parent / "../x", tmp_path / "imagekit2/x"):
        with pytest.raises(AssertionError):
            inside.prepare(Command(("/x",), {}, {str(other): b"x"}, {}))


def test_a_command_shows_neither_files_nor_environment():
    made = Command(("/x", "a"), {"A": "s3cret"}, {f"{command.FOLDER}/x": b"s3cret"}, {})
    assert "s3cret" not in repr(made)


# --- the whole, as a process -------------------------------------------------------------------


@pytest.fixture
def launcher(tmp_path):
    (tmp_path / "launcher.pyz").write_bytes(build_zipapp())

    def run(given, host=None, **more):
        code = "import json,os;print(json.dumps(dict(os.environ)))"
        more.setdefault("argv", [sys.executable, "-I", "-c", code])
        argv = more.pop("argv")
        (tmp_path / "launch.json").write_bytes(launch_spec(argv, **more))
        return subprocess.run(
            [sys.executable, "-I", str(tmp_path / "launcher.pyz")],
            env={**(host or {}), VARIABLE: write_request(*given)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_strict_hands_on_neither_request_nor_environment(launcher):
    env = {"LD_DEBUG": "", "A": "1", "API_KEY": "k"}
    done = launcher(request(env={"MALLOC_ARENA_MAX": "2"}), env, env={"B": "2"})
    got = json.loads(done.stdout)
    got.pop("LC_CTYPE", None)
    assert got == {"B": "2", "MALLOC_ARENA_MAX": "2"}


def test_compat_hands_on_the_hosts_environment_without_the_secrets_of_the_start(launcher):
    env = {"A": "1", "API_KEY": "k", "sgx_command": "x", "IMAGEKIT_ENCLAVE_SIZE": "8G"}
    done = launcher(request(env={"API_KEY": "k"}), env, profile="compat")
    got = json.loads(done.stdout)
    got.pop("LC_CTYPE", None)
    assert got == {"A": "1"}


def test_attestation_that_cannot_be_had_stops_the_job(launcher):
    given = request(env={"ATTESTATION": "true", "ATTESTATION_URL": "kms.example:9000",
                         "APP_ID": "a", "API_KEY": "s3cret-key"})  # fmt: skip
    done = launcher(given)
    assert done.returncode == 2
    assert done.stdout == "Attestation Fail! Application killed!\n"
    assert "no quote can be had here" in done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_attestation_that_the_image_demands_cannot_be_switched_off(launcher):
    sealed = {"required": True, "settings": {}}
    for env in ({}, {"ATTESTATION": "false"}):
        done = launcher(request(env=env), attestation=sealed)
        assert done.returncode != 0
        assert done.stdout == "Attestation Fail! Application killed!\n"


def test_a_word_that_is_not_understood_switches_nothing_off(launcher):
    done = launcher(request(env={"ATTESTATION": "enabled"}))
    assert (done.returncode, done.stdout) == (2, "")
    assert "ATTESTATION" in done.stderr
