"""`imagekit init` and `imagekit plan` as users and scripts see them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagekit.cli import project as commands
from imagekit.errors import InputError, UsageError
from imagekit.spec.project import load_project

PROJECT = """\
schema: 1
image: r.example/x
tag: 2.5
base: {image: "oci:base"}
matrix:
  epc: [16g, 8g]
  log: [error, all]
  attestation: [dcap, none]
  exclude: [{log: all, attestation: none}]
"""

TABLE = """\
CELL                    IMAGE                                      EPC  LOG    ATTESTATION
gramine-8g-all-dcap     r.example/x-gramine-reference-8g-all:2.5   8g   all    dcap
gramine-8g-error-dcap   r.example/x-gramine-reference-8g:2.5       8g   error  dcap         default
gramine-8g-error-none   r.example/x-gramine-noattest-8g:2.5        8g   error  none
gramine-16g-all-dcap    r.example/x-gramine-reference-16g-all:2.5  16g  all    dcap
gramine-16g-error-dcap  r.example/x-gramine-reference-16g:2.5      16g  error  dcap
gramine-16g-error-none  r.example/x-gramine-noattest-16g:2.5       16g  error  none
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "imagekit.yaml"
    path.write_text(PROJECT, encoding="utf-8")
    return path


def test_plan_prints_the_matrix_as_an_aligned_table(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.plan()
    out, err = capsys.readouterr()
    assert out == TABLE
    assert err == (
        "6 of 6 cells, profile strict\n"
        "default cell (chosen by imagekit): gramine-8g-error-dcap, also tagged "
        "r.example/x-gramine-reference:latest\n"
    )


def test_plan_answers_in_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.plan(select=["*-8g-error-dcap"], json=True)
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "schema": 1,
        "cells": [
            {
                "id": "gramine-8g-error-dcap",
                "image": "r.example/x-gramine-reference-8g",
                "tag": "2.5",
                "references": [
                    "r.example/x-gramine-reference-8g:2.5",
                    "r.example/x-gramine-reference:latest",
                ],
                "libos": "gramine",
                "epc": 8589934592,
                "epc_name": "8g",
                "log": "error",
                "attestation": "dcap",
                "profile": "strict",
                "default": True,
            }
        ],
    }


def test_format_json_is_the_same_as_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.plan(json=True)
    first = capsys.readouterr().out
    commands.plan(format="json")
    assert capsys.readouterr().out == first
    assert len(json.loads(first)["cells"]) == 6


def test_plan_selects_cells(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.plan(select=["*-16g-*", "*-noattest-8g"])
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "gramine-8g-error-none",
        "gramine-16g-all-dcap",
        "gramine-16g-error-dcap",
        "gramine-16g-error-none",
    ]
    assert "4 of 6 cells" in err


def test_plan_says_when_there_is_no_default_cell(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write_text(PROJECT.replace("[16g, 8g]", "[16g]"), encoding="utf-8")
    commands.plan()
    out, err = capsys.readouterr()
    assert "default" not in out
    assert "no default cell: nothing is tagged latest" in err


def test_plan_reads_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(PROJECT, encoding="utf-8")
    commands.plan(file=other)
    assert "gramine-8g-error-dcap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"format": "yaml"}, '--format "yaml" is not known'),
        ({"format": "table", "json": True}, "contradict each other"),
        ({"select": ["*-32g-*"]}, "matches no cell"),
        ({"file": Path("absent.yaml")}, "absent.yaml: no such file"),
    ],
)
def test_plan_refuses_what_it_cannot_do(
    project: Path, capsys: pytest.CaptureFixture[str], options: dict[str, object], problem: str
) -> None:
    with pytest.raises(UsageError) as caught:
        commands.plan(**options)  # type: ignore[arg-type]
    assert problem in caught.value.problem
    assert capsys.readouterr().out == ""


def test_init_writes_a_project_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands.init()
    assert capsys.readouterr().out == "imagekit.yaml\n"
    project = load_project(Path("imagekit.yaml"))
    assert len(project.cells) == 16
    assert [path.name for path in tmp_path.iterdir()] == ["imagekit.yaml"]


def test_init_answers_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.init(output=tmp_path / "x.yaml", json=True)
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "file": str(tmp_path / "x.yaml")}


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_init_never_overwrites(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "imagekit.yaml"
    if kind == "file":
        path.write_text("mine", encoding="utf-8")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    with pytest.raises(UsageError, match="exists already"):
        commands.init(output=path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["imagekit.yaml"]
    if kind == "file":
        assert path.read_text(encoding="utf-8") == "mine"


def test_init_into_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        commands.init(output=tmp_path / "absent" / "imagekit.yaml")


def test_init_works_where_files_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "imagekit.yaml"
    commands.init(output=path)
    load_project(path)
    with pytest.raises(UsageError, match="exists already"):
        commands.init(output=path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["imagekit.yaml"]


KILLED = """
import os, sys, time
from pathlib import Path
def wait(*arguments):
    print("ready", flush=True)
    time.sleep(60)
os.link = wait
from imagekit.cli.project import init
init(output=Path(sys.argv[1]))
"""


def test_init_killed_half_way_leaves_nothing_that_counts_and_the_next_run_cleans_up(
    tmp_path: Path,
) -> None:
    path = tmp_path / "imagekit.yaml"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    time.sleep(0.01)
    commands.init(output=path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["imagekit.yaml"]


def test_plan_loads_nothing_heavy(tmp_path: Path) -> None:
    """Modules that take longer to load than all the rest together are not needed for a plan."""
    code = (
        "import sys; from pathlib import Path; from imagekit.cli.project import plan\n"
        f"Path('p.yaml').write_text({PROJECT!r}); plan(file=Path('p.yaml'))\n"
        "heavy = {'rich', 'numpy', 'cryptography', 'jinja2', 'toml', 'tomli_w',"
        " 'imagekit.images', 'imagekit.render', 'imagekit.signing', 'imagekit.enclave'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    assert answer.splitlines()[-1] == "[]"
