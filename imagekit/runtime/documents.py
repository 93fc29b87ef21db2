"""JSON documents of others: what every reader of one looks at.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

from typing import Any


def is_text(value: object) -> bool:
    """Say whether this is text that an argument or a variable can hold.

    That is a string without NUL, and without what UTF-8 cannot write.
    """
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; an ``object_pairs_hook`` of :mod:`json`.

    Raises:
        ValueError: a key stands there twice.
    """
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands there twice")
    return table
