"""One cell's image: measured, signed, appended to the base as one layer with labels."""

import hashlib
from dataclasses import replace

from imagekit.errors import UsageError
from imagekit.images.compose import append
from imagekit.images.gzipped import COMPRESSION
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.oci import Image, compact_json
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.store import BlobStore
from imagekit.release.cells import LABEL, common_labels
from imagekit.release.configuration import Rendered
from imagekit.release.gramine_base import GramineBase
from imagekit.release.signing import SignedEnclave, measure_and_sign
from imagekit.runtime.paths import ENTRYPOINT
from imagekit.signing.signer import Signer
from imagekit.spec.keys import PROFILES
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project

MANIFEST = "/ppml/bash.manifest"
MANIFEST_SGX = "/ppml/bash.manifest.sgx"
SIGFILE = "/ppml/bash.sig"

RULES = 1
"""Version of the rules by which a cell's image is put together; part of :func:`cell_inputs`."""


def sign_cell(
    rendered: Rendered,
    base: GramineBase,
    signer: Signer,
    date: str,
    progress: Progress = NO_PROGRESS,
) -> SignedEnclave:
    """Measure and sign a cell; errors as :func:`imagekit.release.signing.measure_and_sign`."""
    return measure_and_sign(
        rendered.sgx,
        rendered.manifest,
        base.pal,
        signer,
        release=base.release,
        date=date,
        what=rendered.cell.id,
        warnings=rendered.warnings,
        progress=progress,
    )


def cell_labels(
    base: GramineBase, project: Project, cell: Cell, mr_enclave: str, mr_signer: str
) -> dict[str, str]:
    """Give the labels of a cell's image."""
    return {
        **common_labels(base, project, cell, mr_enclave, mr_signer),
        f"{LABEL}gramine": base.release.name,
    }


def layer_files(rendered: Rendered, signed: SignedEnclave) -> tuple[LayerFile, ...]:
    """Give all files of a cell's layer."""
    return (
        *rendered.files,
        LayerFile(MANIFEST, rendered.text),
        LayerFile(MANIFEST_SGX, rendered.sgx),
        LayerFile(SIGFILE, signed.sigstruct.to_bytes()),
    )


def cell_inputs(
    base: GramineBase, project: Project, rendered: Rendered, modulus: int, date: str, epoch: int
) -> str:
    """Give the hash of everything that a cell's image is made from.

    Args:
        base: the base.
        project: the project.
        rendered: the cell's configuration.
        modulus: of the signing key.
        date: of the SIGSTRUCT.
        epoch: seconds since 1970 that the layer bears.

    Returns:
        64 lower-case hex digits. Signing and measuring are deterministic, so that the same inputs
        give the same image.
    """
    inputs = {
        "base": base.image.digest,
        "compression": COMPRESSION,
        "date": date,
        "epoch": epoch,
        "files": [
            [file.path, file.mode, hashlib.sha256(generated(file)).hexdigest()]
            for file in rendered.files
        ],
        "labels": cell_labels(base, project, rendered.cell, "", ""),
        "manifest": hashlib.sha256(rendered.text).hexdigest(),
        "manifest_sgx": hashlib.sha256(rendered.sgx).hexdigest(),
        "modulus": f"{modulus:x}",
        "rules": RULES,
    }
    return hashlib.sha256(compact_json(inputs)).hexdigest()


def generated(file: LayerFile) -> bytes:
    """Give the content of a generated file, which is always in memory."""
    assert isinstance(file.data, bytes)
    return file.data


def compose_cell(
    base: GramineBase,
    project: Project,
    rendered: Rendered,
    signed: SignedEnclave,
    store: BlobStore,
    epoch: int,
) -> Image:
    """Append a cell's layer to the base.

    Args:
        base: the base.
        project: the project.
        rendered: the cell's configuration.
        signed: its signature.
        store: where the layer, config and manifest go.
        epoch: seconds since 1970, for layer entries and the image's creation time.

    Raises:
        InputError: the store cannot be written to.
    """
    layer = write_layer(layer_files(rendered, signed), store, epoch, parents=base.rootfs.directory)
    return append(
        base.image,
        layer,
        store,
        created=epoch,
        history=f"imagekit build {rendered.cell.id}",
        labels=cell_labels(base, project, rendered.cell, signed.mr_enclave, signed.mr_signer),
        entrypoint=[ENTRYPOINT],
        command=[],
    )


def with_profile(project: Project, profile: str | None) -> Project:
    """Give the project with another profile, if one is wanted.

    Raises:
        UsageError: not a profile.
    """
    if profile is None:
        return project
    if profile not in PROFILES:
        raise UsageError(f"profile {profile!r} is not known", f"take {' or '.join(PROFILES)}")
    return replace(project, profile=profile)
