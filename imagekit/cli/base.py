"""``imagekit base``: the large shared part of the images."""

from typing import Annotated

import typer

from imagekit.cli.options import (
    DEFAULT_PROJECT,
    CaCert,
    Engine,
    Insecure,
    Json,
    Load,
    Locked,
    ProjectFile,
    Push,
    base_options,
    registry_access,
)
from imagekit.cli.ui import ui

app = typer.Typer()


@app.command("build")
def build(
    engine: Engine = "auto",
    output: Annotated[
        str | None, typer.Option(help="Also write it to an OCI layout, oci:DIR[:TAG].")
    ] = None,
    load: Load = False,
    push: Push = None,
    locked: Locked = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask the package archive again.")
    ] = False,
    insecure: Insecure = False,
    cacert: CaCert = None,
    file: ProjectFile = DEFAULT_PROJECT,
    json: Json = False,
) -> None:
    """Make the base image from the project file, and bring it where it is wanted."""
    from imagekit.images.cache import Cache
    from imagekit.release.bases import assemble_base, base_places
    from imagekit.release.delivery import Delivery, parse_push
    from imagekit.release.pipeline import write_image
    from imagekit.spec.project import load_project

    project = load_project(file)
    targets = [parse_push(text, 1) for text in push or []]
    access = registry_access(insecure, cacert)
    options = base_options(engine, locked, access, refresh)
    with ui.progress() as progress:
        delivery = Delivery(
            targets,
            load=load,
            access=access,
            known=base_places(project, ()),
            talk=ui.say,
            progress=progress,
        )
        made = assemble_base(project, Cache(project.cache), options, talk=ui.say, progress=progress)
        if output is not None:
            write_image(made.image, output, progress)
        names = [project.base_name]
        delivered = [
            one
            for place in range(delivery.places)
            for one in delivery.deliver(made.image, names, place)
        ]
    if made.drift is not None:
        ui.warn(f"{made.drift.problem}; {made.drift.hint}")
    for one in delivered:
        ui.say(one.line)
    if json:
        facts = [one._asdict() for one in delivered]
        ui.json({"digest": made.image.digest, "cached": made.cached, "delivered": facts})
    else:
        ui.result(made.image.digest)


@app.command("lock")
def lock(
    engine: Engine = "auto",
    insecure: Insecure = False,
    cacert: CaCert = None,
    file: ProjectFile = DEFAULT_PROJECT,
    json: Json = False,
) -> None:
    """Write the hashes of all artifacts and the versions of all packages to the base lock."""
    from imagekit.images.bases.lock import LOCK_NAME
    from imagekit.images.cache import Cache
    from imagekit.release.bases import write_base_lock
    from imagekit.spec.project import load_project

    project = load_project(file)
    options = base_options(engine, locked=False, access=registry_access(insecure, cacert))
    with ui.progress() as progress:
        made = write_base_lock(
            project, Cache(project.cache), options, talk=ui.say, progress=progress
        )
    path = project.folder / LOCK_NAME
    if json:
        ui.json({"file": str(path), **made.to_json()})
    else:
        ui.result(str(path))
        ui.say(f"{len(made.artifacts)} artifacts, {len(made.packages)} packages locked")
