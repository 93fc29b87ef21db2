"""What of a command or of properties may be printed: every printed command goes through here.

What counts as a secret goes by its name: :func:`.words.is_secret`.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Mapping, Sequence  # noqa: UP035 - Python 3.8

from .words import is_secret

HIDDEN = "*********(redacted)"
"""What stands in place of a secret; Spark's own words."""

_ASSIGNED = re.compile(r"(-D|-+)?([^=\s]+)=(.*)", re.DOTALL)
_NAMED = re.compile(r"(?<![\w.-])([\w.-]+)\s*[=:]\s*")
_VALUE = re.compile(r"[^\s;&,]*")
_OPTION = re.compile(r"-+[\w.-]+")
_USER = re.compile(r"(://[^/@\s:]*:)[^/@\s]+@")
_PLAIN = re.compile(r"[\w@%+=:,./*\[\]()-]+", re.ASCII)


def redacted_conf(conf: Mapping[str, str]) -> dict[str, str]:
    """Give properties or variables with their secrets hidden."""
    return {name: HIDDEN if is_secret(name) else _scrub(conf[name]) for name in conf}


def redacted(argv: Sequence[str]) -> list[str]:
    """Give arguments with their secrets hidden.

    Known forms: ``--conf a.secret=…``, ``-Da.password=…``, ``--password …``,
    ``jdbc:…;password=…``, ``https://user:…@host``.
    """
    out = []
    hide_next = False
    for word in argv:
        assigned = _ASSIGNED.fullmatch(word)
        if hide_next:
            out.append(HIDDEN)
            hide_next = False
        elif assigned is not None:
            out.append(_hide(word, assigned))
        else:
            out.append(_scrub(word))
            hide_next = _OPTION.fullmatch(word) is not None and is_secret(word)
    return out


def _hide(word: str, assigned: re.Match[str]) -> str:
    name, value = assigned[2], assigned[3]
    if is_secret(name):
        return f"{assigned[1] or ''}{name}={HIDDEN}"
    inner = _ASSIGNED.fullmatch(value)  # --conf=name=value
    if inner is not None and is_secret(inner[2]):
        return f"{assigned[1] or ''}{name}={inner[1] or ''}{inner[2]}={HIDDEN}"
    return _scrub(word)


def _scrub(text: str) -> str:
    """Hide what stands after a secret's name anywhere in a text, and passwords in addresses."""
    out = []
    position = 0
    while True:
        named = _NAMED.search(text, position)
        if named is None:
            break
        out.append(text[position : named.end()])
        position = named.end()
        if is_secret(named[1]):
            value = _VALUE.match(text, position)
            assert value is not None  # it matches nothing, too
            position = value.end()
            out.append(HIDDEN)
    return _USER.sub(rf"\1{HIDDEN}@", "".join([*out, text[position:]]))


def command_line(argv: Sequence[str]) -> str:
    """Give a command as one line to print, its secrets hidden.

    Words that hold anything but plain characters are written as Python writes texts, so that a
    line break in one cannot pretend to be a line of its own.
    """
    words = redacted(argv)
    return " ".join(word if _plain(word) else ascii(word) for word in words)


def _plain(word: str) -> bool:
    return _PLAIN.fullmatch(word.replace(HIDDEN, "")) is not None or word == HIDDEN
