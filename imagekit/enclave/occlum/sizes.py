"""Sizes as ``Occlum.json`` spells them: ``16GB`` to bytes and back.

Occlum looks for the endings KB, MB, GB, TB and B, in this order and in upper case, and reads what
stands before as a whole number; blanks around the number are taken. Units are binary: 1 KB is 1024
bytes. With anything else ``occlum build`` prints a line, writes empty files and ends as if all were
well, so nothing here is left to it.
"""

import re

from imagekit.enclave.findings import shown
from imagekit.enclave.manifest_schema import Wrong
from imagekit.errors import UsageError

UNITS = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40, "B": 1}
"""What each ending means in bytes, in the order in which Occlum looks for them."""
LARGEST = 1 << 46
"""No size is larger, in bytes: half of what a program of x86-64 can address."""

_ANY_UNIT = re.compile(r"(.*?)[ \t]*([kKmMgGtT])(?:[iI]?[bB]?)")
_BLANKS = " \t\r\n"
_LONGEST = 40  # characters of a text that is looked at to guess what was meant


def read_size(text: object) -> int | Wrong:
    """Give the bytes that a size of ``Occlum.json`` means, 0 … :data:`LARGEST`, or what is wrong.

    What Occlum does not read as a size is wrong (``1g``, ``1.5GB``, ``1024``, ``1G``), and so are
    signs, which it may take; the hint has the right spelling.
    """
    if not isinstance(text, str):
        number = text if isinstance(text, int) and not isinstance(text, bool) else None
        hint = f"write {_with_unit(number)}" if number and number > 0 else 'write it like "16GB"'
        return Wrong(f"{shown(text)} is not a text with a unit", hint, True)
    stripped = text.strip(_BLANKS)
    unit = next((unit for unit in UNITS if stripped.endswith(unit)), None)
    if unit is None:
        return Wrong(f"{shown(text)} has no unit that Occlum reads", _hint(stripped), True)
    digits = stripped.removesuffix(unit).strip(_BLANKS)
    if not re.fullmatch("[0-9]+", digits, re.ASCII):
        return Wrong(f"{shown(text)} has no whole number", _hint(stripped), True)
    # The length is looked at first: Python refuses to convert thousands of digits.
    digits = digits.lstrip("0") or "0"
    if len(digits) > 15 or int(digits) * UNITS[unit] > LARGEST:
        problem = f"{shown(text)} is more than any program can address"
        return Wrong(problem, 'write it like "16GB"', True)
    return int(digits) * UNITS[unit]


def parse_occlum_size(text: object, what: str = "size") -> int:
    """Give the bytes that a size of ``Occlum.json`` means, 0 … :data:`LARGEST`.

    Args:
        text: ``16GB``, ``512MB``, ``64KB``, ``4096B``.
        what: how messages call the value.

    Raises:
        UsageError: Occlum reads no size there; the hint has the right spelling.
    """
    size = read_size(text)
    if isinstance(size, Wrong):
        raise UsageError(f"{what}: {size.problem}", size.hint)
    return size


def occlum_size(size: int) -> str:
    """Give a size in bytes as ``Occlum.json`` writes it, in the largest unit that is exact.

    Args:
        size: bytes, 0 or more.
    """
    if size < 0:
        raise ValueError(f"{size} bytes is no size")
    for unit in ("TB", "GB", "MB", "KB"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit}"
    return f"{size}B"


def _hint(text: str) -> str:
    """Say how a text that is no size for Occlum is written, if it can be guessed."""
    text = text[:_LONGEST]
    if re.fullmatch("[0-9]{1,15}", text, re.ASCII):
        return f"write {_with_unit(int(text))}"
    match = _ANY_UNIT.fullmatch(text)
    if match is not None:
        number, letter = match[1].strip(_BLANKS), match[2].upper()
        whole = re.fullmatch("[0-9]{1,15}", number, re.ASCII) is not None
        if whole and int(number) * UNITS[f"{letter}B"] <= LARGEST:
            return f'write "{int(number)}{letter}B"'
        exact = _fraction(number, f"{letter}B")
        if exact is not None:
            return f'write "{exact}"'
    return "write a whole number with KB, MB, GB, TB or B behind it, such as 16GB"


def _with_unit(number: int) -> str:
    if number > LARGEST:
        return 'it like "16GB"'
    exact = f'"{occlum_size(number)}" if these are bytes'
    return exact if number >= 1 << 20 else f'{exact}, "{number}MB" if MB'


def _fraction(number: str, unit: str) -> str | None:
    """Give ``1.5`` and ``GB`` as the whole number of a smaller unit, if there is one."""
    match = re.fullmatch(r"([0-9]{1,9})[.,]([0-9]{1,9})", number, re.ASCII)
    if match is None:
        return None
    scale = 10 ** len(match[2])
    size, rest = divmod((int(match[1]) * scale + int(match[2])) * UNITS[unit], scale)
    return occlum_size(size) if not rest and 0 < size <= LARGEST else None
