"""Build contexts of Occlum's cells, as ``render`` writes them."""

from collections.abc import Sequence

from imagekit.release.base_context import DOCKERFILE
from imagekit.release.cell import generated
from imagekit.release.cells import LABEL, common_labels
from imagekit.release.gramine_context import MEASURED_LABELS, ROOTFS, ContextFiles, base_name
from imagekit.release.occlum_base import OcclumBase
from imagekit.release.occlum_configuration import OcclumRendered, OcclumRenderer
from imagekit.release.occlum_image import LOG_VARIABLE
from imagekit.release.pipeline import build_epoch
from imagekit.render.dockerfile import dockerignore
from imagekit.render.occlum_dockerfile import BOM, CONFIG, SCRIPT, OcclumImage, occlum_dockerfile
from imagekit.runtime.paths import ENTRYPOINT
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project


def occlum_contexts(
    base: OcclumBase, project: Project, cells: Sequence[Cell]
) -> list[ContextFiles]:
    """Give one context per cell. What is built from it has a throw-away signature.

    Raises:
        ImagekitError: as :class:`imagekit.release.occlum_configuration.OcclumRenderer`.
    """
    # Nothing of it is a release: a debuggable enclave may be looked at.
    renderer = OcclumRenderer(base, project, release=False)
    return [_cell_files(base, project, renderer.render(cell)) for cell in cells]


def _cell_files(base: OcclumBase, project: Project, rendered: OcclumRendered) -> ContextFiles:
    labels = common_labels(base, project, rendered.cell, "", "")
    labels[f"{LABEL}occlum"] = base.version.name
    image = OcclumImage(
        title=project.name(rendered.cell),
        version=project.tag,
        cell=rendered.cell.id,
        base=base_name(base, project),
        paths=[file.path for file in rendered.files],
        signed=False,
        epoch=build_epoch(base.image),
        env={LOG_VARIABLE: rendered.cell.log},
        labels={name: value for name, value in labels.items() if name not in MEASURED_LABELS},
        user=base.image.run_config.get("User") or None,
        entrypoint=[ENTRYPOINT],
    )
    files = {f"{ROOTFS}{file.path}": (generated(file), file.mode) for file in rendered.files}
    files |= {
        CONFIG: (rendered.json.text, 0o644),
        BOM: (rendered.bom, 0o644),
        SCRIPT: (rendered.script.encode(), 0o644),
    }
    files[".dockerignore"] = (dockerignore(sorted(files)).encode(), 0o644)
    files[DOCKERFILE] = (occlum_dockerfile(image).encode(), 0o644)
    return files
