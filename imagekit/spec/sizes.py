"""Sizes: ``16g`` to bytes and back.

A size in a project file, on the command line or in an image name always carries its unit, and the
unit is always binary: ``g`` is GiB (2**30 bytes), ``m`` is MiB (2**20 bytes).
"""

import re

from imagekit.errors import UsageError
from imagekit.spec.fields import shown

KIB = 1 << 10
"""Bytes in a KiB."""
MIB = 1 << 20
"""Bytes in a MiB."""
GIB = 1 << 30
"""Bytes in a GiB."""

SMALLEST_EPC = 16 * MIB
"""Smallest enclave size accepted, in bytes. Loader, library OS and thread stacks take several MiB
of every enclave; below 16 MiB next to nothing is left to run in: the unit is wrong."""
LARGEST_EPC = 512 * GIB
"""Largest enclave size accepted, in bytes: the most EPC one processor offers (third generation Xeon
Scalable), and half of the 1 TiB at which Gramine places its enclave debugging information."""

EPC_SIZES = tuple(1 << bits for bits in range(24, 40))
"""Every enclave size accepted, in bytes, smallest first."""

_MAX_SIZE = 1 << 50
_SHAPE = re.compile(r"([0-9]+)[ \t]*([A-Za-z]+)")
_UNITS = {"m": MIB, "mb": MIB, "mi": MIB, "mib": MIB, "g": GIB, "gb": GIB, "gi": GIB, "gib": GIB}
_HINT = "write a whole number with g (GiB) or m (MiB), such as 16g"


def parse_size(text: str | int, what: str = "size") -> int:
    """Return the bytes that a size means.

    Args:
        text: ``16g 16G 16GB 16Gi 16GiB`` mean GiB, the same with ``m`` mean MiB; blanks may stand
            around the number and before the unit.
        what: how messages call the value, such as ``enclave size``.

    Raises:
        UsageError: no unit, another unit, a sign, a fraction, hexadecimal, or too large. A bare
            number is refused because it is not plain whether bytes or GiB were meant.

    """
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise UsageError(f"{what} {shown(str(text))} is not a size", _HINT)
    if isinstance(text, int):
        if abs(text) > _MAX_SIZE:
            raise UsageError(f"{what} is a number without a unit, and too large", _HINT)
        text = str(text)
    stripped = text.strip(" \t")
    match = _SHAPE.fullmatch(stripped)
    if match is None:
        raise _not_a_size(text, stripped, what)
    digits, unit = match[1].lstrip("0") or "0", match[2].lower()
    if re.fullmatch("0[xX][0-9a-fA-F]*", stripped):
        raise _without_unit(shown(text), None, what)
    if unit not in _UNITS:
        raise UsageError(f"{what} {shown(text)}: unknown unit {shown(match[2])}", _HINT)
    # The length is looked at first: Python refuses to convert thousands of digits.
    if len(digits) > 15 or (size := int(digits) * _UNITS[unit]) > _MAX_SIZE:
        raise UsageError(f"{what} {shown(text)} is too large", _HINT)
    return size


_LARGEST_NAME = 10_000 * MIB
"""Names have at most four digits, so sizes in MiB end here."""


def parse_epc(text: str | int, what: str = "enclave size", libos: str = "gramine") -> int:
    """Return the bytes of an enclave size.

    SGX takes powers of two only (Intel SDM volume 3D, SECS.SIZE). With Occlum the size is that of
    the memory that programs share, and the enclave around it the next power of two: any size that a
    name can hold will do.

    Args:
        text: as for :func:`parse_size`.
        what: how messages call the value.
        libos: ``gramine`` or ``occlum``.

    Raises:
        UsageError: not a size, not a power of two where it has to be one (the hint names the two
            nearest), or outside :data:`SMALLEST_EPC` … :data:`LARGEST_EPC`.

    """
    size = parse_size(text, what)
    value = shown(str(text))
    form = "whole number of GiB" if libos == "occlum" else "power of two"
    limits = f"between {epc_name(SMALLEST_EPC)} and {epc_name(LARGEST_EPC)}"
    if size == 0:
        raise UsageError(f"{what} {value} is zero", f"{_HINT}; a {form} {limits}")
    if size > LARGEST_EPC:
        raise UsageError(
            f"{what} {value} is above the limit of {epc_name(LARGEST_EPC)}",
            f"choose a {form} {limits}",
        )
    if size < SMALLEST_EPC:
        raise UsageError(
            f"{what} {value} is below the limit of {epc_name(SMALLEST_EPC)}",
            f"choose a {form} {limits}; g means GiB, m means MiB",
        )
    if libos == "occlum":
        if size % GIB and size >= _LARGEST_NAME:
            raise UsageError(
                f"{what} {value} is no whole number of GiB",
                f"take {epc_name(size // GIB * GIB)} or {epc_name((size // GIB + 1) * GIB)}",
            )
    elif size & (size - 1):
        below = 1 << (size.bit_length() - 1)
        raise UsageError(
            f"{what} {value} is not a power of two, and SGX takes nothing else",
            f"the nearest are {epc_name(below)} and {epc_name(below * 2)}",
        )
    return size


def epc_name(size: int) -> str:
    """Return a size in bytes as names and cells write it: ``16g``, ``512m``.

    Args:
        size: bytes, a positive multiple of 1 MiB.

    """
    if size <= 0 or size % MIB:
        raise ValueError(f"{size} bytes is not a positive multiple of 1 MiB")
    return f"{size // GIB}g" if size % GIB == 0 else f"{size // MIB}m"


def gramine_size(size: int) -> str:
    """Return a size in bytes as a Gramine manifest writes it: ``16G``, ``512M``, ``64K``, ``4097``.

    Gramine knows the suffixes K, M and G, in upper case only; the largest exact one is used.
    """
    if size <= 0:
        raise ValueError(f"{size} bytes is not a positive size")
    for unit, suffix in ((GIB, "G"), (MIB, "M"), (KIB, "K")):
        if size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def _without_unit(value: str, number: int | None, what: str) -> UsageError:
    if number is None:
        return UsageError(f"{what} {value} is hexadecimal", _HINT)
    problem = f"{what} {value} has no unit"
    if number > 0 and number % MIB == 0:
        return UsageError(problem, f"{_HINT}; {number} bytes are {epc_name(number)}")
    if 0 < number <= LARGEST_EPC // GIB:
        return UsageError(problem, f"{_HINT}; {number} GiB are written {number}g")
    return UsageError(problem, _HINT)


def _not_a_size(text: str, stripped: str, what: str) -> UsageError:
    """Say what is wrong with text that is not digits followed by letters."""
    if not stripped:
        return UsageError(f"{what} is empty", _HINT)
    if re.fullmatch("[0-9]+", stripped):
        return _without_unit(shown(text), int(stripped) if len(stripped) < 16 else 0, what)
    if re.fullmatch("[-+]?0[xX][0-9a-fA-F]*", stripped):
        return _without_unit(shown(text), None, what)
    if stripped[0] in "-+":
        return UsageError(f"{what} {shown(text)} has a sign", _HINT)
    if re.match(r"[0-9]*[.,][0-9]", stripped):
        return UsageError(f"{what} {shown(text)} is not a whole number", f"{_HINT} or 1536m")
    return UsageError(f"{what} {shown(text)} is not a size", _HINT)
