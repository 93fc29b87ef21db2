"""Quantities as Kubernetes spells them, such as the EPC that a pod asks for: ``16Gi`` to bytes.

Source: Kubernetes API conventions, "Quantity".
"""

import re

from imagekit.errors import UsageError
from imagekit.spec.fields import shown

_SHAPE = re.compile(
    r"([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})([KMGTPE]i|[kMGTPE]?|[eE][+-]?[0-9]{1,2})"
)
_BINARY = {f"{letter}i": 1 << 10 * power for power, letter in enumerate("KMGTPE", 1)}
_DECIMAL = {letter: 1000**power for power, letter in enumerate(("", *"kMGTPE"))}
_MOST = (1 << 63) - 1

QUANTITY = r"^([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([KMGTPE]i|[kMGTPE]?|[eE][+-]?[0-9]{1,2})$"
"""What a quantity of bytes looks like, as a regular expression of JSON Schema."""


def parse_quantity(text: str, what: str = "quantity") -> int:
    """Give the bytes that a quantity means.

    Args:
        text: ``16106127360``, ``15Gi`` (binary), ``16G`` (decimal), ``16e9``.
        what: how messages call the value.

    Raises:
        UsageError: not a quantity, not whole bytes, none, or more than Kubernetes can count.
    """
    match = _SHAPE.fullmatch(text)
    hint = "write bytes, or a number with Gi or Mi, such as 16Gi"
    if match is None:
        lower = re.fullmatch(r"([0-9]+)[ \t]*([kmgt])(?:i?b)?", text, re.IGNORECASE | re.ASCII)
        if lower is not None:
            hint = f"write {lower[1]}{lower[2].upper()}i"
        raise UsageError(f"{what} {shown(text)} is not a quantity of Kubernetes", hint)
    from fractions import Fraction  # here: most projects have no quantity

    number, unit = Fraction(match[1].rstrip(".")), match[2]
    if unit[:1] in ("e", "E") and len(unit) > 1 and unit != "Ei":
        size = number * Fraction(10) ** int(unit[1:])
    else:
        size = number * (_BINARY.get(unit) or _DECIMAL[unit])
    if size.denominator != 1:
        raise UsageError(f"{what} {shown(text)} is not whole bytes", hint)
    if not 0 < size <= _MOST:
        problem = "is nothing" if not size else "is more than Kubernetes can count"
        raise UsageError(f"{what} {shown(text)} {problem}", hint)
    return int(size)
