"""The list of SHA-256 hashes of an instance's files, which imagekit keeps beside Occlum's own tags.

Occlum's tags do not tell a file from one that was made to have the same tag
(:mod:`imagekit.enclave.occlum.protected_file`). This list does: its own SHA-256, which stands in
the image's label and in the lock file, stands for every file in it.

The text is what ``sha256sum`` (GNU coreutils) writes and ``sha256sum --check`` reads: a line
``<64 hex digits>  <path>`` per file, sorted by the bytes of the paths. In a line that begins with a
backslash, the path spells backslash, line feed and carriage return as ``\\\\``, ``\\n`` and
``\\r``. A link is a line that ``sha256sum`` passes over as a comment: ``#link <digits>  <path>``,
with the hash of the text that it leads to. Folders are not listed. Each list has one text, and no
other text is taken for it.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from imagekit.errors import InputError, printable

LINK = "#link "
"""How the line of a link begins."""

_LINE = re.compile(r"(#link )?(\\?)([0-9a-f]{64})  (/[^\0]*)", re.ASCII)
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_NAMES = {"\\": "\\", "n": "\n", "r": "\r"}
_NAMED = 5
_HINT = "take the list that imagekit build wrote"


@dataclass(frozen=True)
class ListedFile:
    """A file or link of an instance.

    Attributes:
        path: absolute, as it is in the image; bytes that are no UTF-8 as surrogates
            (``surrogateescape``).
        sha256: of its content, 64 lower-case hex digits; of a link, of the text that it leads to.
        is_link: whether it is a link.
    """

    path: str
    sha256: str
    is_link: bool = False

    @property
    def sort_key(self) -> bytes:
        """The path as bytes."""
        return self.path.encode("utf-8", "surrogateescape")


def listed_link(path: str, target: str) -> ListedFile:
    """Give a symbolic link as the list has it.

    Args:
        path: of the link.
        target: what it leads to, as it says.
    """
    digest = hashlib.sha256(target.encode("utf-8", "surrogateescape"))
    return ListedFile(path, digest.hexdigest(), is_link=True)


def list_text(files: Iterable[ListedFile]) -> str:
    """Give the list's text, in UTF-8 and with a line end behind every line.

    Args:
        files: in any order.

    Raises:
        InputError: a path is there twice, or cannot stand in the list.
    """
    ordered = sorted(files, key=lambda file: file.sort_key)
    for one, two in itertools.pairwise(ordered):
        if one.path == two.path:
            raise InputError(f"{_shown(one.path)}: is in the list twice", "list each path once")
    return "".join(f"{_line(file)}\n" for file in ordered)


def _line(file: ListedFile) -> str:
    if not _can_be_listed(file.path):
        raise InputError(
            f"{_shown(file.path)}: cannot stand in the list: no absolute path in UTF-8",
            "give the file another name",
        )
    path = "".join(_ESCAPES.get(char, char) for char in file.path)
    mark = "\\" if path != file.path else ""
    return f"{LINK if file.is_link else ''}{mark}{file.sha256}  {path}"


def _can_be_listed(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return path.startswith("/") and "\0" not in path


def parse_list(text: bytes, name: str) -> tuple[ListedFile, ...]:
    """Read a list.

    Args:
        text: the file.
        name: how it is called in error messages.

    Raises:
        InputError: anything that :func:`list_text` does not write; with the line.
    """
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        place = text.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}:{place}: no UTF-8 text", _HINT) from None
    *lines, rest = decoded.split("\n")
    if rest:
        raise InputError(f"{name}:{len(lines) + 1}: has no line end", _HINT)
    files: list[ListedFile] = []
    for number, line in enumerate(lines, 1):
        file = _file(line)
        if file is None:
            problem = "neither a hash with a path nor a link"
            raise InputError(f"{name}:{number}: {problem}: {_shown(line)}", _HINT)
        if files and files[-1].sort_key >= file.sort_key:
            raise InputError(f"{name}:{number}: {_shown(file.path)} is out of order", _HINT)
        files.append(file)
    return tuple(files)


def _file(line: str) -> ListedFile | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    link, mark, digits, text = match.groups()
    path = _unescaped(text) if mark else text
    if path is None or bool(mark) != any(char in _ESCAPES for char in path):
        return None
    return ListedFile(path, digits, is_link=bool(link))


def _unescaped(text: str) -> str | None:
    """Give the path that an escaped one means; None if it is none."""
    bad = re.sub(r"\\[\\nr]", "", text)
    if "\\" in bad or "\r" in bad:
        return None
    return re.sub(r"\\(.)", lambda match: _NAMES[match[1]], text)


def compare_lists(listed: Iterable[ListedFile], found: Iterable[ListedFile]) -> list[str]:
    """Hold what is there against a list.

    Args:
        listed: what ought to be there; each path once.
        found: what is there.

    Returns:
        One line for each of the first differences of a kind, by path, and one that counts the
        others; empty if there is none.
    """
    wanted = {file.path: file for file in listed}
    present = {file.path: file for file in found}
    lines: dict[str, list[str]] = {"changed": [], "missing": [], "added": []}
    for path in sorted(wanted.keys() | present.keys(), key=_by_bytes):
        if wanted.get(path) != present.get(path):
            kind, difference = _difference(wanted.get(path), present.get(path))
            lines[kind].append(f"{_shown(path)} {difference}")
    named = []
    for kind, found_lines in lines.items():
        named += found_lines[:_NAMED]
        if len(found_lines) > _NAMED:
            named.append(f"… and {len(found_lines) - _NAMED} more {kind}")
    return named


def _by_bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _difference(wanted: ListedFile | None, present: ListedFile | None) -> tuple[str, str]:
    """Give kind and words of a difference."""
    if present is None:
        return "missing", "is missing"
    if wanted is None:
        return "added", "was added: it is not in the list"
    if wanted.is_link != present.is_link:
        kinds = ("file", "link")
        words = f"is a {kinds[present.is_link]}, the list has a {kinds[wanted.is_link]}"
    elif wanted.is_link:
        words = "leads elsewhere than the list says"
    else:
        words = f"has the SHA-256 {present.sha256}, the list says {wanted.sha256}"
    return "changed", words


def _shown(text: str) -> str:
    return printable(text[:200])
