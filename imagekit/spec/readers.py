"""Readers of values that several sections of a project file have: lists, variables, paths."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from imagekit.spec.fields import Node, shown

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_T = TypeVar("_T")


def axis(
    node: Node, parse: Callable[[Node], _T], show: Callable[[_T], str], minimum: int = 1
) -> tuple[_T, ...]:
    """Read a list without doubles.

    Args:
        node: the list.
        parse: reads an item.
        show: an item's value for a message.
        minimum: how many items there must be.

    Raises:
        UsageError: not a list, too few, or the same twice; with the line of the first.
    """
    lines: dict[_T, int] = {}
    for item in node.sequence(minimum=minimum):
        value = parse(item)
        if value in lines:
            raise item.error(
                f"{show(value)} given twice", f"it stands on line {lines[value]} already"
            )
        lines[value] = item.line
    return tuple(lines)


def variables(node: Node) -> tuple[tuple[str, str], ...]:
    """Read a mapping of variable names to texts, sorted by name.

    Raises:
        UsageError: a name that is none, or a value that is no text.
    """
    for name, child in node.mapping().items():
        check_variable(child, name)
    return texts_by_name(node)


def texts_by_name(node: Node) -> tuple[tuple[str, str], ...]:
    """Read a mapping of free names to texts, sorted by name.

    Raises:
        UsageError: not such a mapping.
    """
    return tuple(sorted((name, child.string(empty=True)) for name, child in node.mapping().items()))


def check_variable(node: Node, name: str) -> None:
    """Check a name of an environment variable.

    Raises:
        UsageError: it is none.
    """
    if not _VARIABLE.fullmatch(name):
        raise node.error(f"{shown(name)} is not a variable name", "use letters, digits and _ only")


def inside_path(node: Node, path: str) -> str:
    """Check an absolute path in the image; a spelling with dots would be another key to Gramine.

    Raises:
        UsageError: it is none.
    """
    parts = path.split("/")
    if parts[0] or len(parts) < 2 or any(p in {"", ".", ".."} for p in parts[1:]):
        raise node.error(
            f"{shown(path)} is not an absolute path in the image",
            "begin with /, without . or .. or double slashes",
        )
    if not path.isprintable():
        raise node.error(f"{shown(path)} holds characters that do not print", "rename the file")
    return path


def host_path(node: Node, folder: Path, prefix: str = "") -> Path:
    """Return a path on this machine: relative ones start from the project file's folder.

    Args:
        node: the text.
        folder: the project file's folder.
        prefix: a beginning that is left out.

    Raises:
        UsageError: it is no path.
    """
    text = node.string(what="a path").removeprefix(prefix)
    if not text or not text.isprintable():
        raise node.error(f"{shown(text)} is not a path", "name a file or folder")
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        raise node.error(
            f"{shown(text)}: the home folder is not known", "write the whole path"
        ) from None
