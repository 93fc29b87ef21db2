"""Flink's configuration: read, flattened, and written for the program inside.

Up to 1.18 Flink reads ``flink-conf.yaml``, which is no YAML: each line is ``key: value``, ``#``
begins a comment wherever it stands, text is taken as it is, quotes included, and the last line of
a key wins. Since 1.19 it reads ``config.yaml`` (:mod:`.flink_yaml`), and the old file if that is
there; both keep their own rules. Measured with Flink 1.16.3 and 1.20.5.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Mapping  # noqa: UP035 - Python 3.8

from .flink_yaml import NOT_TEXT, join_list, parse_yaml, split_list
from .words import shown

LEGACY = "flink-conf.yaml"
STANDARD = "config.yaml"
FILES = (LEGACY, STANDARD)
"""Names of the file, in the order in which Flink looks for them."""

FILE_KEY = "imagekit.conf-file"
"""Property that says which of :data:`FILES` a configuration was read from. On Kubernetes Flink 1.20
gives its TaskManagers a file of the same name as it has itself, so the name has to stay."""

FIRST_STANDARD = (1, 19)
"""The first release that reads :data:`STANDARD`."""

LISTS = (
    "$internal.application.program-args",
    "pipeline.jars",
    "pipeline.classpaths",
)
"""Properties that are lists and that the launcher looks into."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_TRIMMED = "".join(map(chr, range(0x21)))  # what Java's trim takes off
_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.-]*")
_NESTED = re.compile(r"[^#\n]*:[ \t]*(#.*)?")
_ITEM = re.compile(r"[ \t]*- ")


def parse_conf(text: str, name: str | None = None) -> dict[str, str]:
    """Read a configuration file.

    Args:
        text: of the file.
        name: of the file, one of :data:`FILES`. It decides how the text is read, and is noted under
            :data:`FILE_KEY`; without it, text with a nested map is YAML, other text is not.

    Returns:
        Dotted names → values.

    Raises:
        ValueError: it is no such file; the text names the line, and shows nothing of it.
    """
    if name is not None and name not in FILES:
        raise ValueError(f"its name is neither {' nor '.join(FILES)}")
    standard = name == STANDARD if name else _looks_nested(text)
    conf = parse_yaml(text) if standard else parse_flat(text)
    return {**conf, FILE_KEY: name} if name else conf


def _looks_nested(text: str) -> bool:
    """A line without a value, before a line that is indented or the item of a list."""
    before = ""
    for line in _LINE_END.split(text):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if _NESTED.fullmatch(before) and (line[0] == " " or _ITEM.match(line)):
            return True
        before = line
    return False


def parse_flat(text: str) -> dict[str, str]:
    """Read ``key: value`` lines as Flink does; a key without a value is left out.

    Raises:
        ValueError: a line that Flink would pass over with a warning; the text names it.
    """
    conf = {}
    for number, line in enumerate(_LINE_END.split(text), 1):
        content = line.partition("#")[0].strip(_TRIMMED)
        if not content:
            continue
        key, separator, value = content.partition(": ")
        key, value = key.strip(_TRIMMED), value.strip(_TRIMMED)
        if not separator and content.endswith(":"):
            continue
        if not separator or not key:
            raise ValueError(f"line {number}: it is not `key: value`")
        if value:
            conf[key] = value
    return conf


def write_conf(conf: Mapping[str, str], name: str) -> bytes:
    """Write a configuration file, sorted; :func:`parse_conf` undoes it, as Flink does.

    Args:
        conf: dotted names → values; lists are text (:func:`.flink_yaml.join_list`).
        name: one of :data:`FILES`: how to write.

    Raises:
        ValueError: a value that the file cannot hold; the text names the property alone.
    """
    lines = []
    for key, value in sorted(conf.items()):
        if NOT_TEXT.search(key + value):
            raise ValueError(f"{shown(key)}: its value holds a character that is not printable")
        if name == STANDARD:
            lines.append(f"{_key(key)}: {_quoted(value)}\n")
        elif value:
            lines.append(_flat_line(key, value))
    return "".join(lines).encode("utf-8")


def _flat_line(key: str, value: str) -> str:
    if key != key.strip(_TRIMMED) or not key or ": " in key or "#" in key or key.endswith(":"):
        raise ValueError(f"{shown(key)}: {LEGACY} cannot hold such a name")
    if value != value.strip(_TRIMMED) or "#" in value:
        raise ValueError(
            f"{shown(key)}: {LEGACY} cannot hold its value: it has a # or a space at its end"
        )
    return f"{key}: {value}\n"


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else _quoted(key)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def with_lists(conf: Mapping[str, str], name: str) -> dict[str, str]:
    """Write the properties of :data:`LISTS` in the one form that the file's reader cannot mistake.

    Args:
        conf: properties.
        name: one of :data:`FILES`.

    Raises:
        ValueError: one is no list; the text names it.
    """
    found = dict(conf)
    for key in LISTS:
        if key in found:
            found[key] = join_list(items_of(conf, key), name == STANDARD)
    return found


def items_of(conf: Mapping[str, str], key: str) -> list[str]:
    """Give the items of a property that is a list; none if it is not there.

    Raises:
        ValueError: it is no list; the text names the property.
    """
    try:
        return split_list(conf.get(key, ""))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
