import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_parts import Engine, FakeEngine, own_dockerd

from imagekit.errors import EngineError
from imagekit.images.daemon.connect import MINIMUM_API, connect, find
from imagekit.images.daemon.faults import UnusableError

VERSION = {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10.24", "Os": "linux"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: sockets have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ikt-") as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def nobody_chose_an_engine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder / "config"))


def refused(match: str) -> str:
    with pytest.raises(EngineError, match=match) as caught:
        connect()
    assert "\n" not in caught.value.problem + caught.value.hint
    return caught.value.hint


def test_docker_and_podman_say_who_they_are(any_engine: Engine) -> None:
    found = connect()
    assert found.name.startswith("Podman " if any_engine.podman else "Docker Engine ")
    assert found.name.split()[-1][0].isdigit()
    assert found.podman == any_engine.podman
    assert found.host == any_engine.host
    assert found.root is None or Path(found.root).is_dir()
    assert find() == found


def test_nothing_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead.sock"))
    for host in (
        f"unix://{folder}/none.sock",
        f"unix://{folder}/dead.sock",
        f"unix://{folder}/dead.sock/x",
        f"tcp://127.0.0.1:{port}",
        "tcp://no-such-host.invalid:2375",
    ):
        monkeypatch.setenv("DOCKER_HOST", host)
        assert find() is None
        assert "DOCKER_HOST" in refused(f"no container engine answers at {host}: ")


def test_an_engine_that_does_not_speak(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagekit.images.daemon.connect._QUICK_SECONDS", 0.2)
    monkeypatch.setattr("imagekit.images.daemon.connect._USUAL_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "silent.sock"))
        silent.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/silent.sock")
        assert find() is None
        refused("no answer in time")


def test_what_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("foo", "tcp://user:pass-word@127.0.0.1:1", "gopher://x:1"):
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(EngineError, match="no address") as caught:
            find()
        assert "pass-word" not in str(caught.value)
        assert "unix:///PATH" in caught.value.hint


@pytest.mark.integration(root=True)
def test_a_socket_that_others_may_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o755)
    host = f"unix://{folder}/d.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "d.sock"))
    (folder / "d.sock").chmod(0o660)
    monkeypatch.setenv("DOCKER_HOST", host)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # as a user who is not in the group
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            find()
        except EngineError as error:
            os.write(writing, f"{error.problem}\n{error.hint}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as said:
        problem, hint = said.read().split("\n")
    assert f"may not use the container engine at {host}" in problem
    assert "group docker" in hint


@pytest.mark.parametrize(
    ("answer", "match", "hint"),
    [
        ({**VERSION, "ApiVersion": "1.24", "Version": "1.12.6"}, "1.12.6 .* API 1.24", "upgrade"),
        ({**VERSION, "Os": "windows"}, "windows containers", "Linux"),
        ({"version": "1"}, "no container engine", "DOCKER_HOST"),
        ([], "no container engine", "DOCKER_HOST"),
        ("<html>", "no container engine", "DOCKER_HOST"),
    ],
)
def test_an_engine_that_will_not_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answer: object, match: str, hint: str
) -> None:
    body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
    with FakeEngine(folder / "d.sock", {"GET /version": (200, [body])}).serving() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        assert hint in refused(match)
        with pytest.raises(EngineError) as caught:
            find()
        # --engine auto may pass over one that is too old, and nothing else that answers
        assert isinstance(caught.value, UnusableError) == (hint == "upgrade")


def test_too_old_names_both_versions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({**VERSION, "ApiVersion": "1.24"}).encode()
    with FakeEngine(folder / "d.sock", {"GET /version": (200, [body])}).serving() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        refused(f"API 1.24, imagekit needs {MINIMUM_API}")


@pytest.mark.parametrize(
    "odd",
    [
        {"Components": 5},
        {"Components": [5, None, "x", {"Name": 1}]},
        {"Components": "x"},
        {"MinAPIVersion": "x"},
        {"MinAPIVersion": "9.x"},
        {"MinAPIVersion": 5},
    ],
)
def test_odd_answers_of_an_engine_do_no_harm(
    folder: Path, monkeypatch: pytest.MonkeyPatch, odd: dict[str, object]
) -> None:
    body = json.dumps({**VERSION, **odd}).encode()
    with FakeEngine(folder / "d.sock", {"GET /version": (200, [body])}).serving() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        found = connect()
    assert (found.name, found.api) == ("Docker Engine 20.10.24", "1.41")


@pytest.mark.parametrize("offered", ["", ".", "1.", "1.²", "1" * 5000, 5, None, ["1.41"]])
def test_a_version_that_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, offered: object
) -> None:
    body = json.dumps({**VERSION, "ApiVersion": offered}).encode()
    with FakeEngine(folder / "d.sock", {"GET /version": (200, [body])}).serving() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        refused("no container engine")


@pytest.mark.parametrize("body", [b"{}", b"[]", b"no", b'{"message":"x"}'])
def test_what_is_no_docker_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    with FakeEngine(folder / "d.sock", {"GET": (404, [body])}).serving() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        refused("no container engine with the Docker API")


def test_what_does_not_speak_http(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(listening: socket.socket) -> None:
        listening.accept()[0].close()  # somebody only looks whether there is a socket
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "d.sock"))
        listening.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/d.sock")
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        refused("no container engine with the Docker API")
        thread.join()


@pytest.mark.parametrize(
    ("api", "oldest", "spoken"), [("1.99", "1.24", "1.45"), ("1.99", "1.60", "1.60")]
)
def test_a_newer_engine_is_spoken_to_in_a_version_that_both_know(
    folder: Path, monkeypatch: pytest.MonkeyPatch, api: str, oldest: str, spoken: str
) -> None:
    body = json.dumps({**VERSION, "ApiVersion": api, "MinAPIVersion": oldest}).encode()
    with FakeEngine(folder / "d.sock", {"GET /version": (200, [body])}).serving() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        monkeypatch.setattr("imagekit.images.daemon.connect.DEFAULT_DOCKER_API_VERSION", "1.45")
        assert connect().api == spoken


def test_the_current_context_counts_unless_docker_host_is_set(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from docker.context import ContextAPI

    config = folder / "config"
    config.mkdir()
    (config / "config.json").write_text('{"currentContext": "mine"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    ContextAPI.create_context("mine", host=engine.host)
    ContextAPI.create_context("other", host=f"unix://{folder}/none.sock")
    monkeypatch.delenv("DOCKER_HOST")
    assert connect().host == engine.host
    assert connect().child_env == {"DOCKER_CONTEXT": "mine"}
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    assert find() is None
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    assert connect().host == engine.host
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONTEXT", "third")
    assert "docker context ls" in refused("no docker context third")


def certificate(folder: Path, name: str, signer: str | None) -> None:
    """Make `name`.pem and `name`-key.pem in a folder, signed by another pair or by itself."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    common = [*key, "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-days", "2"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    if signer is None:
        openssl("req", "-x509", *common, "-out", f"{name}.pem")
    else:
        by = ["-CA", f"{signer}.pem", "-CAkey", f"{signer}-key.pem"]
        openssl("req", "-x509", *common, *names, *by, "-out", f"{name}.pem")


def tls_folder(folder: Path) -> Path:
    for name, signer in (("ca", None), ("server", "ca"), ("cert", "ca"), ("wrong", None)):
        certificate(folder, name, signer)
    (folder / "cert-key.pem").rename(folder / "key.pem")
    return folder


@pytest.mark.integration("dockerd", "openssl", root=True)
def test_tls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = folder / "tls"
    tls.mkdir()
    (folder / "d").mkdir()
    tls_folder(tls)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    options = ["--host", host, "--tlsverify", "--tlscacert", f"{tls}/ca.pem"]
    options += ["--tlscert", f"{tls}/server.pem", "--tlskey", f"{tls}/server-key.pem"]
    with own_dockerd(folder / "d", *options):
        monkeypatch.setenv("DOCKER_HOST", host)
        assert "DOCKER_TLS_VERIFY=1" in refused("no container engine with the Docker API")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tls))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", f"{tls}/wrong.pem")  # not meant for engines
        assert connect().name.startswith("Docker Engine")
        (tls / "wrong.pem").rename(tls / "ca.pem")
        assert "DOCKER_CERT_PATH" in refused("over TLS: ")
        (tls / "cert.pem").unlink()
        assert "key.pem" in refused("certificates are missing")


def test_errors_of_tls_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a docker daemon: a plain server behind an https address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"https://127.0.0.1:{port}")
        with pytest.raises(EngineError, match="over TLS: ") as caught:
            connect()
        thread.join()
    assert "DOCKER_TLS_VERIFY" in caught.value.hint
