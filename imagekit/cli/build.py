"""``imagekit build`` and ``imagekit render``: the cells of a project."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imagekit.cli.base import DEFAULT_PROJECT, Json, ProjectFile
from imagekit.cli.key import PassphraseFile
from imagekit.cli.ui import ui

if TYPE_CHECKING:
    from imagekit.release.pipeline import Built
    from imagekit.spec.matrix import Cell
    from imagekit.spec.project import Project

Epc = Annotated[str | None, typer.Option(help="Enclave size: 16g, 16G, 16GB, 16Gi.")]
Log = Annotated[str | None, typer.Option(help="Log level.")]
NoAttest = Annotated[bool, typer.Option("--no-attest", help="No remote attestation.")]
Libos = Annotated[str | None, typer.Option(help="gramine.")]
Select = Annotated[
    list[str] | None, typer.Option(help="Cells by pattern, such as '*-16g-*'; repeatable.")
]
All = Annotated[bool, typer.Option("--all", help="All cells of the matrix.")]
Profile = Annotated[str | None, typer.Option(help="strict or compat.")]
Template = Annotated[
    Path | None, typer.Option("--manifest-template", help="Your own manifest template.")
]
Define = Annotated[
    list[str] | None, typer.Option("--define", "-D", help="NAME=VALUE for the template.")
]
Locked = Annotated[bool, typer.Option(help="Refuse other packages than those of the base lock.")]


def build(
    epc: Epc = None,
    log: Log = None,
    no_attest: NoAttest = False,
    libos: Libos = None,
    select: Select = None,
    all_cells: All = False,
    key: Annotated[Path | None, typer.Option(help="Signing key, PEM.")] = None,
    passphrase_file: PassphraseFile = None,
    output: Annotated[str, typer.Option(help="OCI layout to write to.")] = "oci:out",
    date: Annotated[str | None, typer.Option(help="YYYY-MM-DD for the SIGSTRUCT.")] = None,
    profile: Profile = None,
    manifest_template: Template = None,
    define: Define = None,
    locked: Locked = False,
    file: ProjectFile = DEFAULT_PROJECT,
    json: Json = False,
) -> None:
    """Build measured, signed enclave images: --epc 16g --log error, --select or --all."""
    from imagekit.cli.secrets import open_signer
    from imagekit.errors import UsageError
    from imagekit.images.cache import Cache
    from imagekit.release.dates import check_date
    from imagekit.release.pipeline import Output, build_cells, open_base

    project = _project(file, profile, manifest_template, define)
    cells = choose_cells(project, epc, log, no_attest, libos, select, all_cells)
    target = Output.parse(output)
    check_date(date)
    key = key or project.signing.key
    if key is None:
        raise UsageError(
            f"no signing key: neither --key nor signing.key in {project.path}",
            "make one with: imagekit key generate",
        )
    signer = open_signer(key, passphrase_file)
    cache = Cache(project.cache)
    with ui.progress() as progress:
        base = open_base(project, cache, locked=locked, talk=ui.say, progress=progress)
        _shout(base.standin)
        built = build_cells(
            base,
            project,
            cells,
            signer,
            target,
            date=date,
            talk=ui.warn,
            progress=progress,
        )
    if json:
        ui.json({"images": [_summary(one, target.folder) for one in built]})
        return
    for one in built:
        _print(one, target.folder)


def render(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    epc: Epc = None,
    log: Log = None,
    no_attest: NoAttest = False,
    libos: Libos = None,
    select: Select = None,
    all_cells: All = False,
    profile: Profile = None,
    manifest_template: Template = None,
    define: Define = None,
    locked: Locked = False,
    file: ProjectFile = DEFAULT_PROJECT,
    json: Json = False,
) -> None:
    """Write every generated file of the cells, unsigned, and nothing else; all cells by default."""
    from imagekit.images.cache import Cache
    from imagekit.release.pipeline import open_base
    from imagekit.release.rendering import write_rendered

    project = _project(file, profile, manifest_template, define)
    every = all_cells or not (select or no_attest or epc is not None or log is not None)
    cells = choose_cells(project, epc, log, no_attest, libos, select, every)
    with ui.progress() as progress:
        base = open_base(
            project, Cache(project.cache), locked=locked, talk=ui.say, progress=progress
        )
        written = write_rendered(base, project, cells, output)
    if json:
        ui.json({"files": [str(path) for path in written]})
    else:
        ui.result("\n".join(str(path) for path in written))


def _project(
    file: Path, profile: str | None, template: Path | None, define: list[str] | None
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
    merged: dict[str, str | bool] = dict(project.gramine.define)
    merged |= parse_defines(define or [])
    gramine = project.gramine._replace(
        template=template or project.gramine.template,
        define=tuple(sorted(merged.items())),
    )
    return replace(project, gramine=gramine)


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
    if wanted in LIBOSES and wanted != "gramine":
        raise UsageError(
            f"libos {wanted} cannot be built by this version", "take libos gramine for now"
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


def _shout(standin: bool) -> None:
    if standin:
        for line in (
            "STAND-IN GRAMINE: this base holds no real Gramine.",
            "Images made from it run WITHOUT ANY ENCLAVE and protect nothing.",
        ):
            ui.warn(line)


def _summary(built: "Built", folder: Path) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "cell": built.cell.id,
        "reference": built.reference,
        "output": [f"oci:{folder}:{tag}" for tag in built.tags],
        **asdict(built.entry),
    }


def _print(built: "Built", folder: Path) -> None:
    ui.say(f"image: {' '.join(f'oci:{folder}:{tag}' for tag in built.tags)}")
    ui.say(f"digest: {built.image.digest}")
    ui.result(
        "[INFO] Use the below hash values of mr_enclave and mr_signer to register enclave:\n"
        f"mr_enclave       : {built.entry.mr_enclave}\n"
        f"mr_signer        : {built.entry.mr_signer}"
    )
