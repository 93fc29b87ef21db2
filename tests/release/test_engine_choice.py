"""Who makes a base: what was asked for, or an engine if one answers; and it is said."""

import errno
import json
import os
import socket
import tempfile
from pathlib import Path

import pytest
from conftest import PROJECT, error_lines
from engine_parts import FakeEngine

from imagekit.errors import EngineError
from imagekit.images.bases.debian import bootstrap
from imagekit.images.cache import Cache
from imagekit.release.base_engine import EngineRoot, choose_root

SPEC = """\
  distribution: {suite: bookworm, builder: "registry.example/debian@sha256:%s"}
""" % ("0" * 64)


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")


def test_auto_takes_the_engine_that_answers_and_says_so(engine, tmp_path):
    said: list[str] = []
    chosen = choose_root("auto", tmp_path, Cache(tmp_path), said.append)
    assert isinstance(chosen, EngineRoot)
    assert said == [f"engine: docker ({chosen.daemon.name})"]


def test_without_an_engine_auto_assembles_and_says_so(no_engine, tmp_path):
    said: list[str] = []
    assert choose_root("auto", tmp_path, Cache(tmp_path), said.append) is bootstrap
    assert said == ["engine: assemble (no container engine answers)"]


@pytest.fixture
def old_engine(monkeypatch):
    version = {"ApiVersion": "1.24", "Version": "1.12.6", "Os": "linux"}
    answers = {"GET /version": (200, [json.dumps(version).encode()])}
    with (
        tempfile.TemporaryDirectory(prefix="ikt-") as folder,
        FakeEngine(Path(folder) / "d.sock", answers).serving() as fake,
    ):
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        yield "is too old: it speaks API 1.24"


@pytest.fixture
def forbidden_engine(monkeypatch):
    """As for a user who is not in the group docker: root may always."""

    def connect(self, address):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/forbidden.sock")
    return "this user may not use the container engine at unix:///run/forbidden.sock"


@pytest.mark.parametrize("kind", ["old_engine", "forbidden_engine"])
def test_an_engine_that_is_not_for_us_is_passed_over_only_by_auto(kind, tmp_path, request):
    why, said = request.getfixturevalue(kind), []
    assert choose_root("auto", tmp_path, Cache(tmp_path), said.append) is bootstrap
    (line,) = said
    assert line.startswith("engine: assemble (")
    assert why in line
    with pytest.raises(EngineError) as caught:
        choose_root("docker", tmp_path, Cache(tmp_path), said.append)
    assert why in caught.value.problem
    assert len(said) == 1


def test_an_engine_that_was_asked_for_must_be_there(no_engine, tmp_path):
    with pytest.raises(EngineError, match="no container engine answers"):
        choose_root("docker", tmp_path, Cache(tmp_path), lambda line: None)


def write(base: str) -> None:
    Path("imagekit.yaml").write_text(PROJECT.replace('base: {image: "oci:base:base"}', base))


def test_the_command_ends_with_the_engines_error(project, imagekit, no_engine):
    write(f"base:\n{SPEC}")
    for command in (("base", "build"), ("build", "--epc", "64m"), ("render", "-o", "x")):
        code, _, err = imagekit(*command, "--engine", "docker")
        assert code == 4, err
        assert "no container engine answers" in error_lines(err)[0]
    assert not Path("out").exists()
    assert not Path("x").exists()


def test_a_builder_that_cannot_be_pulled_is_named(project, imagekit, engine):
    write(f"base:\n{SPEC}")
    code, _, err = imagekit("base", "build", "--engine", "docker")
    assert code == 4, err
    problem, _ = error_lines(err)
    assert "FROM ${BUILDER}" in problem
    assert "registry.example" in problem
