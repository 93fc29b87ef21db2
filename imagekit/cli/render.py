"""``imagekit render``: every generated file, for people to read and for other builders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli.key import PassphraseFile
from imagekit.cli.options import (
    DEFAULT_PROJECT,
    All,
    BaseImage,
    CaCert,
    Date,
    Define,
    Engine,
    Epc,
    Insecure,
    Json,
    Libos,
    Locked,
    Log,
    NoAttest,
    Profile,
    ProjectFile,
    Select,
    Template,
    base_options,
    choose_cells,
    open_project,
    registry_access,
)
from imagekit.cli.ui import ui


def render(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    epc: Epc = None,
    log: Log = None,
    no_attest: NoAttest = False,
    libos: Libos = None,
    select: Select = None,
    all_cells: All = False,
    key: Annotated[
        Path | None, typer.Option(help="Sign, too, with this key; else nothing is signed.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    date: Date = None,
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="Also the base's artifacts, ready to be built.")
    ] = False,
    only_base: Annotated[
        bool, typer.Option("--only-base", help="The base's context alone; no base is made for it.")
    ] = False,
    profile: Profile = None,
    manifest_template: Template = None,
    define: Define = None,
    base_image: BaseImage = None,
    engine: Engine = "auto",
    locked: Locked = False,
    insecure: Insecure = False,
    cacert: CaCert = None,
    file: ProjectFile = DEFAULT_PROJECT,
    json: Json = False,
) -> None:
    """Write every generated file, as build contexts of base and cells; all cells by default."""
    from imagekit.cli.passphrases import open_signer
    from imagekit.errors import UsageError
    from imagekit.images.cache import Cache
    from imagekit.release.pipeline import open_base
    from imagekit.release.rendering import write_base, write_rendered
    from imagekit.spec.dates import check_date

    if only_base and (key or select or all_cells or epc or log or no_attest or base_image):
        raise UsageError(
            "--only-base writes no cells, so what chooses, signs or bases them has no meaning",
            "leave --only-base or the other options out",
        )
    project = open_project(file, profile, manifest_template, define, base_image)
    if only_base:
        ui.say("whether a stand-in is in the base is not known yet: no label says so")
        with ui.progress() as progress:
            made = write_base(
                project, output, standin=False, with_artifacts=artifacts, progress=progress
            )
        _answer(made, json)
        return
    every = all_cells or not (select or no_attest or epc is not None or log is not None)
    cells = choose_cells(project, epc, log, no_attest, libos, select, every)
    check_date(date)
    signer = None if key is None else open_signer(key, passphrase_file)
    options = base_options(engine, locked, registry_access(insecure, cacert))
    with ui.progress() as progress:
        base = open_base(project, Cache(project.cache), options, talk=ui.say, progress=progress)
        written = write_rendered(
            base,
            project,
            cells,
            output,
            signer,
            date,
            with_artifacts=artifacts,
            progress=progress,
        )
    _answer(written, json)


def _answer(written: Sequence[Path], json: bool) -> None:
    if json:
        ui.json({"files": [str(path) for path in written]})
    else:
        ui.result("\n".join(str(path) for path in written))
