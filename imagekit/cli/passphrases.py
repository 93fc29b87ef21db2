"""How keys and passphrases get in: file, environment variable, prompt."""

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from imagekit.cli.ui import ui
from imagekit.errors import InputError, SigningError, UsageError

if TYPE_CHECKING:
    from imagekit.signing.keyfile import FileSigner
    from imagekit.spec.project import Project

VARIABLE = "IMAGEKIT_KEY_PASSPHRASE"


def passphrase_source(file: Path | None, what: str) -> bytes:
    """Give the passphrase of `what` from the first source there is.

    Raises:
        InputError: the file cannot be read.
        SigningError: no source at all.
    """
    if file is not None:
        try:
            # Like openssl's -passin file: the first line counts.
            return file.read_bytes().split(b"\n", 1)[0].removesuffix(b"\r")
        except OSError as error:
            raise InputError(
                f"{file}: cannot read the passphrase: {error.strerror}", "check the path"
            ) from None
    if VARIABLE in os.environ:
        return os.environ[VARIABLE].encode()
    if sys.stdin.isatty():
        return getpass.getpass(f"passphrase of {what}: ", stream=sys.stderr).encode()
    raise SigningError(
        f"{what}: a passphrase is needed and none was given",
        f"give --passphrase-file, set {VARIABLE} or run in a terminal",
    )


def new_passphrase(file: Path | None, what: str) -> bytes:
    """Give a new passphrase; at a prompt it is asked for twice.

    Raises:
        SigningError: the two differ, or it is empty.
    """
    secret = passphrase_source(file, what)
    if file is None and VARIABLE not in os.environ:
        again = getpass.getpass("once more: ", stream=sys.stderr).encode()
        if again != secret:
            raise SigningError("the two passphrases differ", "run the command again")
    if not secret:
        raise SigningError("the passphrase is empty", "give one, or leave --encrypt out")
    return secret


def open_signer(
    key: Path, passphrase_file: Path | None, passphrase: str | None = None
) -> "FileSigner":
    """Open the signer of a PEM file, and warn if others than its owner may get at the file.

    Args:
        key: the file.
        passphrase_file: its first line is the passphrase.
        passphrase: the passphrase itself; only the drop-in signer takes one from its arguments.

    Raises:
        InputError, SigningError: as :func:`imagekit.signing.keyfile.load_signer`.
    """
    from imagekit.signing.keyfile import load_signer, permission_warning

    def ask() -> bytes:
        if passphrase is not None:
            return passphrase.encode()
        return passphrase_source(passphrase_file, str(key))

    signer = load_signer(key, ask)
    if warning := permission_warning(key):
        ui.warn(warning)
    return signer


def open_project_signer(
    project: "Project", key: Path | None, passphrase_file: Path | None
) -> "FileSigner":
    """Open the signer that the command line names, or else the project.

    Raises:
        UsageError: neither names one.
        InputError, SigningError: as :func:`open_signer`.
    """
    chosen = key or project.signing.key
    if chosen is None:
        raise UsageError(
            f"no signing key: neither --key nor signing.key in {project.path}",
            "make one with: imagekit key generate",
        )
    return open_signer(chosen, passphrase_file)
