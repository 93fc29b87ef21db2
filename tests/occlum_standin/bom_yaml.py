"""The YAML of lists for ``copy_bom``, and no more: Python 3.8, standard library.

Block and flow collections, plain and quoted texts on one line, comments. All else is an error:
anchors, tags, texts of several lines, tabs before a line, a key twice.
"""

from __future__ import annotations

import re

_ESCAPED = ("0\0", "a\a", "b\b", "t\t", "n\n", "v\v", "f\f", "r\r", "e\x1b")
_ESCAPES = dict((*_ESCAPED, "  ", '""', "//", "\\\\", "N\x85", "_\xa0", "L\u2028", "P\u2029"))
_CODES = {"x": 2, "u": 4, "U": 8}
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_KEY = re.compile(
    r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s#"'\[\]{},&*!|>%@`-][^#]*?)\s*:(?:\s+|$)"""
)
_NOT_PLAIN = "&*!|>%@`"


class YamlError(ValueError):
    """It is not YAML of this kind; says which line."""


def parse(text: str) -> object:
    """Give what a document says: dictionaries, lists, texts, booleans, None.

    Raises:
        YamlError: it says something else.
    """
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        content = line.lstrip(" ")
        if content.startswith("\t"):
            raise YamlError(f"line {number}: a tab before the text")
        content = _without_comment(content).rstrip()
        if content and not (content == "---" and not lines):
            lines.append((number, len(line) - len(line.lstrip(" ")), content))
    if not lines:
        return None
    parser = _Blocks(lines)
    value = parser.node()
    if parser.at < len(lines):
        raise YamlError(f"line {lines[parser.at][0]}: does not belong to what stands above")
    return value


def _without_comment(line: str) -> str:
    quote = ""
    at = 0
    while at < len(line):
        letter = line[at]
        if quote:
            if (quote == '"' and letter == "\\") or line[at : at + 2] == "''" == quote * 2:
                at += 1
            elif letter == quote:
                quote = ""
        elif letter in "\"'" and (at == 0 or line[at - 1] in " [{,:"):
            quote = letter
        elif letter == "#" and (at == 0 or line[at - 1] in " \t"):
            return line[:at]
        at += 1
    return line


class _Blocks:
    """Reads lines: number, indentation, text."""

    def __init__(self, lines: list) -> None:
        self.lines, self.at = lines, 0

    def node(self) -> object:
        number, indent, text = self.lines[self.at]
        if _is_item(text):
            return self.sequence(indent)
        if _KEY.match(text):
            return self.mapping(indent)
        self.at += 1
        return _Flow(text, number).whole()

    def sequence(self, indent: int) -> list:
        found = []
        while self.at < len(self.lines):
            number, own, text = self.lines[self.at]
            if own != indent or not _is_item(text):
                break
            rest = text[1:].lstrip(" ")
            if rest:
                # What stands behind the dash is a block of its own that begins there.
                self.lines[self.at] = (number, own + len(text) - len(rest), rest)
                found.append(self.node())
            else:
                self.at += 1
                found.append(self.below(indent + 1))
        self.ends(indent)
        return found

    def mapping(self, indent: int) -> dict:
        found: dict = {}
        while self.at < len(self.lines):
            number, own, text = self.lines[self.at]
            match = _KEY.match(text)
            if own != indent or _is_item(text):
                break
            if match is None:
                raise YamlError(f"line {number}: neither a key nor an item")
            key = _Flow(match[1], number).whole()
            if key in found:
                raise YamlError(f"line {number}: {key!r} stands there twice")
            self.at += 1
            rest = text[match.end() :]
            found[key] = _Flow(rest, number).whole() if rest else self.value(indent)
        self.ends(indent)
        return found

    def value(self, indent: int) -> object:
        """What stands below a key; a list may stand at the key's own indentation."""
        if self.at < len(self.lines):
            _, own, text = self.lines[self.at]
            if own == indent and _is_item(text):
                return self.sequence(indent)
        return self.below(indent + 1)

    def below(self, least: int) -> object:
        if self.at < len(self.lines) and self.lines[self.at][1] >= least:
            return self.node()
        return None

    def ends(self, indent: int) -> None:
        if self.at < len(self.lines) and self.lines[self.at][1] > indent:
            raise YamlError(f"line {self.lines[self.at][0]}: unexpected indentation")


def _is_item(text: str) -> bool:
    return text == "-" or text.startswith("- ")


class _Flow:
    """Reads one line: a text, ``[…]`` or ``{…}``."""

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number, self.at = text, number, 0

    def whole(self) -> object:
        value = self.value("")
        self.blanks()
        if self.at < len(self.text):
            raise self.error(f"{self.text[self.at :]!r} does not belong there")
        return value

    def error(self, problem: str) -> YamlError:
        return YamlError(f"line {self.number}: {problem}")

    def blanks(self) -> None:
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1

    def next(self) -> str:
        self.blanks()
        return self.text[self.at : self.at + 1]

    def value(self, ends: str) -> object:
        first = self.next()
        if first == "[":
            return self.list()
        if first == "{":
            return self.dict()
        if first == '"':
            return self.double()
        if first == "'":
            return self.single()
        return self.plain(ends)

    def list(self) -> list:
        self.at += 1
        found = []
        while self.next() != "]":
            found.append(self.value(",]"))
            self.comma("]")
        self.at += 1
        return found

    def dict(self) -> dict:
        self.at += 1
        found: dict = {}
        while self.next() != "}":
            key = self.value(":,}")
            if self.next() != ":":
                raise self.error("a key without a value")
            self.at += 1
            if key in found:
                raise self.error(f"{key!r} stands there twice")
            found[key] = self.value(",}")
            self.comma("}")
        self.at += 1
        return found

    def comma(self, end: str) -> None:
        letter = self.next()
        if letter == ",":
            self.at += 1
        elif letter != end:
            raise self.error(f"a comma or {end} is missing; everything has to stand on one line")

    def double(self) -> str:
        self.at += 1
        found = ""
        while True:
            letter = self.text[self.at : self.at + 1]
            self.at += 1
            if letter == '"':
                return found
            if letter == "":
                raise self.error("a quote is not closed")
            found += self.escape() if letter == "\\" else letter

    def escape(self) -> str:
        letter = self.text[self.at : self.at + 1]
        self.at += 1
        if letter in _CODES:
            digits = self.text[self.at : self.at + _CODES[letter]]
            self.at += len(digits)
            if not re.fullmatch(f"[0-9a-fA-F]{{{_CODES[letter]}}}", digits):
                raise self.error("digits are missing")
            return chr(int(digits, 16))
        if letter not in _ESCAPES:
            raise self.error(f"\\{letter} is no character")
        return _ESCAPES[letter]

    def single(self) -> str:
        match = re.compile("'((?:[^']|'')*)'").match(self.text, self.at)
        if match is None:
            raise self.error("a quote is not closed")
        self.at = match.end()
        return match[1].replace("''", "'")

    def plain(self, ends: str) -> object:
        start = self.at
        if self.text[start : start + 1] in (*_NOT_PLAIN, *"]},") and start < len(self.text):
            raise self.error(f"{self.text[start:]!r}: no YAML that is read here")
        while self.at < len(self.text) and self.text[self.at] not in ends:
            if self.text[self.at :].startswith(": ") or self.text[self.at :] == ":":
                raise self.error("a key where a value is expected")
            self.at += 1
        text = self.text[start : self.at].strip()
        return _WORDS.get(text, text)
