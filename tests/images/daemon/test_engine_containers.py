"""Containers that are thrown away, and engines without room."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_parts import TINY, Engine, connected, own_dockerd, provide_tiny

from imagekit.errors import EngineError, InputError
from imagekit.images.cache import Cache
from imagekit.images.compose import new_image
from imagekit.images.daemon.build import build_image
from imagekit.images.daemon.containers import ThrowAway
from imagekit.images.daemon.load import load_image
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.progress import NO_PROGRESS


def test_files_in_a_program_run_files_out(any_engine: Engine) -> None:
    script = b'#!/bin/sh\ncat /new/folder/file > /out; echo "said $A"; echo wrong >&2; exit 3\n'
    with ThrowAway(connected(), TINY) as container:
        container.put({"/new/folder/file": (b"content", 0o600), "/bin/script": (script, 0o755)})
        done = container.run(["/bin/script"], env={"A": "b c"})
        assert done.code == 3
        assert set(done.output_tail.splitlines()) == {"said b c", "wrong"}
        assert container.get("/out") == b"content"
        container.run(["/bin/sh", "-c", "ls -l /new/folder/file > /listed"])
        assert container.get("/listed").startswith(b"-rw-------")
        assert container.run(["/no/such/program"]).code in (126, 127)
        assert container.run(["true"]).code == 0
        assert container.run(["/bin/sh", "-c", "head -c 100000 /bin/sh; exit 1"]).code == 1
        for missing in ("/none", "/new/folder"):
            with pytest.raises(InputError):
                container.get(missing)
    assert any_engine.containers() == []


def test_links_are_followed(engine: Engine, tmp_path: Path) -> None:
    tree = tmp_path / "context" / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "c").write_bytes(b"here")
    for name, target in (("d/a", "../b"), ("b", "/c"), ("loop", "loop")):
        (tree / name).symlink_to(target)
    (tree.parent / "Dockerfile").write_text(f"FROM {TINY}\nCOPY tree /\n")
    image = build_image(connected(), tmp_path / "context", progress=NO_PROGRESS, talk=print)
    with ThrowAway(connected(), image) as container:
        assert container.get("/d/a") == b"here"
        with pytest.raises((InputError, EngineError)):
            container.get("/loop")


def test_there_is_no_network_and_no_right(any_engine: Engine) -> None:
    with ThrowAway(connected(), TINY) as container:
        links = container.run(["cat", "/proc/net/dev"]).output_tail
        assert [line.split(":")[0].strip() for line in links.splitlines()[2:]] == ["lo"]
        status = container.run(["cat", "/proc/self/status"]).output_tail
        assert "CapEff:\t0000000000000002" in status
        assert "NoNewPrivs:\t1" in status


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_is_gone_whatever_happens(any_engine: Engine, end: type[BaseException]) -> None:
    with pytest.raises(end), ThrowAway(connected(), TINY):
        assert len(any_engine.containers()) == 1
        raise end
    assert any_engine.containers() == []


def test_it_is_gone_when_this_process_is_killed(any_engine: Engine) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with ThrowAway(connected(), TINY):
            os.write(writing, b"x")
            time.sleep(60)
        os._exit(1)
    assert os.read(reading, 1) == b"x"
    assert len(any_engine.containers()) == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    end = time.monotonic() + 15
    while any_engine.containers() and time.monotonic() < end:
        time.sleep(0.1)
    assert any_engine.containers() == []


def test_an_image_that_is_not_there_or_has_no_shell(any_engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="start a container"), ThrowAway(connected(), "no/such:1"):
        pass
    cache = Cache(tmp_path / "cache")
    image = new_image(
        [write_layer([LayerFile("/x", b"x")], cache.blobs, 0)], cache.blobs, created=0
    )
    loaded = load_image(connected(), image, ["registry.example/x:1"], NO_PROGRESS)
    with (
        pytest.raises(EngineError, match="start a container"),
        ThrowAway(connected(), loaded.image_id),
    ):
        pass
    assert any_engine.containers() == []


# -- no room


@pytest.fixture
def small_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine with 40 MiB for everything."""
    with tempfile.TemporaryDirectory(prefix="ikt-", ignore_cleanup_errors=True) as name:
        mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", name]
        subprocess.run(mount, check=True)
        try:
            with own_dockerd(Path(name)) as engine:
                monkeypatch.setenv("DOCKER_HOST", engine.host)
                yield provide_tiny(engine)
        finally:
            subprocess.run(["umount", name], check=False, capture_output=True)


@pytest.mark.integration("dockerd", "mount", root=True)
def test_no_room(
    small_engine: Engine, no_buildx: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache")
    layer = write_layer([LayerFile("/x", os.urandom(45 << 20))], cache.blobs, 0)
    image = new_image([layer], cache.blobs, created=0)
    with pytest.raises(EngineError, match="no space left on device") as caught:
        load_image(connected(), image, ["registry.example/x:1"], NO_PROGRESS)
    root = connected().root
    assert root is not None
    assert root in caught.value.hint
    assert "MiB are free there" in caught.value.hint
    (tmp_path / "context").mkdir()
    text = f"FROM {TINY}\nRUN head -c 60000000 /dev/zero > /x\n"
    (tmp_path / "context" / "Dockerfile").write_text(text)
    with pytest.raises(EngineError, match=r"step 2/2 .* No space left") as caught:
        build_image(connected(), tmp_path / "context", progress=NO_PROGRESS, talk=print)
    assert root in caught.value.hint
    assert small_engine.containers() == []
