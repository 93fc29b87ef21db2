"""How a passphrase gets in: file, environment variable, prompt. Never an argument."""

import getpass
import os
import sys
from pathlib import Path

from imagekit.errors import InputError, SigningError

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
