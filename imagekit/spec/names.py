"""Image names and tags, both ways.

The grammar is the one BigDL PPML's published images use::

    <stem>-<libos>-(reference|noattest)-<N>g[-<level>][:<tag>]
    <stem>-<libos>-reference[:latest]                            the default cell

``reference`` means DCAP attestation, ``noattest`` none; no level means ``error``. The stem is
registry, path and name. What stands in a name is checked against the OCI Distribution
Specification 1.1 ("Pulling manifests": ``<name>`` and ``<reference>``) and, for the registry in
front of it, against the reference grammar that container engines share.
"""

import re
from typing import NamedTuple, Never

from imagekit.errors import UsageError
from imagekit.spec.fields import shown
from imagekit.spec.matrix import LOG_LEVELS, Cell, check_axis, default_cell
from imagekit.spec.sizes import epc_name, parse_epc

MAX_NAME = 255
"""Longest image name in characters, registry and path included, without tag and digest."""
DEFAULT_TAG = "latest"
"""The tag under which the default cell is published as ``<stem>-<libos>-reference``."""

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_HOST = re.compile(
    r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
    r"(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*(?::[0-9]{1,5})?"
    r"|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?"
)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_CELL = re.compile(
    r"(?P<stem>.+)-(?P<libos>gramine|occlum)-(?P<flavour>reference|noattest)"
    r"-(?P<size>[0-9]{1,4}[gm])(?:-(?P<level>[a-z]+))?"
)
_DEFAULT = re.compile(r"(?P<stem>.+)-(?P<libos>gramine|occlum)-reference")
_GRAMMAR = "the form is <stem>-<libos>-(reference|noattest)-<N>g[-<level>]:<tag>"


class ImageReference(NamedTuple):
    """An image reference without transport, taken apart."""

    name: str
    """Registry, path and name."""
    tag: str | None = None
    digest: str | None = None
    """``sha256:<64 hex>`` or ``sha512:<128 hex>``."""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest is not None else "")


def image_name(stem: str, cell: Cell) -> str:
    """Return the name of a cell's image, without a tag.

    Example: ``team/bigdata-gramine-noattest-16g-all``.

    Raises:
        UsageError: a stem that no registry takes, or a name longer than :data:`MAX_NAME`.

    """
    name = f"{check_stem(stem)}-{cell.name_suffix}"
    if len(name) > MAX_NAME:
        _refuse("image name", name, f"has more than {MAX_NAME} characters", "shorten the stem")
    return name


def image_reference(stem: str, cell: Cell, tag: str) -> str:
    """Return ``<name>:<tag>`` of a cell's image."""
    return f"{image_name(stem, cell)}:{check_tag(tag)}"


def default_reference(stem: str, libos: str) -> str:
    """Return the second name of the default cell: ``<stem>-<libos>-reference:latest``."""
    return f"{check_stem(stem)}-{libos}-reference:{DEFAULT_TAG}"


def base_reference(stem: str, libos: str, tag: str) -> str:
    """Return the name of a project's own base image: ``<stem>-<libos>-base:<tag>``."""
    return f"{check_stem(stem)}-{libos}-base:{check_tag(tag)}"


def parse_image_name(name: str, default: Cell | None = None) -> tuple[str, Cell, str | None]:
    """Return stem, cell and tag of an image that imagekit or BigDL named.

    The inverse of :func:`image_name` and :func:`image_reference`. A digest is checked and dropped.

    Args:
        name: the reference, without transport.
        default: the cell that ``<stem>-<libos>-reference:latest`` stands for; None for the field's
            default (8g, error, dcap).

    Raises:
        UsageError: not an image reference, not of this grammar, or a cell written in a way that
            :func:`image_name` would not write it.

    """
    reference = parse_image_reference(name)
    match = _CELL.fullmatch(reference.name)
    if match is None:
        return _parse_default(name, reference, default)
    libos, size, level = match["libos"], match["size"], match["level"]
    stem = check_stem(match["stem"])
    if level == "error":
        _refuse("image name", name, "says -error", "log level error is meant when none is named")
    level = level or "error"
    try:
        check_axis("log", level, libos)
        epc = parse_epc(size, libos=libos)
    except UsageError as error:
        raise UsageError(f"image name {shown(name, 300)}: {error.problem}", error.hint) from None
    if epc_name(epc) != size:
        _refuse("image name", name, f"writes its size as {size}", f"write {epc_name(epc)}")
    attestation = "none" if match["flavour"] == "noattest" else "dcap"
    return stem, Cell(libos, epc, level, attestation), reference.tag


def _parse_default(
    name: str, reference: ImageReference, default: Cell | None
) -> tuple[str, Cell, str | None]:
    match = _DEFAULT.fullmatch(reference.name)
    if match is None:
        levels = ", ".join(dict.fromkeys(x for every in LOG_LEVELS.values() for x in every))
        _refuse("image name", name, "does not name a cell", f"{_GRAMMAR}; levels: {levels}")
    if reference.tag not in (None, DEFAULT_TAG):
        _refuse(
            "image name",
            name,
            "names no enclave size",
            f"only the tag {DEFAULT_TAG} stands for the default cell; {_GRAMMAR}",
        )
    cell = default or default_cell(match["libos"])
    if cell.libos != match["libos"]:
        cell = Cell(match["libos"], cell.epc, cell.log, cell.attestation)
    return check_stem(match["stem"]), cell, reference.tag


def parse_image_reference(text: str) -> ImageReference:
    """Return the parts of ``name[:tag][@digest]``.

    Raises:
        UsageError: a part that no registry takes.

    """
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        hint = "a digest is sha256: and 64 lower-case hexadecimal digits"
        _refuse("image reference", text, "has a bad digest", hint)
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon:
        check_tag(tag)
    return ImageReference(
        check_stem(head + slash + last, "image reference"),
        tag if colon else None,
        digest if at else None,
    )


def check_stem(stem: str, what: str = "image name") -> str:
    """Return a registry, path and name as it is, if registries take it.

    Args:
        stem: such as ``registry.example:5000/team/bigdata``; the registry may be missing. The first
            part is a registry if it holds a dot or a colon or is ``localhost``.
        what: how messages call it.

    Raises:
        UsageError: empty, too long, upper case, a tag or digest, a transport, other characters.

    """
    if not stem:
        _refuse(what, stem, "is empty", "write registry/path/name")
    if len(stem) > MAX_NAME:
        _refuse(what, stem, f"has more than {MAX_NAME} characters", "shorten it")
    if "://" in stem:
        _refuse(what, stem, "starts with a transport", "write registry/path/name, without ://")
    host, slash, path = stem.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host else "1"
        if not _HOST.fullmatch(host) or (port.isdigit() and not 0 < int(port) < 65536):
            _refuse(what, stem, f"has a bad registry {shown(host)}", "write host or host:port")
    else:
        path = stem
    if "@" in path:
        _refuse(what, stem, "has a digest", "leave the part from @ on out")
    if ":" in path:
        _refuse(what, stem, "has a tag", "give the tag apart from the name")
    for part in path.split("/"):
        if not _COMPONENT.fullmatch(part):
            _bad_component(what, stem, part)
    return stem


def check_tag(tag: str) -> str:
    """Return a tag as it is, if registries take it: at most 128 of ``[A-Za-z0-9_.-]``.

    Raises:
        UsageError: anything else; a tag does not begin with a dot or a dash.

    """
    if not _TAG.fullmatch(tag):
        hint = "1 to 128 letters, digits, dots, dashes, underscores; no dot or dash in front"
        raise UsageError(f"{shown(tag)} is not a tag", hint)
    return tag


def _bad_component(what: str, stem: str, part: str) -> Never:
    if not part:
        _refuse(what, stem, "has an empty part", "write registry/path/name with single slashes")
    if part.lower() != part and _COMPONENT.fullmatch(part.lower()):
        _refuse(what, stem, "has upper case", f"registries take lower case only: {part.lower()}")
    hint = "lower-case letters and digits, joined by single dots, one or two underscores, or dashes"
    _refuse(what, stem, f"has the part {shown(part)}, which registries refuse", hint)


def _refuse(what: str, text: str, problem: str, hint: str) -> Never:
    raise UsageError(f"{what} {shown(text, 300)} {problem}", hint)
