"""The project's base image: opened if it exists, assembled if the project file says how."""

from collections.abc import Callable
from dataclasses import replace

from imagekit.errors import UsageError
from imagekit.images.bases.assemble import Assembled, assemble, lock_base
from imagekit.images.bases.lock import LOCK_NAME, BaseLock, load_lock, write_lock
from imagekit.images.cache import Cache
from imagekit.images.oci import Image
from imagekit.images.open import open_image
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.references import Reference, parse_reference
from imagekit.release.dates import source_date_epoch
from imagekit.spec.base_values import BaseReference, BaseSpec
from imagekit.spec.project import Project

Talk = Callable[[str], None]
"""Takes a remark for people."""


def base_spec(project: Project) -> BaseSpec:
    """Give the project's BaseSpec.

    Raises:
        UsageError: its base is an image that exists already.
    """
    if isinstance(project.base, BaseReference):
        raise UsageError(
            f"{project.path}: base is the image {project.base.image}, there is nothing to assemble",
            "this command is for a base described by distribution, packages and artifacts",
        )
    return project.base


def assemble_base(
    project: Project,
    cache: Cache,
    *,
    locked: bool = False,
    refresh: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Assembled:
    """Assemble the project's base, or take it from the cache.

    Args:
        project: whose base is a BaseSpec.
        cache: what is kept between runs.
        locked: refuse other packages than those in the base lock.
        refresh: ask the archive again even if the distribution is in the cache.
        progress: told how far it is.

    Raises:
        UsageError: its base is an image that exists already.
        InputError: a hash or file is missing or wrong.
        EngineError: mmdebstrap, pip or the network failed.
    """
    spec = base_spec(project)
    return assemble(
        spec,
        project.folder,
        cache,
        base_epoch(spec),
        load_lock(project.folder / LOCK_NAME),
        progress,
        locked_only=locked,
        refresh=refresh,
    )


def base_epoch(spec: BaseSpec) -> int:
    """Give the second that all of the base bears: SOURCE_DATE_EPOCH, else the spec's date."""
    given = source_date_epoch()
    return spec.epoch if given is None else given


def write_base_lock(project: Project, cache: Cache, progress: Progress = NO_PROGRESS) -> BaseLock:
    """Find out hashes and package versions, and write ``imagekit.base.lock.json``.

    Raises:
        UsageError, InputError, EngineError: as :func:`assemble_base`.
    """
    path = project.folder / LOCK_NAME
    spec = base_spec(project)
    lock = lock_base(
        spec, project.folder, cache, base_epoch(spec), progress, previous=load_lock(path)
    )
    write_lock(path, lock)
    return lock


def base_image(
    project: Project,
    cache: Cache,
    *,
    locked: bool,
    talk: Talk,
    progress: Progress = NO_PROGRESS,
) -> Image:
    """Give the project's base image, whichever way.

    Raises:
        InputError, EngineError: it is not to be had.
    """
    if isinstance(project.base, BaseReference):
        talk(f"base: {project.base.image}")
        reference = parse_reference(project.base.image)
        if isinstance(reference, Reference):
            reference = replace(reference, path=project.folder / reference.path)
        return open_image(reference, cache, progress=progress)
    made = assemble_base(project, cache, locked=locked, progress=progress)
    talk(f"base: assembled from {project.path.name}{', from the cache' if made.cached else ''}")
    if made.drift is not None:
        talk(f"{made.drift.problem}; {made.drift.hint}")
    return made.image
