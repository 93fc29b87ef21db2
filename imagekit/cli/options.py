"""Options that several commands share, and what they stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from imagekit.cli.ui import ui

if TYPE_CHECKING:
    from imagekit.images.registry.access import RegistryAccess
    from imagekit.release.bases import BaseOptions
    from imagekit.spec.matrix import Cell
    from imagekit.spec.options import GramineOptions, OcclumOptions
    from imagekit.spec.project import Project

ProjectFile = Annotated[Path, typer.Option("--file", "-f", help="The project file.")]
DEFAULT_PROJECT = Path("imagekit.yaml")
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]

Epc = Annotated[str | None, typer.Option(help="Enclave size: 16g, 16G, 16GB, 16Gi.")]
Log = Annotated[str | None, typer.Option(help="Log level.")]
NoAttest = Annotated[bool, typer.Option("--no-attest", help="No remote attestation.")]
Libos = Annotated[
    str | None, typer.Option(help="Library OS, which has to be the project's: gramine or occlum.")
]
Select = Annotated[
    list[str] | None, typer.Option(help="Cells by pattern, such as '*-16g-*'; repeatable.")
]
All = Annotated[bool, typer.Option("--all", help="All cells of the matrix.")]
Profile = Annotated[str | None, typer.Option(help="strict or compat.")]
Template = Annotated[
    Path | None,
    typer.Option("--manifest-template", help="Own template of the manifest or Occlum.json."),
]
Define = Annotated[
    list[str] | None, typer.Option("--define", "-D", help="NAME=VALUE for the template.")
]
Key = Annotated[Path | None, typer.Option(help="Signing key, PEM.")]
Date = Annotated[str | None, typer.Option(help="YYYY-MM-DD for the SIGSTRUCT.")]

BaseImage = Annotated[
    str | None, typer.Option("--base", help="Image to take as base, instead of the project's own.")
]
Engine = Annotated[
    str, typer.Option(help="Who makes a base: auto, docker (an engine), assemble (no daemon).")
]
Locked = Annotated[
    bool, typer.Option(help="Refuse packages that imagekit.base.lock.json does not name.")
]
Push = Annotated[
    list[str] | None,
    typer.Option(help="Registry to push to, HOST/PATH (or one HOST/PATH/NAME:TAG); repeatable."),
]
Load = Annotated[bool, typer.Option("--load", help="Load the result into the container engine.")]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Accept registries with plain http or unknown certificates."),
]
CaCert = Annotated[Path | None, typer.Option(help="CAs to trust for registries, PEM.")]


def registry_access(insecure: bool, cacert: Path | None) -> "RegistryAccess":
    """Give how registries are reached; a missing check is shouted.

    Raises:
        InputError: the file of CAs is not there.
    """
    from imagekit.errors import InputError
    from imagekit.images.registry.access import RegistryAccess

    if cacert is not None and not cacert.is_file():
        raise InputError(f"--cacert {cacert}: no such file", "name a PEM file with certificates")
    if insecure:
        ui.warn("--insecure: nobody vouches for what registries send, or for who reads along")
    return RegistryAccess(insecure, cacert)


def base_options(
    engine: str, locked: bool, access: "RegistryAccess", refresh: bool = False
) -> "BaseOptions":
    """Give how a base is made or reached.

    Raises:
        UsageError: an engine that is not known.
    """
    from imagekit.errors import UsageError
    from imagekit.release.bases import ENGINES, BaseOptions

    if engine not in ENGINES:
        raise UsageError(f"--engine {engine} is not known", f"take {', '.join(ENGINES)}")
    return BaseOptions(engine, locked, refresh, access)


def open_project(
    file: Path,
    profile: str | None,
    template: Path | None,
    define: list[str] | None,
    base: str | None,
) -> "Project":
    """The project file with what the command line changes in it."""
    from imagekit.cli.tool import parse_defines
    from imagekit.release.cell import with_profile
    from imagekit.spec.project import load_project

    project = load_project(file)
    if profile is not None and profile != project.profile:
        project = with_profile(project, profile)
        ui.warn(
            f"profile {profile} in place of the project's own; the image's name is the same, "
            "its label and measurement are not"
        )
    if base is not None:
        from imagekit.release.bases import with_base

        project = with_base(project, base)
    defines = parse_defines(define or [])
    if project.libos == "occlum":
        return replace(project, occlum=with_template(project.occlum, template, defines))
    return replace(project, gramine=with_template(project.gramine, template, defines))


_Templated = TypeVar("_Templated", "GramineOptions", "OcclumOptions")


def with_template(
    options: _Templated, template: Path | None, defines: Mapping[str, str | bool]
) -> _Templated:
    """Give a section with what the command line says of its template."""
    merged = {**dict(options.define), **defines}
    return options._replace(
        template=template or options.template, define=tuple(sorted(merged.items()))
    )


def choose_cells(
    project: "Project",
    epc: str | None,
    log: str | None,
    no_attest: bool,
    libos: str | None,
    select: Sequence[str] | None,
    all_cells: bool,
) -> "tuple[Cell, ...]":
    """Find out which cells are wanted; what was chosen by default is said."""
    from imagekit.errors import UsageError
    from imagekit.spec.matrix import LIBOSES, Point, parse_cell
    from imagekit.spec.matrix import select as choose

    by_flags = no_attest or any(value is not None for value in (epc, log, libos))
    if all_cells + bool(select) + by_flags > 1:
        raise UsageError(
            "--all, --select and --epc/--log/--no-attest/--libos exclude each other",
            "give one of the three",
        )
    wanted = project.libos if libos is None else libos
    if wanted in LIBOSES and wanted != project.libos:
        raise UsageError(
            f"--libos {wanted}: {project.path} is for {project.libos}, and so is its base",
            f"write a project file with libos: {wanted} and a base for it",
        )
    if all_cells or select:
        return choose(project.cells, select or [], project.image)
    default = project.default_cell or Point().cell(project.libos)
    cell = parse_cell(
        wanted,
        default_epc(default) if epc is None else epc,
        default.log if log is None else log,
        "none" if no_attest else default.attestation,
    )
    left = [
        f"{name} {value}"
        for name, value, given in (
            ("epc", default_epc(default), epc is not None),
            ("log", default.log, log is not None),
            ("attestation", default.attestation, no_attest),
        )
        if not given
    ]
    if left:
        ui.say(f"by default: {', '.join(left)}")
    if cell not in project.cells:
        ui.say(f"{cell.id} is not in the matrix of {project.path.name}; building it all the same")
    return (cell,)


def default_epc(cell: "Cell") -> str:
    """Give a cell's enclave size as the command line takes it."""
    from imagekit.spec.sizes import epc_name

    return epc_name(cell.epc)
