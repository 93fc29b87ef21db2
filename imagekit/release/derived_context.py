"""The build context of a base on top of an image.

As with an assembled base the same Dockerfile gives two things. In whole it is the base, for people
without imagekit. Its first stage gives what installing packages changes: imagekit makes a layer of
that.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from imagekit.images.bases.assemble import base_labels
from imagekit.images.bases.builder import BUILDER_PACKAGES
from imagekit.images.bases.inputs import DerivedInputs, with_hashes
from imagekit.images.bases.install_on import ADD, SKIP, Installation, skipped
from imagekit.images.bases.lock import LOCK_NAME, BaseLock, load_lock
from imagekit.images.bases.recipe import INSTALL, script
from imagekit.images.bases.stage_app import stage_app
from imagekit.images.cache import Cache
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.references import DaemonReference, RegistryReference, parse_reference
from imagekit.release.base_context import (
    APP,
    CA,
    DOCKERFILE,
    SUMS,
    BaseContext,
    ignore_others,
    sha256,
    sha256_of,
    unpacking,
)
from imagekit.render.dockerfile import (
    ARTIFACTS,
    FILES,
    ContextFile,
    DerivedStages,
    derived_dockerfile,
)
from imagekit.spec.base_values import Artifact, DerivedSpec

BUILDER_SUITE = "bookworm"
"""The suite of the builder image that is named by default; it leaves no trace in the base."""

_IN_IMAGE = "/tmp/imagekit"  # noqa: S108 - inside a container
_ONCE = "once"


class SourceName(NamedTuple):
    """How an engine names the image below.

    Attributes:
        name: for ``FROM``.
        own: whether it is the reference's own, not one made up for an image in a file.
        pinned: whether it is named by digest.
    """

    name: str
    own: bool
    pinned: bool


def source_name(spec: DerivedSpec, lock: BaseLock | None) -> SourceName:
    """Give the name by which a Dockerfile has the image below.

    Args:
        spec: the base.
        lock: gives the digest of an image in a registry that the spec names without one.

    Raises:
        UsageError: not a reference.
    """
    reference = parse_reference(spec.image)
    if isinstance(reference, RegistryReference):
        digest = reference.digest
        if digest is None and lock is not None and lock.below is not None:
            digest = lock.below.digest if lock.below.image == spec.image else None
        tag = f":{reference.tag}" if reference.tag else ""
        pin = f"@{digest}" if digest else ""
        return SourceName(f"{reference.name}{tag}{pin}", True, digest is not None)
    if isinstance(reference, DaemonReference):
        return SourceName(reference.name, True, "sha256:" in reference.name)
    short = hashlib.sha256(spec.image.encode()).hexdigest()[:12]
    return SourceName(f"imagekit-below:{short}", False, False)


def derived_context(
    spec: DerivedSpec,
    project_dir: Path,
    cache: Cache,
    epoch: int,
    progress: Progress = NO_PROGRESS,
    *,
    standin: bool,
    user: str | None,
    with_artifacts: bool,
) -> BaseContext:
    """Put together what ``docker build`` needs to make a base on top of an image.

    Args:
        spec: the base.
        project_dir: folder that its paths are relative to, and where the base lock is.
        cache: where artifacts are kept.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
        progress: told what is fetched.
        standin: whether a stand-in is in it, for the label.
        user: the base's user if the spec names none; packages are installed by root.
        with_artifacts: also fetch the artifacts; without them the context is for reading.

    Raises:
        InputError: a hash or file is missing or wrong.
        EngineError: something cannot be fetched.
    """
    lock = load_lock(project_dir / LOCK_NAME)
    resolved = with_hashes(spec, lock)
    inputs = DerivedInputs(resolved, project_dir, cache, epoch, lock, progress)
    contents = {
        file.path: (file.mode, inputs.file_data(file.source, file.text)) for file in resolved.files
    }
    debs = [artifact for artifact in resolved.artifacts if artifact.is_deb]
    files = _install_files(debs, inputs.ca_bundle()) if resolved.installs else {}
    build_files = sorted(name.removeprefix("build/") for name in files)
    if contents or len(debs) < len(resolved.artifacts):
        files[f"build/{APP}"] = stage_app()
    files |= {f"build/files/{sha256(data)}": data for _, data in contents.values()}
    if resolved.installs and resolved.user is None:
        resolved = replace(resolved, user=user or "root")
    modes = {
        path: ContextFile(
            path, sha256(data), ("--to", f"{FILES}/{number}", "--mode", f"{mode:04o}")
        )
        for number, (path, (mode, data)) in enumerate(sorted(contents.items()))
    }
    stages = _stages(resolved, source_name(spec, lock), epoch, build_files)
    stages = replace(
        stages, files=list(modes.values()), env=dict(spec.env), labels=base_labels(epoch, standin)
    )
    files[DOCKERFILE] = derived_dockerfile(stages).encode()
    artifacts = {f"artifacts/{a.sha256}": a for a in resolved.artifacts}
    files[".dockerignore"] = ignore_others([*files, *artifacts])
    found = (
        {path: inputs.fetch(artifact).path for path, artifact in artifacts.items()}
        if with_artifacts
        else {}
    )
    return BaseContext(dict(sorted(files.items())), dict(sorted(found.items())), cache.root)


def changes_context(order: Installation, name: str) -> BaseContext:
    """Put together what an engine needs to install packages, and to give what that changes.

    Args:
        order: what to install.
        name: the name that the engine has for the image.

    Raises:
        InputError: a local package cannot be read.
    """
    debs = [Artifact("path", f"{deb.name}.deb", sha256=sha256_of(deb)) for deb in order.debs]
    files = _install_files(debs, order.ca_bundle)
    # Engines keep what a step gave, and would give it again: the archives are to be asked.
    files[f"build/{_ONCE}"] = secrets.token_hex(16).encode()
    spec = DerivedSpec(name, packages=order.packages, artifacts=tuple(debs))
    stages = _stages(
        spec,
        SourceName(name, True, True),
        order.epoch,
        sorted(path.removeprefix("build/") for path in files),
    )
    files[DOCKERFILE] = derived_dockerfile(stages, changes_only=True).encode()
    artifacts = {
        f"artifacts/{artifact.sha256}": deb for artifact, deb in zip(debs, order.debs, strict=True)
    }
    files[".dockerignore"] = ignore_others([*files, *artifacts])
    return BaseContext(dict(sorted(files.items())), dict(sorted(artifacts.items())))


def _install_files(debs: Sequence[Artifact], ca_bundle: bytes | None) -> dict[str, bytes]:
    """Give the files that the stage of the installation copies."""
    files = {f"build/{name}": script(name) for name in (ADD, INSTALL)}
    files[f"build/{SKIP}"] = skipped()
    if ca_bundle is not None:
        files[f"build/{CA}"] = ca_bundle
    if debs:
        lines = [f"{deb.sha256}  {_IN_IMAGE}/{number}.deb\n" for number, deb in enumerate(debs)]
        files[f"build/{SUMS}"] = "".join(lines).encode()
    return files


def _stages(
    spec: DerivedSpec, source: SourceName, epoch: int, build_files: Sequence[str]
) -> DerivedStages:
    """Give what the spec says; files, environment and labels are not in it."""
    unpacked = [artifact for artifact in spec.artifacts if not artifact.is_deb]
    return DerivedStages(
        image=source.name,
        source=spec.image,
        named=source.own,
        pinned=source.pinned,
        builder=f"imagekit-builder:{BUILDER_SUITE}",
        builder_suite=BUILDER_SUITE,
        builder_packages=BUILDER_PACKAGES,
        epoch=epoch,
        build_files=build_files,
        debs=[ContextFile(a.name, a.sha256 or "") for a in spec.artifacts if a.is_deb],
        packages=sorted(spec.packages),
        artifacts=[
            ContextFile(a.name, a.sha256 or "", unpacking(a, f"{ARTIFACTS}/{number}"))
            for number, a in enumerate(unpacked)
        ],
        files=(),
        targets=[artifact.to or "/" for artifact in unpacked],
        env={},
        labels={},
        workdir=spec.workdir,
        user=spec.user,
        entrypoint=spec.entrypoint,
    )
