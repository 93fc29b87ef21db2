"""The launch specification: which command the launcher becomes, and with which environment.

``launch.json`` stands beside the launcher and is a trusted file, so it is part of the measurement::

    {"schema": 1, "argv": ["/usr/bin/java", "…"], "env": {"NAME": "value"},
     "passthrough": {"NAME": "regular expression"}}

``argv`` is executed as it is, without a shell; ``env`` is the whole environment but for the
variables of ``passthrough``, whose values come from the host and must match their pattern as a
whole.

This module runs inside the image too: Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import json
import re
from typing import Any, Mapping, NamedTuple, Sequence  # noqa: UP035 - Python 3.8

SCHEMA = 1
DEFAULT_PASSTHROUGH: Mapping[str, str] = {}
"""Variables that the host may set by default: none. What a role needs comes with the role."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYS = {"schema", "argv", "env", "passthrough"}


class Launch(NamedTuple):
    """A checked launch specification.

    Attributes:
        argv: program (absolute path) and arguments.
        env: variables with fixed values.
        passthrough: variable → compiled pattern that the host's value must match as a whole.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    passthrough: dict[str, re.Pattern[str]]


def launch_spec(
    argv: Sequence[str], env: Mapping[str, str], passthrough: Mapping[str, str]
) -> bytes:
    """Write ``launch.json``: canonical JSON (sorted keys, no spaces, ASCII), one line.

    Args:
        argv: program, as an absolute path, and its arguments.
        env: fixed environment.
        passthrough: variable → regular expression (Python's, ASCII classes) for the host's value.

    Raises:
        ValueError: one of these could not be used; the text says which, in one line.
    """
    document = {
        "schema": SCHEMA,
        "argv": list(argv),
        "env": dict(env),
        "passthrough": dict(passthrough),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True) + "\n"
    data = text.encode("ascii")
    parse_launch(data)
    return data


def parse_launch(data: bytes) -> Launch:
    """Read ``launch.json``, strictly.

    Raises:
        ValueError: it is not a launch specification of this schema; the text says why, in one line.
    """
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_without_repetition)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict) or set(document) != _KEYS:
        raise ValueError(f"it is not an object with exactly the keys {', '.join(sorted(_KEYS))}")
    if document["schema"] is True or document["schema"] != SCHEMA:
        raise ValueError(f"schema is not {SCHEMA}: it was made for another launcher")
    argv = _command(document["argv"])
    env = _variables(document["env"], "env")
    patterns = _variables(document["passthrough"], "passthrough")
    both = sorted(set(env) & set(patterns))
    if both:
        raise ValueError(f"{both[0]} has a fixed value and is passed through: keep one of the two")
    return Launch(argv, env, {name: _compiled(name, text) for name, text in patterns.items()})


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands there twice")
    return table


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _command(argv: object) -> tuple[str, ...]:
    if not isinstance(argv, list) or not argv or not all(_is_text(word) for word in argv):
        raise ValueError("argv is not a list of one or more strings without NUL")
    if not argv[0].startswith("/"):
        raise ValueError("argv[0] is not an absolute path")
    return tuple(argv)


def _variables(table: object, key: str) -> dict[str, str]:
    if not isinstance(table, dict):
        raise ValueError(f"{key} is not an object")
    for name, value in table.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{key}: {json.dumps(name)} is not a name of an environment variable")
        if not _is_text(value):
            raise ValueError(f"{key}.{name} is not a string without NUL")
    return table


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.ASCII)
    except (re.error, RecursionError, OverflowError):
        raise ValueError(f"passthrough.{name} is not a regular expression") from None
