"""Building through the API's own builder: Docker's classic one, and Podman's."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import docker
from docker.errors import APIError, StreamParseError
from urllib3.exceptions import HTTPError

from imagekit.errors import EngineError
from imagekit.images.daemon.buildlog import BuildLog
from imagekit.images.daemon.connect import Daemon
from imagekit.images.daemon.context import context_tar
from imagekit.images.daemon.images import inspect_image
from imagekit.images.daemon.order import BuildOrder
from imagekit.images.progress import Progress

_STEP = re.compile(r"(?:\[\d+/\d+\] )?step (\d+)/(\d+) ?: (.*)", re.IGNORECASE)
_MADE = re.compile(r" ?-{2,3}> ([0-9a-f]{10,64})")
_FROM = re.compile(r"[^:]*: *FROM\b", re.IGNORECASE)
_CHATTER = (" --->", "Removing intermediate container ")
_CODE = re.compile(r"(?:exit status|non-zero code:) (\d+)")

_REST = 1 << 16  # characters of a line that has not ended


def build_classic(daemon: Daemon, order: BuildOrder, log: BuildLog, progress: Progress) -> str:
    """Build with ``POST /build``; gives the image's id.

    The answer's status says nothing of the outcome: errors come in the stream, which is read to its
    end, and a stream that ends without naming an image is an error, too.

    Raises:
        EngineError: a step failed, or the engine did.
    """
    with daemon.talk(f"build {order.context}", patient=True) as client:
        engine: Any = client  # docker-py wants a file where any iterable of bytes will do
        lines = engine.build(
            fileobj=_sent(order, progress),
            custom_context=True,
            dockerfile=order.dockerfile,
            tag=order.tag,
            rm=True,
            forcerm=True,
            buildargs={**order.build_args, **order.proxies},
            labels=dict(order.labels),
            target=order.target,
            use_config_proxy=True,
            decode=True,
        )
        answer = _Answer(log)
        try:
            for line in lines:
                answer.read(line)
        except (StreamParseError, HTTPError):
            raise log.failed(daemon, answer.step, "the connection was cut", None) from None
        if answer.error is not None:
            if not order.keep_steps:
                _remove_stages(client, answer.made, None)
            raise log.failed(daemon, answer.step, answer.error, answer.code)
        if answer.image is None:
            raise log.failed(daemon, answer.step, "the build ended without an image", None)
        found = inspect_image(client, answer.image)
        if found is None:
            raise EngineError(
                f"{daemon} built {answer.image}, which is not there", "look at the engine's log"
            )
        image_id = str(found["Id"])
        _remove_stages(client, answer.made, image_id)
    return image_id


def _sent(order: BuildOrder, progress: Progress) -> Iterator[bytes]:
    with progress.task(f"sending {order.context}", None) as advance:
        for block in context_tar(order.context, order.dockerfile):
            yield block
            advance(len(block))


class _Answer:
    """Reads the lines of the answer.

    Attributes:
        step: the key of the present step.
        image: the id of the image, when it was named.
        made: beginnings of the ids of all images that steps gave; FROM gives none of its own.
        error: what went wrong.
        code: the exit code of the command that failed.
    """

    def __init__(self, log: BuildLog) -> None:
        self._log = log
        self._rest = ""
        self.step: str | None = None
        self.image: str | None = None
        self.made: set[str] = set()
        self.error: str | None = None
        self.code: int | None = None

    def read(self, line: Any) -> None:
        """Take one JSON value of the stream."""
        if not isinstance(line, dict):
            return
        if "error" in line or "errorDetail" in line:
            detail = line.get("errorDetail")
            detail = detail if isinstance(detail, dict) else {}
            self.error = str(detail.get("message") or line.get("error"))
            found = _CODE.search(self.error)
            self.code = detail.get("code") or (int(found[1]) if found else None)
            return
        aux = line.get("aux")
        if isinstance(aux, dict) and isinstance(aux.get("ID"), str):
            self.image = aux["ID"]
        *whole, self._rest = (self._rest + str(line.get("stream", ""))).split("\n")
        self._rest = self._rest[-_REST:]  # some commands print without ever ending a line
        for text in whole:
            self._line(text)

    def _line(self, text: str) -> None:
        step, made = _STEP.fullmatch(text), _MADE.match(text)
        if step:
            if self.step is not None:
                self._log.end(self.step)
            self.step = text
            self._log.begin(text, f"step {step[1]}/{step[2]} ({step[3]})")
        elif made:
            if self.step is not None and not _FROM.match(self.step):
                self.made.add(made[1])
        elif self.step is not None and not text.startswith(_CHATTER):
            self._log.line(self.step, text)


def _remove_stages(client: docker.APIClient, made: set[str], image_id: str | None) -> None:
    """Remove the images of this build's steps that no image needs; those in use stay.

    The classic builder stores an image for every step, and rm and forcerm remove containers alone.
    """
    for listed in client.images(filters={"dangling": True}):
        digits = listed["Id"].removeprefix("sha256:")
        if listed["Id"] != image_id and any(digits.startswith(short) for short in made):
            with suppress(APIError):
                client.remove_image(listed["Id"])
