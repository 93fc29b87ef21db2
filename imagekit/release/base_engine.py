"""A distribution made by a container engine, for the same base that is made without one."""

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
from imagekit.images.daemon.images import inspect_image
from imagekit.images.daemon.load import load_image
from imagekit.images.progress import NO_PROGRESS, Progress, Talk
from imagekit.images.references import DaemonReference
from imagekit.release.base_context import root_context, root_of_image
from imagekit.spec.base_values import BaseSpec


def choose_root(engine: str, project_dir: Path, cache: Cache, talk: Talk) -> Bootstrap:
    """Choose who makes a distribution's root, and say who.

    Args:
        engine: ``docker``; or ``auto``: an engine if one answers.
        project_dir: folder that paths in the spec are relative to.
        cache: what is kept between runs.
        talk: told what was chosen.

    Raises:
        EngineError: no engine answers (``docker``), or it cannot be used.
    """
    daemon = connect() if engine == "docker" else find()
    if daemon is None:
        talk("engine: assemble (no container engine answers)")
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
        try:
            image_id = build_image(self.daemon, context, progress=progress, talk=self.talk)
        except EngineError as error:
            raise EngineError(error.problem, package_hint(error.problem) or error.hint) from None
        try:
            reference = DaemonReference(image_id)
            image = export_image(self.daemon, reference, self.cache, progress)
            root, target = root_of_image(image, self.cache), folder / "root.tar"
            try:
                root.rename(target)  # out of the cache: nothing else needs it
            except OSError as error:
                raise disk_error(error, target, "write") from None
        finally:
            self._remove(image_id)
        return target

    def _remove(self, image_id: str) -> None:
        with (
            suppress(ImagekitError),
            self.daemon.talk(f"remove the image {image_id}") as client,
        ):
            client.remove_image(image_id)


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
