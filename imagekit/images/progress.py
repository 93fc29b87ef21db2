"""How long work tells how far it is, without knowing who listens."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the number of units (bytes unless the label says else) done since the last call."""

Talk = Callable[[str], None]
"""Takes a remark for people, one line; never a secret."""


class Progress(Protocol):
    """Somebody who shows how far long work is. Its methods may be called from several threads."""

    def task(self, label: str, total: int | None) -> AbstractContextManager[Advance]:
        """Begin a task.

        Args:
            label: one short line for people; never a secret.
            total: the units of the whole task (bytes), or None when unknown.

        Returns:
            A context manager whose value is called with each step's units; leaving it ends the
            task, done or failed.
        """
        ...


class _Silent:
    """Shows nothing."""

    def task(self, label: str, total: int | None) -> AbstractContextManager[Advance]:
        return nullcontext(_ignore)


def _ignore(units: int) -> None:
    return None


NO_PROGRESS: Progress = _Silent()
"""The progress that shows nothing."""
