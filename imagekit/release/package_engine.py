"""Packages installed on an image by a container engine."""

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import EngineError, ImagekitError, UsageError
from imagekit.files import disk_error
from imagekit.images.bases.debian import package_hint
from imagekit.images.bases.install_on import Installation
from imagekit.images.cache import Cache
from imagekit.images.daemon.build import build_image
from imagekit.images.daemon.connect import Daemon, connect
from imagekit.images.daemon.export import export_image
from imagekit.images.daemon.load import load_image
from imagekit.images.progress import NO_PROGRESS, Progress, Talk
from imagekit.images.references import DaemonReference
from imagekit.release.base_context import root_of_image
from imagekit.release.derived_context import changes_context


@dataclass(frozen=True)
class EnginePackages:
    """Installs packages on an image: a :class:`imagekit.images.bases.install_on.Installer`.

    Attributes:
        engine: who was asked for: ``auto`` and ``docker`` are the same here.
        talk: told what is used, and what the result depends on.
    """

    engine: str
    talk: Talk

    def __call__(self, order: Installation, folder: Path, progress: Progress = NO_PROGRESS) -> Path:
        """Have the image run in an engine, and bring what the installation changed.

        The engine gets the image under a name of this run alone and loses it again; it keeps what
        it caches.

        Args:
            order: what to install.
            folder: an empty scratch folder.
            progress: told the steps.

        Raises:
            UsageError: no engine is to be used.
            InputError: the disk refuses.
            EngineError: no engine answers, or the installation failed, with its last lines.
        """
        daemon = self._connect()
        self.talk(
            "packages come from the archives that the image names, as they are today: the base's "
            "digest depends on the day, unless these archives are snapshots"
        )
        run = secrets.token_hex(8)
        below, name = f"imagekit-below:{run}", f"imagekit-packages:{run}"
        context = folder / "context"
        changes_context(order, below).write(context)
        try:
            load_image(daemon, order.image, [below], progress)
            image_id = self._build(daemon, context, name, progress)
            own = Cache(folder / "export")
            image = export_image(daemon, DaemonReference(image_id), own, progress)
            answer, target = root_of_image(image, own), folder / "changes.tar"
            try:
                answer.rename(target)
            except OSError as error:
                raise disk_error(error, target, "write") from None
        finally:
            for tag in (name, below):
                with suppress(ImagekitError):
                    daemon.untag(tag)
        return target

    def _connect(self) -> Daemon:
        if self.engine == "assemble":
            raise UsageError(
                "--engine assemble: packages on top of an image are installed by running it, which "
                "needs a container engine",
                "take --engine docker, or remove base.packages and .deb artifacts",
            )
        daemon = connect()
        self.talk(f"engine: docker ({daemon.name})")
        return daemon

    def _build(self, daemon: Daemon, context: Path, name: str, progress: Progress) -> str:
        try:
            return build_image(
                daemon, context, tag=name, keep_steps=False, progress=progress, talk=self.talk
            )
        except EngineError as error:
            raise EngineError(error.problem, package_hint(error.problem) or error.hint) from None
