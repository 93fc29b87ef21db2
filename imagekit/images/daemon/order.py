"""What is to be built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")
PROXIES = tuple(sorted((*_NAMES, *(name.lower() for name in _NAMES))))
"""The build arguments that every builder knows without ARG and keeps out of the history."""


@dataclass(frozen=True)
class BuildOrder:
    """What is to be built.

    Attributes:
        context: the folder that is sent.
        dockerfile: the Dockerfile's path in it.
        target: the stage to build, or None for the last.
        build_args: build arguments, no secrets.
        proxies: build arguments that name proxies; their addresses may hold passwords.
        tag: a name for the image, or None.
        labels: labels for the image.
        keep_steps: whether the steps of a build that failed are kept for the next one.
    """

    context: Path
    dockerfile: str
    target: str | None
    build_args: Mapping[str, str]
    proxies: Mapping[str, str] = field(repr=False)
    tag: str | None
    labels: Mapping[str, str]
    keep_steps: bool = True
