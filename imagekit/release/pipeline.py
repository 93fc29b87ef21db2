"""The build of one cell: rendered, measured, signed, appended to the base, recorded.

Nothing is visible in the output before it is complete, and nothing is done that the lock file says
was done already. Many cells at once: :mod:`imagekit.release.matrix`.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import ImagekitError, InputError
from imagekit.images.cache import Cache
from imagekit.images.delivered import Delivered
from imagekit.images.layout import CONTAINERD_NAME, OciLayout
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress, Talk
from imagekit.images.references import Reference, parse_reference
from imagekit.images.rootfs import Rootfs
from imagekit.release.bases import BaseOptions, base_image
from imagekit.release.cells import Cells, Made, Stamp
from imagekit.release.contents import Base
from imagekit.release.discover import discover
from imagekit.release.gramine_base import GramineBase
from imagekit.release.gramine_cells import GramineCells
from imagekit.release.lock import FILE_NAME, LockEntry, read_lock, update_lock
from imagekit.signing.signer import Signer
from imagekit.spec.dates import day_of, source_date_epoch
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project
from imagekit.spec.sizes import epc_name


@dataclass(frozen=True)
class Built:
    """One built image.

    Attributes:
        cell: which.
        references: ``name:tag``, and for the default cell its second name.
        image: the image.
        entry: what the lock file says about it.
        fresh: whether this run made it; else it was there already.
        delivered: where it went besides the output layout.
    """

    cell: Cell
    references: tuple[str, ...]
    image: Image
    entry: LockEntry
    fresh: bool
    delivered: tuple[Delivered, ...] = ()

    @property
    def reference(self) -> str:
        """``name:tag`` by which the lock file knows it."""
        return self.references[0]

    @property
    def tags(self) -> tuple[str, ...]:
        """Its names in the output layout."""
        return tuple(short_name(reference) for reference in self.references)


@dataclass(frozen=True)
class Output:
    """Where images go: an OCI layout on disk.

    Attributes:
        folder: the layout.
    """

    folder: Path

    @classmethod
    def parse(cls, text: str) -> "Output":
        """Read ``--output``.

        Raises:
            UsageError: not a reference.
            InputError: a transport that images are not written to, or with a tag.
        """
        reference = parse_reference(text)
        if (
            not isinstance(reference, Reference)
            or reference.transport != "oci"
            or reference.tag is not None
        ):
            raise InputError(
                f"--output {text}: images are written to an OCI layout, named by their own tags",
                "write oci:DIR; --push and --load bring images to registries and engines",
            )
        return cls(reference.path)


def short_name(reference: str) -> str:
    """Give an image's name in a layout: the reference without registry and path."""
    return reference.rpartition("/")[2]


def open_base(
    project: Project,
    cache: Cache,
    options: BaseOptions,
    *,
    talk: Talk,
    progress: Progress = NO_PROGRESS,
) -> Base:
    """Get the project's base, made if need be, and look at it.

    Args:
        project: the project.
        cache: what is kept between runs.
        options: how it is made or reached.
        talk: told what was found.
        progress: told how far it is.

    Raises:
        InputError: missing, damaged, or without what the profile needs.
        EngineError: it could not be made or pulled.
    """
    image = base_image(project, cache, options, talk=talk, progress=progress)
    rootfs = Rootfs.from_image(image, cache, progress)
    base = discover(image, rootfs, project)
    talk(f"base {image.digest}: {base.toolchain}")
    return base


def open_cells(
    base: Base,
    project: Project,
    *,
    cross_check: bool = False,
    allow_debug: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Cells[Any]:
    """Give what makes the cells of a project; a context manager.

    Args:
        base: from :func:`open_base`.
        project: the project.
        cross_check: have the base's own tools measure each cell, too; Occlum's always do.
        allow_debug: make an enclave that a host can debug. Gramine's needs no such word here, since
            its name for it, ``sgx.debug``, stands in the manifest that is signed.
        progress: told how far it is.

    Raises:
        UsageError: the project file lacks something that the profile needs.
        InputError: a template cannot be read, or the base lacks what it names.
        EngineError: a container engine is needed, and does not answer.
    """
    if isinstance(base, GramineBase):
        if not cross_check:
            return GramineCells(base, project)
        from imagekit.release.crosscheck import CrossCheck  # here: it loads a client of engines

        return GramineCells(base, project, CrossCheck(base, progress))
    from imagekit.release.occlum_base import OcclumBase
    from imagekit.release.occlum_cells import OcclumCells

    assert isinstance(base, OcclumBase)
    return OcclumCells(base, project, release=not allow_debug, progress=progress)


def build_epoch(base: Image) -> int:
    """Give the second that layers and configs bear: SOURCE_DATE_EPOCH, else the base's own day.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is not a number.
    """
    given = source_date_epoch()
    if given is not None:
        return given
    try:
        day = datetime.date.fromisoformat((base.created or "")[:10])
    except ValueError:
        return 0  # a base without a date
    start = datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC)
    return max(0, int(start.timestamp()))


class CellBuilder:
    """Builds the cells of one project on one base; its methods may be called from several threads.

    Args:
        base: from :func:`open_base`.
        project: the project.
        cells: makes the images (:func:`open_cells`).
        signer: whose key.
        output: where the images go.
        date: for the SIGSTRUCT; None for the day of the build's epoch.
        talk: told remarks.
        rebuild: build what is there already, too.
        progress: told how far it is.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is not a number.
        InputError: the lock file cannot be read.
    """

    def __init__(
        self,
        base: Base,
        project: Project,
        cells: Cells[Any],
        signer: Signer,
        output: Output,
        *,
        date: str | None,
        talk: Talk,
        rebuild: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._base, self._project, self._cells = base, project, cells
        self._signer, self._output = signer, output
        epoch = build_epoch(base.image)
        self._stamp = Stamp(date or day_of(epoch), epoch)
        self._talk, self._progress = talk, progress
        self._lock_path = project.folder / FILE_NAME
        self._known = {} if rebuild else read_lock(self._lock_path)

    def build(self, cell: Cell) -> Built:
        """Build a cell, or find it built.

        Raises:
            ImagekitError: whatever is wrong with it; nothing of it is written then.
        """
        rendered = self._cells.render(cell)
        inputs = self._cells.inputs(rendered, self._signer.modulus, self._stamp)
        found = self._found(cell, inputs)
        if found is not None:
            return found
        for finding in rendered.warnings:
            self._talk(f"{cell.id}: {finding.line} ({finding.hint})")
        made = self._cells.make(
            rendered,
            self._signer,
            self._stamp,
            lambda: OciLayout.create(self._output.folder).blobs,
            self._progress,
        )
        image, entry = made.image, self._entry(cell, made, inputs)
        layout = OciLayout.create(self._output.folder)
        built = Built(cell, self._project.references(cell), image, entry, fresh=True)
        for reference, tag in zip(built.references, built.tags, strict=True):
            name = reference if tag == built.tags[0] else built.reference
            layout.put(image, tag, {CONTAINERD_NAME: name}, self._progress)
        update_lock(self._lock_path, {built.reference: entry})
        return built

    def _found(self, cell: Cell, inputs: str) -> Built | None:
        """Give the image of the same inputs, if lock and output have it complete."""
        references = self._project.references(cell)
        entry = self._known.get(references[0])
        if entry is None or entry.inputs != inputs:
            return None
        try:
            layout = OciLayout.open(self._output.folder)
            images = [layout.image(short_name(reference)) for reference in references]
        except ImagekitError:
            return None  # not there, or damaged: it is built anew
        image = images[0]
        labels = {
            "io.imagekit.mr_enclave": entry.mr_enclave,
            "io.imagekit.mr_signer": entry.mr_signer,
        }
        if any(found.digest != entry.digest for found in images):
            return None
        if not labels.items() <= image.labels.items():
            return None
        layout.clean()  # nothing is written, which would do it
        return Built(cell, references, image, entry, fresh=False)

    def _entry(self, cell: Cell, made: Made, inputs: str) -> LockEntry:
        body = made.sigstruct.body
        return LockEntry(
            digest=made.image.digest,
            base=self._base.image.digest,
            libos=cell.libos,
            profile=self._project.profile,
            epc=epc_name(cell.epc),
            log=cell.log,
            attestation=cell.attestation,
            mr_enclave=body.mr_enclave.hex(),
            mr_signer=made.sigstruct.mr_signer.hex(),
            isv_prod_id=body.isv_prod_id,
            isv_svn=body.isv_svn,
            date=self._stamp.date,
            epoch=self._stamp.epoch,
            layer=made.image.layers[-1].digest,
            standin=self._base.standin,
            inputs=inputs,
            **made.facts,
        )


def write_image(image: Image, output: str, progress: Progress = NO_PROGRESS) -> None:
    """Write an image to ``oci:DIR[:TAG]``; the tag is ``base`` if not given.

    Raises:
        UsageError, InputError: not a reference, or the folder cannot be written to.
    """
    reference = parse_reference(output)
    if not isinstance(reference, Reference) or reference.transport != "oci":
        raise InputError(
            f"--output {output}: only OCI layouts are written", "write oci:DIR[:TAG]; or --push"
        )
    OciLayout.create(reference.path).put(image, reference.tag or "base", progress=progress)
