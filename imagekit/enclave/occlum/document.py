"""The text of an ``Occlum.json`` as JSON values."""

import json
from typing import Any, Never

from imagekit.errors import InputError, printable

MAX_BYTES = 1 << 20
"""Largest document that is read, in bytes; the usual ones have two thousand."""


def parse_document(data: bytes, name: str = "Occlum.json") -> dict[str, Any]:
    """Read the text of an ``Occlum.json``.

    Args:
        data: the file.
        name: how it is called in error messages.

    Raises:
        InputError: not JSON in UTF-8, not an object, a key given twice (readers of JSON disagree
            about which one counts), a number that JSON does not have, or too large.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{name}: larger than {MAX_BYTES >> 20} MiB", "is this the right file?")
    hint = "write one object with resource_limits, process, entry_points, env, metadata and mount"

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                problem = f"{name}: the key {printable(key)[:60]!r} is given twice"
                raise InputError(problem, "remove one of them")
            found[key] = value
        return found

    def constant(word: str) -> Never:
        raise InputError(f"{name}: {word} is no JSON", "write a number")

    try:
        document = json.loads(
            data.decode("utf-8-sig"), object_pairs_hook=pairs, parse_constant=constant
        )
        # Half a surrogate pair, which JSON can spell, is no text that can be written anywhere.
        json.dumps(document, ensure_ascii=False).encode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        raise InputError(f"{name}: not UTF-8 text", hint) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{name}:{error.lineno}: not JSON: {error.msg}", hint) from None
    except (RecursionError, ValueError):
        # Thousands of digits, or of brackets.
        raise InputError(f"{name}: nested too deeply, or a number too long", hint) from None
    if not isinstance(document, dict):
        raise InputError(f"{name}: not a JSON object", hint)
    return document
