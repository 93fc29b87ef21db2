"""`plan --format bake|github|gitlab`: what other tools get is what they take."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT, error_lines
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import UsageError
from imagekit.release import plans
from imagekit.spec.matrix import ATTESTATIONS, LOG_LEVELS, Cell, select
from imagekit.spec.project import load_project
from imagekit.spec.sizes import GIB

SPEC = PROJECT.replace('base: {image: "oci:base:base"}', "base: {distribution: {suite: bookworm}}")
CELLS = [
    f"gramine-{epc}-{log}-{attestation}"
    for epc in ("64m", "128m")
    for log in ("debug", "error")
    for attestation in ATTESTATIONS
]
KEY_WORDS = ("key.pem", "PRIVATE", "passphrase")


@pytest.fixture
def described(in_folder: Path) -> Path:
    """The current folder, with a project whose base is described and not made."""
    (in_folder / "imagekit.yaml").write_text(SPEC)
    return in_folder


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, **environment, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


# bake


def test_a_bake_file_has_the_base_and_a_target_for_every_cell(described, imagekit):
    code, out, err = imagekit("plan", "--format", "bake")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["group"]["default"] == {"targets": ["base"]}
    assert document["group"]["cells"] == {"targets": CELLS}
    assert list(document["target"]) == ["base", *CELLS]
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", name) for name in document["target"])
    base = document["target"]["base"]
    assert (base["context"], base["dockerfile"]) == ("rendered/base", "Dockerfile")
    assert base["platforms"] == ["linux/amd64"]
    assert base["tags"] == ["${IMAGEKIT_IMAGE}-gramine-base:1.0"]
    assert document["target"]["gramine-64m-error-dcap"]["tags"] == [
        "${IMAGEKIT_IMAGE}-gramine-reference-64m:1.0",
        "${IMAGEKIT_IMAGE}-gramine-reference:latest",
    ]
    assert document["variable"]["IMAGEKIT_IMAGE"]["default"] == "registry.example:5000/team/tiny"


def test_a_bake_file_of_chosen_cells_has_no_others(described, imagekit):
    _, out, _ = imagekit("plan", "--format", "bake", "--select", "*-128m-error-*")
    document = json.loads(out)
    chosen = ["gramine-128m-error-dcap", "gramine-128m-error-none"]
    assert document["group"]["cells"]["targets"] == chosen
    assert list(document["target"]) == ["base", *chosen]


def test_a_base_that_is_an_image_already_is_not_built(project, imagekit):
    document = json.loads(imagekit("plan", "--format", "bake")[1])
    assert "base" not in document["target"]
    assert document["group"]["default"]["targets"] == ["cells"]


@pytest.mark.parametrize("form", ["bake", "github", "gitlab"])
def test_no_form_knows_of_a_key(described, imagekit, form):
    _, out, _ = imagekit("plan", "--format", form)
    assert not [word for word in KEY_WORDS if word in out]


def bake_print(buildx: Path, text: str, *targets: str, **environment: str) -> dict[str, dict]:
    Path("docker-bake.json").write_text(text)
    done = subprocess.run(
        [str(buildx), "bake", "--print", *targets],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, dict] = json.loads(done.stdout)["target"]
    return found


@pytest.mark.integration
def test_buildx_takes_the_file_as_it_is_meant(described, imagekit, buildx):
    folder = "o$${d} ${1+1} %{if}"
    _, text, _ = imagekit("plan", "--format", "bake", "--context", folder)
    (base,) = bake_print(buildx, text).values()
    assert base["context"] == f"{folder}/base"
    assert base["tags"] == ["registry.example:5000/team/tiny-gramine-base:1.0"]
    cells = bake_print(buildx, text, "cells")
    project = load_project(Path("imagekit.yaml"))
    assert list(cells) == sorted(CELLS)
    for cell in project.cells:
        assert cells[cell.id]["context"] == f"{folder}/{cell.id}"
        assert cells[cell.id]["tags"] == list(project.references(cell))
        assert cells[cell.id]["platforms"] == ["linux/amd64"]
    (base,) = bake_print(buildx, text, IMAGEKIT_IMAGE="localhost:5000/x").values()
    assert base["tags"] == ["localhost:5000/x-gramine-base:1.0"]


@pytest.mark.integration
def test_what_a_builder_made_of_rendered_files_does_not_take_the_place_of_a_release(
    project, imagekit, buildx
):
    released = [row["references"] for row in json.loads(imagekit("plan", "--json")[1])["cells"]]
    text = imagekit("plan", "--format", "bake")[1]
    built = [target["tags"] for target in bake_print(buildx, text).values()]
    assert sorted(built) == sorted(released)


@pytest.mark.integration
def test_buildx_takes_the_file_of_a_project_with_a_base_image(project, imagekit, buildx):
    assert len(bake_print(buildx, imagekit("plan", "--format", "bake")[1])) == len(CELLS)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("good", "bad"),
    [('"gramine-64m-error-dcap": {', '"lost": {'), ('"platforms"', "platforms"), ("MAGE}", "}")],
)
def test_buildx_refuses_a_file_that_is_damaged(described, imagekit, buildx, good, bad):
    text = imagekit("plan", "--format", "bake")[1]
    assert good in text
    with pytest.raises(subprocess.CalledProcessError):
        bake_print(buildx, text.replace(good, bad), "cells")


# GitHub


def test_a_github_matrix_is_one_line_for_the_outputs_of_a_step(project):
    done = shell('echo "matrix=$(imagekit plan --format github)" >> outputs')
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = Path("outputs").read_text().splitlines()
    document = json.loads(line.removeprefix("matrix="))
    assert list(document) == ["include"]
    assert [entry["cell"] for entry in document["include"]] == CELLS
    assert next(entry for entry in document["include"] if entry["default"]) == {
        "cell": "gramine-64m-error-dcap",
        "reference": "registry.example:5000/team/tiny-gramine-reference-64m:1.0",
        "name": "tiny-gramine-reference-64m:1.0",
        "libos": "gramine",
        "epc": "64m",
        "log": "error",
        "attestation": "dcap",
        "default": True,
    }
    assert all(set(entry) == set(document["include"][0]) for entry in document["include"])


def test_a_github_matrix_with_too_many_cells_is_refused(project):
    loaded = load_project(Path("imagekit.yaml"))
    cells = loaded.cells * 33
    assert len(json.loads(plans.github(loaded, cells[:256]))["include"]) == 256
    with pytest.raises(UsageError, match="264 cells, and a matrix of GitHub takes 256"):
        plans.github(loaded, cells)


# GitLab

GITLAB_WORDS = """
    image services stages types before_script after_script variables cache include default workflow
    spec pages true false nil
"""


def test_a_gitlab_pipeline_has_a_job_for_every_cell(project, imagekit):
    code, out, err = imagekit("plan", "--format", "gitlab")
    assert (code, err) == (0, "")
    jobs = yaml.safe_load(out)
    assert list(jobs) == CELLS
    for name, job in jobs.items():
        assert not name.startswith(".")
        assert name not in GITLAB_WORDS.split()
        assert len(name) <= 255
        assert set(job) == {"stage", "environment", "script", "artifacts"}
        assert job["environment"] == {"name": "release", "action": "access"}
        assert job["stage"] in ("build", "test", "deploy")  # the stages that nobody has to name
        assert all(isinstance(line, str) for line in job["script"])
        assert f"--select {name} " in job["script"][0]
        assert job["artifacts"] == {"when": "always", "paths": [f"imagekit-{name}.json"]}


def test_the_script_of_a_gitlab_job_builds_its_cell_and_no_other(project, imagekit):
    jobs = yaml.safe_load(imagekit("plan", "--format", "gitlab", "--select", CELLS[2])[1])
    (script,) = jobs[CELLS[2]]["script"]
    done = shell(script)
    assert done.returncode == 0, done.stderr
    layout = json.loads(Path("out/index.json").read_text())
    names = [m["annotations"]["org.opencontainers.image.ref.name"] for m in layout["manifests"]]
    assert names == ["tiny-gramine-reference-64m:1.0", "tiny-gramine-reference:latest"]
    (image,) = json.loads(Path(f"imagekit-{CELLS[2]}.json").read_text())["images"]
    assert image["cell"] == CELLS[2]


def test_the_script_of_a_gitlab_job_takes_odd_names_and_the_key_of_the_pipeline(project, imagekit):
    odd = 'im age\'s $(touch ran) "`touch ran`".yaml'
    Path("imagekit.yaml").rename(odd)
    secret = Path("the secret's place")
    secret.mkdir()
    key = Path("key.pem").rename(secret / "k $HOME.pem")
    jobs = yaml.safe_load(imagekit("plan", "-f", odd, "--format", "gitlab")[1])
    (script,) = jobs[CELLS[0]]["script"]
    assert shell(script).returncode == 3  # the project's own key is gone
    done = shell(script, IMAGEKIT_KEY=str(key))
    assert done.returncode == 0, done.stderr
    assert not Path("ran").exists()


# Choosing exactly one


@given(
    st.sampled_from(sorted(LOG_LEVELS)),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789-./[]{}*?", min_size=1, max_size=30)
    | st.sampled_from(["gramine-16g-error-dcap", "r.example/gramine-4g-all-none"]),
)
def test_a_cells_identifier_selects_that_cell_alone(libos, stem):
    sizes = (GIB // 16, GIB, 4 * GIB, 16 * GIB, 64 * GIB)
    axes = itertools.product(sizes, LOG_LEVELS[libos], ATTESTATIONS)
    cells = [Cell(libos, *point) for point in axes]
    assert len({cell.id for cell in cells}) == len(cells)
    for cell in cells[::7]:
        assert select(cells, [cell.id], stem) == (cell,)


# The command


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--format", "yaml"], '--format "yaml" is not known'),
        (["--json", "--format", "bake"], "--json and --format bake contradict each other"),
        (["--context", "x"], "--context is for bake files alone"),
        (["--context", "x", "--format", "gitlab"], "--context is for bake files alone"),
        (["--context", "x", "--json"], "--context is for bake files alone"),
        (["--format", "github", "--select", "*-32g-*"], 'pattern "*-32g-*" matches no cell'),
    ],
)
def test_what_contradicts_itself_is_refused(project, imagekit, arguments, problem):
    code, out, err = imagekit("plan", *arguments)
    assert (code, out) == (2, "")
    assert error_lines(err)[0] == problem


@pytest.mark.parametrize("form", ["bake", "github", "gitlab"])
def test_no_form_loads_anything_heavy_or_says_the_same_twice_differently(project, form):
    code = (
        "import sys; from imagekit.cli.project import plan\n"
        f"plan(format={form!r})\n"
        "heavy = {'rich', 'numpy', 'cryptography', 'jinja2', 'docker', 'requests', 'toml',"
        " 'imagekit.images', 'imagekit.render', 'imagekit.signing', 'imagekit.enclave'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        .stdout.decode()
        .strip()
        for seed in ("1", "2")
    }
    assert len(answers) == 1
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
