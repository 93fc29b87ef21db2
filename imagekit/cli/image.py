"""``imagekit inspect``, ``measure`` and ``verify``: looking at what was built."""

from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli.options import CaCert, Insecure, Json, registry_access
from imagekit.cli.ui import ui

ImageName = Annotated[
    str,
    typer.Argument(
        help="docker://HOST/NAME:TAG, docker-daemon:NAME:TAG, oci:DIR:TAG, … (see docs)."
    ),
]


def inspect(
    target: Annotated[
        str,
        typer.Argument(help="Image reference, or a file: SIGSTRUCT (.sig) or SDK enclave (.so)."),
    ],
    insecure: Insecure = False,
    cacert: CaCert = None,
    json: Json = False,
) -> None:
    """Show what an image or a SIGSTRUCT says about itself; nothing is checked against content."""
    from imagekit.release.inspect import as_lines, inspect_file, inspect_image

    access = registry_access(insecure, cacert)
    is_file = ":" not in target
    with ui.progress() as progress:
        facts = inspect_file(Path(target)) if is_file else inspect_image(target, access, progress)
    if json:
        ui.json(facts)
    else:
        ui.result("\n".join(as_lines(facts)))


def measure(
    image: Annotated[
        str | None, typer.Argument(help="Image reference, or an SDK enclave's file (.so).")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="A .manifest.sgx file instead.")] = None,
    libpal: Annotated[Path | None, typer.Option(help="The libpal.so that goes with it.")] = None,
    gramine_version: Annotated[
        str | None, typer.Option(help="Whose rules; found out from the manifest if not given.")
    ] = None,
    insecure: Insecure = False,
    cacert: CaCert = None,
    json: Json = False,
) -> None:
    """Compute mr_enclave from content alone: manifest and PAL, or an SDK enclave."""
    from imagekit.errors import UsageError
    from imagekit.release.inspect import measure_file, measure_files, measure_image

    if (image is None) == (manifest is None) or (manifest is None) != (libpal is None):
        raise UsageError(
            "what is to be measured?", "give an image, or --manifest together with --libpal"
        )
    access = registry_access(insecure, cacert)
    with ui.progress() as progress:
        if manifest is not None and libpal is not None:
            hashed = measure_files(manifest, libpal, gramine_version, progress)
            mr_enclave, hashed_bytes = hashed.mr_enclave.hex(), hashed.hashed_bytes
        elif ":" not in str(image):
            found = measure_file(Path(str(image)), progress)
            mr_enclave, hashed_bytes = found.mr_enclave.hex(), found.hashed_bytes
        else:
            measured = measure_image(str(image), gramine_version, access, progress)
            mr_enclave, hashed_bytes = measured.mr_enclave.hex(), measured.hashed_bytes
    if json:
        ui.json({"mr_enclave": mr_enclave, "hashed_bytes": hashed_bytes})
    else:
        ui.result(f"mr_enclave       : {mr_enclave}")


def verify(
    image: ImageName,
    lock: Annotated[Path | None, typer.Option(help="The image must be in this lock file.")] = None,
    mr_signer: Annotated[str | None, typer.Option(help="64 hex digits it must have.")] = None,
    mr_enclave: Annotated[str | None, typer.Option(help="64 hex digits it must have.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name to check the content against; its own if not given.")
    ] = None,
    allow_standin: Annotated[
        bool, typer.Option(help="Accept a stand-in for the library OS.")
    ] = False,
    allow_debug: Annotated[bool, typer.Option(help="Accept a debuggable enclave.")] = False,
    insecure: Insecure = False,
    cacert: CaCert = None,
    json: Json = False,
) -> None:
    """Check an image from its own content: signature, measurement, every trusted file, no key."""
    from imagekit.release.inspect import fresh_view, measurement_option
    from imagekit.release.verdict import Expected, require
    from imagekit.release.verify import verify_image

    wanted_enclave = measurement_option(mr_enclave, "--mr-enclave")
    wanted_signer = measurement_option(mr_signer, "--mr-signer")
    access = registry_access(insecure, cacert)
    with ui.progress() as progress:
        opened, rootfs, own_name = fresh_view(image, access, progress)
        expected = Expected(
            name or own_name, wanted_enclave, wanted_signer, lock, allow_standin, allow_debug
        )
        verdict = verify_image(opened, rootfs, expected)
    if json:
        ui.json(
            {
                "image": image,
                "digest": opened.digest,
                "ok": not verdict.failed,
                "passed": verdict.passed,
                "failed": verdict.failed,
                "notes": verdict.notes,
                "mr_enclave": verdict.mr_enclave,
                "mr_signer": verdict.mr_signer,
            }
        )
    else:
        for line in verdict.passed:
            ui.say(f"ok      {line}")
        for line in verdict.notes:
            ui.say(f"note    {line}")
        for line in verdict.failed:
            ui.say(f"FAILED  {line}")
    require(verdict, image)
    if not json:
        ui.result(
            f"mr_enclave       : {verdict.mr_enclave}\nmr_signer        : {verdict.mr_signer}"
        )
