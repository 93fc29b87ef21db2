"""Building in engines: the classic builder, BuildKit, and Podman's."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from engine_parts import TINY, CuttingProxy, Engine, FakeEngine, connected

from imagekit.errors import EngineError, InputError
from imagekit.images.daemon.build import build_image
from imagekit.images.daemon.buildlog import BuildLog, Cleaner
from imagekit.images.daemon.buildx import find_buildx
from imagekit.images.daemon.classic import _Answer
from imagekit.images.daemon.context import context_tar
from imagekit.images.daemon.faults import hint_for
from imagekit.images.progress import Advance

PASSWORD = "pass-word-that-must-not-show"
PROXY = f"http://somebody:{PASSWORD}@proxy.example:3128"
STAGES = f"""\
FROM {TINY} AS made
COPY file /file
RUN cat /file > /made
FROM {TINY}
ARG WHAT
COPY --from=made /made /made
RUN echo $WHAT > /what; ls / | wc -l
LABEL from=file
"""


class Shown:
    """Progress that remembers its labels, and does something when one begins."""

    def __init__(self, then: Callable[[str], None] = lambda _label: None) -> None:
        self.labels: list[str] = []
        self.open = 0
        self._then = then

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Advance]:
        self.labels.append(label)
        self._then(label)
        self.open += 1
        try:
            yield lambda units: None
        finally:
            self.open -= 1


@pytest.fixture(params=["classic", "buildx", "podman"])
def builder(request: pytest.FixtureRequest) -> Engine:
    """An engine, set up so that each of the builders is chosen in turn."""
    if request.param == "podman":
        found: Engine = request.getfixturevalue("podman")
        return found
    found = request.getfixturevalue("engine")
    request.getfixturevalue("no_buildx" if request.param == "classic" else "buildx")
    return found


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    return folder


def build(
    context: Path,
    text: str,
    shown: Shown | None = None,
    talk: list[str] | None = None,
    **more: object,
) -> str:
    (context / "Dockerfile").write_text(text)
    say = (talk if talk is not None else []).append
    return build_image(
        connected(),
        context,
        progress=shown or Shown(),
        talk=say,
        **more,  # type: ignore[arg-type]
    )


def failure(context: Path, text: str) -> EngineError:
    shown = Shown()
    with pytest.raises(EngineError) as caught:
        build(context, text, shown)
    assert "\n" not in caught.value.problem + caught.value.hint
    assert shown.open == 0
    return caught.value


def test_an_image_is_built(builder: Engine, context: Path) -> None:
    shown, talk = Shown(), list[str]()
    found = build(
        context, STAGES, shown, talk,
        tag="registry.example/x:1", labels={"a": "b"}, build_args={"WHAT": "this one"},
    )  # fmt: skip
    assert builder.docker("image", "inspect", "-f", "{{.Id}}", "registry.example/x:1") == found
    assert builder.docker("image", "inspect", "-f", "{{.Config.Labels.a}}", found) == "b"
    ran = builder.docker("run", "--rm", "--network", "none", found, "cat", "/made", "/what")
    assert ran == "content\nthis one"
    assert any("RUN cat /file > /made" in label for label in shown.labels)
    assert any(label.startswith("step ") for label in shown.labels)
    assert shown.open == 0
    assert len(talk) == 1
    assert builder.host in talk[0]
    assert builder.containers() == []


def test_which_builder_builds_is_said(
    engine: Engine, buildx: Path, context: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A docker command without the plugin that comes before the one with it.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\necho 'unknown command' >&2; exit 1\n")
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    talk = list[str]()
    build(context, f"FROM {TINY}\n", talk=talk)
    assert "BuildKit" in talk[0]
    assert f"{tmp_path}/bin" not in talk[0]
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    build(context, f"FROM {TINY}\nENV a=b\n", talk=talk)
    assert "classic builder: no docker command on PATH has buildx" in talk[1]


def test_a_step_that_fails_is_told_with_its_last_lines(builder: Engine, context: Path) -> None:
    text = f"FROM {TINY}\nENV A=B\nRUN for i in 1 2 3 4 5 6 7 8; do echo line $i; done; exit 7\n"
    error = failure(context, text)
    assert " failed: exit code 7: " in error.problem
    assert error.problem.startswith("step ")
    assert "RUN for i" in error.problem
    assert error.problem.endswith("line 7 / line 8")
    assert "line 3" not in error.problem
    assert builder.containers() == []


FAILURES = (
    ("FROM registry.invalid/x:1\n", "registry.invalid", "network and DNS"),
    (f"FROM {TINY}\nCOPY nothing /x\n", "nothing", "correct this step"),
    (f"FROM {TINY}\nFOO bar\n", "FOO", "correct the Dockerfile"),
    (f"FROM {TINY}\nRUN echo 'SSL: CERTIFICATE_VERIFY_FAILED'; exit 1\n", "code 1", "ca_bundle"),
    (f"FROM {TINY}\nRUN echo 'write: No space left on device'; exit 1\n", "code 1", "MiB are free"),
    (f"FROM {TINY}\nRUN echo 'Could not resolve deb.example'; exit 9\n", "code 9", "proxy"),
)


def test_failures_and_their_hints(builder: Engine, context: Path) -> None:
    for text, problem, hint in FAILURES[: 3 if builder.podman else None]:
        error = failure(context, text)
        assert problem.lower() in error.problem.lower()
        assert hint in error.hint


def test_a_mount_without_buildkit(engine: Engine, no_buildx: None, context: Path) -> None:
    error = failure(context, f"FROM {TINY}\nRUN --mount=type=cache,target=/x true\n")
    assert "docker-buildx" in error.hint


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("pull access denied for x, repository does not exist", "docker login"),
        ("manifest for x:1 not found: manifest unknown", "docker login"),
        ("curl: unable to get local issuer certificate", "ca_bundle"),
        ("x509: certificate signed by unknown authority", "ca_bundle"),
        ("something else", "otherwise"),
    ],
)
def test_hints(said: str, hint: str) -> None:
    assert hint in hint_for(said, None, "otherwise")


def test_proxies_reach_the_build_and_their_passwords_nobody_else(
    builder: Engine, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("NO_PROXY", "localhost,.example")
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    seen = list[bytes]()

    def look(label: str) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(path.read_bytes())
            except OSError:
                continue

    talk, shown = list[str](), Shown(look)
    found = build(
        context,
        f"FROM {TINY}\nRUN echo $http_proxy > /proxy; echo \"+$HTTPS_PROXY+$NO_PROXY\" >> /proxy\n",
        shown, talk,
    )  # fmt: skip
    ran = builder.docker("run", "--rm", "--network", "none", found, "cat", "/proxy")
    assert ran == f"{PROXY}\n++localhost,.example"
    described = builder.docker("history", "--no-trunc", found) + builder.docker("inspect", found)
    assert PASSWORD not in described + "".join(talk + shown.labels)
    assert seen
    ours = os.fsencode(PASSWORD)
    assert not [line for line in seen if ours in line]
    error = failure(context, f"FROM {TINY}\nRUN echo cannot use $http_proxy; exit 1\n")
    assert "cannot use http://***@proxy.example" in error.problem
    error = failure(context, f"FROM {TINY}\nRUN echo {PROXY}; exit 1\n")
    assert PASSWORD not in error.problem


def test_what_is_cleaned_from_lines() -> None:
    clean = Cleaner(["http://u:p%40ss@proxy.example:1", "v:word@proxy.example", "http://[bad"])
    assert clean("a p%40ss b p@ss c word u:p%40ss@x \x1b[91mred\x1b[0m") == (
        "a *** b *** c *** ***@x red"
    )
    assert clean("10%\r20%\r30%\r") == "30%"


def test_stages_leave_no_images(engine: Engine, no_buildx: None, context: Path) -> None:
    build(
        context,
        f"FROM {TINY} AS a\nRUN echo 1 > /1\nRUN echo 2 > /2\n"
        f"FROM {TINY}\nCOPY --from=a /2 /\nRUN true\n",
        tag="registry.example/x:1",
    )
    with engine.daemon().talk("look") as client:
        listed = client.images(all=True)
        dangling = client.images(filters={"dangling": True})
    assert dangling == []
    # the tiny one, the result, and the steps that it stands on
    assert len(listed) == 3
    assert engine.docker("run", "--rm", "--network", "none", "registry.example/x:1", "ls", "/2")


@pytest.mark.parametrize("builder", ["classic", "buildx"], indirect=True)
def test_the_second_build_takes_cached_steps(builder: Engine, context: Path) -> None:
    text = f"FROM {TINY}\nCOPY file /file\nRUN cat /proc/sys/kernel/random/uuid > /random\n"
    first = build(context, text)
    for path in context.iterdir():
        os.utime(path, (1, 1))
    assert build(context, text) == first
    (context / "file").write_text("other\n")
    assert build(context, text) != first


@pytest.mark.parametrize(
    ("builder", "stop"),
    [
        ("classic", "Ctrl-C"),
        ("classic", "kill"),
        ("buildx", "Ctrl-C"),
        ("buildx", "kill"),
        ("podman", "Ctrl-C"),
    ],
    indirect=["builder"],
)
def test_an_interruption_stops_the_build(builder: Engine, context: Path, stop: str) -> None:
    number = signal.SIGINT if stop == "Ctrl-C" else signal.SIGTERM
    expected: type[BaseException] = KeyboardInterrupt if stop == "Ctrl-C" else SystemExit
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Podman 4 lets the command that runs come to its end, and only then stops
    marker = f"{2 if builder.podman else 31}.{os.getpid()}"
    shown = Shown(
        lambda label: (
            threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
            if "sleep" in label
            else None
        )
    )
    text = f"FROM {TINY}\nRUN sleep {marker}\nRUN echo later\n"
    try:
        with pytest.raises(expected):
            build(context, text, shown, tag="registry.example/x:1")
    finally:
        signal.signal(signal.SIGTERM, before)
    end = time.monotonic() + 15
    while (_running(marker) or builder.containers()) and time.monotonic() < end:
        time.sleep(0.1)
    assert _running(marker) == []
    assert builder.containers() == []
    assert not [label for label in shown.labels if "later" in label]
    with builder.daemon().talk("look") as client:
        names = [name for found in client.images() for name in found["RepoTags"] or []]
    assert "registry.example/x:1" not in names


def _running(word: str) -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if f"sleep\0{word}".encode() in line or f"sleep {word}".encode() in line:
            found.append(line)
    return found


def test_a_connection_cut_in_a_build(
    engine: Engine, no_buildx: None, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CuttingProxy(engine.socket.parent / "cut.sock", engine.socket).serving() as proxy:
        monkeypatch.setenv("DOCKER_HOST", proxy.host)
        proxy.cut = 1000
        error = failure(context, f"FROM {TINY}\nRUN cat /bin/sh | head -c 3000; sleep 1\n")
    assert "cut" in error.problem


def test_an_engine_that_dies_in_a_build_leaves_the_step_s_name(
    engine: Engine, no_buildx: None, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing answers any more when the error is put together."""
    place = engine.socket.parent / "dies.sock"
    proxy = CuttingProxy(place, engine.socket)

    class Dying(Shown):
        @contextmanager
        def task(self, label: str, total: int | None) -> Iterator[Advance]:
            if label.startswith("step 2/"):
                place.unlink()
                proxy.cut = 0
            with super().task(label, total) as advance:
                yield advance

    with proxy.serving():
        monkeypatch.setenv("DOCKER_HOST", proxy.host)
        with pytest.raises(EngineError, match=r"step 2/2 \(RUN .*the connection was cut"):
            build(context, f"FROM {TINY}\nRUN sleep 1; echo more; sleep 1\n", Dying())


def test_a_line_that_never_ends_is_kept_in_part(context: Path) -> None:
    with BuildLog(Shown(), Cleaner([])) as log:
        answer = _Answer(log)
        answer.read({"stream": "Step 1/1 : RUN x\n"})
        start = time.monotonic()
        for _ in range(2000):
            answer.read({"stream": "x" * 16384})
        assert len(answer._rest) == 1 << 16
        assert time.monotonic() - start < 5
        answer.read({"stream": "end\n"})
        assert answer._rest == ""


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([{"stream": "Step 1/2 : FROM x\n"}], "ended without an image"),
        ([], "ended without an image"),
        ([{"stream": "Step 1/1 : RUN x\nlast words"}, {"error": "gone"}], "step 1/1 .* gone"),
        ([{"aux": {"ID": "sha256:" + "1" * 64}}], "not there"),
    ],
)
def test_a_status_of_200_is_no_success(
    engine: Engine, no_buildx: None, context: Path, monkeypatch: pytest.MonkeyPatch,
    lines: list[object], match: str,
) -> None:  # fmt: skip
    version = {"ApiVersion": "1.41", "Version": "20.10.24", "Os": "linux"}
    sent = list[bytes]()

    def answer(body: bytes) -> tuple[int, list[bytes]]:
        sent.append(body)
        return 200, [json.dumps(line).encode() + b"\r\n" for line in lines]

    fake = FakeEngine(
        engine.socket.parent / "fake.sock",
        {
            "GET /version": (200, [json.dumps(version).encode()]),
            "GET /info": (200, [b"{}"]),
            "GET /images/.*/json": (404, [b'{"message":"No such image: x"}']),
            "POST /build": answer,
        },
    )
    with fake.serving():
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        (context / "Dockerfile").write_text(f"FROM {TINY}\n")
        with pytest.raises(EngineError, match=match):
            build(context, f"FROM {TINY}\n")
    with tarfile.open(fileobj=BytesIO(sent[0])) as tar:
        assert tar.getnames() == ["Dockerfile", "file"]


def test_no_dockerfile(engine: Engine, context: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        build_image(connected(), context, progress=Shown(), talk=print)


def test_find_buildx_without_docker(engine: Engine, no_buildx: None) -> None:
    assert find_buildx(connected()) is None


# -- the context


def tar_of(folder: Path) -> bytes:
    return b"".join(context_tar(folder, "Dockerfile"))


def test_a_context_is_always_the_same_bytes(tmp_path: Path) -> None:
    texts = set[bytes]()
    for order in ("abc", "cab"):
        folder = tmp_path / order
        (folder / "d").mkdir(parents=True)
        for name in order:
            (folder / name).write_text(name)
            (folder / "d" / name).write_text(name)
            os.utime(folder / name, (len(texts), 5))
        (folder / "Dockerfile").write_text("FROM x")
        (folder / "link").symlink_to("a")
        (folder / "run").write_text("")
        (folder / "run").chmod(0o755)
        texts.add(tar_of(folder))
    (text,) = texts
    with tarfile.open(fileobj=BytesIO(text)) as tar:
        entries = {entry.name: entry for entry in tar.getmembers()}
    assert list(entries) == sorted(entries)
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries.values()} == {(0, 0, 0)}
    assert (entries["run"].mode, entries["link"].linkname) == (0o755, "a")


def test_dockerignore_counts(tmp_path: Path) -> None:
    for name in ("Dockerfile", "a.key", "b.txt", "keep.key", "d/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / ".dockerignore").write_text("# no keys\n*.key\n!keep.key\nDockerfile\nd\n")
    with tarfile.open(fileobj=BytesIO(tar_of(tmp_path))) as tar:
        assert tar.getnames() == [".dockerignore", "Dockerfile", "b.txt", "keep.key"]


def test_what_a_context_cannot_hold(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is no file"):
        tar_of(tmp_path)


def test_a_file_that_grows_while_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5000)
    pieces = context_tar(tmp_path, "Dockerfile")
    next(pieces)
    with (tmp_path / "a").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(InputError, match="changed while it was read"):
        b"".join(pieces)


def test_the_environment_of_docker_holds_no_secret_of_ours(
    engine: Engine, buildx: Path, context: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IMAGEKIT_KEY_PASSPHRASE", PASSWORD)
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "docker"
    real = subprocess.run(["which", "docker"], capture_output=True, text=True).stdout.strip()
    wrapper.write_text(f'#!/bin/sh\nenv >> {tmp_path}/env\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    build(context, f"FROM {TINY}\n")
    seen = (tmp_path / "env").read_text()
    assert engine.host in seen
    assert PASSWORD not in seen
