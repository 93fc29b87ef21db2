"""The part of YAML that lists for copy_bom are written in: maps, lists, texts, comments."""

from __future__ import annotations

import re
from typing import Any, NamedTuple


class NotYaml(Exception):
    """A text that is not of this part of YAML."""


class _Line(NamedTuple):
    number: int
    indent: int
    text: str


_KEY = re.compile(
    r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'"""  # quoted
    r"""|[^\s"'\[\]{},#&*!|>%@`:-][^:#]*?)"""  # or plain
    r"""\s*:(?:\s+(.*)|)$"""
)
_ESCAPES = dict(
    zip('0abtnvfre"/\\ N_', '\0\a\b\t\n\v\f\r\x1b"/\\ \x85\xa0')  # noqa: B905 - Python 3.8
)
_WORDS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}


def parse(text: str) -> Any:
    """Give the document of a text.

    Raises:
        NotYaml: it is not of the part that this reads; with the line.
    """
    lines = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = _without_comment(raw)
        if line.strip() and line.strip() != "---":
            if "\t" in line[: len(line) - len(line.lstrip())]:
                raise NotYaml(f"line {number}: a tab in the indentation")
            lines.append(_Line(number, len(line) - len(line.lstrip(" ")), line.strip()))
    if not lines:
        return None
    value, rest = _block(lines, lines[0].indent)
    if rest:
        raise NotYaml(f"line {rest[0].number}: unexpected indentation")
    return value


def _without_comment(line: str) -> str:
    quote = ""
    at = 0
    while at < len(line):
        char = line[at]
        if quote:
            if char == "\\" and quote == '"':
                at += 1
            elif char == quote:
                quote = ""
        elif char in "\"'" and (at == 0 or line[at - 1] in " [{,:"):
            quote = char
        elif char == "#" and (at == 0 or line[at - 1] in " \t"):
            return line[:at].rstrip()
        at += 1
    return line.rstrip()


def _block(lines: list[_Line], indent: int) -> tuple[Any, list[_Line]]:
    first = lines[0]
    if first.text == "-" or first.text.startswith("- "):
        return _list(lines, indent)
    if _KEY.match(first.text):
        return _map(lines, indent)
    return scalar(first.text, first.number), lines[1:]


def _list(lines: list[_Line], indent: int) -> tuple[list[Any], list[_Line]]:
    found = []
    while lines and lines[0].indent == indent and (lines[0].text + " ").startswith("- "):
        line, *lines = lines
        text = line.text[1:].lstrip()
        if text:
            inner = indent + len(line.text) - len(text)
            value, lines = _block([_Line(line.number, inner, text), *lines], inner)
        else:
            value, lines = _nested(lines, indent)
        found.append(value)
    return found, lines


def _map(lines: list[_Line], indent: int) -> tuple[dict[str, Any], list[_Line]]:
    found: dict[str, Any] = {}
    while lines and lines[0].indent == indent:
        line = lines[0]
        match = _KEY.match(line.text)
        if match is None:
            raise NotYaml(f"line {line.number}: no key in {line.text!r}")
        key = str(scalar(match.group(1), line.number))
        if key in found:
            raise NotYaml(f"line {line.number}: the key {key} is there twice")
        lines = lines[1:]
        if match.group(2):
            found[key] = scalar(match.group(2), line.number)
        elif lines and lines[0].indent == indent and (lines[0].text + " ").startswith("- "):
            found[key], lines = _list(lines, indent)
        else:
            found[key], lines = _nested(lines, indent)
    return found, lines


def _nested(lines: list[_Line], indent: int) -> tuple[Any, list[_Line]]:
    if lines and lines[0].indent > indent:
        return _block(lines, lines[0].indent)
    return None, lines


def scalar(text: str, number: int) -> Any:
    """Give a value that stands in one line."""
    value, rest = _flow(text.strip(), number, "")
    if rest.strip():
        raise NotYaml(f"line {number}: {rest.strip()!r} behind a value")
    return value


def _flow(text: str, number: int, end: str) -> tuple[Any, str]:
    """Read one value; `end` are the characters that end a plain one."""
    if text.startswith("["):
        return _flow_list(text[1:].lstrip(), number)
    if text.startswith("{"):
        return _flow_map(text[1:].lstrip(), number)
    if text.startswith('"'):
        match = re.match(r'"((?:[^"\\]|\\.)*)"', text)
        if match is None:
            raise NotYaml(f"line {number}: a quote is not closed")
        return _unescaped(match.group(1), number), text[match.end() :].lstrip()
    if text.startswith("'"):
        match = re.match(r"'((?:[^']|'')*)'", text)
        if match is None:
            raise NotYaml(f"line {number}: a quote is not closed")
        return match.group(1).replace("''", "'"), text[match.end() :].lstrip()
    if text[:1] in ("&", "*", "!", "|", ">", "%", "@", "`"):
        raise NotYaml(f"line {number}: {text[:1]} is not supported")
    stop = min([len(text), *(text.find(char) for char in end if char in text)])
    plain = text[:stop].strip()
    return _WORDS.get(plain, plain), text[stop:]


def _flow_list(text: str, number: int) -> tuple[list[Any], str]:
    found: list[Any] = []
    while not text.startswith("]"):
        value, text = _flow(text, number, ",]")
        found.append(value)
        text = _comma(text, "]", number)
    return found, text[1:].lstrip()


def _flow_map(text: str, number: int) -> tuple[dict[str, Any], str]:
    found: dict[str, Any] = {}
    while not text.startswith("}"):
        key, text = _flow(text, number, ":,}")
        if not text.startswith(":"):
            raise NotYaml(f"line {number}: a key without value")
        found[str(key)], text = _flow(text[1:].lstrip(), number, ",}")
        text = _comma(text, "}", number)
    return found, text[1:].lstrip()


def _comma(text: str, end: str, number: int) -> str:
    if text.startswith(","):
        return text[1:].lstrip()
    if not text.startswith(end):
        raise NotYaml(f"line {number}: {end} is missing")
    return text


def _unescaped(text: str, number: int) -> str:
    def char(match: re.Match[str]) -> str:
        code = match.group(1)
        if code[0] in "xuU" and len(code) > 1:
            return chr(int(code[1:], 16))
        if code not in _ESCAPES:
            raise NotYaml(f"line {number}: \\{code} is no escape")
        return _ESCAPES[code]

    pattern = r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)"
    return re.sub(pattern, char, text)
