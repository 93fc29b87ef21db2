"""The build context of a base: a Dockerfile and all that it copies.

The same Dockerfile gives two things. In whole, anybody can build it without imagekit, and gets the
files of the assembled base. Its first stages alone make the distribution for ``--engine docker``;
what follows is done here, so that the base's digest is the same whoever made its packages.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import EngineError, InputError
from imagekit.files import disk_error, make_folder, write_atomically
from imagekit.images.bases.assemble import base_environment, base_labels
from imagekit.images.bases.builder import BUILDER_PACKAGES, builder_name
from imagekit.images.bases.inputs import BaseInputs, with_hashes
from imagekit.images.bases.lock import LOCK_NAME, load_lock
from imagekit.images.bases.recipe import (
    FETCH,
    INSTALL,
    Ingredients,
    mmdebstrap_options,
    script,
)
from imagekit.images.bases.stage_app import stage_app
from imagekit.images.cache import Cache
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.render.dockerfile import BaseStages, ContextFile, base_dockerfile, dockerignore
from imagekit.spec.base_values import Artifact, BaseSpec

DOCKERFILE = "Dockerfile"
_IN_BUILDER = "/imagekit"  # where the context's files stand in a stage
CA, SUMS, APP = "ca.pem", "SHA256SUMS", "stage.pyz"
"""Files of ``build/``."""


@dataclass(frozen=True)
class BaseContext:
    """A build context that is not written yet.

    Attributes:
        files: the generated files, by path in the context.
        artifacts: files of the cache or of the project that belong into it, by path there.
        cache: the folder of the cache, if one may share its files with the context.
    """

    files: Mapping[str, bytes]
    artifacts: Mapping[str, Path]
    cache: Path | None = None

    def write(self, folder: Path) -> list[Path]:
        """Write the files and the artifacts: those of the cache as links where the disk allows it.

        Returns:
            What was written, sorted.

        Raises:
            InputError: the folder cannot be written to.
        """
        written = [folder / name for name in (*self.files, *self.artifacts)]
        for name, data in self.files.items():
            make_folder((folder / name).parent)
            write_atomically(folder / name, data)
            (folder / name).chmod(0o644)
        for name, source in self.artifacts.items():
            make_folder((folder / name).parent)
            _place(source, folder / name, self.cache)
        return sorted(written)


def base_context(
    spec: BaseSpec,
    project_dir: Path,
    cache: Cache,
    epoch: int,
    progress: Progress = NO_PROGRESS,
    *,
    standin: bool,
    with_artifacts: bool,
) -> BaseContext:
    """Put together what ``docker build`` needs to make a base.

    Args:
        spec: the base.
        project_dir: folder that its paths are relative to, and where the base lock is.
        cache: where artifacts are kept.
        epoch: time stamps in the base, seconds since 1970.
        progress: told what is fetched.
        standin: whether a stand-in for Gramine is in it, for the label.
        with_artifacts: also fetch the artifacts; without them the context is for reading.

    Raises:
        InputError: a hash or file is missing or wrong, or an archive that no engine can reach.
        EngineError: something cannot be fetched.
    """
    lock = load_lock(project_dir / LOCK_NAME)
    resolved = with_hashes(spec, lock)
    inputs = BaseInputs(resolved, project_dir, cache, epoch, lock, progress)
    ingredients = Ingredients(resolved, (), inputs.source_keys(), epoch, inputs.ca_bundle())
    debs = [artifact for artifact in resolved.artifacts if artifact.is_deb]
    contents = {
        file.path: (file.mode, inputs.file_data(file.source, file.text)) for file in resolved.files
    }
    stages = _stages(ingredients, debs, contents, standin=standin)
    files = _first_files(ingredients, debs)
    files[f"build/{APP}"] = stage_app()
    files |= {f"build/files/{sha256(data)}": data for _, data in contents.values()}
    files[DOCKERFILE] = base_dockerfile(stages).encode()
    artifacts = {f"artifacts/{a.sha256}": a for a in resolved.artifacts}
    files[".dockerignore"] = ignore_others([*files, *artifacts])
    found = (
        {path: inputs.fetch(artifact).path for path, artifact in artifacts.items()}
        if with_artifacts
        else {}
    )
    return BaseContext(dict(sorted(files.items())), dict(sorted(found.items())), cache.root)


def root_context(ingredients: Ingredients) -> BaseContext:
    """Put together what an engine needs to make the distribution's root alone, in one layer.

    Raises:
        InputError: an archive that no engine can reach.
    """
    debs = [
        Artifact("path", deb.name, sha256=sha256_of(deb)) for deb in ingredients.debs
    ]  # as they were fetched: by their hash
    stages = _stages(ingredients, debs, {}, standin=False)
    files = _first_files(ingredients, debs)
    files[DOCKERFILE] = base_dockerfile(stages, root_only=True).encode()
    artifacts = {
        f"artifacts/{artifact.sha256}": deb
        for artifact, deb in zip(debs, ingredients.debs, strict=True)
    }
    files[".dockerignore"] = ignore_others([*files, *artifacts])
    return BaseContext(dict(sorted(files.items())), dict(sorted(artifacts.items())))


def root_of_image(image: Image, cache: Cache) -> Path:
    """Give the layer of an image that was built from :func:`root_context`.

    Args:
        image: as it was exported.
        cache: where its blobs are.

    Raises:
        EngineError: the engine made something else of it.
    """
    if len(image.layers) != 1:
        raise EngineError(
            f"the engine made an image of {len(image.layers)} layers where one was asked for",
            "take --engine assemble, and report this with the engine's version",
        )
    return cache.blobs.path(image.layers[0].digest)


def _stages(
    ingredients: Ingredients,
    debs: list[Artifact],
    contents: Mapping[str, tuple[int, bytes]],
    *,
    standin: bool,
) -> BaseStages:
    spec = ingredients.spec
    _check_reachable(spec)
    options = mmdebstrap_options(
        ingredients,
        folder=_IN_BUILDER,
        debs=[f"{_IN_BUILDER}/{number}.deb" for number in range(len(debs))],
        ca_file=None,  # the whole stage trusts it
    )
    return BaseStages(
        builder=builder_name(spec),
        pinned=spec.distribution.builder is not None,
        builder_packages=BUILDER_PACKAGES,
        suite=spec.distribution.suite,
        mirrors=spec.distribution.mirrors,
        options=[*options, "--format=directory", "--skip=cleanup/apt,output/dev"],
        epoch=ingredients.epoch,
        ca_bundle=ingredients.ca_bundle is not None,
        build_files=sorted(
            {FETCH, INSTALL, *ingredients.apt_sources()} | ({SUMS} if debs else set())
        ),
        debs=[ContextFile(deb.name, deb.sha256 or "") for deb in debs],
        packages=ingredients.late_packages,
        exclude=spec.exclude,
        artifacts=[
            ContextFile(
                artifact.name, artifact.sha256 or "", unpacking(artifact, artifact.to or "/")
            )
            for artifact in spec.artifacts
            if not artifact.is_deb
        ],
        files=[
            ContextFile(path, sha256(data), ("--to", path, "--mode", f"{mode:04o}"))
            for path, (mode, data) in sorted(contents.items())
        ],
        env=base_environment(spec),
        labels=base_labels(ingredients.epoch, standin),
        workdir=spec.workdir,
        user=spec.user,
        entrypoint=spec.entrypoint,
    )


def unpacking(artifact: Artifact, to: str) -> tuple[str, ...]:
    """Give the words of ``stage.pyz unpack`` for an artifact that goes to ``to``."""
    words = ["--to", to]
    if artifact.is_archive:
        words.append("--archive")
        if artifact.take is not None:
            words += ["--take", artifact.take]
        if artifact.strip:
            words += ["--strip", str(artifact.strip)]
    else:
        words += ["--mode", f"{artifact.mode:04o}"]
    return tuple(words)


def _first_files(ingredients: Ingredients, debs: list[Artifact]) -> dict[str, bytes]:
    """Give the files that the stages up to the distribution copy."""
    files = {f"build/{name}": script(name) for name in (FETCH, INSTALL)}
    files |= {f"build/{name}": data for name, data in ingredients.apt_sources().items()}
    if ingredients.ca_bundle is not None:
        files[f"build/{CA}"] = ingredients.ca_bundle
    if debs:
        lines = [f"{deb.sha256}  {_IN_BUILDER}/{n}.deb\n" for n, deb in enumerate(debs)]
        files[f"build/{SUMS}"] = "".join(lines).encode()
    return files


def _check_reachable(spec: BaseSpec) -> None:
    for text in (*spec.distribution.mirrors, *(source.uri for source in spec.sources)):
        if "file:" in text:
            raise InputError(
                f"{text}: a build in a container engine cannot read this machine's files",
                "name an archive on a server, or take --engine assemble",
            )


def ignore_others(paths: list[str]) -> bytes:
    """Give the ``.dockerignore`` that lets these files of a context through, and its Dockerfile."""
    return dockerignore([path for path in paths if path != DOCKERFILE]).encode()


def _place(source: Path, target: Path, cache: Path | None) -> None:
    """Copy a file, or link one of the cache; it is checked again in the build.

    A user's own file is never linked: who writes to one of the two would change the other.
    """
    try:
        source = source.resolve()  # a link to a symlink would be one that leads nowhere
        target.unlink(missing_ok=True)
        if cache is not None and source.is_relative_to(cache.resolve()):
            with suppress(OSError):
                os.link(source, target)
                return
        shutil.copyfile(source, target)
    except OSError as error:
        raise disk_error(error, target, "write") from None


def sha256(data: bytes) -> str:
    """Give the SHA-256 of a generated file: 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """Give the SHA-256 of a file: 64 hex digits.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise disk_error(error, path, "read") from None
