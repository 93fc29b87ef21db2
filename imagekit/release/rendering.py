"""``render``: every generated file in a folder, for people to read and for other builders to use.

Each folder written is a build context that a plain ``docker build`` takes: ``base/`` for the base,
if the project file describes one, and one folder per cell.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from imagekit.errors import InputError
from imagekit.files import disk_error, make_folder, write_atomically
from imagekit.images.cache import Cache
from imagekit.images.layers import LayerFile
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.references import RegistryReference, parse_reference
from imagekit.release.base_context import DOCKERFILE, base_context
from imagekit.release.bases import base_epoch, base_spec
from imagekit.release.cell import (
    MANIFEST,
    MANIFEST_SGX,
    SIGFILE,
    cell_labels,
    layer_files,
    sign_cell,
)
from imagekit.release.configuration import Rendered, Renderer
from imagekit.release.discover import Base
from imagekit.release.pipeline import build_epoch
from imagekit.release.plans import BASE
from imagekit.release.signing import SignedEnclave
from imagekit.render.dockerfile import CellImage, cell_dockerfile, dockerignore
from imagekit.runtime.paths import ENTRYPOINT
from imagekit.signing.signer import Signer
from imagekit.spec.base_values import BaseReference, BaseSpec
from imagekit.spec.dates import day_of
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project

ROOTFS = "rootfs"
"""Folder of a cell's context with the files of its layer, by their paths in the image."""

Sign = Callable[[Rendered], SignedEnclave]
"""Measures and signs a cell."""

_MEASURED_LABELS = ("io.imagekit.mr_enclave", "io.imagekit.mr_signer")


def cell_signer(
    base: Base, signer: Signer, date: str | None, progress: Progress = NO_PROGRESS
) -> Sign:
    """Give what signs cells as ``build`` does.

    Args:
        base: the base.
        signer: whose key.
        date: for the SIGSTRUCT; None for the day of the build's epoch.
        progress: told the bytes hashed.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is not a number.
    """
    day = date or day_of(build_epoch(base.image))

    def sign(rendered: Rendered) -> SignedEnclave:
        return sign_cell(rendered, base, signer, day, progress)

    return sign


def write_base(
    project: Project,
    folder: Path,
    *,
    standin: bool,
    with_artifacts: bool = False,
    progress: Progress = NO_PROGRESS,
) -> list[Path]:
    """Write the build context of the base below ``folder``; the base need not be there yet.

    Args:
        project: whose base is a BaseSpec.
        folder: where to.
        standin: whether a stand-in for Gramine is known to be in it, for the label.
        with_artifacts: also write its artifacts, which its Dockerfile copies.
        progress: told what is fetched for them.

    Returns:
        The files written, sorted.

    Raises:
        UsageError: its base is an image that exists already.
        InputError: a file cannot be written, or the base cannot be made by an engine.
        EngineError: something cannot be fetched.
    """
    spec = base_spec(project)
    context = base_context(
        spec,
        project.folder,
        Cache(project.cache),
        base_epoch(spec),
        progress,
        standin=standin,
        with_artifacts=with_artifacts,
    )
    return context.write(folder / BASE)


def write_rendered(
    base: Base,
    project: Project,
    cells: Sequence[Cell],
    folder: Path,
    sign: Sign | None = None,
    *,
    with_artifacts: bool = False,
    progress: Progress = NO_PROGRESS,
) -> list[Path]:
    """Write the build contexts of the base and of each cell below ``folder``.

    The files of a cell stand in ``folder/CELL/rootfs/`` as they will stand in the image.

    Args:
        base: the base.
        project: the project.
        cells: which.
        folder: where to.
        sign: signs a cell; without it a cell gets a Dockerfile that fails, since it copies a
            signature that is not there.
        with_artifacts: also write the base's artifacts, which its Dockerfile copies.
        progress: told what is fetched for them.

    Returns:
        The files written, sorted.

    Raises:
        InputError: a file cannot be written, or the base cannot be made by an engine.
        ImagekitError: as :meth:`imagekit.release.configuration.Renderer.render`; nothing is
            written then.
    """
    renderer = Renderer(base, project)
    rendered = [renderer.render(cell) for cell in cells]
    contexts = [
        _cell_files(base, project, configuration, sign(configuration) if sign else None)
        for configuration in rendered
    ]
    written = []
    if isinstance(project.base, BaseSpec):
        written += write_base(
            project,
            folder,
            standin=base.standin,
            with_artifacts=with_artifacts,
            progress=progress,
        )
    for configuration, files in zip(rendered, contexts, strict=True):
        written += _write(folder / configuration.cell.id, files)
    return sorted(written)


def base_name(base: Base, project: Project) -> str:
    """Give the base's name for ``FROM``, pinned by its digest.

    A base in a registry goes by its name there; else it is where ``base build --push`` puts it.
    """
    name = project.base_name
    if isinstance(project.base, BaseReference):
        reference = parse_reference(project.base.image)
        if isinstance(reference, RegistryReference):
            name = reference.name + (f":{reference.tag}" if reference.tag else "")
    return f"{name}@{base.image.digest}"


def _cell_files(
    base: Base, project: Project, rendered: Rendered, signed: SignedEnclave | None
) -> dict[str, tuple[bytes, int]]:
    """Give the files of a cell's context with their modes, by path."""
    if signed is not None:
        layer = layer_files(rendered, signed)
        labels = cell_labels(base, project, rendered.cell, signed.mr_enclave, signed.mr_signer)
    else:
        layer = (
            *rendered.files,
            LayerFile(MANIFEST, rendered.text),
            LayerFile(MANIFEST_SGX, rendered.sgx),
        )
        labels = cell_labels(base, project, rendered.cell, "", "")
        labels = {name: value for name, value in labels.items() if name not in _MEASURED_LABELS}
    files = {}
    for file in layer:
        if not isinstance(file.data, bytes):
            raise InputError(f"{file.path}: not a generated file", "report this as a defect")
        files[f"{ROOTFS}{file.path}"] = (file.data, file.mode)
    paths = sorted({SIGFILE, *(file.path for file in layer)})
    image = CellImage(
        title=project.name(rendered.cell),
        version=project.tag,
        cell=rendered.cell.id,
        base=base_name(base, project),
        paths=paths,
        sigfile=SIGFILE,
        signed=signed is not None,
        labels=labels,
        user=base.image.run_config.get("User") or None,
        entrypoint=[ENTRYPOINT],
    )
    files[DOCKERFILE] = (cell_dockerfile(image).encode(), 0o644)
    files[".dockerignore"] = (dockerignore([f"{ROOTFS}{path}" for path in paths]).encode(), 0o644)
    return files


def _write(folder: Path, files: Mapping[str, tuple[bytes, int]]) -> list[Path]:
    signature = folder / f"{ROOTFS}{SIGFILE}"
    if f"{ROOTFS}{SIGFILE}" not in files:
        try:
            signature.unlink(missing_ok=True)  # of an earlier manifest
        except OSError as error:
            raise disk_error(error, signature, "remove") from None
    written = []
    for path, (data, mode) in files.items():
        target = folder / path
        make_folder(target.parent)
        write_atomically(target, data)
        os.chmod(target, mode)  # noqa: PTH101
        written.append(target)
    return written
