"""The launcher: what it refuses, what it becomes; its zipapp is the same bytes everywhere."""

import ast
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.runtime import files, gather, inside, launch
from imagekit.runtime.files import build_zipapp, doors, runtime_files, secured_argvs
from imagekit.runtime.launch import launch_spec, parse_launch
from imagekit.runtime.request import VARIABLE, write_request

KUBERNETES = Path(__file__).parents[1] / "golden" / "kubernetes"
PRINT_ENV = "import json,os;print(json.dumps(dict(os.environ),sort_keys=True))"


@pytest.fixture
def app(tmp_path):
    (tmp_path / "launcher.pyz").write_bytes(build_zipapp())

    def make(code, env=None, passthrough=None):
        argv = [sys.executable, "-I", "-c", code, "$HOME", "a  b", "*"]
        spec = launch_spec(argv, env or {}, passthrough or {})
        (tmp_path / "launch.json").write_bytes(spec)
        return [sys.executable, "-I", str(tmp_path / "launcher.pyz")]

    return make


def run(command, **env):
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


def test_the_environment_is_exactly_what_is_sealed_and_let_through(app):
    command = app(PRINT_ENV, {"A": "1"}, {"TZ": "[A-Z]{3}", "ABSENT": ".*"})
    done = run(command, TZ="UTC", LD_DEBUG="", JAVA_TOOL_OPTIONS="-javaagent:x", A="2")
    got = json.loads(done.stdout)
    got.pop("LC_CTYPE", None)  # the interpreter's own
    assert (done.returncode, got) == (0, {"A": "1", "TZ": "UTC"})


def test_arguments_are_not_expanded(app):
    done = run(app("import sys;print(sys.argv[1:])"), HOME="/root")
    assert done.stdout == "['$HOME', 'a  b', '*']\n"


@pytest.mark.parametrize(
    "value", ["utc", "UTC ", " UTC", "UTC\n", "UTC\nX", "", "UTCC", "$(id)", "x" * 10_000]
)
def test_a_value_that_does_not_match_is_refused_by_name_and_never_shown(app, value):
    done = run(app("print('ran')", passthrough={"TZ": "[A-Z]{3}"}), TZ=value)
    assert done.returncode == 2
    assert "ran" not in done.stdout
    assert done.stderr.startswith("imagekit: error: TZ: refused")
    assert done.stderr.count("\n") == 1
    if len(value.strip()) > 3:
        assert value.strip() not in done.stderr


def test_bytes_that_are_no_text_are_refused(app):
    command = app("print('ran')", passthrough={"TZ": ".*"})
    done = subprocess.run(command, env={b"TZ": b"\xff\xfe"}, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"UTF-8" in done.stderr


def test_digits_of_other_scripts_do_not_match_ascii_classes(app):
    assert run(app("", passthrough={"N": r"\d+"}), N="12").returncode == 0
    assert run(app("", passthrough={"N": r"\d+"}), N="١٢").returncode == 2


def test_a_newline_at_the_end_does_not_slip_past_a_dollar(app):
    assert run(app("", passthrough={"N": r"^1$"}), N="1\n").returncode == 2


@pytest.mark.parametrize("code", [0, 1, 7, 143])
def test_the_exit_code_is_the_commands(app, code):
    assert run(app(f"raise SystemExit({code})")).returncode == code


def test_signals_reach_the_command(app):
    code = (
        "import signal,sys,time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(43))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(app(code), env={}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 43


def test_the_command_does_not_inherit_ignored_signals(app, tmp_path):
    command = app("")
    probe = ["/bin/sh", "-c", "grep SigIgn /proc/self/status"]
    (tmp_path / "launch.json").write_bytes(launch_spec(probe, {"PATH": "/usr/bin:/bin"}, {}))
    ignored = int(run(command).stdout.split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))


def test_the_process_is_replaced_not_kept(app):
    with subprocess.Popen(
        app("import os;print(os.getpid())"), env={}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert int(process.communicate(timeout=30)[0]) == process.pid


def test_a_command_that_cannot_be_started_is_said_in_one_line(app, tmp_path):
    command = app("")
    (tmp_path / "launch.json").write_bytes(launch_spec(["/nonexistent/java"], {}, {}))
    done = run(command)
    assert done.returncode == 3
    assert done.stderr == (
        "imagekit: error: /nonexistent/java: cannot be started: No such file or directory\n"
    )


SPEC = json.loads(launch_spec(["/x"]))
CHANGES = [
    {"schema": 1},
    {"schema": True},
    {"more": 1},
    {"profile": "loose"},
    {"argv": "/bin/sh"},
    {"argv": ["java"]},
    {"argv": ["/x", 1]},
    {"argv": ["/x\0"]},
    {"argv": ["/\ud800"]},
    {"env": {"A=B": "1"}},
    {"env": {"A": 1}},
    {"env": {"A": "1"}, "passthrough": {"A": ".*"}},
    {"passthrough": {"A": "("}},
    {"roles": ["root"]},
    {"roles": "driver"},
    {"classes": [1]},
    {"jars": None},
    {"arguments": "("},
    {"arguments": 1},
    {"conf": {"a": 1}},
    {"conf_allowed": {"a": "["}},
    {"java": {"home": "/j", "major": "17"}},
    {"java": {"home": "/j", "major": True}},
    {"java": {"home": "/j"}},
    {"spark": {"home": "/s", "version": "new"}},
    {"spark": {"home": 1, "version": "3.5"}},
    {"flink": {"home": "/f", "version": "1.20", "more": 1}},
    {"encrypted": [{"path": "/a"}]},
    {"encrypted": {"path": "/a", "key_name": "k"}},
    {"attestation": {"required": "yes", "settings": {}}},
    {"attestation": {"required": True, "settings": {"A": 1}}},
    {"attestation": {"required": True}},
]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"schema":1,"argv":["/x"],"env":{},"passthrough":{}}',
        '{"schema":2,"schema":2}',
        *(json.dumps({**SPEC, **change}) for change in CHANGES),
        json.dumps({key: value for key, value in SPEC.items() if key != "java"}),
    ],
)
def test_an_unusable_specification_is_said_in_one_line(app, tmp_path, text):
    command = app("")
    (tmp_path / "launch.json").write_text(text)
    done = run(command)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("imagekit: error: ")
    assert done.stderr.count("\n") == 1


def test_a_missing_specification_is_said_in_one_line(app, tmp_path):
    command = app("")
    (tmp_path / "launch.json").unlink()
    assert run(command).stderr.endswith("launch.json: No such file or directory\n")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_specification_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        parse_launch(data)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True)


@given(st.lists(TEXT, max_size=3), st.dictionaries(NAMES, TEXT, max_size=3))
def test_a_written_specification_reads_back_and_is_canonical(arguments, env):
    data = launch_spec(["/x", *arguments], env, {})
    spec = parse_launch(data)
    assert (spec.argv, spec.env) == (("/x", *arguments), env)
    assert data == launch_spec(["/x", *arguments], dict(reversed(env.items())), {})
    assert data.isascii()


def test_nothing_is_passed_through_by_default():
    assert dict(launch.DEFAULT_PASSTHROUGH) == {}


def test_what_could_not_be_used_is_not_written():
    for argv, env, passthrough in (
        (["java"], {}, {}),
        (["/x"], {"A": "1"}, {"A": "1"}),
        (["/x"], {"1A": ""}, {}),
        (["/x"], {}, {"A": "["}),
    ):
        with pytest.raises(ValueError, match=r".+"):
            launch_spec(argv, env, passthrough)


def test_the_launcher_takes_no_arguments(app):
    assert run([*app("print(1)"), "other"]).returncode == 2


# --- files -----------------------------------------------------------------------------------


def test_the_zipapp_is_the_same_bytes_whoever_builds_it(tmp_path):
    code = (
        "import hashlib;from imagekit.runtime.files import build_zipapp;"
        "print(hashlib.sha256(build_zipapp()).hexdigest())"
    )
    root = str(Path(files.__file__).parent.parent.parent)
    digests = set()
    for zone, mask in (("UTC", 0o022), ("Asia/Tokyo", 0o077)):
        env = {"PYTHONPATH": root, "TZ": zone, "LC_ALL": "C", "PYTHONHASHSEED": str(mask)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            cwd=tmp_path,
            umask=mask,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
        time.sleep(0.01)
    assert len(digests) == 1
    assert build_zipapp() == build_zipapp()


def test_the_zipapp_has_no_clock_no_order_and_no_compression_in_it():
    with zipfile.ZipFile(BytesIO(build_zipapp())) as archive:
        infos = archive.infolist()
    assert [i.filename for i in infos] == sorted(i.filename for i in infos)
    assert {i.date_time for i in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {i.compress_type for i in infos} == {zipfile.ZIP_STORED}
    assert {i.create_system for i in infos} == {3}
    assert {stat.S_IMODE(i.external_attr >> 16) for i in infos} == {0o644}


def test_what_runs_in_the_image_is_python_3_8_and_imports_nothing_of_ours():
    with zipfile.ZipFile(BytesIO(build_zipapp())) as archive:
        sources = {name: archive.read(name).decode() for name in archive.namelist()}
    for name, source in sources.items():
        tree = ast.parse(source, name, feature_version=(3, 8))
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for module in modules:
                top = module.partition(".")[0]
                assert top in sys.stdlib_module_names or top == "imagekit_runtime", (name, module)
            # Later than 3.8, though the syntax is not.
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("removeprefix", "removesuffix", "bit_count"), name


def test_an_enclave_loads_only_what_it_needs(app):
    command = app("")
    probe = [command[0], "-I", "-X", "importtime", command[2]]
    loaded = run(probe).stderr
    assert "imagekit_runtime.inside" in loaded
    for module in ("shutil", "imagekit_runtime.outside", "imagekit_runtime.files", "subprocess"):
        assert f"| {module}\n" not in loaded.replace(" " * 2, " ")


def loaded_by(probe, **env):
    """The modules that a start has loaded."""
    lines = run([probe[0], "-I", "-S", "-X", "importtime", *probe[1:]], **env).stderr.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_an_executor_loads_nothing_that_it_has_no_use_for(tmp_path):
    """A start may take 150 ms; each module costs 1 to 6 of them."""
    for folder in ("java/bin", "spark/jars", "bin", "ppml"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "launcher.pyz").write_bytes(build_zipapp())
    for name in ("java/bin/java", "bin/gramine-direct"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$0"; env\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "ppml" / "bash.manifest").touch()
    java = {"home": str(tmp_path / "java"), "major": 17}
    spark = {"home": str(tmp_path / "spark"), "version": "3.5.9"}
    spec = launch_spec(roles=["executor"], java=java, spark=spark)
    (tmp_path / "launch.json").write_bytes(spec)
    recorded = json.loads((KUBERNETES / "spark-3.5.9-executor.json").read_text())["env"]
    env = {
        name: value if isinstance(value, str) else "10.0.0.1" for name, value in recorded.items()
    }
    env |= {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "SGX_ENABLED": "true", "SGX_MODE": "direct"}
    zipapp = str(tmp_path / "launcher.pyz")
    code = (
        f"import sys; sys.path.insert(0, {zipapp!r}); from imagekit_runtime import outside;"
        f"outside.start(['executor'], {str(tmp_path / 'launch.json')!r},"
        f" outside.Places({str(tmp_path / 'ppml')!r}))"
    )
    seen = loaded_by([sys.executable, "-c", code], **env)
    assert "imagekit_runtime.gather" in seen
    assert not seen & {"site", "shutil", "base64", *(f"imagekit_runtime.{name}" for name in OTHERS)}
    request = gather.gather("executor", (), env, parse_launch(spec))
    seen = loaded_by([sys.executable, zipapp], **{VARIABLE: write_request(*request)})
    assert "imagekit_runtime.spark_executor" in seen
    assert not seen & {"site", *(f"imagekit_runtime.{name}" for name in OTHERS if name != "inside")}


OTHERS = ("inside", "attest", "settings", "storage", "tls", "kubernetes", "redact", "spark_args")


def test_doors_are_two_lines_and_hand_everything_on():
    assert set(doors()) == {"/opt/entrypoint.sh", "/opt/flink-entrypoint.sh"}
    for text in doors("/usr/bin/python3.11").values():
        assert text == (
            '#!/bin/sh\nexec /usr/bin/python3.11 -I -S /opt/imagekit/launcher.pyz outside "$@"\n'
        )


def test_a_door_opens(app, tmp_path):
    app("print('sealed')")
    door = tmp_path / "entrypoint.sh"
    text = doors(sys.executable)["/opt/entrypoint.sh"]
    door.write_text(text.replace("/opt/imagekit", str(tmp_path)))
    door.chmod(0o755)
    assert run([str(door)], SGX_ENABLED="false").stdout == "sealed\n"
    assert run([str(door), "/bin/echo", "a  b"]).stdout == "a  b\n"
    refused = run([str(door)])
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_files_of_the_image():
    made = runtime_files()
    assert list(made) == sorted(made)
    assert set(made) == {
        "/opt/entrypoint.sh",
        "/opt/flink-entrypoint.sh",
        "/opt/imagekit/etc/hosts",
        "/opt/imagekit/etc/nsswitch.conf",
        "/opt/imagekit/etc/passwd",
        "/opt/imagekit/launcher.pyz",
        "/opt/imagekit/root/.keep",
    }
    assert {p for p, (_, mode) in made.items() if mode == 0o755} == set(doors())
    assert made["/opt/imagekit/etc/passwd"][0].startswith(b"root:x:0:0:")
    assert b"localhost" in made["/opt/imagekit/etc/hosts"][0]
    assert b"hosts: files dns\n" in made["/opt/imagekit/etc/nsswitch.conf"][0]


def test_bigdls_argument_file_is_nul_terminated_words():
    words = secured_argvs().split(b"\0")
    assert words[:2] == [b"bash", b"-c"]
    assert words[2].endswith(b"&& $sgx_command")
    assert words[3:] == [b""]


def test_the_environment_of_the_test_process_is_untouched():
    before = dict(os.environ)
    inside.environment(parse_launch(launch_spec(["/x"], {"A": "1"}, {})), os.environb)
    assert dict(os.environ) == before
