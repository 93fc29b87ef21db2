"""Many cells at once: in parallel, none lost by another's failure, nothing done twice."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import TAG, error_lines

from imagekit.errors import CheckError, EngineError, ImagekitError, InputError, UsageError
from imagekit.images.layout import OciLayout
from imagekit.release import gramine_cells
from imagekit.release.delivery import parse_push
from imagekit.release.lock import read_lock
from imagekit.release.matrix import MatrixError, Outcome
from imagekit.spec.matrix import parse_cell

STEM = "registry.example:5000/team/tiny"


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_parallel_and_sequential_builds_give_the_same_bytes(project, imagekit):
    assert imagekit("build", "--all", "--jobs", 1, "--output", "oci:one")[0] == 0
    lock = Path("imagekit.lock.json").read_bytes()
    Path("imagekit.lock.json").unlink()
    assert imagekit("build", "--all", "--jobs", 4, "--output", "oci:four")[0] == 0
    assert everything(Path("one")) == everything(Path("four"))
    assert Path("imagekit.lock.json").read_bytes() == lock


def test_cells_are_worked_on_at_the_same_time(project, imagekit, monkeypatch):
    """Two cells wait for each other in the middle of their work: one after the other would hang."""
    meeting = threading.Barrier(2, timeout=20)
    compose = gramine_cells.compose_cell

    def meet(*arguments):
        meeting.wait()
        return compose(*arguments)

    monkeypatch.setattr(gramine_cells, "compose_cell", meet)
    assert imagekit("build", "--all", "--jobs", 2)[0] == 0


def failing(monkeypatch, *bad: str, error=None):
    error = error or InputError("no luck", "try again")
    sign = gramine_cells.sign_cell

    def maybe(rendered, *arguments):
        if rendered.cell.id in bad:
            raise error
        return sign(rendered, *arguments)

    monkeypatch.setattr(gramine_cells, "sign_cell", maybe)


def test_one_failure_does_not_lose_the_others(project, imagekit, monkeypatch):
    failing(monkeypatch, "gramine-64m-error-dcap", "gramine-128m-debug-none")
    code, out, err = imagekit("build", "--all", "--metadata-file", "meta.json")
    assert code == 3
    problem, hint = error_lines(err)
    assert problem.startswith("2 of 8 cells failed: ")
    assert "gramine-64m-error-dcap" in problem
    assert "same command again" in hint
    assert err.count("no luck (try again)") == 2
    assert "8 cells: 6 built, 0 there already, 2 failed" in err
    assert out.count("mr_enclave") == 6 * 2
    meta = json.loads(Path("meta.json").read_text())
    assert len(meta["images"]) == 6
    assert [failed["exit_code"] for failed in meta["failed"]] == [3, 3]
    assert len(read_lock(Path("imagekit.lock.json"))) == 6
    monkeypatch.undo()
    monkeypatch.setenv("IMAGEKIT_CACHE", str(project / "cache"))
    code, _, err = imagekit("build", "--all")
    assert code == 0, err
    assert "8 cells: 2 built, 6 there already, 0 failed" in err


def test_the_exit_code_is_that_of_the_worst():
    cells = [parse_cell("gramine", size, "error", "dcap") for size in ("4g", "8g", "16g")]
    outcomes = [
        Outcome(cells[0], None, (EngineError("a", "b"),)),
        Outcome(cells[1], None, (CheckError("a", "b"), UsageError("c", "d"))),
        Outcome(cells[2], None),
    ]
    assert MatrixError(outcomes).exit_code == 5
    defect = ImagekitError("unexpected", "a defect")
    assert MatrixError([*outcomes, Outcome(cells[2], None, (defect,))]).exit_code == 1


def test_a_single_cell_fails_with_its_own_error(project, imagekit, monkeypatch):
    failing(monkeypatch, "gramine-64m-error-dcap")
    code, _, err = imagekit("build", "--epc", "64m", "--log", "error")
    assert (code, error_lines(err)) == (3, ("no luck", "try again"))
    assert not Path("out").exists()


def test_a_defect_in_one_cell_is_not_hidden(project, imagekit, monkeypatch):
    failing(monkeypatch, "gramine-64m-error-dcap", error=ZeroDivisionError("oh"))
    code, _, err = imagekit("build", "--all")
    assert code == 1
    assert "1 of 8 cells failed" in error_lines(err)[0]
    assert "unexpected ZeroDivisionError: oh (this is a defect" in err
    assert len(read_lock(Path("imagekit.lock.json"))) == 7
    code, _, err = imagekit("build", "--epc", "64m", "--log", "error", "--rebuild")
    assert (code, "defect" in error_lines(err)[1]) == (1, True)


def test_a_second_run_does_nothing_and_says_so(project, imagekit, monkeypatch):
    assert imagekit("build", "--all")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    lock = Path("imagekit.lock.json").stat().st_mtime_ns
    failing(monkeypatch, *(cell.id for cell in cells_of(project)))  # nothing may be signed
    code, out, err = imagekit("build", "--all", "--json")
    assert code == 0, err
    assert "8 cells: 0 built, 8 there already, 0 failed" in err
    answer = json.loads(out)
    assert {image["built"] for image in answer["images"]} == {False}
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before
    assert Path("imagekit.lock.json").stat().st_mtime_ns == lock


def cells_of(project):
    from imagekit.spec.project import load_project

    return load_project(project / "imagekit.yaml").cells


@pytest.mark.parametrize(
    "arguments",
    [
        ("--date", "2020-02-02"),
        ("--rebuild",),
        ("--output", "oci:elsewhere"),
        ("--profile", "compat"),
    ],
)
def test_what_changes_the_image_is_built_again(project, imagekit, arguments):
    cell = ("build", "--epc", "64m", "--log", "error")
    assert imagekit(*cell)[0] == 0
    code, _, err = imagekit(*cell, *arguments)
    assert code == 0, err
    assert "there already" not in err


def test_another_key_or_day_or_project_is_another_image(project, imagekit, monkeypatch):
    cell = ("build", "--epc", "64m", "--log", "error")
    assert imagekit(*cell)[0] == 0
    assert imagekit("key", "generate", "other.pem")[0] == 0
    assert "there already" not in imagekit(*cell, "--key", "other.pem")[2]
    assert "there already" not in imagekit(*cell)[2]  # the first key again
    assert "there already" in imagekit(*cell)[2]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert "there already" not in imagekit(*cell)[2]
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert imagekit(*cell)[0] == 0
    text = Path("imagekit.yaml").read_text()
    Path("imagekit.yaml").write_text(text.replace("max_threads: 8", "max_threads: 16"))
    assert "there already" not in imagekit(*cell)[2]


@pytest.mark.parametrize("damage", ["layer", "tag", "lock", "label"])
def test_what_is_damaged_is_built_again(project, imagekit, damage):
    cell = ("build", "--epc", "64m", "--log", "error")
    assert imagekit(*cell)[0] == 0
    entry = read_lock(Path("imagekit.lock.json"))[f"{STEM}-gramine-reference-64m:1.0"]
    whole = everything(Path("out"))
    lock = Path("imagekit.lock.json").read_text()
    if damage == "layer":
        OciLayout.open(Path("out")).blobs.path(entry.layer).unlink()
    elif damage == "tag":
        index = Path("out/index.json")
        index.write_text(index.read_text().replace("tiny-gramine-reference:latest", "x:latest"))
    elif damage == "lock":
        Path("imagekit.lock.json").write_text(lock.replace(entry.digest, "sha256:" + "0" * 64))
    else:
        Path("imagekit.lock.json").write_text(lock.replace(entry.mr_enclave, "0" * 64))
    code, _, err = imagekit(*cell)
    assert code == 0, err
    assert "there already" not in err
    assert Path("imagekit.lock.json").read_text() == lock
    if damage != "tag":
        assert everything(Path("out")) == whole


def test_a_lock_without_inputs_is_read_and_completed(project, imagekit):
    cell = ("build", "--epc", "64m", "--log", "error")
    assert imagekit(*cell)[0] == 0
    document = json.loads(Path("imagekit.lock.json").read_text())
    for image in document["images"].values():
        del image["inputs"]
    Path("imagekit.lock.json").write_text(json.dumps(document))
    assert "there already" not in imagekit(*cell)[2]
    assert "there already" in imagekit(*cell)[2]


def test_the_rules_of_the_image_have_a_number(project, imagekit):
    """The same inputs give the same image, or RULES in imagekit.release.cell has to be raised.

    Otherwise a second run would take an image made by older rules for its own. If the inputs have
    changed as well (another launcher, say), pin both anew.
    """
    from imagekit.release.cell import RULES

    code, _, err = imagekit("build", "--profile", "compat", "--epc", "64m", "--log", "error")
    assert code == 0, err
    entry = read_lock(Path("imagekit.lock.json"))[f"{STEM}-gramine-reference-64m:1.0"]
    digest = OciLayout.open(Path("out")).image(TAG).config_descriptor.digest
    assert (RULES, entry.inputs[:16], digest[7:23]) == PINNED


PINNED = (1, "4964112b2455db10", "2da7785064d96242")


@pytest.mark.parametrize(
    ("text", "own", "wanted"),
    [
        ("registry.example/team", f"{STEM}-x:1", "docker://registry.example/team/tiny-x:1"),
        (
            "docker://registry.example/team/",
            f"{STEM}-x:1",
            "docker://registry.example/team/tiny-x:1",
        ),
        ("127.0.0.1:5000", f"{STEM}-x:1", "docker://127.0.0.1:5000/tiny-x:1"),
        ("localhost/a/b", "tiny:2", "docker://localhost/a/b/tiny:2"),
        ("docker.io/team", "tiny:2", "docker://docker.io/team/tiny:2"),
        ("index.docker.io/team", "tiny:2", "docker://docker.io/team/tiny:2"),
        ("registry.example/a/name:7", "tiny:2", "docker://registry.example/a/name:7"),
    ],
)
def test_where_images_are_pushed_to(text, own, wanted):
    assert str(parse_push(text, 1).reference(own)) == wanted


@pytest.mark.parametrize(
    "text", ["", "team", "team/x", "registry.example/X", "registry.example/a@sha256:00", "a b.c/d"]
)
def test_places_nobody_can_push_to(text, project, imagekit):
    code, _, err = imagekit("build", "--epc", "64m", "--log", "error", "--push", text)
    assert code == 2
    error_lines(err)
    assert not Path("out").exists()


def test_one_name_for_many_images_is_refused(project, imagekit):
    code, _, err = imagekit("build", "--all", "--push", "registry.example/team/one:1")
    assert code == 2
    assert "one name for 8 images" in error_lines(err)[0]


def test_jobs_and_engines_that_are_none(project, imagekit):
    assert imagekit("build", "--all", "--jobs", "-1")[0] == 2
    code, _, err = imagekit("build", "--all", "--engine", "magic")
    assert code == 2
    assert "auto, docker, assemble" in error_lines(err)[1]
    code, _, err = imagekit("build", "--all", "--cacert", "none.pem", "--push", "r.example/x")
    assert code == 3


def test_the_metadata_file_is_whole_or_not_there(project, imagekit):
    code, _, err = imagekit(
        "build", "--epc", "64m", "--log", "error", "--metadata-file", "none/meta.json"
    )
    assert code == 3
    assert "none" in error_lines(err)[0]
    assert not Path("out").exists()


def test_metadata_of_an_earlier_run_does_not_stay(project, imagekit, monkeypatch):
    cell = ("build", "--epc", "64m", "--log", "error", "--metadata-file", "meta.json")
    assert imagekit(*cell)[0] == 0
    meta = json.loads(Path("meta.json").read_text())
    assert (meta["complete"], len(meta["images"])) == (True, 1)
    shutil.rmtree("base")
    assert imagekit(*cell)[0] == 3
    meta = json.loads(Path("meta.json").read_text())
    assert (meta["complete"], meta["images"]) == (False, [])


def test_every_place_that_fails_is_told(project, imagekit):
    """Two registries that are not there, for a single cell."""
    places = ("--push", "127.0.0.1:1/a", "--push", "127.0.0.1:2/b")
    cell = ("build", "--epc", "64m", "--log", "error", "--metadata-file", "meta.json")
    code, _, err = imagekit(*cell, *places)
    assert code == 4
    assert "127.0.0.1:1" in err
    assert "127.0.0.1:2" in err
    assert len(json.loads(Path("meta.json").read_text())["failed"]) == 2


def test_what_arrived_before_a_failure_is_recorded(project, imagekit, registry):
    """The second name of the default cell is refused: the first one is in the metadata."""
    repository = registry.root / "docker/registry/v2/repositories/team/tiny-gramine-reference"
    repository.parent.mkdir(parents=True)
    repository.write_text("in the way")
    cell = ("build", "--epc", "64m", "--log", "error", "--metadata-file", "meta.json")
    code, _, err = imagekit(*cell, "--push", f"{registry.host}/team", "--insecure")
    assert code == 4, err
    (image,) = json.loads(Path("meta.json").read_text())["images"]
    (arrived,) = image["delivered"]
    assert arrived["reference"].endswith("/tiny-gramine-reference-64m:1.0")


def test_an_interruption_ends_a_push_that_hangs(project):
    """A registry that takes the connection and keeps silent; Ctrl-C does not wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "imagekit", "build", "--epc", "64m", "--log", "error"]
        process = subprocess.Popen(
            [*command, "--push", f"{host}/team", "--insecure"], stderr=subprocess.PIPE, text=True
        )
        greeting, _ = silent.accept()
        with greeting:  # it speaks no TLS …
            greeting.recv(1)
            greeting.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)  # … and never answers a request
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)  # the limit for silence is 120 seconds
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert Path("out").exists()  # what was built is there
