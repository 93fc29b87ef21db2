"""The XML of an Intel SGX SDK configuration: a root and flat elements with one number each.

Source: "Intel SGX SDK Developer Reference", section "Enclave Configuration File", and what sgx_sign
2.26 refuses. Numbers are read as C's ``strtoull`` with base 0 reads them: ``0x`` is hexadecimal and
a leading 0 is octal.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from xml.parsers import expat

from imagekit.errors import InputError, printable

ROOT = "EnclaveConfiguration"
MAX_BYTES = 1 << 20
"""A configuration has some 40 lines; what is larger is none."""

_NUMBER = re.compile(r"[ \t\r\n]*(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)[ \t\r\n]*", re.ASCII)
_LONGEST = 64  # characters of a value


@dataclass(frozen=True)
class Number:
    """A value of the file.

    Attributes:
        value: below 2**64.
        octal: whether it was read as octal although it may have been meant as decimal.
    """

    value: int
    octal: bool


def read_elements(data: bytes, name: str, known: Collection[str]) -> Mapping[str, Number]:
    """Read the elements of a configuration, each at most once.

    Args:
        data: the file.
        name: how it is called in error messages.
        known: the elements that there are.

    Raises:
        InputError: not XML of that form; document types and entities are refused unread.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{name}: too large for an enclave configuration", "check the path")
    reader = _Reader(name, known)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise InputError(
            f"{name}: not XML: line {error.lineno}: {expat.ErrorString(error.code)}",
            f"write <{ROOT}> with one element per setting",
        ) from None
    except (LookupError, ValueError):
        # of an encoding that the declaration names and that nobody or not everybody knows
        raise InputError(f"{name}: unknown XML encoding", "save it as UTF-8") from None
    return reader.found


class _Reader:
    """Takes the parser's events; depth 1 is the root, depth 2 a setting."""

    def __init__(self, name: str, known: Collection[str]) -> None:
        self._name = name
        self._known = known
        self._open: list[str] = []
        self._text = ""
        self.found: dict[str, Number] = {}

    def _bad(self, what: str, hint: str) -> InputError:
        return InputError(f"{self._name}: {what}", hint)

    def doctype(self, *_: object) -> None:
        raise self._bad("has a document type", "take <!DOCTYPE …> out: settings need none")

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        shown = printable(tag[:_LONGEST])
        if attributes:
            raise self._bad(f"<{shown}> has attributes", f"write <{shown}>value</{shown}>")
        if not self._open and tag != ROOT:
            raise self._bad(f"the outermost element is <{shown}>", f"it has to be <{ROOT}>")
        if len(self._open) > 1:
            raise self._bad(
                f"<{shown}> stands inside <{self._open[-1]}>", "settings stand side by side"
            )
        if self._open and tag not in self._known:
            near = get_close_matches(tag[:_LONGEST], self._known, 1) or sorted(self._known)
            raise self._bad(f"<{shown}> is no setting", f"there are: {', '.join(near)}")
        if tag in self.found:
            raise self._bad(f"<{tag}> is there more than once", "leave one of them")
        self._open.append(tag)
        self._text = ""

    def text(self, text: str) -> None:
        if len(self._open) == 1 and text.strip():
            shown = printable(text.strip()[:_LONGEST])
            raise self._bad(f"text between the settings: {shown!r}", "take it out")
        # One character beyond the longest value is enough to know that it is none.
        self._text = (self._text + text)[: _LONGEST + 1]

    def end(self, tag: str) -> None:
        self._open.pop()
        if not self._open:
            return
        match = _NUMBER.fullmatch(self._text)
        if match is None or len(self._text) > _LONGEST:
            shown = printable(self._text.strip()[:_LONGEST])
            raise self._bad(
                f"<{tag}> is {shown!r} and not a number", "write digits, or 0x and hex digits"
            )
        digits = match[1]
        octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xX"
        value = int(digits, 8) if octal else int(digits, 0)
        if value >= 1 << 64:
            raise self._bad(f"<{tag}> is larger than 64 bits", "write a smaller number")
        self.found[tag] = Number(value, octal)
