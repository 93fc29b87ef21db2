"""The one error tree.

Every error that imagekit raises on purpose says in one line what is wrong (with the file, key,
cell or URL), in a second line what to do about it, and which exit code belongs to it. The command
line prints ``error: …`` and ``hint: …``; library users catch :class:`ImagekitError`. Neither line
may ever hold a secret.
"""


class ImagekitError(Exception):
    """Base of all errors with a message for people.

    Args:
        problem: one line that says what is wrong and where.
        hint: one line that says what to do about it.
    """

    exit_code: int = 1

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class UsageError(ImagekitError):
    """Wrong command line or bad project file (exit code 2)."""

    exit_code = 2


class InputError(ImagekitError):
    """Something that is needed is missing or unusable: base, key, file, disk (exit code 3)."""

    exit_code = 3


class EngineError(ImagekitError):
    """A container engine, registry, package source or the network failed (exit code 4)."""

    exit_code = 4


class CheckError(ImagekitError):
    """A check found something: verify, audit, a measurement that differs (exit code 5)."""

    exit_code = 5


class SigningError(ImagekitError):
    """Signing was refused or failed (exit code 6)."""

    exit_code = 6


class KmsError(ImagekitError):
    """The key management service refused (exit code 7)."""

    exit_code = 7


class OutcomeUnknownError(ImagekitError):
    """An answer was lost, so nobody knows whether the action happened (exit code 8)."""

    exit_code = 8


def printable(text: str) -> str:
    """Give a text of others for a message: a space for each character that cannot be shown."""
    return "".join(char if char.isprintable() else " " for char in text)
