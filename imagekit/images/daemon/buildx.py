"""Building with BuildKit through ``docker buildx build``.

The API's BuildKit protocol is not in docker-py (docker-py issue 2230), so the docker command is
used: the first one on PATH that has the plugin, as another one may come before it that has not.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from imagekit.errors import EngineError
from imagekit.images.bases.process import run_program
from imagekit.images.daemon.buildlog import BuildLog
from imagekit.images.daemon.connect import Daemon
from imagekit.images.daemon.images import inspect_image
from imagekit.images.daemon.order import BuildOrder

_SECONDS = 20.0
_PASSED = (
    "PATH", "HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR",
)  # fmt: skip
_FIXED = {
    "LC_ALL": "C.UTF-8",
    "NO_COLOR": "1",
    "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",  # with them an image becomes an index
    "BUILDX_METADATA_PROVENANCE": "disabled",
}
_LINE = re.compile(r"#(\d+) (.*)")
_STEP = re.compile(r"\[(?:(?P<stage>\S+) +)?(?P<number>\d+)/(?P<total>\d+)\] (?P<what>.*)")
_OUTPUT = re.compile(r"\d+\.\d+ ?(.*)")
_CODE = re.compile(r"exit code: (\d+)")
_FAILED = re.compile(r"ERROR: (?:failed to build: )?(?:failed to solve: )?(.*)")


@dataclass(frozen=True)
class Buildx:
    """A docker command that has the plugin buildx: its path, and the plugin's version."""

    program: str
    version: str


def find_buildx(daemon: Daemon) -> Buildx | None:
    """The first docker command on PATH that has buildx, or None."""
    for folder in os.get_exec_path():
        program = Path(folder) / "docker"
        if not os.access(program, os.X_OK) or not program.is_file():
            continue
        try:
            done = subprocess.run(
                [str(program), "buildx", "version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=_environment(daemon, {}),
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        words = done.stdout.split()
        if done.returncode == 0 and len(words) > 1:
            return Buildx(str(program), words[1])
    return None


def build_with_buildx(daemon: Daemon, buildx: Buildx, order: BuildOrder, log: BuildLog) -> str:
    """Build with BuildKit in the engine itself; gives the image's id.

    Proxies are named in the argument list and their addresses taken from the environment.

    Raises:
        EngineError: a step failed, or buildx did.
    """
    with TemporaryDirectory(prefix="imagekit-") as folder:
        work = Path(folder)
        answer = _Answer(log)
        done = run_program(
            _arguments(daemon, buildx, order, work / "metadata.json"),
            env=_environment(daemon, order.proxies),
            folder=work,
            on_line=answer.read,
        )
        if done.code != 0:
            reason = answer.reason or f"docker buildx ended with {done.code}"
            found = _CODE.search(reason)
            raise log.failed(daemon, answer.failed, reason, int(found[1]) if found else None)
        image_id = _image_id(work / "metadata.json")
    with daemon.talk("look at the image") as client:
        inspected = inspect_image(client, image_id) if image_id else None
    if inspected is None:
        raise EngineError(
            f"{buildx.program} buildx ended well, but {daemon} does not have the image",
            "look at the engine's log, and at docker buildx ls",
        )
    return str(inspected["Id"])


def _image_id(metadata: Path) -> str:
    """The digest buildx wrote down: the image's id, whichever way the engine keeps images."""
    with suppress(OSError, ValueError):
        found = json.loads(metadata.read_bytes())
        if isinstance(found, dict):
            return str(found.get("containerimage.digest", ""))
    return ""


def _arguments(daemon: Daemon, buildx: Buildx, order: BuildOrder, metadata: Path) -> list[str]:
    # The builder inside the engine: another one, chosen with "buildx use", builds elsewhere.
    builder = daemon.child_env.get("DOCKER_CONTEXT", "default")
    words = [buildx.program, "buildx", "build", "--builder", builder, "--progress", "plain"]
    words += ["--metadata-file", str(metadata), "--file", str(order.context / order.dockerfile)]
    if order.target is not None:
        words += ["--target", order.target]
    if order.tag is not None:
        words += ["--tag", order.tag]
    for name, value in sorted(order.build_args.items()):
        words += ["--build-arg", f"{name}={value}"]
    for name in sorted(order.proxies):
        words += ["--build-arg", name]
    for name, value in sorted(order.labels.items()):
        words += ["--label", f"{name}={value}"]
    return [*words, str(order.context)]


def _environment(daemon: Daemon, proxies: Mapping[str, str]) -> dict[str, str]:
    """What the docker command needs to know, and nothing else of ours."""
    known = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return {**known, **proxies, **_FIXED, **daemon.child_env}


class _Answer:
    """Reads the lines of ``--progress plain``.

    Attributes:
        failed: the key of the step that failed.
        reason: why.
    """

    def __init__(self, log: BuildLog) -> None:
        self._log = log
        self.failed: str | None = None
        self.reason = ""

    def read(self, text: str) -> None:
        """Take one line."""
        found = _LINE.fullmatch(text)
        if found is None:
            last = _FAILED.match(text)
            if last and not self.reason:
                self.reason = last[1]
            return
        step, said = found[1], found[2]
        output = _OUTPUT.fullmatch(said)
        word = said.split(" ", 1)[0]
        if output:
            self._log.line(step, output[1])
        elif word in ("DONE", "CACHED", "CANCELED"):
            self._log.end(step)
        elif word == "ERROR:":
            self.failed, self.reason = step, said.removeprefix("ERROR: ")
            self._log.end(step)
        elif not self._log.knows(step):
            self._begin(step, said)

    def _begin(self, step: str, said: str) -> None:
        found = _STEP.fullmatch(said)
        if found is None:
            self._log.begin(step, said, shown=False)
            return
        stage = f" of {found['stage']}" if found["stage"] else ""
        self._log.begin(step, f"step {found['number']}/{found['total']}{stage} ({found['what']})")
