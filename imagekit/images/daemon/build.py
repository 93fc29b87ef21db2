"""Building an image from a Dockerfile: with BuildKit where a docker command has it, else without.

What is built with never gets a secret: the build arguments that are always passed are those for
proxies, which builders know and keep out of the image's history, and a proxy's password is kept
out of argument lists and messages.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from imagekit.errors import InputError
from imagekit.images.daemon.buildlog import BuildLog, Cleaner
from imagekit.images.daemon.buildx import build_with_buildx, find_buildx
from imagekit.images.daemon.classic import build_classic
from imagekit.images.daemon.connect import Daemon
from imagekit.images.daemon.order import PROXIES, BuildOrder
from imagekit.images.progress import Progress, Talk


def build_image(
    daemon: Daemon,
    context: Path,
    *,
    dockerfile: str = "Dockerfile",
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
    tag: str | None = None,
    labels: Mapping[str, str] | None = None,
    keep_steps: bool = True,
    progress: Progress,
    talk: Talk,
) -> str:
    """Build an image in an engine.

    An interruption stops the build and leaves no container. After a success without BuildKit the
    images of stages that were thrown away are removed.

    Args:
        daemon: the engine.
        context: the folder that is sent.
        dockerfile: the Dockerfile's path in it.
        target: the stage to build, the last one if None.
        build_args: build arguments; no secrets, they may stay in the image's history.
        tag: a name for the image.
        labels: labels for the image.
        keep_steps: whether the classic builder keeps the steps of a build that fails, so that the
            next one goes on there; a build that never is the same twice has no use for them.
        progress: shown each step.
        talk: told which builder builds, and why.

    Returns:
        The image's id.

    Raises:
        EngineError: a step failed (with its last lines), or the engine did.
        InputError: no such folder or Dockerfile, or something in it cannot be read.
    """
    if not (context / dockerfile).is_file():
        raise InputError(f"no such file: {context / dockerfile}", "name a Dockerfile that is there")
    proxies = {name: os.environ[name] for name in PROXIES if os.environ.get(name)}
    order = BuildOrder(
        context.absolute(),
        dockerfile,
        target,
        dict(build_args or {}),
        proxies,
        tag,
        dict(labels or {}),
        keep_steps,
    )
    buildx = None if daemon.podman else find_buildx(daemon)
    with BuildLog(progress, Cleaner(proxies.values())) as log:
        if buildx is not None:
            talk(f"building in {daemon} with BuildKit ({buildx.program} buildx {buildx.version})")
            return build_with_buildx(daemon, buildx, order, log)
        if daemon.podman:
            talk(f"building in {daemon}")
        else:
            talk(
                f"building in {daemon} with its classic builder: "
                "no docker command on PATH has buildx"
            )
        return build_classic(daemon, order, log, progress)
