"""Text of java.util.Properties, read as Java reads it and written so that Java reads the same.

The format is that of ``Properties.load(Reader)`` (Java SE API): Spark's Kubernetes client writes a
driver's properties in it, and ``SparkSubmit --properties-file`` reads it.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Mapping  # noqa: UP035 - Python 3.8

_BLANK = " \t\f"
_LINE_END = re.compile(r"\r\n|\r|\n")
_KEY = re.compile(r"(?:[^=: \t\f\\]|\\.)*", re.DOTALL)
_SEPARATOR = re.compile(r"[ \t\f]*[=:]?[ \t\f]*")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_LETTERS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_NAMES = {char: "\\" + letter for letter, char in _LETTERS.items()}


def parse_properties(text: str) -> dict[str, str]:
    """Read properties; of a key that stands there twice the last value counts, as in Java.

    Raises:
        ValueError: a malformed ``\\u`` escape, or half of a surrogate pair; the text says which,
            in one line and without anything of what was read.
    """
    table = {}
    for line in _logical_lines(text):
        key = _KEY.match(line)
        assert key is not None  # it matches nothing, too
        separator = _SEPARATOR.match(line, key.end())
        assert separator is not None
        table[_unescape(key[0])] = _unescape(line[separator.end() :])
    return table


def write_properties(table: Mapping[str, str]) -> bytes:
    """Write properties: sorted by key, one a line, ASCII alone.

    Raises:
        ValueError: half of a surrogate pair, which no Java text file can hold.
    """
    lines = [f"{_escape(key, True)}={_escape(table[key], False)}\n" for key in sorted(table)]
    return "".join(lines).encode("ascii")


def _logical_lines(text: str) -> list[str]:
    """Join lines that end in a backslash with the next; leave out blank lines and comments."""
    lines = []
    line = ""
    for part in _LINE_END.split(text):
        stripped = part.lstrip(_BLANK)
        if not line and stripped[:1] in ("", "#", "!"):
            continue
        backslashes = len(stripped) - len(stripped.rstrip("\\"))
        if backslashes % 2:
            line += stripped[:-1]
            continue
        lines.append(line + stripped)
        line = ""
    # A lone backslash at the end is nothing here; some Javas take it for a key without a name.
    return [*lines, line] if line else lines


def _unescape(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        word = found[1]
        if word[0] != "u":
            return _LETTERS.get(word, word)
        if len(word) == 1:
            raise ValueError("a backslash and u without four hexadecimal digits after it")
        return chr(int(word[1:], 16))

    plain = _ESCAPE.sub(one, text)
    return _whole(plain.encode("utf-16-be", "surrogatepass"))


def _escape(text: str, key: bool) -> str:
    out = []
    for place, char in enumerate(text):
        if char == " ":
            out.append("\\ " if key or place == 0 else " ")
        elif char in "\\=:#!":
            out.append("\\" + char)
        elif char in _NAMES:
            out.append(_NAMES[char])
        elif " " <= char <= "~":
            out.append(char)
        else:
            out.append(_units(char))
    return "".join(out)


def _units(char: str) -> str:
    """Write a character as the one or two units that it has in UTF-16."""
    data = char.encode("utf-16-be", "surrogatepass")
    _whole(data)
    return "".join(f"\\u{data[i]:02x}{data[i + 1]:02x}" for i in range(0, len(data), 2))


def _whole(data: bytes) -> str:
    try:
        return data.decode("utf-16-be")
    except UnicodeDecodeError:
        raise ValueError("half of a surrogate pair") from None
