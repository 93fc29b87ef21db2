"""Images' runtimes laid out and started natively: real Java, Spark and Flink, the very same bytes.

:func:`image` gives a root (:mod:`private_root`) in which all stands where an image has it: the
launcher and its doors, ``launch.json``, the jar without processes, logging, manifests, Spark or
Flink, Java. :meth:`Image.start` starts a container of it: the door, with words and variables.

Ways: NATIVE has no Gramine. STAND_IN goes through the quickstart's stand-in for ``gramine-direct``,
which takes program, arguments and environment from the manifest alone, with the folder that Gramine
shows in place. GRAMINE is a real ``gramine-direct``, where there is one.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import private_root
import pytest
from image_layout import MANIFEST, STAND_IN_FOLDER, java_files, manifest, sealed, stand_in
from runtime_parts import FlinkRuntime, SparkRuntime

from imagekit.runtime.files import runtime_files
from imagekit.runtime.launch import launch_spec
from imagekit.runtime.paths import ENTRYPOINT, FLINK_ENTRYPOINT, LAUNCH_SPEC

NATIVE, STAND_IN, GRAMINE = "native", "stand-in", "gramine-direct"
COMMANDS = (*private_root.COMMANDS, "tar")
"""What a test with these needs, for its mark."""
LIMIT = 240.0
"""Seconds that a step may take on a busy machine."""

_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
_OWN_TMP = 'mount -t tmpfs tmpfs /tmp && exec "$@"'


class Running:
    """A container that was started.

    Attributes:
        pid: of the process that was started, which became the program.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, process_one: bool) -> None:
        self.pid = process.pid
        self._process = process
        self._log = log
        self._process_one = process_one

    def output(self) -> str:
        """Give what it has said so far."""
        return self._log.read_text(errors="replace")

    def status(self) -> int | None:
        """Give how it ended, None if it has not."""
        return self._process.poll()

    def wait_for(self, *texts: str, seconds: float = LIMIT) -> str:
        """Wait until it has said one of these; gives all that it said. Fails if it ends before."""
        end = time.monotonic() + seconds
        while True:
            ended = self._process.poll() is not None
            said = self.output()
            if any(text in said for text in texts):
                return said
            assert not ended, f"ended with {self._process.returncode}: {said[-6000:]}"
            assert time.monotonic() < end, f"never said {texts}: {said[-6000:]}"
            time.sleep(0.05)

    def end(self, seconds: float = LIMIT) -> tuple[int, str]:
        """Wait for its end; gives its status, and all that it said."""
        try:
            return self._process.wait(seconds), self.output()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running: {self.output()[-6000:]}") from None

    def terminate(self) -> None:
        """Send it SIGTERM, as an engine or Kubernetes does: to process 1, if it has one."""
        pid = self.pid
        if self._process_one:
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@dataclass
class Image:
    """An image laid out in a root of its own.

    Attributes:
        process: what holds the root, for :mod:`private_root`.
    """

    process: int

    def write(self, files: Mapping[str, bytes | str], mode: int = 0o644) -> None:
        """Write files, path → content."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for path, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                info = tarfile.TarInfo(path.lstrip("/"))
                info.size, info.mode = len(data), mode
                archive.addfile(info, io.BytesIO(data))
        command = [*private_root.nsenter(self.process), "tar", "--extract", "--no-same-owner"]
        subprocess.run(command, input=out.getvalue(), check=True)

    def run(self, *command: str) -> str:
        """Run a command of the machine in the image's root; gives what it says."""
        words = [*private_root.nsenter(self.process), *command]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    @contextmanager
    def start(
        self,
        *words: str,
        way: str = NATIVE,
        env: Mapping[str, str] | None = None,
        entry: tuple[str, ...] = (ENTRYPOINT,),
        around: tuple[str, ...] = (),
        process_one: bool = False,
    ) -> Iterator[Running]:
        """Start a container: the door with these words, an own ``/tmp``, this environment alone.

        Args:
            words: arguments of the container.
            way: NATIVE, STAND_IN or GRAMINE; the variables for it are added.
            env: variables.
            entry: another door, or another program.
            around: a command that runs the one after it.
            process_one: whether the door is process 1, as in a container.
        """
        given = {**self._prepare(way), **(env or {})}
        spaces = ["unshare", "--mount"]
        if process_one:
            spaces += ["--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*private_root.nsenter(self.process), *spaces, "sh", "-c", _OWN_TMP, "sh"]
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [*command, *around, *entry, *words],
                    env=given,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            running = Running(process, log, process_one)
            try:
                yield running
            finally:
                running.kill()

    def _prepare(self, way: str) -> dict[str, str]:
        """Have what a way needs; gives the variables that choose it.

        An image that was started through the stand-in has the folder that Gramine shows, so it is
        for no other way after that.
        """
        if way == NATIVE:
            return {"PATH": _PATH, "SGX_ENABLED": "false"}
        if way == GRAMINE:
            self._list_trusted_files()
        variables = {"PATH": _PATH, "SGX_ENABLED": "true", "SGX_MODE": "direct"}
        if way == STAND_IN:
            self.run("mkdir", "-p", "/dev/attestation/keys")
            return {**variables, "PATH": f"{STAND_IN_FOLDER}:{_PATH}"}
        here = Path(shutil.which("gramine-direct") or "").parent
        return {**variables, "PATH": f"{here}:{_PATH}"}

    def _list_trusted_files(self) -> None:
        """Complete the manifest as a build does, unless it is complete."""
        if "sha256" not in self.run("cat", MANIFEST):
            tool = [sys.executable, "-m", "imagekit", "tool", "gramine-manifest"]
            self.run(*tool, MANIFEST, f"{MANIFEST}.whole")
            self.run("mv", f"{MANIFEST}.whole", MANIFEST)

    def ends(self, *words: str, **options: Any) -> tuple[int, str]:
        """Start a container and wait for its end; gives its status, and all that it said."""
        with self.start(*words, **options) as running:
            return running.end()


@contextmanager
def image(
    runtime: SparkRuntime | FlinkRuntime,
    profile: str = "strict",
    files: Mapping[str, bytes] | None = None,
    **launch: Any,
) -> Iterator[Image]:
    """Have an image with this runtime.

    Args:
        runtime: real Spark or Flink, with its Java.
        profile: ``strict`` or ``compat``.
        files: more files, path → content; the manifest trusts them.
        launch: keys of ``launch.json`` besides those that follow from the runtime.
    """
    product = "spark" if isinstance(runtime, SparkRuntime) else "flink"
    home, java = f"/opt/{product}", "/opt/java"
    facts = {
        "java": {"home": java, "major": runtime.java_major},
        product: {"home": home, "version": runtime.version},
    }
    base = SimpleNamespace(java_home=java, spark_home="", flink_home="")
    setattr(base, f"{product}_home", home)
    env = sealed(base) if profile == "strict" else {}
    more = files or {}
    own: dict[str, bytes | str] = {path: data for path, (data, _) in runtime_files().items()}
    own |= {LAUNCH_SPEC: launch_spec(profile=profile, env=env, **{**facts, **launch})}
    own |= {MANIFEST: manifest(base, profile, sorted(more)), **java_files(), **more}
    with private_root.private_root() as process:
        made = Image(process)
        for source, target in ((runtime.home, home), (runtime.java, java)):
            made.run("mkdir", "-p", target)
            made.run("mount", "--bind", str(source), target)
        made.write(own)
        made.write({path: own[path] for path in (ENTRYPOINT, FLINK_ENTRYPOINT)}, 0o755)
        made.write(stand_in(), 0o755)
        yield made


def ways() -> list[Any]:
    """Give the ways as parameters of a test; without a real Gramine that is skipped, and said."""
    found = shutil.which("gramine-direct")
    real = found is not None and b"STAND-IN" not in Path(found).read_bytes()
    missing = pytest.mark.skipif(not real, reason="missing on this machine: gramine-direct")
    return [NATIVE, STAND_IN, pytest.param(GRAMINE, marks=missing)]


class CommandLines:
    """Looks at the command lines of an image's processes, as ``ps`` does, while its block runs.

    Attributes:
        seen: each that was there at any look.
    """

    def __init__(self, made: Image) -> None:
        self.seen: set[bytes] = set()
        self._space = Path(f"/proc/{made.process}/ns/net").stat().st_ino
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "CommandLines":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(0.02):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if (folder / "ns" / "net").stat().st_ino == self._space:
                        self.seen.add((folder / "cmdline").read_bytes())
