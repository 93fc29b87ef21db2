"""The build: base → cells → images in an OCI layout, and the record of it.

Reads the base once; each cell is rendered, measured, signed and appended on its own. Nothing is
visible in the output before it is complete.
"""

import datetime
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import InputError
from imagekit.images.cache import Cache
from imagekit.images.layout import OciLayout
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.references import Reference, parse_reference
from imagekit.images.rootfs import Rootfs
from imagekit.release.bases import base_image
from imagekit.release.cell import compose_cell, sign_cell
from imagekit.release.configuration import Rendered, Renderer
from imagekit.release.dates import day_of, source_date_epoch
from imagekit.release.discover import Base, discover
from imagekit.release.lock import FILE_NAME, LockEntry, update_lock
from imagekit.release.signing import SignedEnclave
from imagekit.signing.signer import Signer
from imagekit.spec.matrix import Cell
from imagekit.spec.names import default_reference
from imagekit.spec.project import Project
from imagekit.spec.sizes import epc_name

CONTAINERD_NAME = "io.containerd.image.name"

Talk = Callable[[str], None]
"""Takes a remark for people."""


@dataclass(frozen=True)
class Built:
    """One built image.

    Attributes:
        cell: which.
        reference: ``name:tag``.
        tags: its names in the output layout.
        image: the image.
        signed: its measurement and signature.
        entry: what the lock file says about it.
    """

    cell: Cell
    reference: str
    tags: tuple[str, ...]
    image: Image
    signed: SignedEnclave
    entry: LockEntry


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
            InputError: a transport that nothing can be written to yet, or with a tag.
        """
        reference = parse_reference(text)
        if (
            not isinstance(reference, Reference)
            or reference.transport != "oci"
            or reference.tag is not None
        ):
            raise InputError(
                f"--output {text}: images are written to an OCI layout, named by their own tags",
                "write oci:DIR; skopeo copy oci:DIR:TAG … makes other forms",
            )
        return cls(reference.path)


def short_name(reference: str) -> str:
    """Give an image's name in a layout: the reference without registry and path."""
    return reference.rpartition("/")[2]


def open_base(
    project: Project, cache: Cache, *, locked: bool, talk: Talk, progress: Progress = NO_PROGRESS
) -> Base:
    """Get the project's base, assembled if need be, and look at it.

    Args:
        project: the project.
        cache: what is kept between runs.
        locked: refuse a distribution that delivers other packages than the base lock says.
        talk: told what was found.
        progress: told how far it is.

    Raises:
        InputError: missing, damaged, or without what the profile needs.
        EngineError: it could not be assembled.
    """
    image = base_image(project, cache, locked=locked, talk=talk, progress=progress)
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


def build_cells(
    base: Base,
    project: Project,
    cells: Sequence[Cell],
    signer: Signer,
    output: Output,
    *,
    date: str | None,
    talk: Talk,
    progress: Progress = NO_PROGRESS,
) -> list[Built]:
    """Build cells one after the other and record them.

    Args:
        base: from :func:`open_base`.
        project: the project.
        cells: which.
        signer: whose key.
        output: where the images go.
        date: for the SIGSTRUCT; None for the day of the build's epoch.
        talk: told remarks.
        progress: told how far it is.

    Raises:
        ImagekitError: the first cell that fails; those before it are complete and recorded.
    """
    epoch = build_epoch(base.image)
    day = date or day_of(epoch)
    # Everything that can be refused is refused before anything is written.
    renderer = Renderer(base, project)
    rendered = [renderer.render(cell) for cell in cells]
    layout = OciLayout.create(output.folder)
    built = []
    for configuration in rendered:
        signed = sign_cell(configuration, base, signer, day, progress)
        for finding in signed.warnings:
            talk(f"{configuration.cell.id}: {finding.line} ({finding.hint})")
        image = compose_cell(base, project, configuration, signed, layout.blobs, epoch)
        done = _record(base, project, configuration, signed, image, epoch, day)
        for tag in done.tags:
            layout.put(image, tag, {CONTAINERD_NAME: done.reference}, progress)
        update_lock(project.folder / FILE_NAME, {done.reference: done.entry})
        built.append(done)
    return built


def _record(
    base: Base,
    project: Project,
    rendered: Rendered,
    signed: SignedEnclave,
    image: Image,
    epoch: int,
    date: str,
) -> Built:
    cell, body = rendered.cell, signed.sigstruct.body
    reference = project.reference(cell)
    tags = [short_name(reference)]
    if cell == project.default_cell:
        tags.append(short_name(default_reference(project.image, cell.libos)))
    entry = LockEntry(
        digest=image.digest,
        base=base.image.digest,
        libos=cell.libos,
        profile=project.profile,
        epc=epc_name(cell.epc),
        log=cell.log,
        attestation=cell.attestation,
        gramine=base.release.name,
        mr_enclave=signed.mr_enclave,
        mr_signer=signed.mr_signer,
        isv_prod_id=body.isv_prod_id,
        isv_svn=body.isv_svn,
        debug=signed.parameters.debug,
        date=date,
        epoch=epoch,
        layer=image.layers[-1].digest,
        manifest_sha256=hashlib.sha256(rendered.sgx).hexdigest(),
        libpal_sha256=hashlib.sha256(base.pal.data).hexdigest(),
        standin=base.standin,
    )
    return Built(cell, reference, tuple(tags), image, signed, entry)


def write_image(image: Image, output: str, progress: Progress = NO_PROGRESS) -> None:
    """Write an image to ``oci:DIR[:TAG]``; the tag is ``base`` if not given.

    Raises:
        UsageError, InputError: not a reference, or the folder cannot be written to.
    """
    reference = parse_reference(output)
    if not isinstance(reference, Reference) or reference.transport != "oci":
        raise InputError(f"--output {output}: only OCI layouts are written", "write oci:DIR[:TAG]")
    OciLayout.create(reference.path).put(image, reference.tag or "base", progress=progress)
