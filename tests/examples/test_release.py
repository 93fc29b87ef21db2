"""The release in ``examples/release``: what its files say exists, and what they do works.

The script and the jobs of both pipelines are run as they stand there, against a real registry with
TLS and a password. What is left out of a job is what sets up its machine.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RELEASE = ROOT / "examples" / "release"
SCRIPTS = sorted(RELEASE.glob("*.sh"))
PIPELINES = sorted(RELEASE.glob("git*.yml"))
KEY = "SIGNING_KEY"
SET_UP = re.compile(r"pip install|apt-get")
CELL = "gramine-64m-error-dcap"


def documentation() -> ModuleType:
    """The checks of commands in the documentation."""
    path = ROOT / "tests" / "docs" / "test_documentation.py"
    spec = importlib.util.spec_from_file_location("documentation_checks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((RELEASE / name).read_text("utf-8"))
    return found


def texts(value: Any) -> list[str]:
    """All texts in a document."""
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value
    return [] if not isinstance(value, dict | list) else [t for c in children for t in texts(c)]


def commands(script: str) -> list[list[str]]:
    """The words behind every ``imagekit`` that a shell script calls."""
    script = script.replace("\\\n", " ")
    script = re.sub(r"(^|\s)#.*", "", script)
    script = re.sub(r"\$\{\w+:\+([^}]*)\}", r"\1", script)
    found = re.findall(r"(?<![\w./-])imagekit ((?:\"[^\"]*\"|'[^']*'|[^\"'()|;&<>\n])+)", script)
    return [shlex.split(words) for words in found]


# What the files say


@pytest.mark.parametrize("path", [*SCRIPTS, *PIPELINES], ids=lambda path: path.name)
def test_every_command_and_option_exists(path):
    check = documentation().check_command
    whole = [path.read_text("utf-8")] if path in SCRIPTS else texts(load(path.name))
    found = [words for text in whole for words in commands(text)]
    for words in found:
        check(words)
    least = {"release.sh": 5, "github-workflow.yml": 4, "gitlab-ci.yml": 2, "gitlab-cells.yml": 1}
    assert len(found) >= least.get(path.name, 0), found


def test_a_command_or_option_that_does_not_exist_is_noticed():
    check = documentation().check_command
    text = (RELEASE / "release.sh").read_text("utf-8")
    for good, bad in (
        ("--metadata-file", "--metadata"),
        ("imagekit base build", "imagekit base bild"),
        ("--allow-standin", "--allow-stand-in"),
    ):
        assert good in text
        with pytest.raises(AssertionError):
            for words in commands(text.replace(good, bad)):
                check(words)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_a_shell_can_read_them(path):
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", path], check=True)
    subprocess.run(["sh", "-n", path], check=True)


def test_every_script_of_a_job_can_be_read_by_a_shell():
    for path in PIPELINES:
        for text in texts(load(path.name)):
            if "imagekit" in text and "${{" not in text:
                subprocess.run(["bash", "-n", "-c", text], check=True)


def test_files_that_are_named_exist():
    for path in [*SCRIPTS, *PIPELINES]:
        text = path.read_text("utf-8")
        for name in re.findall(r"(?:examples|docs)/[\w./-]+\.(?:sh|py|yml|yaml|md)", text):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_the_jobs_of_the_workflow_fit_together():
    jobs = load("github-workflow.yml")["jobs"]
    for name, job in jobs.items():
        needed = job.get("needs", [])
        used = {m for text in texts(job) for m in re.findall(r"needs\.(\w+)\.outputs\.(\w+)", text)}
        for other, output in used:
            assert other in needed, f"{name}: {other}"
            assert output in jobs[other]["outputs"], f"{name}: {other}.{output}"
        for step, output in re.findall(
            r"steps\.(\w+)\.outputs\.(\w+)", " ".join(texts(job.get("outputs", {})))
        ):
            (script,) = (one["run"] for one in job["steps"] if one.get("id") == step)
            assert f'echo "{output}=' in script
    assert jobs["cell"]["strategy"]["fail-fast"] is False


# The key


def test_the_key_is_known_to_the_signing_job_alone_and_goes_nowhere():
    jobs = load("github-workflow.yml")["jobs"]
    assert [name for name, job in jobs.items() if any(KEY in text for text in texts(job))] == [
        "cell"
    ]
    assert [name for name, job in jobs.items() if "environment" in job] == ["cell"]
    with_key = [step for step in jobs["cell"]["steps"] if any(KEY in text for text in texts(step))]
    assert len(with_key) == 1
    assert KEY not in str(load("gitlab-ci.yml"))
    assert KEY not in str(load("gitlab-cells.yml")["verify"])
    for path in PIPELINES:
        for text in texts(load(path.name)):
            for line in text.splitlines():
                assert not re.search(rf"(docker|buildx|render|base build).*{KEY}", line)


def report(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, RELEASE / "report.py", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"images": [], "failed": []}, "no images"),
        ({"images": [{"cell": "a", "delivered": []}], "failed": []}, "a: not pushed"),
        ({"images": [], "failed": [{"cell": "b", "error": "no disk"}]}, "b: no disk"),
        ({"complete": False, "images": [], "failed": []}, "a build did not come to its end"),
    ],
)
def test_a_release_with_something_missing_is_no_release(tmp_path, document, problem):
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"complete": True, **document}))
    for words in ([path], ["--references", path]):
        done = report(*words)
        assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", problem)


# What they do


@pytest.fixture
def checkout(project, secure_registry, golden_key, monkeypatch, tmp_path) -> Path:
    """A checkout with this project; nobody is logged in to the registry and the key is elsewhere.

    The registry's CA is known to this machine.
    """
    shutil.copytree(RELEASE, "examples/release")
    text = Path("imagekit.yaml").read_text().replace("[error, debug]", "[error]")
    Path("examples/release/imagekit.yaml").write_text(text)
    Path("imagekit.yaml").unlink()
    Path("examples/release/base").symlink_to(project / "base")
    Path("key.pem").unlink()
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("SSL_CERT_FILE", str(secure_registry.ca))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return project


def log_in(registry) -> None:
    """What both services do before a job uses a registry; here with the script for GitLab."""
    names = {"CI_REGISTRY": registry.host, "CI_REGISTRY_USER": registry.user}
    run("examples/release/gitlab-login.sh", CI_REGISTRY_PASSWORD=registry.password, **names)
    config = Path.home() / ".docker" / "config.json"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def run(script: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as both services do: bash that stops at the first failure."""
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{script}\n{done.stdout}{done.stderr}"
    return done


def push_base(registry) -> str:
    """What the base's job gives on: the base in the registry, by its digest."""
    log_in(registry)
    where = f"{registry.host}/team/tiny-gramine-base"
    subprocess.run(
        ["skopeo", "copy", "oci:base:base", f"docker://{where}:1.0"],
        check=True,
        capture_output=True,
    )
    digest = json.loads(Path("base/index.json").read_text())["manifests"][0]["digest"]
    return f"{where}@{digest}"


@pytest.mark.integration("docker-registry")
def test_the_script_makes_a_release_and_again_does_nothing(checkout, secure_registry, golden_key):
    log_in(secure_registry)
    push = f"{secure_registry.host}/team"
    values = {"KEY": str(golden_key), "PUSH": push, "BASE_PROJECT": "", "ALLOW_STANDIN": "1"}
    done = run("examples/release/release.sh", **values)
    rows = done.stdout.rpartition("| --- |\n")[2].splitlines()
    assert len(rows) == 4
    locked = json.loads(Path("examples/release/imagekit.lock.json").read_text())["images"]
    for row in rows:
        name, digest, enclave, _ = row.strip("| ").split(" | ")
        short, tag = name.split(":")
        assert secure_registry.tag(f"team/{short}", tag) == digest
        assert locked[f"registry.example:5000/team/{name}"]["mr_enclave"] == enclave
    latest = secure_registry.tag("team/tiny-gramine-reference", "latest")
    assert latest == secure_registry.tag("team/tiny-gramine-reference-64m", "1.0")
    assert done.stderr.count("ok      mr_signer as expected") == 5

    again = run("examples/release/release.sh", **values)
    assert "4 cells: 0 built, 4 there already, 0 failed, 0 bytes sent" in again.stderr
    assert again.stdout.rpartition("| --- |\n")[2].splitlines() == rows


@pytest.mark.integration("docker-registry")
def test_the_script_ends_at_the_first_image_that_does_not_verify(
    checkout, secure_registry, golden_key
):
    log_in(secure_registry)
    values = {"KEY": str(golden_key), "PUSH": f"{secure_registry.host}/team", "BASE_PROJECT": ""}
    done = run("examples/release/release.sh", code=5, **values)  # a stand-in is not allowed
    assert "| --- |" not in done.stdout
    assert done.stderr.count("error: ") == 1


@pytest.mark.parametrize("missing", ["KEY", "PUSH"])
def test_the_script_says_what_it_needs(checkout, missing):
    values = {"KEY": "k.pem", "PUSH": "registry.example/team"}
    values[missing] = ""
    assert missing in run("examples/release/release.sh", code=2, **values).stderr


def steps_of(job: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Scripts and variables of a workflow's job, without what sets up its machine."""
    return [
        (step["run"], step.get("env", {}))
        for step in job["steps"]
        if "run" in step and not SET_UP.search(step["run"])
    ]


@pytest.mark.integration("docker-registry", "skopeo")
def test_the_jobs_of_the_workflow_release_a_cell(checkout, secure_registry, golden_key, tmp_path):
    jobs = load("github-workflow.yml")["jobs"]
    temp = tmp_path / "runner-temp"
    temp.mkdir()
    outputs = tmp_path / "outputs"
    known = {
        "PROJECT": "examples/release/imagekit.yaml",
        "PUSH": f"{secure_registry.host}/team",
        "RUNNER_TEMP": str(temp),
        "GITHUB_OUTPUT": str(outputs),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }
    ((plan, _),) = steps_of(jobs["plan"])
    run(plan, **known)
    matrix = json.loads(outputs.read_text().removeprefix("matrix="))
    assert len(matrix["include"]) == 4

    base = push_base(secure_registry)
    secret = golden_key.read_text().rstrip("\n")
    for cell in (CELL, "gramine-128m-error-none"):
        for script, variables in steps_of(jobs["cell"]):
            given = {KEY: secret} if KEY in variables else {}
            done = run(script, **known, **given, CELL=cell, BASE=base)
            assert "PRIVATE" not in done.stdout + done.stderr
            assert "lets others" not in done.stderr  # the key's file has mode 0600
    assert not list(temp.iterdir())
    built = json.loads(Path(f"imagekit-{CELL}.json").read_text())["images"][0]
    assert built["base"] == base.rpartition("@")[2]
    assert secure_registry.tag("team/tiny-gramine-reference-64m", "1.0") == built["digest"]
    assert secure_registry.tag("team/tiny-gramine-reference-128m", "1.0") is None

    ((verify, _),) = steps_of(jobs["verify"])
    done = run(verify, **known, MR_SIGNER=built["mr_signer"])
    assert done.stderr.count("ok      mr_signer as expected") == 3
    assert built["mr_enclave"] in (tmp_path / "summary").read_text()
    run(verify, code=5, **known, MR_SIGNER="0" * 64)  # another's key


@pytest.mark.integration("docker-registry", "skopeo")
def test_the_jobs_of_the_child_pipeline_release_a_cell(
    checkout, secure_registry, golden_key, tmp_path
):
    registry = {
        "CI_REGISTRY": secure_registry.host,
        "CI_REGISTRY_IMAGE": f"{secure_registry.host}/team",
        "CI_REGISTRY_USER": secure_registry.user,
        "CI_REGISTRY_PASSWORD": secure_registry.password,
        "PROJECT": "examples/release/imagekit.yaml",
    }
    base = push_base(secure_registry)
    plan = load("gitlab-ci.yml")["plan"]["script"]
    run(joined(plan), **registry, BASE=base)
    pipeline = yaml.safe_load(Path("cells.yml").read_text())
    child = {**registry, **pipeline.pop("variables"), "TMPDIR": str(tmp_path)}
    assert child["BASE"] == base
    common, verify = pipeline.pop("default"), pipeline.pop("verify")
    assert len(pipeline) == 4

    # as a runner leaves it: readable for others
    left = tmp_path / "project.tmp-SIGNING_KEY"
    left.write_bytes(golden_key.read_bytes())
    left.chmod(0o666)
    before = set(tmp_path.iterdir())
    done = run(
        joined([*common["before_script"], *pipeline[CELL]["script"]]),
        **child,
        SIGNING_KEY=str(left),
    )
    assert "lets others" not in done.stderr  # the copy that is used has mode 0600
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"cache", "home"}
    built = json.loads(Path(pipeline[CELL]["artifacts"]["paths"][0]).read_text())["images"][0]
    assert secure_registry.tag("team/tiny-gramine-reference-64m", "1.0") == built["digest"]

    script = joined([*verify["before_script"], *verify["script"]])
    assert built["mr_enclave"] in run(script, **child, MR_SIGNER=built["mr_signer"]).stdout
    run(script, code=5, **child, MR_SIGNER="0" * 64)  # another's key


def joined(lines: list[str]) -> str:
    """The lines of a job as one script, without what sets up its machine."""
    return "\n".join(line for line in lines if not SET_UP.search(line))
