"""Trying again what may go better the next time, after waits that grow."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from imagekit.errors import EngineError

DELAYS: Sequence[float] = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try; as many tries as there are delays, and the first."""

LONGEST_WAIT = 60.0
"""The longest wait (seconds) a registry may ask for with ``Retry-After``; longer ones are told."""

_T = TypeVar("_T")


class PassingError(EngineError):
    """A failure that may pass: a cut connection, a busy server.

    Args:
        problem: as for every error.
        hint: as for every error.
        wait: the seconds the server asks to wait, if it does.
    """

    def __init__(self, problem: str, hint: str, wait: float = 0.0) -> None:
        super().__init__(problem, hint)
        self.wait = wait


class Retries:
    """Counts the tries of one piece of work.

    Args:
        stop: ends a wait early, because nobody needs the work any more.
        delays: other delays than :data:`DELAYS`.
    """

    def __init__(self, stop: threading.Event, delays: Sequence[float] | None = None) -> None:
        self._stop = stop
        self._delays = DELAYS if delays is None else delays
        self._failures = 0

    def wait(self, error: PassingError) -> None:
        """Wait for the next try.

        Raises:
            EngineError: there have been enough tries, or the server wants a longer wait than
                :data:`LONGEST_WAIT`; it says the problem of ``error``.
        """
        self._failures += 1
        if self._failures > len(self._delays) or error.wait > LONGEST_WAIT:
            tries = "" if self._failures == 1 else f" (tried {self._failures} times)"
            raise EngineError(error.problem + tries, error.hint) from error
        if self._stop.wait(max(self._delays[self._failures - 1], error.wait)):
            raise EngineError(error.problem, error.hint) from error

    def progressed(self) -> None:
        """Start counting anew: the last try brought the work further."""
        self._failures = 0


def retrying(
    work: Callable[[], _T], stop: threading.Event, delays: Sequence[float] | None = None
) -> _T:
    """Do ``work``, again while it raises :class:`PassingError`.

    Args:
        work: safe to be done more than once.
        stop: as for :class:`Retries`.
        delays: as for :class:`Retries`.

    Raises:
        EngineError: it failed too often.
    """
    retries = Retries(stop, delays)
    while True:
        try:
            return work()
        except PassingError as error:
            retries.wait(error)
