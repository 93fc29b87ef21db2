"""What the command line says: results on stdout, all else on stderr.

Progress bars are drawn by rich, which is imported only when there is a terminal to draw on.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagekit.images.progress import Advance, Progress

SCHEMA = 1
"""Version of every ``--json`` answer."""


class Ui:
    """How talkative this run is.

    Attributes:
        quiet: no progress and no remarks; warnings stay.
        verbose: tracebacks.
    """

    quiet = False
    verbose = False

    def say(self, line: str) -> None:
        """Print a remark on stderr."""
        if not self.quiet:
            self._line(line)

    def warn(self, line: str) -> None:
        """Print a warning on stderr."""
        self._line(f"warning: {line}")

    def _line(self, text: str) -> None:
        # in one piece: several threads may talk at once
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def result(self, text: str) -> None:
        """Print a result on stdout."""
        print(text, flush=True)

    def json(self, value: Mapping[str, Any]) -> None:
        """Print a result on stdout as JSON."""
        print(json.dumps({"schema": SCHEMA, **value}, indent=2, ensure_ascii=False), flush=True)

    @contextmanager
    def progress(self) -> Iterator["Progress"]:
        """Give a progress display: bars on a terminal, a line per long step elsewhere."""
        if self.quiet:
            from imagekit.images.progress import NO_PROGRESS

            yield NO_PROGRESS
        elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            yield from self._bars()
        else:
            yield _Lines(self)

    def _bars(self) -> Iterator["Progress"]:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeElapsedColumn(),
        )
        with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
            yield _Bars(bars)


class _Lines:
    """Progress for logs: what is being done, once per task."""

    def __init__(self, ui: Ui) -> None:
        self._ui = ui

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator["Advance"]:
        self._ui.say(f"{label} …")
        yield lambda units: None


class _Bars:
    """Progress bars of rich."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars

    def task(self, label: str, total: int | None) -> AbstractContextManager["Advance"]:
        return self._task(label, total)

    @contextmanager
    def _task(self, label: str, total: int | None) -> Iterator["Advance"]:
        number = self._bars.add_task(label, total=total)
        try:
            yield lambda units: self._bars.advance(number, units)
        finally:
            self._bars.remove_task(number)


ui = Ui()
"""The one talker of a run; :func:`imagekit.cli.main.main` sets it up."""
