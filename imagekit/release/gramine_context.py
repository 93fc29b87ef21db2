"""Build contexts of Gramine's cells, as ``render`` writes them."""

from collections.abc import Mapping, Sequence

from imagekit.errors import InputError
from imagekit.images.layers import LayerFile
from imagekit.images.progress import Progress
from imagekit.images.references import RegistryReference, parse_reference
from imagekit.release.base_context import DOCKERFILE
from imagekit.release.cell import (
    MANIFEST,
    MANIFEST_SGX,
    SIGFILE,
    cell_labels,
    layer_files,
    sign_cell,
)
from imagekit.release.configuration import Rendered, Renderer
from imagekit.release.contents import Base
from imagekit.release.gramine_base import GramineBase
from imagekit.release.pipeline import build_epoch
from imagekit.release.signing import SignedEnclave
from imagekit.render.dockerfile import CellImage, cell_dockerfile, dockerignore
from imagekit.runtime.paths import ENTRYPOINT
from imagekit.signing.signer import Signer
from imagekit.spec.base_values import BaseReference
from imagekit.spec.dates import day_of
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project

ROOTFS = "rootfs"
"""Folder of a cell's context with the files of its layer, by their paths in the image."""

ContextFiles = Mapping[str, tuple[bytes, int]]
"""Files of a context with their modes, by path."""

MEASURED_LABELS = ("io.imagekit.mr_enclave", "io.imagekit.mr_signer")


def gramine_contexts(
    base: GramineBase,
    project: Project,
    cells: Sequence[Cell],
    signer: Signer | None,
    date: str | None,
    progress: Progress,
) -> list[ContextFiles]:
    """Give one context per cell; arguments and errors as ``write_rendered`` has them."""
    day = date or day_of(build_epoch(base.image))
    renderer = Renderer(base, project)
    rendered = [renderer.render(cell) for cell in cells]
    return [
        _cell_files(
            base,
            project,
            configuration,
            sign_cell(configuration, base, signer, day, progress) if signer else None,
        )
        for configuration in rendered
    ]


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
    base: GramineBase, project: Project, rendered: Rendered, signed: SignedEnclave | None
) -> ContextFiles:
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
        labels = {name: value for name, value in labels.items() if name not in MEASURED_LABELS}
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
