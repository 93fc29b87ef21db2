"""The SHA-256 list of an Occlum instance's files, which Occlum's own tags cannot stand for.

One line per file, as ``sha256sum`` of GNU coreutils writes and checks it: the hash, two blanks, the
absolute path; sorted by the path's bytes. A path with a backslash, a newline or a carriage return
has these escaped, and its line begins with a backslash. What a symbolic link says counts, too: its
line has the SHA-256 of ``link:`` and the target.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from imagekit.errors import InputError

_LINE = re.compile(rb"(\\?)([0-9a-f]{64})  (/[^\n]*)")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_NAMED = 5
_HINT = "take the list as imagekit wrote it"


class ListedFile(NamedTuple):
    """A file or link of an instance.

    Attributes:
        path: absolute in the image; bytes that are no UTF-8 are surrogate-escaped.
        sha256: of its content, 64 lower-case hex digits.
    """

    path: str
    sha256: str


def listed_link(path: str, target: str) -> ListedFile:
    """Give the entry of a symbolic link.

    Args:
        path: of the link.
        target: what it says.
    """
    return ListedFile(path, hashlib.sha256(b"link:" + _encoded(target)).hexdigest())


def list_text(files: Iterable[ListedFile]) -> bytes:
    """Write a list, sorted.

    Args:
        files: one per path.
    """
    ordered = sorted(files, key=lambda file: _encoded(file.path))
    return b"".join(map(_line, ordered))


def parse_list(text: bytes, name: str) -> tuple[ListedFile, ...]:
    """Read a list that :func:`list_text` wrote.

    Args:
        text: the list.
        name: how it is called in error messages.

    Raises:
        InputError: another form, not sorted, or a path twice; with the line.
    """
    lines = text.split(b"\n")
    if lines.pop():
        raise InputError(f"{name}: its last line does not end", _HINT)
    files: list[ListedFile] = []
    for number, line in enumerate(lines, 1):
        file = _parsed(line)
        if file is None or _line(file) != line + b"\n":
            raise InputError(f"{name}:{number}: not a line of sha256sum", _HINT)
        if files and _encoded(file.path) <= _encoded(files[-1].path):
            raise InputError(f"{name}:{number}: the paths are not sorted, or one is twice", _HINT)
        files.append(file)
    return tuple(files)


def compare_lists(listed: Iterable[ListedFile], found: Iterable[ListedFile]) -> list[str]:
    """Say where what was found is not what is listed.

    Args:
        listed: what should be there.
        found: what is there.

    Returns:
        One line for each of the first differences of a kind, and one that counts the others;
        nothing if both are the same.
    """
    wanted, there = dict(listed), dict(found)
    kinds = (
        ("is not the one listed", [p for p in wanted if p in there and there[p] != wanted[p]]),
        ("is missing", [p for p in wanted if p not in there]),
        ("is not listed", [p for p in there if p not in wanted]),
    )
    lines = []
    for problem, paths in kinds:
        ordered = sorted(paths, key=_encoded)
        lines += [f"{_shown(path)} {problem}" for path in ordered[:_NAMED]]
        if len(ordered) > _NAMED:
            lines.append(f"… and {len(ordered) - _NAMED} more: {problem}")
    return lines


def _line(file: ListedFile) -> bytes:
    escaped = "".join(_ESCAPES.get(letter, letter) for letter in file.path)
    mark = "\\" if escaped != file.path else ""
    return _encoded(f"{mark}{file.sha256}  {escaped}\n")


def _parsed(line: bytes) -> ListedFile | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    mark, digest, name = match.groups()
    path = name.decode("utf-8", "surrogateescape")
    if mark:
        back = {escape: letter for letter, escape in _ESCAPES.items()}
        path = re.sub(r"\\[\\nr]", lambda found: back[found[0]], path)
    return ListedFile(path, digest.decode())


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _shown(path: str) -> str:
    """Escape what a terminal would act on."""
    return path if path.isprintable() else repr(path)[1:-1]
