"""``render``: every generated file of the cells in a folder, for people to read."""

import os
from collections.abc import Sequence
from pathlib import Path

from imagekit.errors import InputError
from imagekit.files import make_folder, write_atomically
from imagekit.release.cell import MANIFEST, MANIFEST_SGX
from imagekit.release.configuration import Renderer
from imagekit.release.discover import Base
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project


def write_rendered(base: Base, project: Project, cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write the files of each cell below ``folder/CELL/``, as they will stand in the image.

    Nothing is signed and no key is needed.

    Returns:
        The files written, sorted.

    Raises:
        InputError: a file cannot be written.
        ImagekitError: as :meth:`imagekit.release.configuration.Renderer.render`; nothing is
            written then.
    """
    renderer = Renderer(base, project)
    rendered = [renderer.render(cell) for cell in cells]
    written = []
    for configuration in rendered:
        files = {MANIFEST: (configuration.text, 0o644), MANIFEST_SGX: (configuration.sgx, 0o644)}
        for file in configuration.files:
            if not isinstance(file.data, bytes):
                raise InputError(f"{file.path}: not a generated file", "report this as a defect")
            files[file.path] = (file.data, file.mode)
        for path, (data, mode) in files.items():
            target = folder / configuration.cell.id / path.lstrip("/")
            make_folder(target.parent)
            write_atomically(target, data)
            os.chmod(target, mode)  # noqa: PTH101
            written.append(target)
    return sorted(written)
