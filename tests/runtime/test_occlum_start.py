"""Starts in an enclave of Occlum: what is needed, what goes in, and that nothing else does."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from occlum_image import CODE, SHOW, Image

from imagekit.runtime import occlum, plan
from imagekit.runtime.files import occlum_start, runtime_files
from imagekit.runtime.launch import launch_spec, parse_launch
from imagekit.runtime.paths import OCCLUM_START
from imagekit.runtime.request import VARIABLE, parse_request, write_request
from imagekit.runtime.stop import Stop


@pytest.fixture
def image(tmp_path):
    return Image(tmp_path)


def inside(done):
    """The environment of the sealed command, without what its own Python adds."""
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    got.pop("LC_CTYPE", None)
    return got


# -- the good case


def test_the_sealed_command_runs_in_the_enclave_with_its_own_environment_alone(image):
    image.seal(env={"A": "1"})
    done = image.start(SGX_ENABLED="true", B="2", LD_LIBRARY_PATH="/evil")
    assert inside(done) == {"A": "1"}
    assert f"imagekit: the sealed command in the enclave of {image.instance}\n" in done.stderr


def test_what_is_started_is_the_one_program_in_the_instances_folder(image):
    made = image.decide(SGX_ENABLED="true")
    assert made.argv == ("occlum", "run", str(image.start_file))
    assert (made.folder, set(made.env)) == (str(image.instance), {VARIABLE})
    assert Path(made.program).parent == Path(image.env["PATH"].split(":")[0])
    assert plan.Places().start == OCCLUM_START == "/opt/imagekit/enclave/start"
    assert plan.Places().instance == "/opt/occlum_spark"
    assert plan.Places().occlum == "/opt/occlum/build/bin/occlum"


def test_off_path_occlum_is_where_its_image_has_it(image):
    program = Path(image.decide(SGX_ENABLED="true").program)
    image.places = image.places._replace(occlum=str(program))
    assert image.decide(SGX_ENABLED="true", PATH="/nonexistent").program == str(program)
    program.chmod(0o644)
    with pytest.raises(Stop, match="occlum is neither on PATH nor at ") as stop:
        image.decide(SGX_ENABLED="true", PATH="/nonexistent")
    assert stop.value.code == 3


def test_a_passed_through_variable_gets_in_if_it_matches(image):
    image.config["env"]["untrusted"].append("TZ")
    image.seal(passthrough={"TZ": "[A-Z]+"})
    assert inside(image.start(SGX_ENABLED="true", TZ="UTC"))["TZ"] == "UTC"
    refused = image.start(SGX_ENABLED="true", TZ="utc; x")
    assert (refused.returncode, "TZ" in refused.stderr, refused.stdout) == (2, True, "")


def test_a_role_and_the_exit_code_go_through(image):
    plan_of = image.decide("executor", SGX_ENABLED="true", SPARK_USER="spark")
    request = parse_request(plan_of.env[VARIABLE])
    assert request.role == "executor"
    assert request.env == {"SGX_ENABLED": "true", "SPARK_USER": "spark"}
    image.seal([sys.executable, "-c", "raise SystemExit(143)"])
    assert image.start(SGX_ENABLED="true").returncode == 143
    refused = image.start("executor", SGX_ENABLED="true")
    assert (refused.returncode, "launch.roles" in refused.stderr) == (2, True)


def test_a_signal_ends_what_occlum_has_become(image):
    image.seal([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"])
    root = str(Path(plan.__file__).parent.parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, json.dumps(image.places), str(image.spec)],
        env={**image.env, "PYTHONPATH": root, "SGX_ENABLED": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.returncode == -signal.SIGTERM


def test_natively_it_runs_by_the_launchers_rules_and_is_no_enclave(image):
    image.seal(env={"A": "1"}, attestation={"required": True, "settings": {}})
    claims = {"IMAGEKIT_LIBOS": "occlum", "IMAGEKIT_ATTESTATION": "dcap"}
    refused = image.start(SGX_ENABLED="false", **claims)
    assert (refused.returncode, "runs without Occlum" in refused.stderr) == (2, True)
    image.seal(env={"A": "1"})
    done = image.start(SGX_ENABLED="false")
    assert inside(done) == {"A": "1"}
    assert "unprotected" in done.stderr


def test_any_other_command_runs_outside(image):
    done = image.start("sh", "-c", "echo $0; exit 4", "x")
    assert (done.returncode, done.stdout) == (4, "x\n")
    assert "outside the enclave" in done.stderr


# -- what is needed


@pytest.mark.parametrize("name", [occlum.LIBRARY, occlum.STATUS_FILE, occlum.MODE_FILE])
def test_a_missing_part_of_the_instance_is_named(image, name):
    (image.instance / name).unlink()
    with pytest.raises(Stop, match=f"{name} is missing: this is a base, or not signed") as stop:
        image.decide(SGX_ENABLED="true")
    assert stop.value.code == 3


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (occlum.STATUS_FILE, "initialized\n", "not built"),
        (occlum.MODE_FILE, "SIM\n", "simulation"),
        (occlum.MODE_FILE, "HYPER", "another machine"),
        (occlum.MODE_FILE, "\xff" * 20, "simulation"),
    ],
)
def test_an_instance_without_an_enclave_of_this_cpu_is_refused(image, name, text, words):
    (image.instance / name).write_text(text)
    with pytest.raises(Stop, match=words) as stop:
        image.decide(SGX_ENABLED="true")
    assert stop.value.code == 3


def test_the_device_is_needed(image):
    image.places = image.places._replace(devices=("/nonexistent/sgx",))
    with pytest.raises(Stop, match="no SGX device: neither /nonexistent/sgx") as stop:
        image.decide(SGX_ENABLED="true")
    assert stop.value.code == 3


def test_attestation_needs_the_provision_device(image):
    image.places = image.places._replace(provision=("/nonexistent/p",))
    assert image.decide(SGX_ENABLED="true").program
    with pytest.raises(Stop, match="attestation needs a device: neither /nonexistent/p"):
        image.decide(SGX_ENABLED="true", ATTESTATION="true")
    with pytest.raises(Stop, match="ATTESTATION"):
        image.decide(SGX_ENABLED="true", ATTESTATION="maybe")


def test_aesmd_is_needed_without_launch_control_or_where_it_is_asked_for(image, tmp_path):
    assert image.decide(SGX_ENABLED="true", ATTESTATION="true").program
    assert image.decide(SGX_ENABLED="true", SGX_AESM_ADDR="1").program
    with pytest.raises(Stop, match="SGX_AESM_ADDR asks for the service aesmd"):
        image.decide(SGX_ENABLED="true", ATTESTATION="true", SGX_AESM_ADDR="1")
    for text in ("flags\t: sgx sgx_lcx\n", "", "bugs: sgx_lc\n"):
        image.cpuinfo.write_text(text)
        with pytest.raises(Stop, match="no launch control") as stop:
            image.decide(SGX_ENABLED="true")
        assert stop.value.code == 3
    image.cpuinfo.unlink()
    with pytest.raises(Stop, match="no launch control"):
        image.decide(SGX_ENABLED="true")
    (tmp_path / "aesm").touch()
    image.places = image.places._replace(aesm=str(tmp_path / "aesm"))
    assert image.decide(SGX_ENABLED="true", ATTESTATION="true", SGX_AESM_ADDR="1").program


def test_the_folders_that_occlum_writes_to_are_made(image):
    image.start(SGX_ENABLED="true")
    for name in occlum.WRITABLE:
        assert (image.instance / name).is_dir()
    (image.instance / "run/mount/__ROOT").rmdir()
    (image.instance / "run/mount").rmdir()
    (image.instance / "run/mount").touch()  # cannot be made, as on a read-only root
    done = image.start(SGX_ENABLED="true")
    assert (done.returncode, done.stdout) == (3, "")
    assert "run/mount/__ROOT" in done.stderr


@pytest.mark.parametrize("mode", ["", "sgx", "HW"])
def test_modes_that_mean_an_enclave(image, mode):
    made = image.decide(SGX_ENABLED="true", SGX_MODE=mode)
    assert made.program
    assert made.env.get("SGX_MODE", mode) in ("", "HW")  # the words of Intel's SDK


@pytest.mark.parametrize(
    ("mode", "words"), [("direct", "Occlum has no such mode"), ("SIM", "sgx or HW"), ("x", "HW")]
)
def test_other_modes_are_refused(image, mode, words):
    with pytest.raises(Stop, match=words) as stop:
        image.decide(SGX_ENABLED="true", SGX_MODE=mode)
    assert stop.value.code == 2


# -- what a host tries


@pytest.mark.parametrize("words", [["outside"], ["outside", "sh"], ["-c", SHOW], [""], ["--help"]])
def test_the_start_takes_no_arguments(image, words):
    done = image.run(str(image.start_file), *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("imagekit: error: the start in the enclave takes no arguments\n")


def test_arguments_of_a_container_never_become_arguments_of_the_start(image):
    for words in ((), ("submit", "outside"), ("thrift", "-c", SHOW)):
        made = image.decide(*words, SGX_ENABLED="true")
        assert made.argv == ("occlum", "run", str(image.start_file))


def test_python_of_the_host_gets_nothing_in(image, tmp_path):
    """Occlum gives the interpreter no -I; the environment that comes in has to be closed."""
    evil = tmp_path / "evil"
    evil.mkdir()
    for name in ("sitecustomize", "usercustomize", "json", "imagekit_runtime"):
        (evil / f"{name}.py").write_text("print('evil', flush=True)\n")
    done = image.run(
        str(image.start_file),
        PYTHONPATH=str(evil),
        PYTHONHOME=str(evil),
        PYTHONSTARTUP=str(evil / "json.py"),
        PYTHONINSPECT="1",
        LD_PRELOAD=str(evil / "x.so"),
        HOME=str(evil),
        IMAGEKIT_LIBOS="gramine",
        IMAGEKIT_ENCLAVE_SIZE="1024G",
    )
    assert "evil" not in inside(done)
    assert "evil" not in done.stdout


def test_modules_beside_the_start_are_not_taken_for_the_launchers(image):
    (image.start_file.parent / "json.py").write_text("print('beside', flush=True)\n")
    (image.start_file.parent / "imagekit_runtime.py").write_text("print('beside', flush=True)\n")
    done = image.run(str(image.start_file))
    assert "beside" not in done.stdout
    assert inside(done) == {}


@pytest.mark.parametrize(
    "name",
    ["PYTHONPATH", "PYTHONINSPECT", "LD_PRELOAD", "HOME", "IMAGEKIT_LIBOS", "OCCLUM", "LOCPATH"],
)
def test_variables_that_choose_what_the_launcher_loads_cannot_be_passed_through(name):
    with pytest.raises(ValueError, match=f"launch.passthrough: {name} "):
        launch_spec(["/x"], libos="occlum", passthrough={name: ".*"})
    parse_launch(launch_spec(["/x"], passthrough={name: ".*"}))


@pytest.mark.parametrize("name", ["TZ", "MALLOC_ARENA_MAX", "HOMES", "MY_LD_X"])
def test_others_can(name):
    parse_launch(launch_spec(["/x"], libos="occlum", passthrough={name: ".*"}))


def test_a_request_of_the_hosts_own_making_is_checked_inside(image):
    for request, words in (
        ("{}", "exactly the keys"),
        (write_request("submit", (), {}, {}), "launch.roles"),
        (write_request("", ("x",), {}, {}), "sealed"),
        (write_request("", (), {"sgx_command": "x"}, {}), "sgx_command"),
        (write_request("", (), {"LD_PRELOAD": "x"}, {}), "LD_PRELOAD"),
    ):
        done = image.run(str(image.start_file), **{VARIABLE: request})
        assert (done.returncode, done.stdout, words in done.stderr) == (2, "", True)


def test_another_program_is_not_an_entry_point(image):
    """Of the stand-in: it keeps Occlum's rule, or the tests above would prove nothing."""
    for path in (sys.executable, f"{image.start_file.parent}/../launcher.pyz", "enclave/start"):
        assert "entry point" in image.run(path).stderr


def test_under_strict_sgx_command_is_refused_inside(image):
    done = image.start(SGX_ENABLED="true", sgx_command="/bin/sh")
    assert (done.returncode, done.stdout, "sgx_command" in done.stderr) == (2, "", True)


# -- compat


def test_compat_runs_the_hosts_command_as_words(image, tmp_path):
    image.seal([], profile="compat")
    image.config["entry_points"].append("/bin")
    image.write()
    made = image.decide(SGX_ENABLED="true", sgx_command="/bin/java  -Xmx1g 'a b' $X")
    assert made.argv == ("occlum", "run", "/bin/java", "-Xmx1g", "'a", "b'", "$X")
    assert made.env == {}
    assert any("compat" in note for note in made.notes)
    done = image.start(SGX_ENABLED="true", sgx_command="/bin/echo a $PATH")
    assert (done.returncode, done.stdout) == (0, "a $PATH\n")


def test_the_pccs_is_written_for_every_enclave_and_for_no_command_outside(image):
    pccs, written = {"PCCS_URL": "https://p:1"}, Path(image.places.qcnl)
    image.start("true", SGX_ENABLED="true", **pccs)
    assert not written.exists()
    image.start(SGX_ENABLED="true", **pccs)
    assert written.read_text().startswith("PCCS_URL=https://p:1/sgx/")
    written.unlink()
    image.seal([], profile="compat")
    image.start(SGX_ENABLED="true", sgx_command="/bin/true", **pccs)
    assert written.exists()


def test_compat_starts_roles_by_the_same_start(image):
    image.seal([], profile="compat")
    made = image.decide("executor", SGX_ENABLED="true", sgx_command="/bin/sh")
    assert made.argv == ("occlum", "run", str(image.start_file))
    assert parse_request(made.env[VARIABLE]).role == "executor"


@pytest.mark.parametrize("command", ["java -version", "--config-id x /bin/sh", "-x"])
def test_compat_takes_absolute_programs_alone(image, command):
    image.seal([], profile="compat")
    with pytest.raises(Stop, match="absolute path") as stop:
        image.decide(SGX_ENABLED="true", sgx_command=command)
    assert stop.value.code == 2


def test_compat_with_nothing_to_run_says_so(image):
    image.seal([], profile="compat")
    for command in ("", "  "):
        with pytest.raises(Stop, match="nothing to run"):
            image.decide(SGX_ENABLED="true", sgx_command=command)


def test_compat_keeps_the_launchers_own_variables_from_the_program(image):
    image.seal(profile="compat")
    got = inside(image.start(SGX_ENABLED="true"))
    assert got["SEALED"] == "1"
    assert not [name for name in got if name.startswith("IMAGEKIT_")]


# -- the files


def test_the_start_is_a_file_of_occlums_images_alone():
    made = runtime_files("/usr/bin/python3.11", "occlum")
    data, mode = made[OCCLUM_START]
    assert (data.split(b"\n")[0], mode) == (b"#!/usr/bin/python3.11", 0o755)
    assert OCCLUM_START not in runtime_files("/usr/bin/python3.11")
    folder = OCCLUM_START.rpartition("/")[0]
    assert [path for path in made if path.startswith(f"{folder}/")] == [OCCLUM_START]
    assert list(made) == sorted(made)
    assert runtime_files("/usr/bin/python3.11", "occlum") == made


@pytest.mark.parametrize(
    "python", ["python3", "", "/usr/bin/env python3", "/a\n", " /a", "/" + "a" * 124]
)
def test_an_interpreter_that_occlum_cannot_start_is_refused(python):
    with pytest.raises(ValueError, match="python: Occlum needs an absolute path"):
        occlum_start(python)


def test_the_longest_first_line_that_occlum_reads():
    assert occlum_start("/" + "a" * 123).index("\n") == 126


def test_launch_json_names_the_library_os():
    assert parse_launch(launch_spec(["/x"])).libos == "gramine"
    assert parse_launch(launch_spec(["/x"], libos="occlum")).libos == "occlum"
    document = json.loads(launch_spec(["/x"]))
    assert document["libos"] == "gramine"
    del document["libos"], document["exposed"]  # as earlier versions wrote it
    assert parse_launch(json.dumps(document).encode()).libos == "gramine"
    for wrong in ("sgx", "", None, ["occlum"], {"a": 1}, 1):
        with pytest.raises(ValueError, match="libos is neither gramine nor occlum"):
            launch_spec(["/x"], libos=wrong)
    mount = {"path": "/d", "host": "/d", "key_name": "k"}
    with pytest.raises(ValueError, match="encrypted: Occlum"):
        launch_spec(["/x"], libos="occlum", encrypted=[mount])


@pytest.mark.parametrize(
    "folder",
    [
        *("/", "/opt", "/opt/imagekit", "/opt/imagekit/log", "/opt//imagekit/", "/tmp"),
        *("/tmp/imagekit", "/usr/lib/python3", "/etc", "/lib64", "/opt/java/lib", "/opt/spark"),
        *("/jobs/job.jar", "/jobs", "/x"),
    ],
)
def test_a_strict_image_keeps_the_hosts_folders_from_code_and_secrets(folder):
    more = {
        "libos": "occlum",
        "java": {"home": "/opt/java", "major": 17},
        "jars": ["/jobs/job.jar"],
    }
    more["spark"] = {"home": "/opt/spark", "version": "3.5.9"}
    with pytest.raises(ValueError, match=r"occlum\.mounts: "):
        launch_spec(["/x/program"], exposed=[folder], **more)
    parse_launch(launch_spec([], profile="compat", exposed=[folder], **more))
    for harmless in ("/host", "/data", "/optical", "/tmp/data", "/opt/imagekits"):
        parse_launch(launch_spec(["/x/program"], exposed=[harmless], **more))
