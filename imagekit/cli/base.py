"""``imagekit base``: the large shared part of the images."""

from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli.ui import ui

app = typer.Typer(
    help="The base image: assemble it, lock what it is made of.", no_args_is_help=True
)

ProjectFile = Annotated[Path, typer.Option("--file", "-f", help="The project file.")]
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
DEFAULT_PROJECT = Path("imagekit.yaml")


@app.command("build")
def build(
    engine: Annotated[str, typer.Option(help="auto or assemble (no daemon needed).")] = "auto",
    output: Annotated[
        str | None, typer.Option(help="Also write it to an OCI layout, oci:DIR[:TAG].")
    ] = None,
    locked: Annotated[
        bool, typer.Option(help="Refuse other packages than those of the base lock.")
    ] = False,
    refresh: Annotated[bool, typer.Option(help="Ask the package archive again.")] = False,
    file: ProjectFile = DEFAULT_PROJECT,
    json: Json = False,
) -> None:
    """Assemble the base image from the project file."""
    from imagekit.errors import UsageError
    from imagekit.images.cache import Cache
    from imagekit.release.bases import assemble_base
    from imagekit.release.pipeline import write_image
    from imagekit.spec.project import load_project

    if engine not in ("auto", "assemble"):
        raise UsageError(f"--engine {engine} is not known", "take auto or assemble")
    project = load_project(file)
    with ui.progress() as progress:
        made = assemble_base(
            project, Cache(project.cache), locked=locked, refresh=refresh, progress=progress
        )
        if output is not None:
            write_image(made.image, output, progress)
    if made.drift is not None:
        ui.warn(f"{made.drift.problem}; {made.drift.hint}")
    ui.say(f"engine assemble; {'taken from the cache' if made.cached else 'made'}")
    if json:
        ui.json({"digest": made.image.digest, "cached": made.cached, "engine": "assemble"})
    else:
        ui.result(made.image.digest)


@app.command("lock")
def lock(file: ProjectFile = DEFAULT_PROJECT, json: Json = False) -> None:
    """Write the hashes of all artifacts and the versions of all packages to the base lock."""
    from imagekit.images.bases.lock import LOCK_NAME
    from imagekit.images.cache import Cache
    from imagekit.release.bases import write_base_lock
    from imagekit.spec.project import load_project

    project = load_project(file)
    with ui.progress() as progress:
        made = write_base_lock(project, Cache(project.cache), progress)
    path = project.folder / LOCK_NAME
    if json:
        ui.json({"file": str(path), **made.to_json()})
    else:
        ui.result(str(path))
        ui.say(f"{len(made.artifacts)} artifacts, {len(made.packages)} packages locked")
