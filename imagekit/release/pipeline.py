"""The build of one cell: rendered, measured, signed, appended to the base, recorded.

Nothing is visible in the output before it is complete, and nothing is done that the lock file says
was done already. Many cells at once: :mod:`imagekit.release.matrix`.
"""

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import ImagekitError, InputError
from imagekit.images.cache import Cache
from imagekit.images.delivered import Delivered
from imagekit.images.layout import CONTAINERD_NAME, OciLayout
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress, Talk
from imagekit.images.references import Reference, parse_reference
from imagekit.images.rootfs import Rootfs
from imagekit.release.bases import BaseOptions, base_image
from imagekit.release.cell import cell_inputs, compose_cell, sign_cell
from imagekit.release.configuration import Rendered, Renderer
from imagekit.release.discover import Base, discover
from imagekit.release.lock import FILE_NAME, LockEntry, read_lock, update_lock
from imagekit.release.signing import SignedEnclave
from imagekit.signing.signer import Signer
from imagekit.spec.dates import day_of, source_date_epoch
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project
from imagekit.spec.sizes import epc_name

Check = Callable[[Rendered, SignedEnclave], None]
"""Looks at a signed cell before anything of it is written; raises what it finds."""


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
    talk(f"base {image.digest}: Gramine {base.release.name} ({base.release_origin})")
    return base


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
        signer: whose key.
        output: where the images go.
        date: for the SIGSTRUCT; None for the day of the build's epoch.
        talk: told remarks.
        check: looks at each cell before it is written, or None.
        rebuild: build what is there already, too.
        progress: told how far it is.

    Raises:
        UsageError: the project file lacks something that the profile needs.
        InputError: template or lock file cannot be read, or the base lacks the command.
    """

    def __init__(
        self,
        base: Base,
        project: Project,
        signer: Signer,
        output: Output,
        *,
        date: str | None,
        talk: Talk,
        check: Check | None = None,
        rebuild: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._base, self._project, self._signer, self._output = base, project, signer, output
        self._epoch = build_epoch(base.image)
        self._date = date or day_of(self._epoch)
        self._talk, self._check, self._progress = talk, check, progress
        self._renderer = Renderer(base, project)
        self._lock_path = project.folder / FILE_NAME
        self._known = {} if rebuild else read_lock(self._lock_path)

    def build(self, cell: Cell) -> Built:
        """Build a cell, or find it built.

        Raises:
            ImagekitError: whatever is wrong with it; nothing of it is written then.
        """
        rendered = self._renderer.render(cell)
        inputs = cell_inputs(
            self._base, self._project, rendered, self._signer.modulus, self._date, self._epoch
        )
        found = self._found(cell, inputs)
        if found is not None:
            return found
        signed = sign_cell(rendered, self._base, self._signer, self._date, self._progress)
        for finding in signed.warnings:
            self._talk(f"{cell.id}: {finding.line} ({finding.hint})")
        if self._check is not None:
            self._check(rendered, signed)
        layout = OciLayout.create(self._output.folder)
        image = compose_cell(self._base, self._project, rendered, signed, layout.blobs, self._epoch)
        entry = self._entry(rendered, signed, image, inputs)
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
        if entry is None or entry.inputs != inputs or self._check is not None:
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

    def _entry(
        self, rendered: Rendered, signed: SignedEnclave, image: Image, inputs: str
    ) -> LockEntry:
        cell, base, body = rendered.cell, self._base, signed.sigstruct.body
        return LockEntry(
            digest=image.digest,
            base=base.image.digest,
            libos=cell.libos,
            profile=self._project.profile,
            epc=epc_name(cell.epc),
            log=cell.log,
            attestation=cell.attestation,
            gramine=base.release.name,
            mr_enclave=signed.mr_enclave,
            mr_signer=signed.mr_signer,
            isv_prod_id=body.isv_prod_id,
            isv_svn=body.isv_svn,
            debug=signed.parameters.debug,
            date=self._date,
            epoch=self._epoch,
            layer=image.layers[-1].digest,
            manifest_sha256=hashlib.sha256(rendered.sgx).hexdigest(),
            libpal_sha256=hashlib.sha256(base.pal.data).hexdigest(),
            standin=base.standin,
            inputs=inputs,
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
