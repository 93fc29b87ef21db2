"""The signing key meets no builder, proved: it is looked for wherever a build leaves traces.

Everything is searched for lines of the PEM file, its text in other line widths, the secret numbers
and the passphrase: what was sent to the engine, the engine's whole store with its dangling layers,
saved images and their history, the registry, logs, lock and metadata, the caches, and the command
lines and environments of all processes meanwhile. The same search finds the key of the classic way
of signing, which copies it into a stage that is thrown away.
"""

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import GRAMINE, JAVA, base_files
from engine_fakes import CuttingProxy
from key_search import KeySearch, private_needles
from python_base import TEST_CACHE

from imagekit.images.cache import Cache
from imagekit.release.base_engine import ensure_builder
from imagekit.spec.project import load_project

pytestmark = pytest.mark.integration("dockerd", "docker-registry", "mmdebstrap", root=True)

PASSPHRASE = b"correct horse battery staple 7531"
PROJECT = """\
schema: 1
image: {host}/team/tiny
tag: "1.0"
libos: gramine
base:
  distribution: {{suite: bookworm, variant: minbase}}
  packages: [python3-minimal, libpython3-stdlib{package}]
  exclude: [/usr/share/doc/*, /usr/share/locale/*]
  files:
{files}
matrix: {{epc: [64m], log: [error, debug], attestation: [dcap]}}
enclave: {{max_threads: 8}}
gramine: {{version: "1.9"}}
signing: {{key: ./key.pem}}
launch: {{command: [{java}/bin/java, -version]}}
"""
CLASSIC = """\
FROM {base} AS temp
COPY enclave-key.pem /root/key.pem
RUN cp /etc/hostname /signature
FROM {base}
COPY --from=temp /signature /signature
"""


def write_project(folder: Path, host: str, package: str = "") -> None:
    """A project whose base an engine makes; the key lies beside the project file, as keys do."""
    lines = []
    for number, file in enumerate(base_files()):
        if file.data is not None and file.path.startswith((GRAMINE, JAVA)):
            (folder / f"file{number}").write_bytes(file.data)
            mode = f'mode: "{file.mode:04o}"'
            lines.append(f"    - {{path: {file.path}, source: ./file{number}, {mode}}}")
    text = PROJECT.format(host=host, package=package, files="\n".join(lines), java=JAVA)
    (folder / "imagekit.yaml").write_text(text)


@contextmanager
def watching(folder: Path) -> Iterator[None]:
    """Write down the command lines and environments of all processes, again and again."""
    end, seen = threading.Event(), set()

    def look() -> None:
        with (folder / "processes").open("wb") as log:
            while not end.wait(0.02):
                for process in Path("/proc").glob("[0-9]*"):
                    for name in ("cmdline", "environ"):
                        try:
                            data = (process / name).read_bytes()
                        except OSError:
                            continue
                        if hash(data) not in seen:
                            seen.add(hash(data))
                            log.write(data + b"\n")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def imagekit(log: Path, *arguments: object) -> int:
    """Run imagekit as users do, and keep what it says."""
    with log.open("ab") as output:
        command = [sys.executable, "-m", "imagekit", *map(str, arguments)]
        return subprocess.run(command, stdout=output, stderr=output).returncode


def docker(engine, log: Path, *arguments: object) -> int:
    with log.open("ab") as output:
        command = ["docker", "--host", engine.host, *map(str, arguments)]
        return subprocess.run(command, stdout=output, stderr=output).returncode


def save_everything(engine, folder: Path) -> None:
    """All images, dangling ones too, as one archive that holds each layer once; and histories."""
    images = sorted(set(engine.docker("images", "--all", "--quiet", "--no-trunc").split()))
    engine.docker("save", "--output", str(folder / "all.tar"), *images)
    for image in images:
        history = engine.docker("history", "--no-trunc", image)
        (folder / f"{image[7:]}.history").write_text(history)


@pytest.fixture
def places(tmp_path, in_folder, engine, registry, monkeypatch):
    """Folders by what is in them; the engine is reached through something that writes down."""
    if not engine.ours:
        pytest.skip("the engine is not ours to search")
    names = ("sent", "processes", "logs", "saved", "search", "safe")
    found = {name: tmp_path / name for name in names}
    for folder in found.values():
        folder.mkdir()
    write_project(in_folder, registry.host)
    ensure_builder(
        load_project(in_folder / "imagekit.yaml").base,
        engine.daemon(),
        in_folder,
        Cache(TEST_CACHE / "builder"),
        lambda line: None,
    )
    # a socket's path is short
    proxy = CuttingProxy(engine.socket.with_name("recorded.sock"), engine.socket)
    proxy.record = found["sent"]
    monkeypatch.setenv("DOCKER_HOST", proxy.host)
    with proxy.serving():
        yield found


def searched(places, engine, registry, project: Path) -> list[Path]:
    left = [path for path in project.iterdir() if path.name not in ("key.pem", "passphrase")]
    cache = Path(os.environ["IMAGEKIT_CACHE"])
    seen = [places[name] for name in ("sent", "processes", "logs", "saved")]
    return [*seen, store(engine), registry.root, cache, *left]


def store(engine) -> Path:
    """The folder where the engine keeps everything."""
    root = engine.daemon().root
    assert root is not None
    return Path(root)


@pytest.mark.parametrize("builder", ["classic", "buildx"])
def test_the_key_is_nowhere(
    places, in_folder, engine, registry, builder, request, monkeypatch, tmp_path
):
    log, options = places["logs"] / "log", ["--passphrase-file", "passphrase"]
    Path("passphrase").write_bytes(PASSPHRASE)
    if builder == "buildx":
        request.getfixturevalue("buildx")
    build = ["buildx", "build"] if builder == "buildx" else ["build"]
    with watching(places["processes"]):
        assert imagekit(log, "key", "generate", "key.pem", "--encrypt", *options) == 0
        # success: base, cells, registry, engine, and the Dockerfile of a cell
        push = ["--push", f"{registry.host}/team", "--insecure", "--load"]
        meta = ["--metadata-file", "meta.json", "--engine", "docker"]
        assert imagekit(log, "build", "--all", *options, *push, *meta) == 0, log.read_text()
        assert imagekit(log, "base", "build", *push[:3]) == 0
        keyed = ["--key", "key.pem", *options, "--artifacts"]
        assert imagekit(log, "render", "-o", "rendered", *keyed) == 0
        context = "rendered/gramine-64m-error-dcap"
        base = f"BASE={registry.host}/team/tiny-gramine-base:1.0"
        assert docker(engine, log, *build, "--build-arg", base, context) == 0, log.read_text()
        # failure: a base that cannot be made, a cell that is not signed
        write_project(in_folder, registry.host, ", no-such-package")
        assert imagekit(log, "build", "--all", *options, *push, *meta) == 4
        write_project(in_folder, registry.host)
        assert imagekit(log, "render", "-o", "rendered", "--engine", "docker") == 0
        assert docker(engine, log, *build, "--build-arg", base, context) != 0
    save_everything(engine, places["saved"])
    assert "no-such-package" in log.read_text()
    assert ("classic builder" in log.read_text()) == (builder == "classic")
    assert any(places["sent"].iterdir())

    needles = private_needles(Path("key.pem"), PASSPHRASE)
    search = KeySearch(needles, places["search"])
    assert search.in_files(Path("key.pem"))  # it would be found
    assert search.in_files(*searched(places, engine, registry, in_folder)) == []
    assert search.inside_streams(places["sent"]) == []


def test_the_same_search_finds_the_key_of_the_classic_way(places, in_folder, engine, registry):
    log = places["logs"] / "log"
    context = in_folder / "classic"
    context.mkdir()
    (context / "Dockerfile").write_text(CLASSIC.format(base="imagekit-builder:bookworm"))
    assert imagekit(log, "key", "generate", context / "enclave-key.pem") == 0
    sent = ["docker", "build", "--tag", "classic:1", str(context)]
    subprocess.run(sent, check=True, capture_output=True)  # through the recording socket
    save_everything(engine, places["saved"])

    search = KeySearch(private_needles(context / "enclave-key.pem"), places["search"])
    final = places["safe"] / "final.tar"
    engine.docker("save", "--output", str(final), "classic:1")
    assert not search.in_files(final)  # it looks clean, yet:
    assert search.in_files(store(engine))
    assert search.in_files(places["saved"])
    assert search.in_files(places["sent"])


def test_a_key_on_a_command_line_or_in_an_environment_is_seen(places):
    """The watch over the processes can fail, too."""
    with watching(places["processes"]):
        subprocess.run(["sleep", "0.3"], env={"SECRET": PASSPHRASE.decode()}, check=True)
        subprocess.run(["sh", "-c", "sleep 0.3; :", "in argv " + PASSPHRASE.decode()], check=True)
    seen = (places["processes"] / "processes").read_bytes()
    assert PASSPHRASE in seen
    assert b"in argv " + PASSPHRASE in seen


def test_a_key_in_a_layer_inside_a_stream_is_seen(tmp_path):
    """The search inside of streams can fail, too."""
    (tmp_path / "search").mkdir()
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "1").write_bytes(
        b"POST /load" + gzip.compress(PASSPHRASE, mtime=0) + b".."
    )
    search = KeySearch([PASSPHRASE, *(b"%040d" % n for n in range(60))], tmp_path / "search")
    assert search.in_files(tmp_path / "sent") == []
    assert search.inside_streams(tmp_path / "sent") == [str(tmp_path / "sent" / "1")]
