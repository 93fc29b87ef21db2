"""From a cell to its image, whatever its library OS: the steps that a build goes through."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from imagekit.enclave.findings import Finding
from imagekit.enclave.sigstruct import SigStruct
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.store import BlobStore
from imagekit.release.contents import Base
from imagekit.signing.signer import Signer
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project
from imagekit.spec.sizes import epc_name

LABEL = "io.imagekit."


class Configured(Protocol):
    """A cell's enclave configuration, ready for the enclave to be made."""

    @property
    def cell(self) -> Cell:
        """Which."""

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is unwise in it."""


class Stamp(NamedTuple):
    """What a build writes as its time, none of it from a clock.

    Attributes:
        date: of the SIGSTRUCT, ``YYYY-MM-DD``.
        epoch: seconds since 1970 that layers and configs bear.
    """

    date: str
    epoch: int


class Made(NamedTuple):
    """A cell's image.

    Attributes:
        image: the image, in the store.
        sigstruct: what was signed.
        facts: what the lock file says of it that only its library OS has, by field.
    """

    image: Image
    sigstruct: SigStruct
    facts: Mapping[str, Any]


R = TypeVar("R", bound=Configured)


class Cells(AbstractContextManager["Cells[R]"], ABC, Generic[R]):
    """Makes the cells of one project on one base; several threads may ask for cells.

    Leaving the context gives back what the cells had in common, such as an image that was loaded
    into a container engine.
    """

    @abstractmethod
    def render(self, cell: Cell) -> R:
        """Render and check a cell's configuration.

        Raises:
            UsageError, InputError, SigningError: what is wrong with it.
        """

    @abstractmethod
    def inputs(self, rendered: R, modulus: int, stamp: Stamp) -> str:
        """Give the hash of everything that a cell's image is made from, 64 lower-case hex digits.

        Args:
            rendered: its configuration.
            modulus: of the signing key.
            stamp: dates.
        """

    @abstractmethod
    def make(
        self,
        rendered: R,
        signer: Signer,
        stamp: Stamp,
        store: Callable[[], BlobStore],
        progress: Progress = NO_PROGRESS,
    ) -> Made:
        """Make a cell's image.

        Args:
            rendered: its configuration.
            signer: whose key.
            stamp: dates.
            store: gives where blobs go; called when there is something to write, not before.
            progress: told how far it is.

        Raises:
            ImagekitError: whatever is wrong; nothing is written then.
        """

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give back what the cells had in common; nothing, for most."""


def common_labels(
    base: Base, project: Project, cell: Cell, mr_enclave: str, mr_signer: str
) -> dict[str, str]:
    """Give the labels that every cell's image has."""
    return {
        "org.opencontainers.image.title": project.name(cell),
        "org.opencontainers.image.version": project.tag,
        "org.opencontainers.image.base.digest": base.image.digest,
        f"{LABEL}libos": cell.libos,
        f"{LABEL}profile": project.profile,
        f"{LABEL}epc": epc_name(cell.epc),
        f"{LABEL}log": cell.log,
        f"{LABEL}attestation": cell.attestation,
        f"{LABEL}mr_enclave": mr_enclave,
        f"{LABEL}mr_signer": mr_signer,
        f"{LABEL}standin": str(base.standin).lower(),
    }
