"""Images' runtimes laid out and started natively: real Java, Spark and Flink, the very same bytes.

:func:`image` gives a root (:mod:`private_root`) in which all stands where an image has it: the
launcher and its doors, ``launch.json``, the jar without processes, logging, manifests, Spark or
Flink, Java. :meth:`Image.start` starts a container of it: the door, with words and variables.

Ways: NATIVE has no Gramine. STAND_IN goes through the quickstart's stand-in for ``gramine-direct``,
which takes program, arguments and environment from the manifest alone, with the folder that Gramine
shows in place. GRAMINE is a real ``gramine-direct``, where there is one.
"""

import functools
import importlib.util
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
from runtime_parts import FlinkRuntime, SparkRuntime

from imagekit.release.launching import ARCH_LIBDIR, sealed_environment
from imagekit.render.templates import render_text, template_folder
from imagekit.runtime.files import runtime_files
from imagekit.runtime.launch import launch_spec
from imagekit.runtime.paths import (
    APP,
    ENTRYPOINT,
    FLINK_ENTRYPOINT,
    LAUNCH_SPEC,
    LAUNCHER,
    LOG_FOLDER,
    NO_FORK_JAR,
)
from imagekit.runtime.place import SIZE_VARIABLE
from imagekit.runtime.request import VARIABLE

NATIVE, STAND_IN, GRAMINE = "native", "stand-in", "gramine-direct"
COMMANDS = (*private_root.COMMANDS, "tar", "keytool")
"""What a test with these needs, for its mark."""
LIMIT = 240.0
"""Seconds that a step may take on a busy machine."""
ENCLAVE_SIZE = "16G"
PASSWORD = "only-for-tests"

STAND_IN_FOLDER = "/opt/stand-in"

_STAND_IN_SOURCE = Path(__file__).parents[2] / "examples" / "quickstart" / "make_standin.py"
_GRAMINE = f"{ARCH_LIBDIR}/gramine"
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
        variables = {"PATH": _PATH, "SGX_ENABLED": "true", "SGX_MODE": "direct"}
        if way == STAND_IN:
            self.run("mkdir", "-p", "/dev/attestation/keys")
            return {**variables, "PATH": f"{STAND_IN_FOLDER}:{_PATH}"}
        manifest = "/ppml/bash.manifest"
        tool = [sys.executable, "-m", "imagekit", "tool", "gramine-manifest"]
        self.run(*tool, manifest, f"{manifest}.whole")
        self.run("mv", f"{manifest}.whole", manifest)
        return variables

    def ends(self, *words: str, **options: Any) -> tuple[int, str]:
        """Start a container and wait for its end; gives its status, and all that it said."""
        with self.start(*words, **options) as running:
            return running.end()


@contextmanager
def image(
    runtime: SparkRuntime | FlinkRuntime, profile: str = "strict", **launch: Any
) -> Iterator[Image]:
    """Have an image with this runtime.

    Args:
        runtime: real Spark or Flink, with its Java.
        profile: ``strict`` or ``compat``.
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
    env = _sealed(base) if profile == "strict" else {}
    with private_root.private_root() as process:
        made = Image(process)
        for source, target in ((runtime.home, home), (runtime.java, java)):
            made.run("mkdir", "-p", target)
            made.run("mount", "--bind", str(source), target)
        files = {path: data for path, (data, _) in runtime_files().items()}
        files |= {LAUNCH_SPEC: launch_spec(profile=profile, env=env, **{**facts, **launch})}
        files |= {"/ppml/bash.manifest": _manifest(base, profile), **_java_files()}
        made.write({**files, "/root/.keep": b""})
        made.write({path: files[path] for path in (ENTRYPOINT, FLINK_ENTRYPOINT)}, 0o755)
        made.write(_stand_in(), 0o755)
        yield made


def _sealed(base: SimpleNamespace) -> dict[str, str]:
    """The environment that a build seals."""
    nothing = SimpleNamespace(env=(), passthrough=())
    return sealed_environment(base, SimpleNamespace(launch=nothing))


def _java_files() -> dict[str, bytes]:
    """What a build adds for JVMs."""
    folder = template_folder("java")
    logs = {
        f"{LOG_FOLDER}/{path.parent.name}/{path.name}": path.read_bytes()
        for path in folder.glob("log/*/*")
    }
    return {NO_FORK_JAR: (folder / "no-fork.jar").read_bytes(), **logs}


def _manifest(base: SimpleNamespace, profile: str) -> str:
    """The manifest that a build makes of the template, before trusted files are listed."""
    name = f"{'strict' if profile == 'strict' else 'bash'}.manifest.template"
    python = os.path.realpath("/usr/bin/python3")
    etc = "/etc/java-17-openjdk"
    variables = {
        "gramine": SimpleNamespace(
            runtimedir=lambda: f"{_GRAMINE}/runtime/glibc", libos=f"{_GRAMINE}/libsysdb.so"
        ),
        "log_level": "error",
        "enclave_size": ENCLAVE_SIZE,
        "max_threads": 1024,
        "edmm": False,
        "debug": False,
        "attestation": "none",
        "isv_prod_id": 1,
        "isv_svn": 3,
        "arch_libdir": ARCH_LIBDIR,
        "execdir": "/usr/bin",
        "python": python,
        "python_lib": f"/usr/lib/{Path(python).name}",
        "java_home": base.java_home,
        "jdk_home": base.java_home,
        "java_etc": [etc] if Path(etc).is_dir() else [],
        "spark_home": base.spark_home,
        "flink_home": base.flink_home,
        "launcher": LAUNCHER,
        "app": APP,
        "argv": [],
        "env": {**_sealed(base), SIZE_VARIABLE: ENCLAVE_SIZE} if profile == "strict" else {},
        "passthrough": [VARIABLE],
        "trusted": [],
        "encrypted": [],
    }
    return render_text((template_folder("gramine") / name).read_text(), variables, name)


@functools.cache
def _stand_in() -> dict[str, bytes]:
    """The launchers of the quickstart's stand-in for Gramine."""
    spec = importlib.util.spec_from_file_location("make_standin", _STAND_IN_SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        f"{STAND_IN_FOLDER}/{Path(path).name}": data
        for path, (_, data) in module.content().items()
        if path.startswith("usr/bin/")
    }


@functools.cache
def keystore(kind: str) -> bytes:
    """Give a keystore with one key for TLS, its password :data:`PASSWORD`.

    Args:
        kind: ``JKS`` or ``PKCS12``.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = ["-genkeypair", "-alias", "test", "-dname", "CN=localhost", "-keyalg", "RSA"]
        store = ["-keystore", f"{folder}/store", "-storetype", kind, "-storepass", PASSWORD]
        command = ["keytool", *names, "-keysize", "2048", *store, "-keypass", PASSWORD]
        subprocess.run(command, check=True, capture_output=True)
        return Path(folder, "store").read_bytes()


def ways() -> list[Any]:
    """Give the ways as parameters of a test; a real Gramine is left out, with the reason, where
    there is none."""
    missing = pytest.mark.skipif(
        shutil.which("gramine-direct") is None, reason="missing on this machine: gramine-direct"
    )
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
