"""Gramine's cells: configuration, measurement, signature and one small layer, in this process."""

import hashlib
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.store import BlobStore
from imagekit.release.cell import cell_inputs, compose_cell, sign_cell
from imagekit.release.cells import Cells, Made, Stamp
from imagekit.release.configuration import Rendered, Renderer
from imagekit.release.gramine_base import GramineBase
from imagekit.signing.signer import Signer
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project

if TYPE_CHECKING:
    from imagekit.release.crosscheck import CrossCheck


class GramineCells(Cells[Rendered]):
    """See Cells.

    Args:
        base: the base.
        project: the project.
        check: compares each signed cell before it is written, or None.

    Raises:
        UsageError: the project file lacks something that the profile needs.
        InputError: the template cannot be read, or the base lacks the command.
    """

    def __init__(
        self, base: GramineBase, project: Project, check: "CrossCheck | None" = None
    ) -> None:
        self._base, self._project, self._check = base, project, check
        self._renderer = Renderer(base, project)

    def render(self, cell: Cell) -> Rendered:
        """See Cells."""
        return self._renderer.render(cell)

    def inputs(self, rendered: Rendered, modulus: int, stamp: Stamp) -> str:
        """See Cells."""
        return cell_inputs(self._base, self._project, rendered, modulus, stamp.date, stamp.epoch)

    def make(
        self,
        rendered: Rendered,
        signer: Signer,
        stamp: Stamp,
        store: Callable[[], BlobStore],
        progress: Progress = NO_PROGRESS,
    ) -> Made:
        """See Cells."""
        signed = sign_cell(rendered, self._base, signer, stamp.date, progress)
        if self._check is not None:
            self._check(rendered, signed)
        image = compose_cell(self._base, self._project, rendered, signed, store(), stamp.epoch)
        facts = {
            "gramine": self._base.release.name,
            "debug": signed.parameters.debug,
            "manifest_sha256": hashlib.sha256(rendered.sgx).hexdigest(),
            "libpal_sha256": hashlib.sha256(self._base.pal.data).hexdigest(),
        }
        return Made(image, signed.sigstruct, facts)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See Cells."""
        if self._check is not None:
            self._check.__exit__(kind, error, trace)
