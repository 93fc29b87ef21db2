"""A distribution made by a container engine, for the same base that is made without one."""

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import EngineError, ImagekitError
from imagekit.files import disk_error
from imagekit.images.bases.builder import builder_name, make_builder
from imagekit.images.bases.debian import Bootstrap, bootstrap, package_hint
from imagekit.images.bases.recipe import Ingredients
from imagekit.images.cache import Cache
from imagekit.images.daemon.build import build_image
from imagekit.images.daemon.connect import Daemon, connect, find
from imagekit.images.daemon.export import export_image
from imagekit.images.daemon.faults import UnusableError
from imagekit.images.daemon.images import inspect_image
from imagekit.images.daemon.load import load_image
from imagekit.images.progress import NO_PROGRESS, Progress, Talk
from imagekit.images.references import DaemonReference
from imagekit.release.base_context import root_context, root_of_image
from imagekit.spec.base_values import BaseSpec


def choose_root(engine: str, project_dir: Path, cache: Cache, talk: Talk) -> Bootstrap:
    """Choose who makes a distribution's root, and say who.

    Args:
        engine: ``docker``; or ``auto``: an engine if one answers that this user may use.
        project_dir: folder that paths in the spec are relative to.
        cache: what is kept between runs.
        talk: told what was chosen.

    Raises:
        EngineError: no engine answers (``docker``), or it cannot be used.
    """
    why = "no container engine answers"
    try:
        daemon = connect() if engine == "docker" else find()
    except UnusableError as error:
        if engine == "docker":
            raise
        daemon, why = None, error.problem
    if daemon is None:
        talk(f"engine: assemble ({why})")
        return bootstrap
    talk(f"engine: docker ({daemon.name})")
    return EngineRoot(daemon, cache, project_dir, talk)


@dataclass(frozen=True)
class EngineRoot:
    """Makes a distribution's root in an engine: a :class:`imagekit.images.bases.debian.Bootstrap`.

    Attributes:
        daemon: the engine.
        cache: what is kept between runs.
        project_dir: folder that paths in the spec are relative to.
        talk: told what is used.
    """

    daemon: Daemon
    cache: Cache
    project_dir: Path
    talk: Talk

    def __call__(
        self, ingredients: Ingredients, folder: Path, progress: Progress = NO_PROGRESS
    ) -> Path:
        """Build the first stages of the base's Dockerfile and bring the result here as a tar file.

        The engine keeps what it caches, but no image.

        Args:
            ingredients: what to make it from.
            folder: an empty scratch folder.
            progress: told the steps.

        Raises:
            InputError: no builder image, or the disk refuses.
            EngineError: the build failed, with the step and its last lines.
        """
        ensure_builder(
            ingredients.spec, self.daemon, self.project_dir, self.cache, self.talk, progress
        )
        context = folder / "context"
        root_context(ingredients).write(context)
        # Builds of one context have one image: with a name of its own, each run keeps it as long
        # as it needs it, and takes away no more than that name.
        name = f"imagekit-root:{secrets.token_hex(8)}"
        try:
            image_id = self._build(context, name, progress)
            # Read into the scratch folder, not the cache: another run may export the same image.
            own = Cache(folder / "export")
            image = export_image(self.daemon, DaemonReference(image_id), own, progress)
            root, target = root_of_image(image, own), folder / "root.tar"
            try:
                root.rename(target)
            except OSError as error:
                raise disk_error(error, target, "write") from None
        finally:
            with suppress(ImagekitError):
                self.daemon.untag(name)
        return target

    def _build(self, context: Path, name: str, progress: Progress) -> str:
        try:
            return build_image(self.daemon, context, tag=name, progress=progress, talk=self.talk)
        except EngineError as error:
            raise EngineError(error.problem, package_hint(error.problem) or error.hint) from None


def ensure_builder(
    spec: BaseSpec,
    daemon: Daemon,
    project_dir: Path,
    cache: Cache,
    talk: Talk,
    progress: Progress = NO_PROGRESS,
) -> None:
    """See to it that the engine has the builder image, where the project file names none.

    Raises:
        InputError: it has not, and mmdebstrap is not installed, which could make one.
        EngineError: mmdebstrap, the network or the engine failed.
    """
    if spec.distribution.builder is not None:
        return  # the engine pulls it, by its digest
    name = builder_name(spec)
    with daemon.talk(f"look for the image {name}") as client:
        if inspect_image(client, name) is not None:
            return
    talk(f"making the builder image {name}, once")
    load_image(daemon, make_builder(spec, project_dir, cache, progress), [name], progress)
