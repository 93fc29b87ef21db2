"""The project file, ``imagekit.yaml``, as typed values.

The keys stand in :mod:`imagekit.spec.keys`. Loading reads nothing but the file itself: whether
keys, templates and bases exist is found out by the command that needs them. Every error names the
file, the line and the key.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from imagekit.errors import InputError, UsageError
from imagekit.runtime.launch import Encrypted
from imagekit.spec.base import parse_base
from imagekit.spec.base_values import BaseReference, BaseSpec, DerivedSpec
from imagekit.spec.fields import Node, load_yaml, shown
from imagekit.spec.keys import GRAMINE_VERSIONS, KEYS, PROFILES, SCHEMA, names, required
from imagekit.spec.launch import parse_encrypted, parse_launch_options
from imagekit.spec.matrix import (
    ATTESTATIONS,
    LIBOSES,
    Cell,
    Exclusion,
    Matrix,
    Point,
    check_axis,
    default_of,
    expand,
)
from imagekit.spec.names import (
    base_reference,
    check_stem,
    check_tag,
    default_reference,
    image_name,
    image_reference,
    parse_image_name,
)
from imagekit.spec.options import (
    EnclaveOptions,
    GramineOptions,
    LaunchOptions,
    OcclumOptions,
    PathOptions,
    SigningOptions,
)
from imagekit.spec.readers import axis, host_path, inside_path, variables
from imagekit.spec.sizes import epc_name, parse_epc

_SECRET = re.compile(r"pass|secret|\bpin\b|token|credential", re.IGNORECASE)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Project:
    """One project file. Paths on this machine are joined with the file's folder already."""

    path: Path
    """The project file, as given."""
    image: str
    """Stem of the image names: registry, path and name."""
    tag: str
    libos: str
    """``gramine`` or ``occlum``."""
    profile: str
    """``strict`` or ``compat``."""
    base: BaseSpec | DerivedSpec | BaseReference
    """Paths and references inside are as written, relative to :attr:`folder`."""
    matrix: Matrix
    enclave: EnclaveOptions = field(default_factory=EnclaveOptions)
    signing: SigningOptions = field(default_factory=SigningOptions)
    gramine: GramineOptions = field(default_factory=GramineOptions)
    occlum: OcclumOptions = field(default_factory=OcclumOptions)
    launch: LaunchOptions = field(default_factory=LaunchOptions)
    paths: PathOptions = field(default_factory=PathOptions)
    trusted: tuple[str, ...] = ()
    """Further trusted files as Gramine URIs, ``file:/x`` or, for a folder, ``file:/x/``; in the
    order of the file."""
    encrypted: tuple[Encrypted, ...] = ()
    """Folders whose files are encrypted, in the order of the file."""
    cache: Path | None = None
    """Folder of the cache; None for the user's own."""

    @property
    def folder(self) -> Path:
        """The folder that the file's relative paths start from."""
        return self.path.parent

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, sorted."""
        return expand(self.matrix, self.libos)

    @property
    def default_cell(self) -> Cell | None:
        """The cell that is also tagged ``…-reference:latest``."""
        return default_of(self.matrix, self.libos)

    def name(self, cell: Cell) -> str:
        """Return the name of a cell's image, without tag."""
        return image_name(self.image, cell)

    def reference(self, cell: Cell) -> str:
        """Return ``<name>:<tag>`` of a cell's image."""
        return image_reference(self.image, cell, self.tag)

    def references(self, cell: Cell) -> tuple[str, ...]:
        """Return all names of a cell's image, :meth:`reference` first; the default cell has two."""
        if cell == self.default_cell:
            return (self.reference(cell), default_reference(self.image, cell.libos))
        return (self.reference(cell),)

    @property
    def base_name(self) -> str:
        """``<name>:<tag>`` of the base that the project itself describes."""
        return base_reference(self.image, self.libos, self.tag)


def load_project(path: Path) -> Project:
    """Read a project file.

    Raises:
        UsageError: the file is missing, unreadable or wrong; with file, line and key.

    """
    try:
        root = load_yaml(path)
    except InputError as error:
        raise UsageError(error.problem, error.hint) from None
    return parse_project(root, path)


def parse_project(root: Node, path: Path) -> Project:
    """Read the nodes of a project file; ``path`` is where relative paths start from.

    Raises:
        UsageError: anything that is not allowed there.

    """
    _check_schema(root)
    keys = root.mapping(names(), required())
    folder = path.parent
    libos = keys["libos"].choice(LIBOSES) if "libos" in keys else LIBOSES[0]
    profile = keys["profile"].choice(PROFILES) if "profile" in keys else PROFILES[0]
    project = Project(
        path=path,
        image=_stem(keys["image"]),
        tag=_located(keys["tag"], check_tag),
        libos=libos,
        profile=profile,
        base=parse_base(keys["base"]),
        matrix=_matrix(keys["matrix"], libos),
        enclave=_section(keys, "enclave", EnclaveOptions, _enclave),
        signing=_section(keys, "signing", SigningOptions, lambda n: _signing(n, folder)),
        gramine=_section(keys, "gramine", GramineOptions, lambda n: _gramine(n, folder)),
        launch=_section(
            keys, "launch", LaunchOptions, lambda n: parse_launch_options(n, profile, folder)
        ),
        paths=_section(keys, "paths", PathOptions, _paths),
        trusted=_trusted(keys["trusted"]) if "trusted" in keys else (),
        encrypted=parse_encrypted(keys["encrypted"]) if "encrypted" in keys else (),
        cache=host_path(keys["cache"], folder) if "cache" in keys else None,
    )
    _check_sections(keys, libos)
    if libos == "occlum":
        from imagekit.spec.occlum_rules import occlum_project  # here: Gramine needs none of it

        project = occlum_project(project, keys)
    if project.gramine.version == "1.3" and project.enclave.edmm:
        raise keys["enclave"].error(
            "edmm needs Gramine 1.4 or later, and gramine.version is 1.3", "set edmm: false"
        )
    if project.launch.attestation.required and "none" in project.matrix.attestation:
        raise keys["launch"].error(
            "attestation is required, and the matrix has cells without it",
            "remove none from matrix.attestation, or required from launch.attestation",
        )
    for cell in project.cells:  # the longest name decides whether the stem is short enough
        try:
            project.name(cell)
        except UsageError as error:
            raise keys["image"].error(error.problem, error.hint) from None
    return project


def _check_sections(keys: Mapping[str, Node], libos: str) -> None:
    """Refuse what another library OS has."""
    other = {"gramine": "occlum", "occlum": "gramine"}[libos]
    if other in keys:
        raise keys[other].error(
            f"concerns {other}, and libos is {libos}", f"leave it out, or write libos: {other}"
        )
    if libos == "occlum" and "encrypted" in keys:
        raise keys["encrypted"].error(
            "is of Gramine; Occlum encrypts what its enclave writes below / by itself",
            "leave it out, or write libos: gramine",
        )


def _check_schema(root: Node) -> None:
    # Looked at before anything else: a file for a later version may have keys unknown to this one.
    keys = root.mapping()
    if "schema" not in keys:
        raise root.error('the key "schema" is missing', f'begin the file with "schema: {SCHEMA}"')
    number = keys["schema"].integer()
    if number != SCHEMA:
        raise keys["schema"].error(
            f"schema {number} is not known",
            f"this version of imagekit reads schema {SCHEMA}; "
            + ("a later one may read this file" if number > SCHEMA else "write that"),
        )


def _section(
    keys: Mapping[str, Node], name: str, empty: Callable[[], _T], parse: Callable[[Node], _T]
) -> _T:
    return parse(keys[name]) if name in keys else empty()


def _located(node: Node, check: Callable[[str], _T]) -> _T:
    """Check a text with a function that knows nothing of files, and say where it stands."""
    try:
        return check(node.string())
    except UsageError as error:
        if error.problem.startswith(node.where):
            raise
        raise node.error(error.problem, error.hint) from None


def _stem(node: Node) -> str:
    stem = _located(node, check_stem)
    try:
        inner = parse_image_name(stem)[0]
    except UsageError:
        return stem
    raise node.error(
        f"{shown(stem)} is the name of a cell, not a stem",
        f"leave libos, flavour and size out: {inner}",
    )


def _matrix(node: Node, libos: str) -> Matrix:
    keys = node.mapping(names("matrix"), required("matrix"))
    axes: dict[str, Any] = {"epc": axis(keys["epc"], lambda n: _epc(n, libos), epc_name)}
    if "log" in keys:
        axes["log"] = axis(keys["log"], lambda n: _log(n, libos), str)
    if "attestation" in keys:
        axes["attestation"] = axis(keys["attestation"], lambda n: n.choice(ATTESTATIONS), str)
    excluded = keys["exclude"].sequence() if "exclude" in keys else ()
    matrix = Matrix(
        **axes,
        exclude=tuple(_exclusion(item, libos) for item in excluded),
        default=_default(keys["default"], libos) if "default" in keys else None,
    )
    try:
        expand(matrix, libos)
    except UsageError as error:
        raise _placed(error, [*excluded, *keys.values(), node]) from None
    return matrix


def _placed(error: UsageError, nodes: list[Node]) -> UsageError:
    """Put file and line before a message that begins with the key of one of the nodes."""
    for node in nodes:
        if error.problem.startswith(node.key):
            return UsageError(f"{node.file}:{node.line}: {error.problem}", error.hint)
    return nodes[-1].error(error.problem, error.hint)


def _epc(node: Node, libos: str) -> int:
    return _located(node, lambda text: parse_epc(text, libos=libos))


def _log(node: Node, libos: str) -> str:
    return _located(node, lambda text: check_axis("log", text, libos))


def _exclusion(node: Node, libos: str) -> Exclusion:
    keys = node.mapping(names("matrix.exclude[]"))
    own = keys["libos"].choice(LIBOSES) if "libos" in keys else None
    return Exclusion(
        libos=own,
        epc=_epc(keys["epc"], own or libos) if "epc" in keys else None,
        log=_log(keys["log"], own or libos) if "log" in keys else None,
        attestation=keys["attestation"].choice(ATTESTATIONS) if "attestation" in keys else None,
    )


def _default(node: Node, libos: str) -> Point:
    keys = node.mapping(names("matrix.default"))
    values: dict[str, Any] = {}
    if "epc" in keys:
        values["epc"] = _epc(keys["epc"], libos)
    if "log" in keys:
        values["log"] = _log(keys["log"], libos)
    if "attestation" in keys:
        values["attestation"] = keys["attestation"].choice(ATTESTATIONS)
    return Point(**values)


def _enclave(node: Node) -> EnclaveOptions:
    values: dict[str, Any] = {}
    for name, child in node.mapping(names("enclave")).items():
        key = KEYS[f"enclave.{name}"]
        values[name] = (
            child.boolean()
            if key.kind == "boolean"
            else child.integer(minimum=key.least, maximum=key.most)
        )
    return EnclaveOptions(**values)


def _signing(node: Node, folder: Path) -> SigningOptions:
    for name, child in node.mapping().items():
        if _SECRET.search(name):
            raise child.error(
                "secrets do not belong in the project file",
                "remove it; a passphrase is asked for, or read from a file when signing",
            )
    keys = node.mapping(names("signing"))
    if "key" not in keys:
        return SigningOptions()
    if "-----BEGIN" in keys["key"].raw:
        raise keys["key"].error(
            "secrets do not belong in the project file", "name the key's file here, not its content"
        )
    if re.match(r"(?!file:)[a-z][a-z0-9+-]*:", keys["key"].string()):
        raise keys["key"].error(
            "only key files are supported by this version",
            "name a PEM file",
        )
    return SigningOptions(host_path(keys["key"], folder, "file:"))


def _gramine(node: Node, folder: Path) -> GramineOptions:
    keys = node.mapping(names("gramine"))
    return GramineOptions(
        version=keys["version"].choice(GRAMINE_VERSIONS) if "version" in keys else None,
        template=host_path(keys["template"], folder) if "template" in keys else None,
        define=variables(keys["define"]) if "define" in keys else (),
    )


def _paths(node: Node) -> PathOptions:
    keys = node.mapping(names("paths"))
    return PathOptions(**{name: inside_path(child, child.string()) for name, child in keys.items()})


def _trusted(node: Node) -> tuple[str, ...]:
    def parse(item: Node) -> str:
        text = item.string(what="a path in the image").removeprefix("file:")
        slash = "/" if text.endswith("/") and text != "/" else ""
        return f"file:{inside_path(item, text.removesuffix('/') if slash else text)}{slash}"

    return axis(node, parse, shown, minimum=0)
