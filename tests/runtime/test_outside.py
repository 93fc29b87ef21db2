"""The entry point outside the enclave: what is gathered, what is needed, what is started."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imagekit.runtime import files, gather, kubernetes, outside, plan, settings
from imagekit.runtime.launch import launch_spec, parse_launch
from imagekit.runtime.qcnl import qcnl_text, write_qcnl
from imagekit.runtime.request import VARIABLE, is_service, parse_request
from imagekit.runtime.stop import Stop

SPARK = {"home": "/opt/spark", "version": "3.5.9"}
FLINK = {"home": "/opt/flink", "version": "1.20.5"}
JAVA = {"home": "/opt/java", "major": 17}
SEALED = [sys.executable, "-I", "-c", "import json,os;print(json.dumps(dict(os.environ)))"]


@pytest.fixture
def image(tmp_path):
    """An image's files: places, environment, and a function that writes launch.json."""
    ppml, programs = tmp_path / "ppml", tmp_path / "bin"
    for folder in (ppml, programs, tmp_path / "tmp"):
        folder.mkdir()
    text = 'sgx.enclave_size = "8G"\n'
    for name in ("bash.manifest", "bash.manifest.sgx", "bash.sig"):
        (ppml / name).write_text(text)
    for name in ("gramine-sgx", "gramine-direct"):
        (programs / name).write_text('#!/bin/sh\necho "${0##*/} $* in $PWD"; env\nexit 9\n')
        (programs / name).chmod(0o755)
    return Image(tmp_path, ppml, programs)


class Image:
    def __init__(self, folder, ppml, programs):
        self.spec = folder / "launch.json"
        self.env = {"PATH": f"{programs}:/usr/bin:/bin"}
        (folder / "aesm").touch()
        self.places = outside.Places(
            str(ppml), "bash", ("/dev/null",), ("/dev/null",), str(folder / "aesm"),
            str(folder / "qcnl.conf"), str(folder / "tmp"),
        )  # fmt: skip
        self.seal()

    def seal(self, argv=SEALED, **more):
        more = {"java": JAVA, "spark": SPARK, "flink": FLINK, **more}
        self.spec.write_bytes(launch_spec(argv, more.pop("env", None), **more))

    def decide(self, *arguments, **env):
        return outside.decide(arguments, {**self.env, **env}, self.places, str(self.spec))

    def start(self, *arguments, **env):
        code = (
            "import json, sys\n"
            "from imagekit.runtime import outside\n"
            "from imagekit.runtime.stop import Stop\n"
            "places, spec, *rest = sys.argv[1:]\n"
            "places = [tuple(p) if isinstance(p, list) else p for p in json.loads(places)]\n"
            "try:\n"
            "    outside.start(rest, spec, outside.Places(*places))\n"
            "except Stop as stop:\n"
            "    print(stop.line, file=sys.stderr)\n"
            "    sys.exit(stop.code)\n"
        )
        root = str(Path(files.__file__).parent.parent.parent)
        return subprocess.run(
            [sys.executable, "-c", code, json.dumps(self.places), str(self.spec), *arguments],
            env={**self.env, **env, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=60,
        )


def request_of(plan):
    return parse_request(plan.env[VARIABLE])


# --- what is started --------------------------------------------------------------------------


def test_the_enclave_is_started_in_its_folder_and_its_exit_code_passes(image):
    done = image.start(SGX_ENABLED="true")
    assert done.returncode == 9
    assert done.stdout.startswith(f"gramine-sgx bash in {image.places.folder}\n")
    assert f"{VARIABLE}=" in done.stdout


def test_direct_mode_needs_no_device_and_says_that_there_is_no_enclave(image):
    image.places = image.places._replace(devices=("/nonexistent",))
    done = image.start(SGX_ENABLED="true", SGX_MODE="direct")
    assert done.returncode == 9
    assert done.stdout.startswith("gramine-direct bash in ")
    assert "without an enclave" in done.stderr


def test_without_sgx_the_sealed_command_runs_by_the_launchers_rules(image):
    image.seal(env={"A": "1"}, passthrough={"TZ": "[A-Z]+"})
    done = image.start(SGX_ENABLED="false", TZ="UTC")
    got = json.loads(done.stdout)
    got.pop("LC_CTYPE", None)
    assert got == {"A": "1", "TZ": "UTC"}
    assert image.start(SGX_ENABLED="false", TZ="1").returncode == 2


def test_other_commands_are_executed_as_given(image):
    done = image.start("sh", "-c", 'echo "$0" "$1"; exit 5', "a  b", "$X")
    assert (done.returncode, done.stdout) == (5, "a  b $X\n")
    assert "outside the enclave" in done.stderr
    assert image.start("/bin/echo", "x").stdout == "x\n"
    assert image.start("no-such-command").returncode == 3


@pytest.mark.parametrize("value", [None, "", "True", "TRUE", "yes", "1", "false "])
def test_sgx_enabled_is_true_or_false_and_nothing_else(image, value):
    with pytest.raises(Stop, match="SGX_ENABLED") as stop:
        image.decide(**({} if value is None else {"SGX_ENABLED": value}))
    assert stop.value.code == 2


def test_unknown_mode_is_refused(image):
    with pytest.raises(Stop, match="SGX_MODE"):
        image.decide(SGX_ENABLED="true", SGX_MODE="simulation")


@pytest.mark.parametrize("name", ["bash.manifest.sgx", "bash.sig"])
def test_a_missing_manifest_or_signature_is_named(image, name):
    (Path(image.places.folder) / name).unlink()
    with pytest.raises(Stop, match=name.replace(".", r"\.")) as stop:
        image.decide(SGX_ENABLED="true")
    assert stop.value.code == 3


def test_a_missing_or_false_device_is_named(image, tmp_path):
    image.places = image.places._replace(devices=("/nonexistent/a", "/nonexistent/b"))
    with pytest.raises(Stop, match="/nonexistent/a nor /nonexistent/b"):
        image.decide(SGX_ENABLED="true")
    (tmp_path / "file").touch()
    image.places = image.places._replace(devices=(str(tmp_path / "file"),))
    with pytest.raises(Stop, match="no SGX device"):
        image.decide(SGX_ENABLED="true")


def test_attestation_needs_the_provision_device_and_aesm(image):
    assert image.decide(SGX_ENABLED="true", ATTESTATION="true").program
    places = image.places
    image.places = places._replace(aesm="/nonexistent")
    with pytest.raises(Stop, match="aesmd"):
        image.decide(SGX_ENABLED="true", ATTESTATION="yes")
    assert image.decide(SGX_ENABLED="true", ATTESTATION="no").program
    image.places = places._replace(provision=("/nonexistent",))
    with pytest.raises(Stop, match="attestation needs a device"):
        image.decide(SGX_ENABLED="true", ATTESTATION="1")
    with pytest.raises(Stop, match="ATTESTATION"):
        image.decide(SGX_ENABLED="true", ATTESTATION="maybe")


def test_folders_of_encrypted_files_are_made(image, tmp_path):
    host = tmp_path / "a" / "b"
    image.seal(encrypted=[{"path": "/data", "host": str(host), "key_name": "k"}])
    assert image.start(SGX_ENABLED="true").returncode == 9
    assert host.stat().st_mode & 0o777 == 0o700
    assert image.start(SGX_ENABLED="true").returncode == 9  # it may be there
    image.seal(encrypted=[{"path": "/data", "host": "/dev/null/x", "key_name": "k"}])
    done = image.start(SGX_ENABLED="true")
    assert (done.returncode, done.stdout) == (3, "")
    assert "/dev/null/x" in done.stderr


def test_gramine_that_is_not_installed_is_said(image):
    with pytest.raises(Stop, match="gramine-sgx is not on PATH"):
        image.decide(SGX_ENABLED="true", PATH="/nonexistent")


def test_real_places_are_those_of_the_image():
    assert outside.Places()[:3] == ("/ppml", "bash", ("/dev/sgx_enclave", "/dev/sgx/enclave"))
    assert outside.Places().qcnl == "/etc/sgx_default_qcnl.conf"


# --- what is gathered -------------------------------------------------------------------------


def test_spark_on_kubernetes_is_a_request(image, tmp_path):
    conf = tmp_path / "spark.properties"
    conf.write_text("#Java properties\nspark.app.name=a\\ b\nspark.kubernetes.sgx.enabled=true\n")
    args = ("driver", "--properties-file", str(conf), "--class", "A", "local:///x.jar", "10")
    plan = image.decide(*args, SPARK_DRIVER_BIND_ADDRESS="10.0.0.1", PATH=image.env["PATH"])
    request = request_of(plan)
    assert (request.role, request.args) == ("driver", args[1:])
    assert request.conf == {"spark.app.name": "a b", "spark.kubernetes.sgx.enabled": "true"}
    assert request.env == {"SPARK_DRIVER_BIND_ADDRESS": "10.0.0.1"}


def test_flink_on_kubernetes_is_a_request(image, tmp_path):
    (tmp_path / "flink-conf.yaml").write_text("kubernetes.sgx.enabled: true\nrest.port: 8081\n")
    words = ("bash", "-c", "kubernetes-jobmanager.sh kubernetes-application ")
    request = request_of(image.decide(*words, FLINK_CONF_DIR=str(tmp_path), _POD_IP_ADDRESS="::1"))
    assert request.role == "jobmanager"
    assert request.conf == {
        "imagekit.conf-file": "flink-conf.yaml",
        "kubernetes.sgx.enabled": "true",
        "rest.port": "8081",
    }
    assert request.env == {"FLINK_CONF_DIR": str(tmp_path), "_POD_IP_ADDRESS": "::1"}


def test_what_the_containers_variables_say_wins_over_the_jobs_properties(image, tmp_path):
    conf = tmp_path / "c"
    conf.write_text("spark.kubernetes.sgx.enabled=true\n")
    plan = image.decide("submit", "--properties-file", str(conf), SGX_ENABLED="false")
    assert plan.program is None


@pytest.mark.parametrize("form", ["--properties-file={}", "--properties-file"])
def test_a_properties_file_that_cannot_be_read_is_named(image, form):
    words = [form.format("/nonexistent/conf")] + ([] if "=" in form else ["/nonexistent/conf"])
    with pytest.raises(Stop, match="/nonexistent/conf") as stop:
        image.decide("driver", *words, SGX_ENABLED="false")
    assert stop.value.code == 3


def test_the_default_properties_are_read_where_none_are_named(image, tmp_path):
    (tmp_path / "spark-defaults.conf").write_text("spark.app.name  x\n")
    plan = image.decide("thrift", SGX_ENABLED="false", SPARK_CONF_DIR=str(tmp_path))
    assert request_of(plan).conf == {"spark.app.name": "x"}


@pytest.mark.parametrize("role", ["driver-py", "driver-r"])
def test_roles_that_need_worker_processes_are_refused(image, role):
    with pytest.raises(Stop, match=f"role {role} is refused") as stop:
        image.decide(role, SGX_ENABLED="true")
    assert stop.value.code == 2


def goes_in(role, **env):
    spec = parse_launch(launch_spec(["/x"], spark=SPARK, flink=FLINK))
    return gather.gather(role, (), {**env, "SPARK_CONF_DIR": "/none"}, spec).env.keys() - {
        "SPARK_CONF_DIR"
    }


def test_only_what_a_role_may_care_for_goes_in():
    env = {
        "PATH": "/bin", "HOME": "/root", "HOSTNAME": "h", "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "SPARK_HOME": "/opt/spark", "SPARK_USER": "u", "SPARK_JAVA_OPT_0": "-Da=b",
        "_SPARK_AUTH_SECRET": "s", "FLINK_TM_JVM_MEM_OPTS": "-Xmx1g", "API_KEY": "k",
        "SPARK_PI_SVC_SERVICE_HOST": "10.0.0.2", "SPARK_PI_SVC_PORT_7078_TCP_ADDR": "10.0.0.2",
        "SPARK_PI_SVC_PORT": "tcp://10.0.0.2:7078", "SPARK_PI_SVC_SERVICE_PORT_X": "7",
    }  # fmt: skip
    assert goes_in("executor", **env) == {
        "SPARK_USER", "SPARK_JAVA_OPT_0", "_SPARK_AUTH_SECRET", "API_KEY"
    }  # fmt: skip
    own_address = {"_POD_IP_ADDRESS"}
    assert goes_in("taskmanager", **env) - own_address == {"FLINK_TM_JVM_MEM_OPTS", "API_KEY"}
    assert goes_in("", **env) == {"API_KEY"}
    assert goes_in("thrift", HIVE_SERVER2_THRIFT_PORT="1") == {"HIVE_SERVER2_THRIFT_PORT"}


def test_a_secret_may_stand_in_a_file(tmp_path):
    (tmp_path / "key").write_text("s3cret\n")
    spec = parse_launch(launch_spec(["/x"]))
    request = gather.gather("", (), {"API_KEY_FILE": str(tmp_path / "key")}, spec)
    assert request.env == {"API_KEY": "s3cret"}
    with pytest.raises(Stop, match="API_KEY_FILE: /nonexistent"):
        gather.gather("", (), {"API_KEY_FILE": "/nonexistent"}, spec)


def test_a_pods_account_goes_in_where_pods_are_started(tmp_path):
    (tmp_path / "token").write_text("abc.def\n")
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "namespace").write_text("default")
    spec = parse_launch(launch_spec(["/x"], spark=SPARK))
    env = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "SPARK_CONF_DIR": "/none"}
    driver = gather.gather("driver", (), env, spec, str(tmp_path)).env
    assert driver["KUBERNETES_TOKEN"] == "abc.def"
    assert driver["KUBERNETES_SERVICE_HOST"] == "10.0.0.1"
    found = kubernetes.account(driver)
    assert found.files[kubernetes.TOKEN_FILE] == b"abc.def"
    assert found.env["KUBERNETES_MASTER"] == "https://10.0.0.1:443"
    assert "abc.def" not in repr(found)
    assert "KUBERNETES_TOKEN" not in gather.gather("executor", (), env, spec, str(tmp_path)).env
    assert gather.gather("driver", (), {}, spec, "/nonexistent").env == {}


def test_every_variable_of_a_service_is_known_as_one():
    assert all(map(is_service, {**settings.ATTESTATION, **settings.STORAGE}))
    assert not is_service("SPARK_USER")


@pytest.mark.parametrize("name", ["sh", "env", "nothing-of-this-name", "tmp", ""])
def test_a_program_is_found_where_a_shell_finds_it(name, tmp_path):
    (tmp_path / "env").touch()  # not a program
    (tmp_path / "sh").mkdir()
    for path in (f"{tmp_path}:/usr/bin:/bin", "/nonexistent", "/", None):
        env = {} if path is None else {"PATH": path}
        assert plan.which(name, env) == (shutil.which(name, path=path or os.defpath) or None)


def test_the_pod_template_goes_in_as_content(tmp_path):
    (tmp_path / "pod.yml").write_text("kind: Pod\n")
    (tmp_path / "conf").write_text(
        f"spark.kubernetes.executor.podTemplateFile={tmp_path}/pod.yml\n"
    )
    spec = parse_launch(launch_spec(["/x"], spark=SPARK))
    words = ("--properties-file", str(tmp_path / "conf"))
    env = gather.gather("driver", words, {}, spec, "/nonexistent").env
    assert base64.b64decode(env["SPARK_POD_TEMPLATE_DATA"]) == b"kind: Pod\n"


def test_variables_that_inject_code_go_in_so_that_they_are_refused_aloud():
    env = {"LD_PRELOAD": "/x.so", "JAVA_TOOL_OPTIONS": "-javaagent:x", "sgx_command": "sh"}
    assert goes_in("driver", **env) == set(env)
    assert goes_in("", **env) == set(env)


def test_key_files_go_in_as_content(tmp_path):
    (tmp_path / "key").write_bytes(b"0123456789abcdef")
    spec = parse_launch(launch_spec(["/x"]))
    request = gather.gather("", (), {"LOCAL_DATA_KEY": str(tmp_path / "key")}, spec)
    assert base64.b64decode(request.env["LOCAL_DATA_KEY_DATA"]) == b"0123456789abcdef"
    with pytest.raises(Stop, match="/nonexistent") as stop:
        gather.gather("", (), {"EHSM_DATA_KEY": "/nonexistent"}, spec)
    assert stop.value.code == 3


def test_a_request_that_is_too_long_is_refused(image):
    with pytest.raises(Stop, match="longer"):
        image.decide("driver", "x" * 200_000, SGX_ENABLED="false")


def test_neither_notes_nor_repr_show_what_is_in_the_request(image):
    plan = image.decide(
        "executor", SGX_ENABLED="true", API_KEY="s3cret", _SPARK_AUTH_SECRET="s3cret"
    )
    assert "s3cret" in plan.env[VARIABLE]
    assert "s3cret" not in repr(plan)
    assert "s3cret" not in repr(request_of(plan))
    done = image.start("executor", SGX_ENABLED="true", API_KEY="s3cret")
    assert "s3cret" not in done.stderr


# --- compat -----------------------------------------------------------------------------------


def test_compat_runs_what_the_host_says(image):
    image.seal([], profile="compat")
    plan = image.decide(SGX_ENABLED="true", sgx_command="/usr/bin/id -u")
    assert plan.env == {}
    assert any("compat" in note for note in plan.notes)
    with pytest.raises(Stop, match="nothing to run"):
        image.decide(SGX_ENABLED="true")


def test_compat_starts_the_launcher_for_a_role(image):
    image.seal([], profile="compat")
    plan = image.decide("executor", SGX_ENABLED="true", sgx_command="sh")
    words = plan.env["sgx_command"].split()
    assert words == [sys.executable, "-I", "-S", str(image.spec.parent / "launcher.pyz")]
    assert plan.env["IMAGEKIT_ENCLAVE_SIZE"] == "8G"


# --- PCCS -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://pccs.example:8081",
        "https://pccs.example:8081/",
        "https://pccs.example:8081/sgx/certification/v4/",
        "https://pccs.example:8081/sgx/certification/v4",
    ],
)
def test_the_pccs_is_written_once_with_its_path(url):
    text = "PCCS_URL=https://pccs.example:8081/sgx/certification/v4/\nUSE_SECURE_CERT=FALSE\n"
    assert qcnl_text({"PCCS_URL": url}) == text
    secure = qcnl_text({"PCCS_URL": url, "PCCS_USE_SECURE_CERT": "True"})
    assert secure == text.replace("FALSE", "TRUE")


@pytest.mark.parametrize(
    "url", ["pccs:8081", "https://a b", "https://a\nUSE_SECURE_CERT=TRUE", "x"]
)
def test_what_is_no_address_is_not_written(url):
    with pytest.raises(Stop, match="PCCS_URL"):
        qcnl_text({"PCCS_URL": url})
    assert qcnl_text({}) is None
    assert qcnl_text({"PCCS_URL": ""}) is None


def test_who_may_not_write_the_systems_file_gets_another(tmp_path):
    env = {"PCCS_URL": "https://p:1"}
    good, bad = str(tmp_path / "a.conf"), str(tmp_path / "none" / "a.conf")
    assert write_qcnl(env, good, "/none") == good
    assert "QCNL_CONF_PATH" not in env
    other = write_qcnl(env, bad, str(tmp_path))
    assert env["QCNL_CONF_PATH"] == other == str(tmp_path / "a.conf")
    with pytest.raises(Stop, match="neither"):
        write_qcnl(env, bad, str(tmp_path / "none"))


def test_the_pccs_reaches_gramines_environment(image):
    done = image.start(SGX_ENABLED="true", PCCS_URL="https://p:1")
    assert Path(image.places.qcnl).read_text().startswith("PCCS_URL=https://p:1/sgx/")
    assert "PCCS_URL written to" in done.stderr


def test_this_processs_environment_is_untouched(image):
    before = dict(os.environ)
    image.decide(SGX_ENABLED="false")
    assert dict(os.environ) == before
