"""How keys, passphrases and passwords get in: file, environment variable, prompt, stdin."""

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from imagekit.cli.kms_options import API_KEY
from imagekit.cli.ui import ui
from imagekit.errors import ImagekitError, InputError, SigningError, UsageError
from imagekit.files import check_private

if TYPE_CHECKING:
    from imagekit.secrets.passwords import Password
    from imagekit.signing.keyfile import FileSigner
    from imagekit.spec.project import Project

VARIABLE = "IMAGEKIT_KEY_PASSPHRASE"
PASSWORD_VARIABLE = "IMAGEKIT_PASSWORD"  # noqa: S105 - the name of a variable
_LONGEST = 1 << 16


class _Kind(NamedTuple):
    """What is asked for, and where it may come from."""

    word: str
    options: str
    variable: str
    error: type[ImagekitError]
    private: bool = False  # whether a file that others can read is refused


_PASSPHRASE = _Kind("passphrase", "--passphrase-file", VARIABLE, SigningError)
_API_KEY = _Kind("API key", "--account or --api-key-file", API_KEY, UsageError, private=True)
_PASSWORD = _Kind("password", "--password-file or --generate", PASSWORD_VARIABLE, UsageError)


def _from_source(kind: _Kind, file: Path | None, what: str, twice: bool) -> bytes:
    """Give a secret from the first source there is; of a file, all of it.

    Args:
        kind: what is asked for.
        file: where it stands; ``-`` is stdin.
        what: what it is for.
        twice: a prompt asks for it twice.
    """
    if file is not None:
        return _read(kind, file)
    if kind.variable in os.environ:
        return os.environ[kind.variable].encode("utf-8", "surrogateescape")
    if not sys.stdin.isatty():
        raise kind.error(
            f"{what}: a {kind.word} is needed and none was given",
            f"give {kind.options}, set {kind.variable} or run in a terminal",
        )
    secret = getpass.getpass(f"{kind.word} of {what}: ", stream=sys.stderr)
    if twice and getpass.getpass("once more: ", stream=sys.stderr) != secret:
        raise kind.error(f"the two {kind.word}s differ", "run the command again")
    return secret.encode("utf-8", "surrogateescape")


def _read(kind: _Kind, file: Path) -> bytes:
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(_LONGEST)
        with file.open("rb") as opened:
            if kind.private:
                check_private(file, opened.fileno())
            return opened.read(_LONGEST)
    except OSError as error:
        raise InputError(
            f"{file}: cannot read the {kind.word}: {error.strerror}", "check the path"
        ) from None


def _first_line(data: bytes) -> bytes:
    """Give the line that counts, as with openssl's ``-passin file:``."""
    return data.split(b"\n", 1)[0].removesuffix(b"\r")


def api_key_source(file: Path | None, what: str) -> str:
    """Give the API key of `what` from the first source there is; a file's first line.

    Raises:
        InputError: the file cannot be read.
        UsageError: no source at all.
    """
    key = _from_source(_API_KEY, file, what, twice=False)
    return _first_line(key).decode("utf-8", "replace")


def passphrase_source(file: Path | None, what: str) -> bytes:
    """Give the passphrase of `what` from the first source there is.

    Raises:
        InputError: the file cannot be read.
        SigningError: no source at all.
    """
    found = _from_source(_PASSPHRASE, file, what, twice=False)
    return _first_line(found) if file is not None else found


def new_passphrase(file: Path | None, what: str) -> bytes:
    """Give a new passphrase; at a prompt it is asked for twice.

    Raises:
        SigningError: the two differ, or it is empty.
    """
    found = _from_source(_PASSPHRASE, file, what, twice=True)
    secret = _first_line(found) if file is not None else found
    if not secret:
        raise SigningError("the passphrase is empty", "give one, or leave --encrypt out")
    return secret


def new_password(file: Path | None, generate: bool, what: str) -> "Password":
    """Give a new password; a file must hold it and nothing else, but for a line break at the end.

    Args:
        file: where it stands; ``-`` is stdin.
        generate: make one instead.
        what: what it is for.

    Raises:
        UsageError: no source, or two.
        InputError: the file cannot be read, or the password cannot be used.
    """
    from imagekit.secrets.passwords import Password
    from imagekit.signing.keyfile import permission_warning

    if generate:
        if file is not None:
            raise UsageError("--generate and --password-file exclude each other", "give one")
        return Password.generate()
    found = _from_source(_PASSWORD, file, what, twice=True)
    where = f"--password-file {file}" if file is not None else what
    if file is not None:
        found = found.removesuffix(b"\n").removesuffix(b"\r")
        if file.is_file() and (warning := permission_warning(file)):
            ui.warn(warning)
    password = Password(found.decode("utf-8", "replace"), where)
    if not password.is_plain:
        ui.warn(
            "the password has characters that shells, properties files or Flink's configuration "
            "read in a way of their own; letters and digits are read alike by all"
        )
    return password


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
