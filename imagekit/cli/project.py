"""``imagekit init`` and ``imagekit plan``: writing a project file, and looking at its matrix."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imagekit.cli.options import DEFAULT_PROJECT, ProjectFile
from imagekit.cli.ui import ui

if TYPE_CHECKING:
    from imagekit.spec.matrix import Cell
    from imagekit.spec.project import Project

FORMATS = ("table", "json", "bake", "github", "gitlab")
"""How ``plan`` can answer."""
DEFAULT_CONTEXT = Path("rendered")
"""Where a bake file looks for what ``imagekit render`` wrote."""


def init(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write; never overwritten.")
    ] = DEFAULT_PROJECT,
    json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Write a commented imagekit.yaml."""
    from imagekit import spec
    from imagekit.errors import UsageError
    from imagekit.files import write_new

    template = Path(spec.__file__).with_name("init.yaml")
    try:
        write_new(output, template.read_bytes())
    except FileExistsError:
        raise UsageError(
            f"{output} exists already", "choose another name with -o, or remove the file first"
        ) from None
    if json:
        ui.json({"file": str(output)})
    else:
        ui.result(str(output))
    ui.say("change image, base and launch to yours, then look at the matrix: imagekit plan")


def plan(
    select: Annotated[
        list[str] | None,
        typer.Option(
            help="Only the cells that a pattern such as '*-16g-*' or '*-{4g,8g}-error-*' matches, "
            "by cell or image name; may be repeated."
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(FORMATS)}; default table.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    context: Annotated[
        Path | None,
        typer.Option(help="For --format bake: the folder of imagekit render -o; default rendered."),
    ] = None,
    file: ProjectFile = DEFAULT_PROJECT,
) -> None:
    """Show the images that a project makes, also as a bake file or a matrix of a CI service."""
    from imagekit.spec.matrix import select as choose
    from imagekit.spec.project import load_project

    wanted = _format(format, json, context)
    project = load_project(file)
    cells = choose(project.cells, select or [], project.image)
    if wanted == "json":
        ui.json({"cells": [_row(project, cell) for cell in cells]})
    elif wanted == "table":
        ui.result(_table(project, cells))
        _remarks(project, cells)
    else:
        if wanted == "bake" and project.libos == "occlum":
            ui.warn(
                "what a bake file builds of Occlum's cells has a throw-away signature: take it for "
                "the base, and imagekit build for the cells"
            )
        ui.result(_document(wanted, project, cells, context or DEFAULT_CONTEXT))


def _format(name: str | None, json: bool, context: Path | None) -> str:
    from imagekit.errors import UsageError

    if name is not None and name not in FORMATS:
        raise UsageError(f'--format "{name}" is not known', f"choose one of {', '.join(FORMATS)}")
    if json and name not in (None, "json"):
        raise UsageError(f"--json and --format {name} contradict each other", "give one of them")
    if context is not None and name != "bake":
        raise UsageError("--context is for bake files alone", "add --format bake, or leave it out")
    return "json" if json else name or "table"


def _document(wanted: str, project: "Project", cells: "tuple[Cell, ...]", context: Path) -> str:
    """The cells for another tool; what makes them is loaded only here."""
    from imagekit.release import plans

    if wanted == "bake":
        return plans.bake(project, cells, context)
    return plans.github(project, cells) if wanted == "github" else plans.gitlab(project, cells)


def _row(project: "Project", cell: "Cell") -> dict[str, Any]:
    """One cell as ``plan --json`` gives it; ``epc`` is in bytes."""
    from imagekit.spec.sizes import epc_name

    is_default = cell == project.default_cell
    references = list(project.references(cell))
    own: dict[str, Any] = {}
    if cell.libos == "occlum":
        from imagekit.release.occlum_plan import planned_epc  # here: other projects start quicker

        own = {"committed_epc": planned_epc(project, cell).total}
    return {
        "id": cell.id,
        "image": project.name(cell),
        "tag": project.tag,
        "references": references,
        "libos": cell.libos,
        "epc": cell.epc,
        "epc_name": epc_name(cell.epc),
        "log": cell.log,
        "attestation": cell.attestation,
        "profile": project.profile,
        "default": is_default,
        **own,
    }


def _table(project: "Project", cells: "tuple[Cell, ...]") -> str:
    """Aligned columns, by hand: a table library takes longer to load than all the rest."""
    from imagekit.spec.sizes import epc_name

    default = project.default_cell
    rows = [("CELL", "IMAGE", "EPC", *_committed(project, None), "LOG", "ATTESTATION", "")]
    rows += [
        (
            cell.id,
            project.reference(cell),
            epc_name(cell.epc),
            *_committed(project, cell),
            cell.log,
            cell.attestation,
            "default" if cell == default else "",
        )
        for cell in cells
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _committed(project: "Project", cell: "Cell | None") -> tuple[str, ...]:
    """The column of Occlum's cells with the EPC that they commit; its title where there is none."""
    if project.libos != "occlum":
        return ()
    if cell is None:
        return ("COMMITS",)
    from imagekit.release.occlum_plan import epc_text, planned_epc

    return (epc_text(planned_epc(project, cell)),)


def _remarks(project: "Project", cells: "tuple[Cell, ...]") -> None:
    from imagekit.spec.names import default_reference

    default = project.default_cell
    ui.say(f"{len(cells)} of {len(project.cells)} cells, profile {project.profile}")
    if default is None:
        ui.say("no default cell: nothing is tagged latest; name one with matrix.default")
    else:
        chosen = "" if project.matrix.default else " (chosen by imagekit)"
        ui.say(
            f"default cell{chosen}: {default.id}, also tagged "
            f"{default_reference(project.image, default.libos)}"
        )
    if project.libos == "occlum":
        from imagekit.release.occlum_plan import epc_remarks

        for line in epc_remarks(project, cells):
            ui.warn(line)
