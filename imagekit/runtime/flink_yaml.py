"""The YAML that Flink's own client writes, and lists of Flink in one line of text.

Since 1.19 Flink's configuration is YAML: nested maps, text plain or in quotes, lists. That subset
is read here, and flattened as Flink does it: ``{a: {b: 1}}`` is ``a.b`` = ``1``. What is left out
(anchors, tags, text over several lines, maps in lists …) is refused by line number, as is what
Flink would read as something else than the text that stands there (``007`` and ``0x1F`` are numbers
to it). Measured with Flink 1.20.5.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Sequence  # noqa: UP035 - Python 3.8

_LINE_END = re.compile(r"\r\n|\r|\n")
NOT_TEXT = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""What no value may hold that is written: control characters but the tab, line ends, no text."""
_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$./<>-]*")
_KEY_END = re.compile(r"[ ]*:(?=[ ]|$)")
_COMMENT = re.compile(r"[ \t]+#.*|[ \t]*")
_SINGLE = re.compile(r"'((?:[^']|'')*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPES = {"\\": "\\", '"': '"', "/": "/", "t": "\t", "n": "\n", "r": "\r"}
_NOT_FIRST = "[]{},&*!|>'\"%@`#"
"""What no plain text can begin with."""
_IN_FLOW = frozenset(",[]{}")

_NULL = ("~", "null", "Null", "NULL")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_NUMBER = re.compile(
    r"[-+]?([0-9]+|0o[0-7]+|0x[0-9A-Fa-f]+)"
    r"|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_USUAL_NUMBER = re.compile(
    r"0|-?[1-9][0-9]{0,17}|-?(0|[1-9][0-9]{0,5})\.(?!000[0-9])([0-9]{0,8}[1-9]|0)"
)
"""A number that Flink writes the way it was read; below 0.001 it takes an exponent."""
_LEGACY_DOUBLE = re.compile(r'"((?:[^"]|"")*)"')


class _Level(NamedTuple):
    """An open map: where its keys begin, and what they are below of."""

    indent: int
    prefix: str


class _Open(NamedTuple):
    """A key whose value comes on the next lines."""

    name: str
    indent: int
    number: int


def parse_yaml(text: str) -> dict[str, str]:
    """Read a configuration in YAML.

    Returns:
        Dotted names → values; a list is text as :func:`join_list` makes it.

    Raises:
        ValueError: it is no such YAML; the text names the line, and shows nothing of it.
    """
    reader = _Reader()
    for number, line in enumerate(_LINE_END.split(text), 1):
        try:
            reader.take(line, number)
        except _OtherLine:
            raise
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    reader.end_block(-1)
    return reader.found


class _OtherLine(ValueError):
    """An error that names its line, which is another one than that where it shows."""


class _Reader:
    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.levels = [_Level(0, "")]
        self.open: _Open | None = None
        self.items: list[str] | None = None
        self.item_indent = 0
        self.begun = False

    def take(self, line: str, number: int) -> None:
        if NOT_TEXT.search(line):
            raise ValueError("a character that is not printable")
        content = line.lstrip(" ")
        indent = len(line) - len(content)
        if not content.strip(" \t") or content.startswith("#"):
            return
        if content.startswith("\t"):
            raise ValueError("a tab in the indentation")
        if line.rstrip() == "---" and not self.begun:
            self.begun = True
            return
        self.begun = True
        if content == "-" or content.startswith("- "):
            self._item(content[1:].strip(" "), indent)
            return
        self.end_block(indent)
        while self.levels[-1].indent > indent:
            self.levels.pop()
        if self.levels[-1].indent != indent:
            raise ValueError("it is indented as no line before it")
        name, rest = _key(content)
        name = self.levels[-1].prefix + name
        if not rest or rest.startswith("#"):
            self.open = _Open(name, indent, number)
            return
        value = _value(rest)
        if value is not None:
            self._add(name, value)

    def _item(self, rest: str, indent: int) -> None:
        if self.items is None:
            if self.open is None or indent < self.open.indent:
                raise ValueError("a list that belongs to no key")
            self.items, self.item_indent = [], indent
        elif indent != self.item_indent:
            raise ValueError("it is indented as no line before it")
        self.items.append(_scalar(rest))

    def end_block(self, indent: int) -> None:
        """A line that is no list item follows, at this indentation: end or open what is open."""
        if self.open is None:
            return
        name, own_indent, number = self.open
        self.open = None
        if self.items is not None:
            self._add(name, join_list(self.items, standard=True))
            self.items = None
        elif indent > own_indent:
            self.levels.append(_Level(indent, f"{name}."))
        else:
            raise _OtherLine(f"line {number}: it has no value")

    def _add(self, name: str, value: str) -> None:
        if name in self.found:
            raise ValueError("a key that was there before")
        self.found[name] = value


def _key(content: str) -> tuple[str, str]:
    """Part a line into its key and what follows the colon."""
    quoted = _SINGLE.match(content) or _DOUBLE.match(content)
    if quoted:
        name = _unquoted(quoted[0])
        end = _KEY_END.match(content, quoted.end())
    else:
        plain = _PLAIN_KEY.match(content)
        name = plain[0] if plain else ""
        end = _KEY_END.match(content, plain.end()) if plain else None
    if not name or end is None:
        raise ValueError("it is not `key: value`")
    return name, content[end.end() :].strip(" \t")


def _value(rest: str) -> str | None:
    """Give a value that stands on its key's line; None for an empty map."""
    if rest.startswith("["):
        items, end = _flow(rest)
        _nothing_after(rest, end)
        return join_list(items, standard=True)
    if rest.startswith("{"):
        if not _COMMENT.fullmatch(rest.replace(" ", "")[2:]) or rest.replace(" ", "")[:2] != "{}":
            raise ValueError("a map in braces: write it as lines")
        return None
    return _scalar(rest)


def _scalar(rest: str) -> str:
    if rest[:1] in ("'", '"'):
        quoted = _SINGLE.match(rest) or _DOUBLE.match(rest)
        if quoted is None:
            raise ValueError("a quote that does not end on its line")
        _nothing_after(rest, quoted.end())
        return _unquoted(quoted[0])
    plain = re.split(r"[ \t]#", rest, maxsplit=1)[0].strip(" \t")
    return _resolved(plain)


def _nothing_after(rest: str, end: int) -> None:
    if not _COMMENT.fullmatch(rest, end):
        raise ValueError("something follows the value")


def _unquoted(text: str) -> str:
    if text[0] == "'":
        return text[1:-1].replace("''", "'")
    return _ESCAPE.sub(_escaped, text[1:-1])


def _escaped(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    if not digits:
        if found[4] not in _ESCAPES:
            raise ValueError("an escape that is not known")
        return _ESCAPES[found[4]]
    code = int(digits, 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise ValueError("an escape that is no character")
    return chr(code)


def _resolved(plain: str) -> str:
    """Plain text as Flink takes it, if that is what stands there."""
    if not plain or plain in _NULL:
        raise ValueError("it has no value")
    if plain[0] in _NOT_FIRST or re.match(r"[-?:]([ \t]|$)", plain):
        raise ValueError("text that begins like this has to stand in quotes")
    if re.search(r":([ \t]|$)", plain):
        raise ValueError("text with a colon has to stand in quotes")
    if _BOOLEAN.fullmatch(plain):
        return plain.lower()
    if _NUMBER.fullmatch(plain) and not _USUAL_NUMBER.fullmatch(plain):
        raise ValueError("a number in an unusual form has to stand in quotes")
    return plain


def _flow(text: str) -> tuple[list[str], int]:
    """Read a list in brackets; give its items, and where it ends."""
    items: list[str] = []
    at = _skip(text, 1)
    while text[at : at + 1] != "]":
        quoted = _SINGLE.match(text, at) or _DOUBLE.match(text, at)
        if quoted:
            items.append(_unquoted(quoted[0]))
            at = _skip(text, quoted.end())
        else:
            start = at
            while at < len(text) and text[at] not in _IN_FLOW:
                at += 1
            if re.search(r"[ \t]#", text[start:at]):
                raise ValueError("a list that does not end on its line")
            items.append(_resolved(text[start:at].strip(" \t")))
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise ValueError("a list that is more than plain texts, or does not end on its line")
    return items, at + 1


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t"):
        at += 1
    return at


def join_list(items: Sequence[str], standard: bool) -> str:
    """Write a list as the text of a property; :func:`split_list` undoes it, as Flink does.

    Args:
        items: the texts.
        standard: for a configuration in YAML; else with semicolons, as before Flink 1.19.
    """
    quoted = ["'" + item.replace("'", "''") + "'" for item in items]
    return f"[{', '.join(quoted)}]" if standard else ";".join(quoted)


def split_list(text: str) -> list[str]:
    """Read a property that is a list: ``[a, 'b c']``, or with semicolons ``a;'b;c'``.

    Raises:
        ValueError: it is neither, or may be read in two ways.
    """
    if text.startswith("["):
        items, end = _flow(text)
        if end != len(text):
            raise ValueError("something follows the list")
        return items
    items, at = [], _skip(text, 0)
    while at < len(text):
        quoted = _SINGLE.match(text, at) or _LEGACY_DOUBLE.match(text, at)
        if quoted:
            mark = quoted[0][0]
            items.append(quoted[1].replace(mark * 2, mark))
            at = _skip(text, quoted.end())
        elif text[at] in "'\"":
            raise ValueError("a quote that does not end")
        else:
            end = text.find(";", at)
            end = len(text) if end < 0 else end
            if end > at or items:
                items.append(text[at:end].strip())
            at = end
        if at < len(text) and text[at] != ";":
            raise ValueError("something follows a quote")
        at = _skip(text, at + 1)
    return items
