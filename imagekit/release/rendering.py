"""``render``: every generated file in a folder, for people to read and for other builders to use.

Each folder written is a build context that a plain ``docker build`` takes: ``base/`` for the base,
if the project file describes one, and one folder per cell.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagekit.errors import UsageError
from imagekit.files import disk_error, make_folder, write_atomically
from imagekit.images.cache import Cache
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.release.base_context import base_context
from imagekit.release.bases import base_epoch, base_spec
from imagekit.release.cell import SIGFILE
from imagekit.release.contents import Base
from imagekit.release.derived_context import derived_context
from imagekit.release.gramine_base import GramineBase
from imagekit.release.gramine_context import ROOTFS, ContextFiles, gramine_contexts
from imagekit.release.plans import BASE
from imagekit.signing.signer import Signer
from imagekit.spec.base_values import BaseReference, DerivedSpec
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project


def write_base(
    project: Project,
    folder: Path,
    *,
    standin: bool,
    user: str | None = None,
    with_artifacts: bool = False,
    progress: Progress = NO_PROGRESS,
) -> list[Path]:
    """Write the build context of the base below ``folder``; the base need not be there yet.

    Args:
        project: whose base is to be made.
        folder: where to.
        standin: whether a stand-in for Gramine is known to be in it, for the label.
        user: the user of the image that it is made on, if known; else root.
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
    where = (project.folder, Cache(project.cache), base_epoch(spec), progress)
    if isinstance(spec, DerivedSpec):
        context = derived_context(
            spec, *where, standin=standin, user=user, with_artifacts=with_artifacts
        )
    else:
        context = base_context(spec, *where, standin=standin, with_artifacts=with_artifacts)
    return context.write(folder / BASE)


def write_rendered(
    base: Base,
    project: Project,
    cells: Sequence[Cell],
    folder: Path,
    signer: Signer | None = None,
    date: str | None = None,
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
        signer: signs the cells of Gramine as ``build`` does; without it such a cell gets a
            Dockerfile that fails, since it copies a signature that is not there.
        date: for the SIGSTRUCT; None for the day of the build's epoch.
        with_artifacts: also write the base's artifacts, which its Dockerfile copies.
        progress: told what is measured and fetched.

    Returns:
        The files written, sorted.

    Raises:
        UsageError: Occlum's cells are to be signed, or SOURCE_DATE_EPOCH is not a number.
        InputError: a file cannot be written, or the base cannot be made by an engine.
        ImagekitError: as :meth:`imagekit.release.configuration.Renderer.render`; nothing is
            written then.
    """
    contexts = _contexts(base, project, cells, signer, date, progress)
    written = []
    if not isinstance(project.base, BaseReference):
        written += write_base(
            project,
            folder,
            standin=base.standin,
            user=base.image.run_config.get("User") or None,
            with_artifacts=with_artifacts,
            progress=progress,
        )
    for cell, files in zip(cells, contexts, strict=True):
        written += _write(folder / cell.id, files)
    return sorted(written)


def _contexts(
    base: Base,
    project: Project,
    cells: Sequence[Cell],
    signer: Signer | None,
    date: str | None,
    progress: Progress,
) -> list[ContextFiles]:
    if isinstance(base, GramineBase):
        return gramine_contexts(base, project, cells, signer, date, progress)
    from imagekit.release.occlum_base import OcclumBase
    from imagekit.release.occlum_context import occlum_contexts

    assert isinstance(base, OcclumBase)
    if signer is not None:
        raise UsageError(
            "an enclave of Occlum is signed where it is built: render signs Gramine's alone",
            "leave --key out here, or use imagekit build",
        )
    return occlum_contexts(base, project, cells)


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
