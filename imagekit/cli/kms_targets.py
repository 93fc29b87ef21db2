"""What ``imagekit kms`` commands are about: images, lock files, given measurements."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagekit.cli.options import registry_access
from imagekit.cli.ui import ui
from imagekit.errors import UsageError

if TYPE_CHECKING:
    from imagekit.release.registering import Accepted, Plan, Subject

ImageName = Annotated[str | None, typer.Argument(help="Image reference.")]
Lock = Annotated[Path, typer.Option(help="Lock file of the images.")]
DEFAULT_LOCK = Path("imagekit.lock.json")
Record = Annotated[
    Path | None, typer.Option(help="File of registrations; beside the lock file if not given.")
]
Images = Annotated[
    str, typer.Option(help="Where --all verifies them: oci:DIR, registry, or none (lock alone).")
]
AllowStandin = Annotated[
    bool, typer.Option("--allow-standin", help="Accept a stand-in for the library OS.")
]
AllowDebug = Annotated[bool, typer.Option("--allow-debug", help="Accept a debuggable enclave.")]
MrEnclave = Annotated[str | None, typer.Option(help="64 hex digits, instead of an image.")]
MrSigner = Annotated[str | None, typer.Option(help="64 hex digits, with --mr-enclave.")]
RegistryCaCert = Annotated[
    Path | None, typer.Option(help="CAs to trust for registries that images come from, PEM.")
]


@dataclass(frozen=True)
class Targets:
    """Where images and what is known of them are found.

    Attributes:
        lock: lock file.
        given_record: file of registrations; None for the usual one beside the lock.
        images: where images of a lock are verified.
        allow_standin, allow_debug: what is accepted although it protects nothing.
        registry_cacert: CAs of registries.
    """

    lock: Path = DEFAULT_LOCK
    given_record: Path | None = None
    images: str = ""
    allow_standin: bool = False
    allow_debug: bool = False
    registry_cacert: Path | None = None

    @property
    def record(self) -> Path:
        """The file of registrations."""
        from imagekit.kms.record import FILE_NAME

        return self.given_record or self.lock.with_name(FILE_NAME)

    def exactly_one(self, image: str | None, all_images: bool, typed: bool) -> None:
        """Make sure that one thing is meant.

        Raises:
            UsageError: none is, or several are.
        """
        if (image is not None) + all_images + typed != 1:
            raise UsageError(
                "what is to be registered?",
                "give an image, or --all, or measurements such as --mr-enclave and --mr-signer",
            )

    def _accepted(self) -> "Accepted":
        from imagekit.release.registering import Accepted

        return Accepted(self.allow_standin, self.allow_debug)

    def subject(self, image: str) -> "Subject":
        """Verify an image.

        Raises:
            ImagekitError: it does not stand up, or cannot be read.
        """
        from imagekit.release.registering import verified

        access = registry_access(False, self.registry_cacert)
        with ui.progress() as progress:
            return verified(image, self._accepted(), access, progress)

    def plans(self, image: str | None, kind: str) -> "list[Plan]":
        """Give what is to be registered for an image, or else for all of the lock.

        Raises:
            ImagekitError: an image does not stand up, or cannot be read.
        """
        from imagekit.release.registering import NOWHERE, from_lock, plan

        if image is not None:
            return plan([self.subject(image)], kind)
        if self.images == NOWHERE:
            ui.warn(f"the images are not looked at: {self.lock} is believed")
        access = registry_access(False, self.registry_cacert)
        with ui.progress() as progress:
            return plan(from_lock(self.lock, self.images, self._accepted(), access, progress), kind)

    def waiting(self) -> None:
        """Say that another run is registering."""
        ui.say(f"another run is registering by {self.record}; waiting for it")
