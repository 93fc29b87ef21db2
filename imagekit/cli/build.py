"""``imagekit build``: the cells of a project, measured, signed, brought where they go."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Key,
    Libos,
    Load,
    Locked,
    Log,
    NoAttest,
    Profile,
    ProjectFile,
    Push,
    Select,
    Template,
    base_options,
    choose_cells,
    open_project,
    registry_access,
)
from imagekit.cli.ui import ui

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagekit.release.matrix import Outcome


def build(
    epc: Epc = None,
    log: Log = None,
    no_attest: NoAttest = False,
    libos: Libos = None,
    select: Select = None,
    all_cells: All = False,
    key: Key = None,
    passphrase_file: PassphraseFile = None,
    output: Annotated[str, typer.Option(help="OCI layout to write to.")] = "oci:out",
    load: Load = False,
    push: Push = None,
    metadata_file: Annotated[
        Path | None, typer.Option(help="Write what came out, failures too, to this JSON file.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Cells at once; 0 for one per processor.")] = 0,
    cross_check: Annotated[
        bool,
        typer.Option("--cross-check", help="Rebuild; the base's own tools must measure the same."),
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Also build what is there already.")
    ] = False,
    allow_debug: Annotated[
        bool,
        typer.Option(
            "--allow-debug", help="Build what enclave.debug asks for: for development alone."
        ),
    ] = False,
    date: Date = None,
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
    """Build measured, signed enclave images: --epc 16g --log error, --select or --all."""
    from imagekit.cli.passphrases import open_project_signer
    from imagekit.images.cache import Cache
    from imagekit.release.bases import base_places
    from imagekit.release.delivery import Delivery, parse_push
    from imagekit.release.matrix import build_matrix, default_jobs
    from imagekit.release.metadata import begin_metadata, document, write_metadata
    from imagekit.release.pipeline import CellBuilder, Output, open_base, open_cells
    from imagekit.spec.dates import check_date

    project = open_project(file, profile, manifest_template, define, base_image)
    cells = choose_cells(project, epc, log, no_attest, libos, select, all_cells)
    target = Output.parse(output)
    check_date(date)
    targets = [parse_push(text, len(cells)) for text in push or []]
    access = registry_access(insecure, cacert)
    options = base_options(engine, locked, access)
    signer = open_project_signer(project, key, passphrase_file)
    if metadata_file is not None:
        begin_metadata(metadata_file)
    with ui.progress() as progress:
        known = base_places(project, targets)
        delivery = Delivery(
            targets, load=load, access=access, known=known, talk=ui.say, progress=progress
        )
        base = open_base(project, Cache(project.cache), options, talk=ui.say, progress=progress)
        if base.standin:
            _shout(base.libos_name)
        making = open_cells(
            base, project, cross_check=cross_check, allow_debug=allow_debug, progress=progress
        )
        with making as cells_of:
            builder = CellBuilder(
                base,
                project,
                cells_of,
                signer,
                target,
                date=date,
                talk=ui.warn,
                rebuild=rebuild or cross_check,
                progress=progress,
            )
            outcomes = build_matrix(
                builder,
                cells,
                delivery,
                jobs=jobs or default_jobs(),
                done=lambda outcome: _tell(outcome, many=len(cells) > 1),
            )
    if metadata_file is not None:
        write_metadata(metadata_file, outcomes, target.folder)
    if json:
        ui.json(document(outcomes, target.folder))
    else:
        _print(outcomes, target.folder)
    _end(outcomes)


def _shout(libos: str) -> None:
    ui.warn(f"STAND-IN {libos.upper()}: this base holds no real {libos}.")
    ui.warn("Images made from it run WITHOUT ANY ENCLAVE and protect nothing.")


def _tell(outcome: "Outcome", many: bool) -> None:
    """Say what became of a cell, as soon as it is known."""
    built = outcome.built
    if built is None:
        return
    if many or not built.fresh:
        state = "built" if built.fresh else "there already, nothing to do"
        ui.say(f"{outcome.cell.id}: {state}")
    for one in built.delivered:
        ui.say(f"{outcome.cell.id}: {one.line}")


def _print(outcomes: "Sequence[Outcome]", folder: Path) -> None:
    for outcome in outcomes:
        built = outcome.built
        if built is None:
            continue
        ui.say(f"image: {' '.join(f'oci:{folder}:{tag}' for tag in built.tags)}")
        ui.say(f"digest: {built.image.digest}")
        ui.result(
            "[INFO] Use the below hash values of mr_enclave and mr_signer to register enclave:\n"
            f"mr_enclave       : {built.entry.mr_enclave}\n"
            f"mr_signer        : {built.entry.mr_signer}"
        )


def _end(outcomes: "Sequence[Outcome]") -> None:
    """Sum up several cells, and raise what went wrong."""
    from imagekit.release.matrix import MatrixError

    errors = [error for outcome in outcomes for error in outcome.errors]
    if len(outcomes) == 1 and len(errors) <= 1:
        if errors:
            raise errors[0]
        return
    built = [outcome.built for outcome in outcomes if outcome.built]
    fresh = sum(one.fresh for one in built)
    sent = sum(delivered.sent for one in built for delivered in one.delivered)
    moved = f", {sent} bytes sent" if any(one.delivered for one in built) else ""
    ui.say(
        f"{len(outcomes)} cells: {fresh} built, {len(built) - fresh} there already, "
        f"{sum(outcome.built is None for outcome in outcomes)} failed{moved}"
    )
    if errors:
        for outcome in outcomes:
            for error in outcome.errors:
                ui.warn(f"{outcome.cell.id}: {error.problem} ({error.hint})")
        raise MatrixError(outcomes)
