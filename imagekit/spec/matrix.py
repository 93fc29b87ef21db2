"""The matrix: every cell that a project builds, and how cells are chosen by pattern."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from imagekit.errors import UsageError
from imagekit.spec.fields import shown, suggestion
from imagekit.spec.sizes import GIB, epc_name, parse_epc

LOG_LEVELS = {
    # Gramine's manifest schema, all releases from 1.0 to 1.9.
    "gramine": ("none", "error", "warning", "debug", "trace", "all"),
    # OCCLUM_LOG_LEVEL; a release enclave of Occlum says nothing beyond "error".
    "occlum": ("off", "error", "warn", "info", "debug", "trace"),
}
"""Log levels of each library OS, quietest first."""
LIBOSES = tuple(LOG_LEVELS)
"""The library operating systems: ``gramine`` and ``occlum``."""
ATTESTATIONS = ("dcap", "none")
"""Attestation: through DCAP, or none (for hosts without aesmd and PCCS)."""
AXES = ("libos", "epc", "log", "attestation")
"""The axes in the order of a cell's identifier."""

_MAX_BRACES = 1000


@dataclass(frozen=True, order=True)
class Cell:
    """One point of the matrix: one image.

    Cells sort by their fields in this order, so EPC sizes sort by number.
    """

    libos: str
    """``gramine`` or ``occlum``."""
    epc: int
    """Enclave size in bytes: with Gramine a power of two, with Occlum that of the user space."""
    log: str
    """Log level, one of :data:`LOG_LEVELS` of the library OS."""
    attestation: str
    """``dcap`` or ``none``."""

    @property
    def id(self) -> str:
        """The identifier, such as ``gramine-16g-error-dcap``."""
        return f"{self.libos}-{epc_name(self.epc)}-{self.log}-{self.attestation}"

    @property
    def name_suffix(self) -> str:
        """What follows the stem in an image name: ``gramine-reference-16g-all``."""
        flavour = "noattest" if self.attestation == "none" else "reference"
        level = "" if self.log == "error" else f"-{self.log}"
        return f"{self.libos}-{flavour}-{epc_name(self.epc)}{level}"


def default_cell(libos: str) -> Cell:
    """Return the field's default: 8 GiB, log level error, DCAP attestation."""
    return Point().cell(libos)


class Exclusion(NamedTuple):
    """A part of the matrix that is not built: the cells that agree in every axis named here."""

    libos: str | None = None
    epc: int | None = None
    """Enclave size in bytes."""
    log: str | None = None
    attestation: str | None = None

    def matches(self, cell: Cell) -> bool:
        """Tell whether the cell is excluded."""
        return all(
            getattr(self, axis) is None or getattr(self, axis) == getattr(cell, axis)
            for axis in AXES
        )

    def __str__(self) -> str:
        parts = []
        for axis in AXES:
            value = getattr(self, axis)
            if value is not None:
                parts.append(f"{axis}: {epc_name(value) if axis == 'epc' else value}")
        return "{" + ", ".join(parts) + "}"


class Point(NamedTuple):
    """A cell without its library OS: a project's default, whichever library OS it is for."""

    epc: int = 8 * GIB
    """Enclave size in bytes."""
    log: str = "error"
    attestation: str = "dcap"

    def cell(self, libos: str) -> Cell:
        """Return the cell of a library OS."""
        return Cell(libos, self.epc, self.log, self.attestation)


@dataclass(frozen=True)
class Matrix:
    """The axes of a project, without the library OS, which a project has one of."""

    epc: tuple[int, ...]
    """Enclave sizes in bytes."""
    log: tuple[str, ...] = ("error",)
    attestation: tuple[str, ...] = ("dcap",)
    exclude: tuple[Exclusion, ...] = ()
    default: Point | None = None
    """The cell that is also tagged ``…-reference:latest``; None for the field's default (8g, error,
    dcap) if the matrix has it."""


def parse_cell(libos: str, epc: str | int, log: str, attestation: str) -> Cell:
    """Return the cell that command-line values mean.

    Raises:
        UsageError: a value that its axis does not have; the hint lists the values it has.

    """
    check_axis("libos", libos, libos)
    check_axis("log", log, libos)
    check_axis("attestation", attestation, libos)
    return Cell(libos, parse_epc(epc, libos=libos), log, attestation)


def check_axis(axis: str, value: str, libos: str) -> str:
    """Return ``value`` if the axis ``libos``, ``log`` or ``attestation`` has it.

    Raises:
        UsageError: it does not; the hint lists the values and the nearest.

    """
    words = {"libos": "libos", "log": f"log level of {libos}", "attestation": "attestation"}
    values = {"libos": LIBOSES, "attestation": ATTESTATIONS}.get(axis) or LOG_LEVELS[libos]
    if value not in values:
        raise UsageError(f"{shown(value)} is no {words[axis]}", suggestion(value, values))
    return value


def expand(matrix: Matrix, libos: str) -> tuple[Cell, ...]:
    """Return the cells of the matrix for a library OS: sorted, exclusions applied.

    Raises:
        UsageError: a value twice in an axis, an empty axis, a log level the library OS does not
            have, an exclusion that matches nothing (it is a typing error, not a wish), nothing
            left, or a default that is not among the cells.

    """
    check_axis("libos", libos, libos)
    for axis in ("epc", "log", "attestation"):
        values = getattr(matrix, axis)
        if not values:
            raise UsageError(f"matrix.{axis} is empty", "name at least one value")
        for index, value in enumerate(values):
            if value in values[:index]:
                name = epc_name(value) if axis == "epc" else value
                raise UsageError(f"matrix.{axis} names {name} twice", "remove one of them")
    for level in matrix.log:
        check_axis("log", level, libos)
    points = itertools.product(matrix.epc, matrix.log, matrix.attestation)
    every = sorted(Cell(libos, *point) for point in points)
    cells = tuple(cell for cell in every if not any(e.matches(cell) for e in matrix.exclude))
    for index, exclusion in enumerate(matrix.exclude):
        check_exclusion(exclusion, every, f"matrix.exclude[{index}]")
    if not cells:
        raise UsageError(
            "matrix.exclude leaves no cell at all", "remove an entry, or widen an axis"
        )
    _default(matrix, libos, cells)
    return cells


def check_exclusion(exclusion: Exclusion, cells: Sequence[Cell], where: str) -> None:
    """Raise UsageError unless the exclusion says something and matches a cell.

    Args:
        exclusion: the entry.
        cells: all points of the axes, before any exclusion.
        where: the entry's key, for the message.

    """
    if exclusion == Exclusion():
        raise UsageError(f"{where} names no axis", f"axes: {', '.join(AXES)}")
    for cell in cells:
        # An entry for another library OS than today's is judged as if it were that one's turn.
        libos = exclusion.libos or cell.libos
        if exclusion.matches(Cell(libos, cell.epc, cell.log, cell.attestation)):
            return
    raise UsageError(
        f"{where}: {exclusion} matches no cell",
        "correct it against the axes above it, or remove it",
    )


def default_of(matrix: Matrix, libos: str) -> Cell | None:
    """Return the cell that is also tagged ``…-reference:latest``; None if the matrix has none."""
    return _default(matrix, libos, expand(matrix, libos))


def _default(matrix: Matrix, libos: str, cells: Sequence[Cell]) -> Cell | None:
    if matrix.default is None:
        cell = default_cell(libos)
        return cell if cell in cells else None
    cell = matrix.default.cell(libos)
    if cell.attestation == "none":
        raise UsageError(
            "matrix.default has attestation none, but …-reference:latest promises attestation",
            "choose a default with attestation dcap, or leave matrix.default out",
        )
    if cell not in cells:
        raise UsageError(
            f"matrix.default is {cell.id}, which is not in the matrix",
            _listing(cells),
        )
    return cell


def select(cells: Sequence[Cell], patterns: Sequence[str], stem: str = "") -> tuple[Cell, ...]:
    """Return the cells that any of the patterns matches, in the order given.

    Args:
        cells: the cells to choose from.
        patterns: shell patterns (``*``, ``?``, ``[…]``) with ``{a,b}`` alternatives, compared with
            the whole cell identifier and with the whole image name, with and without registry and
            path. No pattern means every cell.
        stem: the project's image stem; without it image names are compared from the library OS on.

    Raises:
        UsageError: a pattern that matches nothing, or braces that are not closed or too many.

    """
    if not patterns:
        return tuple(cells)
    names = {cell: _names(cell, stem) for cell in cells}
    chosen: set[Cell] = set()
    for pattern in patterns:
        globs = _braces(pattern)
        found = {c for c in cells if any(fnmatchcase(n, g) for n in names[c] for g in globs)}
        if not found:
            raise UsageError(f"pattern {shown(pattern)} matches no cell", _listing(cells))
        chosen |= found
    return tuple(cell for cell in cells if cell in chosen)


def _names(cell: Cell, stem: str) -> tuple[str, ...]:
    suffix = cell.name_suffix
    if not stem:
        return (cell.id, suffix)
    return (cell.id, suffix, f"{stem}-{suffix}", f"{stem.rpartition('/')[2]}-{suffix}")


def _listing(cells: Sequence[Cell], limit: int = 24) -> str:
    names = [cell.id for cell in cells[:limit]]
    more = [f"and {len(cells) - limit} more"] if len(cells) > limit else []
    return "cells: " + ", ".join(names + more)


def _braces(pattern: str) -> list[str]:
    """Expand ``{a,b}`` alternatives, innermost first, refusing what would grow without end."""
    if len(pattern) > _MAX_BRACES:
        raise UsageError(f"pattern {shown(pattern)} is too long", "choose a shorter pattern")
    todo, done = [pattern], []
    while todo:
        text = todo.pop()
        group = re.search(r"\{([^{}]*)\}", text)
        if group is None:
            if "{" in text or "}" in text:
                raise UsageError(
                    f"pattern {shown(pattern)} has a brace without its partner",
                    "write alternatives as {8g,16g}",
                )
            done.append(text)
        else:
            head, tail = text[: group.start()], text[group.end() :]
            todo += [head + choice + tail for choice in group[1].split(",")]
        if len(todo) + len(done) > _MAX_BRACES:
            raise UsageError(
                f"pattern {shown(pattern)} has more than {_MAX_BRACES} alternatives",
                "give --select several times instead",
            )
    return sorted(set(done))
