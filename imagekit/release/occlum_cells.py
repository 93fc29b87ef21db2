"""Occlum's cells: configuration, ``occlum build`` in a container, signature, two layers.

The lower layer has the launcher and the enclave's file systems, which do not depend on size or log
level: the cells of a project share it, as far as Occlum makes the same bytes of the same tree. The
upper one has the signed library and what belongs to it.
"""

import hashlib
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from types import TracebackType

from imagekit.enclave.occlum.built import layout_findings, sigstruct_findings
from imagekit.enclave.occlum.model import OcclumConfig
from imagekit.enclave.occlum.rootfs_manifest import list_text
from imagekit.enclave.sdk.signed import read_enclave, with_sigstruct
from imagekit.enclave.sigstruct import SigStruct, encode_date
from imagekit.errors import CheckError
from imagekit.images.bases.workdir import work_folder
from imagekit.images.cache import Cache
from imagekit.images.compose import append
from imagekit.images.daemon.borrowed import BorrowedEngine
from imagekit.images.daemon.containers import ThrowAway
from imagekit.images.gzipped import COMPRESSION
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.oci import Image, compact_json
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.store import BlobStore
from imagekit.release.cell import generated
from imagekit.release.cells import LABEL, Cells, Made, Stamp, common_labels
from imagekit.release.occlum_base import OcclumBase
from imagekit.release.occlum_configuration import OcclumRendered, OcclumRenderer
from imagekit.release.occlum_image import FILES, LIBRARY, LOG_VARIABLE
from imagekit.release.occlum_instance import CAPABILITIES, Instance, build_instance
from imagekit.release.sdk_enclave import measure_enclave
from imagekit.release.signing import refuse
from imagekit.runtime.paths import ENTRYPOINT, OCCLUM_INSTANCE
from imagekit.signing.signer import Signer, sign_body
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project

RULES = 1
"""Version of the rules by which a cell's image is put together; part of its inputs."""

_SHARED = tuple(f"{OCCLUM_INSTANCE}/build/{name}/" for name in ("initfs", "mount"))
"""Folders of the lower layer."""


class OcclumCells(Cells[OcclumRendered]):
    """See Cells. The engine is asked for when the first cell has to be built.

    Args:
        base: the base.
        project: the project.
        release: refuse an enclave that a host can debug.
        progress: told what is sent to the engine.

    Raises:
        UsageError: the project file asks for what this Occlum does not have.
        InputError: the base lacks something that the project file names.
    """

    def __init__(
        self,
        base: OcclumBase,
        project: Project,
        *,
        release: bool = True,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._base, self._project, self._progress = base, project, progress
        self._renderer = OcclumRenderer(base, project, release=release)
        self._cache = Cache(project.cache)
        self._engine: BorrowedEngine | None = None
        self._turn = Lock()

    def render(self, cell: Cell) -> OcclumRendered:
        """See Cells."""
        return self._renderer.render(cell)

    def inputs(self, rendered: OcclumRendered, modulus: int, stamp: Stamp) -> str:
        """See Cells."""
        inputs = {
            "base": self._base.image.digest,
            "bom": _sha256(rendered.bom),
            "compression": COMPRESSION,
            "config": _sha256(rendered.json.text),
            "date": stamp.date,
            "epoch": stamp.epoch,
            "files": [[file.path, file.mode, _sha256(generated(file))] for file in rendered.files],
            "labels": self._labels(rendered.cell, "", "", ""),
            "log": rendered.cell.log,
            "modulus": f"{modulus:x}",
            "rules": RULES,
            "script": _sha256(rendered.script.encode()),
        }
        return _sha256(compact_json(inputs))

    def make(
        self,
        rendered: OcclumRendered,
        signer: Signer,
        stamp: Stamp,
        store: Callable[[], BlobStore],
        progress: Progress = NO_PROGRESS,
    ) -> Made:
        """See Cells."""
        engine = self._borrowed()
        with work_folder(self._cache.root / "occlum") as folder:
            with ThrowAway(engine.daemon, engine.image_id, CAPABILITIES) as container:
                instance = build_instance(container, rendered, stamp.epoch, folder, progress)
            signed = sign_instance(instance, rendered, signer, stamp.date, progress)
            listed = list_text(instance.listed).encode()
            image = self._compose(rendered, instance, signed, listed, stamp.epoch, store())
        facts = {
            "occlum": self._base.version.name,
            "debug": rendered.config.debuggable,
            "config_sha256": _sha256(rendered.json.text),
            "files_sha256": _sha256(listed),
        }
        return Made(image, signed, facts)

    def _borrowed(self) -> BorrowedEngine:
        with self._turn:
            if self._engine is None:
                self._engine = BorrowedEngine(
                    self._base.image, "imagekit-occlum-build", self._progress
                )
            return self._engine

    def _compose(
        self,
        rendered: OcclumRendered,
        instance: Instance,
        signed: SigStruct,
        listed: bytes,
        epoch: int,
        store: BlobStore,
    ) -> Image:
        library = with_sigstruct(instance.library, signed.to_bytes(), LIBRARY)
        shared = [file for file in instance.files if file.path.startswith(_SHARED)]
        own = [file for file in instance.files if not file.path.startswith(_SHARED)]
        own += [LayerFile(LIBRARY, library, 0o644), LayerFile(FILES, listed)]
        own += _host_folders(rendered.config, {file.path for file in own})
        parents = self._base.rootfs.directory
        lower = write_layer([*rendered.files, *_owned(shared)], store, epoch, parents=parents)
        upper = write_layer(_owned(own), store, epoch, parents=parents)
        labels = self._labels(
            rendered.cell,
            signed.body.mr_enclave.hex(),
            signed.mr_signer.hex(),
            _sha256(listed),
        )
        return append(
            self._base.image,
            upper,
            store,
            created=epoch,
            history=f"imagekit build {rendered.cell.id}",
            under=[(lower, f"imagekit build {self._project.name(rendered.cell)}: file systems")],
            labels=labels,
            env={LOG_VARIABLE: rendered.cell.log},
            entrypoint=[ENTRYPOINT],
            command=[],
        )

    def _labels(
        self, cell: Cell, mr_enclave: str, mr_signer: str, files_sha256: str
    ) -> dict[str, str]:
        return {
            **common_labels(self._base, self._project, cell, mr_enclave, mr_signer),
            f"{LABEL}occlum": self._base.version.name,
            f"{LABEL}files_sha256": files_sha256,
        }

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """See Cells."""
        if self._engine is not None:
            self._engine.__exit__(kind, error, trace)


def sign_instance(
    instance: Instance,
    rendered: OcclumRendered,
    signer: Signer,
    date: str,
    progress: Progress = NO_PROGRESS,
) -> SigStruct:
    """Measure an instance's enclave anew and sign what its throw-away signature says of it.

    Args:
        instance: as it was built.
        rendered: what it was built from.
        signer: whose key.
        date: of the SIGSTRUCT, ``YYYY-MM-DD``.
        progress: told the bytes hashed.

    Raises:
        InputError: the library is no enclave.
        CheckError: Occlum's tool has measured something else, or the enclave is not the one that
            the configuration asks for.
        SigningError: the signer failed.
    """
    what = rendered.cell.id
    enclave = read_enclave(instance.library, LIBRARY)
    body = enclave.enclave_sigstruct().body
    measured = measure_enclave(enclave, progress).mr_enclave
    if measured != body.mr_enclave:
        raise CheckError(
            f"{what}: Occlum's signing tool measures {body.mr_enclave.hex()}, imagekit "
            f"{measured.hex()}",
            "nothing was written; report this, with the version of Occlum",
        )
    differing = [
        *sigstruct_findings(rendered.enclave, body),
        *layout_findings(rendered.enclave, enclave.metadata),
    ]
    refuse(differing, f"{what}: occlum build", CheckError)
    return sign_body(replace(body, date=encode_date(date)), signer)


def _host_folders(config: OcclumConfig, present: set[str]) -> list[LayerFile]:
    """Folders of the instance that are mounted from the host: Occlum does not make them."""
    sources = {
        posixpath.normpath(posixpath.join(OCCLUM_INSTANCE, mount.source))
        for mount in config.mounts
        if mount.type == "hostfs" and mount.source is not None
    }
    return [
        LayerFile(path, mode=0o777, directory=True)
        for path in sorted(sources - present)
        if path.startswith(f"{OCCLUM_INSTANCE}/")
    ]


def _owned(files: Sequence[LayerFile]) -> list[LayerFile]:
    """Only what the enclave's user may do is kept of a mode; root owns everything."""
    return [file if file.link else replace(file, mode=_mode(file)) for file in files]


def _mode(file: LayerFile) -> int:
    return 0o755 if file.directory or file.mode & 0o100 else 0o644


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
