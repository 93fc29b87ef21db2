"""What a build says while it runs: its steps as tasks, its last lines for errors."""

import re
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from urllib.parse import unquote, urlsplit

from imagekit.errors import EngineError
from imagekit.images.bases.process import one_line
from imagekit.images.daemon.connect import Daemon
from imagekit.images.daemon.faults import engine_text, hint_for
from imagekit.images.progress import Progress

TAIL_LINES = 50
"""How many of a step's last lines are kept."""

_SHOWN_LINES = 5
_LABEL = 100
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Cleaner:
    """Takes out of a text what nobody may read: the accounts of proxies.

    Args:
        urls: addresses of proxies, with or without user and password.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        found = set[str]()
        for url in urls:
            try:
                parts = urlsplit(url if "//" in url else f"//{url}")
                account = parts.netloc.rpartition("@")[0]
                password = parts.password
            except ValueError:
                account, password = url, None
            found |= {account, password or "", unquote(password or "")}
        self._secrets = sorted(filter(None, found), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without secrets, colours and what was written over."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _ESCAPES.sub("", text).rstrip("\r").rpartition("\r")[2]


class BuildLog(AbstractContextManager["BuildLog"]):
    """Follows a build; steps may run at once.

    Args:
        progress: shown each step.
        clean: applied to every text.
    """

    def __init__(self, progress: Progress, clean: Cleaner) -> None:
        self._progress = progress
        self._clean = clean
        self._open: dict[str, ExitStack] = {}
        self._tails: dict[str, deque[str]] = {}
        self._labels: dict[str, str] = {}

    def begin(self, step: str, label: str, *, shown: bool = True) -> None:
        """Begin a step.

        Args:
            step: its key.
            label: as in ``step 3/12 (RUN make)``.
            shown: whether progress hears of it.
        """
        self._labels[step] = label = engine_text(self._clean(label))
        self._tails[step] = deque(maxlen=TAIL_LINES)
        stack = self._open[step] = ExitStack()
        if shown:
            stack.enter_context(self._progress.task(_short(label), None))

    def knows(self, step: str) -> bool:
        """Whether the step began."""
        return step in self._labels

    def line(self, step: str, text: str) -> None:
        """Keep a line of a step's output."""
        if step in self._tails:
            self._tails[step].append(self._clean(text))

    def end(self, step: str) -> None:
        """End a step."""
        if step in self._open:
            self._open.pop(step).close()

    def failed(
        self, daemon: Daemon, step: str | None, reason: str, code: int | None
    ) -> EngineError:
        """The error for a build that failed.

        Args:
            daemon: the engine.
            step: the key of the step that failed, if one had begun.
            reason: what the engine says.
            code: the exit code of the step's command, if it ran one.
        """
        reason = engine_text(self._clean(reason))
        tail = list(self._tails.get(step or "", ()))
        said = one_line([line for line in tail if line.strip()][-_SHOWN_LINES:])
        label = self._labels.get(step or "")
        where = f"{_short(label)} failed" if label else f"{daemon} cannot build"
        what = f"exit code {code}" if code is not None else reason
        problem = f"{where}: {what}" + (f": {said}" if said and code is not None else "")
        hint = hint_for(
            "\n".join((*tail, reason)), daemon.known_root, "correct this step, or see what it needs"
        )
        return EngineError(problem, hint)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for step in list(self._open):
            self.end(step)


def _short(label: str) -> str:
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"
