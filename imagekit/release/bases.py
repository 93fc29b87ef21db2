"""The project's base image: opened if it exists, made if the project file says how."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from imagekit.errors import UsageError
from imagekit.images.bases.assemble import Assembled, assemble, lock_base
from imagekit.images.bases.debian import Bootstrap, bootstrap
from imagekit.images.bases.derive import Below, derive, lock_derived
from imagekit.images.bases.inputs import DerivedInputs
from imagekit.images.bases.install_on import Installation
from imagekit.images.bases.lock import LOCK_NAME, BaseLock, load_lock, write_lock
from imagekit.images.bases.recipe import Ingredients
from imagekit.images.cache import Cache
from imagekit.images.oci import Image
from imagekit.images.open import open_image
from imagekit.images.progress import NO_PROGRESS, Progress, Talk
from imagekit.images.references import Reference, RegistryReference, parse_reference
from imagekit.images.registry.access import RegistryAccess
from imagekit.release.delivery import PushTarget
from imagekit.spec.base_values import BaseParts, BaseReference, BaseSpec, DerivedSpec
from imagekit.spec.dates import source_date_epoch
from imagekit.spec.project import Project

ENGINES = ("auto", "docker", "assemble")
"""Who may make a base."""


class BaseOptions(NamedTuple):
    """How a base is made or reached.

    Attributes:
        engine: one of ``auto``, ``docker``, ``assemble``.
        locked: refuse other packages than those in the base lock.
        refresh: ask the package archive again even if the distribution is in the cache.
        access: how registries are reached.
    """

    engine: str = "auto"
    locked: bool = False
    refresh: bool = False
    access: RegistryAccess = RegistryAccess()


def base_spec(project: Project) -> BaseSpec | DerivedSpec:
    """Give what the project file says about making the base.

    Raises:
        UsageError: its base is an image that exists already.
    """
    if isinstance(project.base, BaseReference):
        raise UsageError(
            f"{project.path}: base is the image {project.base.image}, there is nothing to assemble",
            "this command is for a base described by distribution or from, packages and artifacts",
        )
    return project.base


def assemble_base(
    project: Project,
    cache: Cache,
    options: BaseOptions,
    *,
    talk: Talk,
    progress: Progress = NO_PROGRESS,
) -> Assembled:
    """Make the project's base, or take it from the cache.

    Args:
        project: whose base is to be made.
        cache: what is kept between runs.
        options: how it is made.
        talk: told what was chosen.
        progress: told how far it is.

    Raises:
        UsageError: its base is an image that exists already, or the engine is not known or cannot
            do it.
        InputError: a hash, file or image is missing or wrong.
        EngineError: the engine, mmdebstrap, pip, a registry or the network failed.
    """
    spec = base_spec(project)
    if isinstance(spec, DerivedSpec):
        return derive(
            _derived_inputs(project, spec, cache, progress),
            _below(project, spec, cache, options, talk, progress),
            locked_only=options.locked,
            refresh=options.refresh,
        )
    return assemble(
        spec,
        project.folder,
        cache,
        base_epoch(spec),
        load_lock(project.folder / LOCK_NAME),
        progress,
        locked_only=options.locked,
        refresh=options.refresh,
        make_root=_root_maker(project, cache, options.engine, talk),
    )


def _root_maker(project: Project, cache: Cache, engine: str, talk: Talk) -> Bootstrap:
    """Give what makes the distribution's root; who that is is chosen when one is needed."""

    def make(ingredients: Ingredients, folder: Path, progress: Progress = NO_PROGRESS) -> Path:
        if engine == "assemble":
            talk("engine: assemble")
            return bootstrap(ingredients, folder, progress)
        # An engine's client takes a while to import, and most bases come from the cache.
        from imagekit.release.base_engine import choose_root

        return choose_root(engine, project.folder, cache, talk)(ingredients, folder, progress)

    return make


def _derived_inputs(
    project: Project, spec: DerivedSpec, cache: Cache, progress: Progress
) -> DerivedInputs:
    lock = load_lock(project.folder / LOCK_NAME)
    return DerivedInputs(spec, project.folder, cache, base_epoch(spec), lock, progress)


def _below(
    project: Project,
    spec: DerivedSpec,
    cache: Cache,
    options: BaseOptions,
    talk: Talk,
    progress: Progress,
) -> Below:
    """Open the image that the base is made on."""

    def install(order: Installation, folder: Path, progress: Progress = NO_PROGRESS) -> Path:
        # An engine's client takes a while to import, and most bases come from the cache.
        from imagekit.release.package_engine import EnginePackages

        return EnginePackages(options.engine, talk)(order, folder, progress)

    image = _open(project, spec.image, cache, options, progress)
    reference = parse_reference(spec.image)
    if isinstance(reference, RegistryReference) and reference.digest is None:
        talk(
            f"base.from {spec.image} is not pinned, the same name can mean another image tomorrow; "
            f"now it is @{image.digest}"
        )
    return Below(image, install)


def _open(
    project: Project, text: str, cache: Cache, options: BaseOptions, progress: Progress
) -> Image:
    """Open an image that the project file names."""
    reference = parse_reference(text)
    if isinstance(reference, Reference):
        reference = replace(reference, path=project.folder / reference.path)
    return open_image(reference, cache, options.access, progress)


def base_epoch(spec: BaseParts) -> int:
    """Give the second that all of the base bears: SOURCE_DATE_EPOCH, else the spec's date."""
    given = source_date_epoch()
    return spec.epoch if given is None else given


def write_base_lock(
    project: Project,
    cache: Cache,
    options: BaseOptions,
    *,
    talk: Talk,
    progress: Progress = NO_PROGRESS,
) -> BaseLock:
    """Find out hashes and package versions, and write ``imagekit.base.lock.json``.

    Args:
        project: whose base is to be made.
        cache: what is kept between runs.
        options: the engine, and how registries are reached.
        talk: told what was chosen.
        progress: told how far it is.

    Raises:
        UsageError, InputError, EngineError: as :func:`assemble_base`.
    """
    path = project.folder / LOCK_NAME
    spec = base_spec(project)
    if isinstance(spec, DerivedSpec):
        lock = lock_derived(
            _derived_inputs(project, spec, cache, progress),
            _below(project, spec, cache, options, talk, progress),
        )
    else:
        lock = lock_base(
            spec,
            project.folder,
            cache,
            base_epoch(spec),
            progress,
            previous=load_lock(path),
            make_root=_root_maker(project, cache, options.engine, talk),
        )
    write_lock(path, lock)
    return lock


def base_image(
    project: Project,
    cache: Cache,
    options: BaseOptions,
    *,
    talk: Talk,
    progress: Progress = NO_PROGRESS,
) -> Image:
    """Give the project's base image, whichever way.

    Raises:
        InputError, EngineError: it is not to be had.
    """
    if isinstance(project.base, BaseReference):
        talk(f"base: {project.base.image}")
        return _open(project, project.base.image, cache, options, progress)
    made = assemble_base(project, cache, options, talk=talk, progress=progress)
    how = (
        "made on an image as said in" if isinstance(project.base, DerivedSpec) else "assembled from"
    )
    talk(f"base: {how} {project.path.name}{', from the cache' if made.cached else ''}")
    if made.drift is not None:
        talk(f"{made.drift.problem}; {made.drift.hint}")
    return made.image


def with_base(project: Project, image: str) -> Project:
    """Give the project with another base: an image that exists already.

    Args:
        project: the project.
        image: reference with its transport; a path is relative to the current folder.

    Raises:
        UsageError: not a reference.
    """
    reference = parse_reference(image)
    if isinstance(reference, Reference):
        reference = replace(reference, path=reference.path.absolute())
    return replace(project, base=BaseReference(str(reference)))


def base_places(project: Project, targets: Sequence[PushTarget]) -> list[RegistryReference]:
    """Give where in registries the project's base, or the image below it, is or may be.

    Args:
        project: the project.
        targets: where images are pushed to: ``base build --push`` may have brought the base there.
    """
    places = [target.reference(project.base_name) for target in targets if target.exact is None]
    if isinstance(project.base, BaseReference | DerivedSpec):
        reference = parse_reference(project.base.image)
        if isinstance(reference, RegistryReference):
            places.insert(0, reference)
    return places
