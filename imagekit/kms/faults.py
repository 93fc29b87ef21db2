"""What the wire code says of a service, as errors for people."""

from collections.abc import Iterator
from contextlib import contextmanager

from imagekit.errors import (
    CheckError,
    EngineError,
    ImagekitError,
    InputError,
    KmsError,
    OutcomeUnknownError,
    UsageError,
)
from imagekit.runtime.ehsm import Refusal
from imagekit.runtime.https import Lost
from imagekit.runtime.stop import FAILED, KMS_REFUSED, REFUSED, UNREACHABLE, UNUSABLE, Stop

_ERRORS: dict[int, tuple[type[ImagekitError], str]] = {
    REFUSED: (UsageError, "correct it"),
    UNUSABLE: (InputError, "check the file, and this machine's clock"),
    UNREACHABLE: (EngineError, "check the address, the certificate options and the network"),
    FAILED: (CheckError, "do not trust what this service says before you know why"),
    KMS_REFUSED: (KmsError, "ask who runs the service; its log has the request"),
}

_REFUSALS = {
    "sign error": "check the API key: is it the one that was enrolled together with this app id?",
    "Timestamp error": "set the clock of this machine, or have that of the service set",
    "Invalid  policyId.": "register the measurement again, and use the id that comes back",
    "keyid error": "make a new key",
}
_NO_ACCOUNT = "check the app id; if the service has lost its store, enroll and register again"


def translated(stop: Stop, hint: str | None = None) -> ImagekitError:
    """Give the error of a :class:`Stop`.

    Args:
        stop: what the wire code raised.
        hint: what to do; a fitting one if None.
    """
    kind, usual = _ERRORS[stop.code]
    if hint is None and isinstance(stop, Refusal):
        hint = _NO_ACCOUNT if stop.message is None else _REFUSALS.get(stop.message)
    return kind(stop.line, hint or usual)


def account_lost(lost: Lost) -> OutcomeUnknownError:
    """Give the error of an enrolment whose answer was lost."""
    return OutcomeUnknownError(
        f"{lost.line}: an account was made, perhaps, and its API key is lost",
        "run the command again: an account that nobody has the key of does no harm",
    )


def maybe_registered(why: str) -> OutcomeUnknownError:
    """Give the error of a policy that was sent and may be registered.

    Args:
        why: what went wrong.
    """
    return OutcomeUnknownError(
        f"{why}: whether it was registered is not known",
        "run it again: at worst one more policy that says the same stays at the service",
    )


@contextmanager
def as_errors() -> Iterator[None]:
    """Turn a :class:`Stop` in the block into an :class:`ImagekitError`."""
    try:
        yield
    except Stop as stop:
        raise translated(stop) from None
