"""``imagekit tool``: drop-in replacements for Gramine's and the Intel SGX SDK's own tools."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli import tool_sgx
from imagekit.cli.ui import ui

app = typer.Typer()
app.add_typer(tool_sgx.app, name="sgx-sign")

GramineVersion = Annotated[str, typer.Option(help="Whose rules: 1.9 or 1.3.", metavar="1.9|1.3")]
PkgLibDir = Annotated[str | None, typer.Option(help="Where Gramine is installed.")]
Chroot = Annotated[
    Path | None, typer.Option(help="Look trusted files up below this folder, links resolved in it.")
]


@app.command("gramine-manifest")
def gramine_manifest(
    infile: Annotated[Path | None, typer.Argument(help="Template; - is stdin.")] = None,
    outfile: Annotated[Path | None, typer.Argument(help="Manifest; stdout if not given.")] = None,
    string: Annotated[
        str | None, typer.Option("--string", "-c", help="Render this text instead of a file.")
    ] = None,
    define: Annotated[
        list[str] | None,
        typer.Option("--define", "-D", help="Variable for the template, NAME=VALUE or NAME."),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Check against the release's manifest syntax.")
    ] = True,
    chroot: Chroot = None,
    gramine_version: GramineVersion = "1.9",
    pkglibdir: PkgLibDir = None,
) -> None:
    """Render a manifest template, fill in defaults, expand trusted files."""
    from imagekit.enclave.releases import release_named
    from imagekit.errors import UsageError
    from imagekit.files import write_atomically
    from imagekit.release.gramine_tools import decode_text, make_manifest, read_text
    from imagekit.render.variables import DEFAULT_PKGLIBDIR, GramineVariables

    if string is not None:
        # With -c the only positional argument is the output.
        if outfile is not None:
            raise UsageError("both -c and an input file are given", "give one of them")
        infile, outfile, template, name = None, infile, string, "-c"
    elif infile is None:
        raise UsageError("no template", "give a file or -c TEXT")
    elif str(infile) == "-":
        template, name = decode_text(sys.stdin.buffer.read(), "stdin"), "stdin"
    else:
        template, name = read_text(infile, "template"), str(infile)
    done = make_manifest(
        template,
        parse_defines(define or []),
        name=name,
        release=release_named(gramine_version),
        gramine=GramineVariables(pkglibdir or DEFAULT_PKGLIBDIR),
        chroot=chroot,
        check=check,
    )
    for finding in done.warnings:
        ui.warn(f"{finding.line} ({finding.hint})")
    if done.skipped:
        ui.warn(
            f"{len(done.skipped)} links that lead out of their image are not trusted, as in the "
            f"stock tool: {', '.join(done.skipped[:5])}{' …' if len(done.skipped) > 5 else ''}"
        )
    if outfile is None or str(outfile) == "-":
        sys.stdout.buffer.write(done.text)
        sys.stdout.flush()
    else:
        write_atomically(outfile, done.text)


def parse_defines(items: list[str]) -> dict[str, str | bool]:
    """Read ``NAME=VALUE`` (a string) and ``NAME`` (true)."""
    from imagekit.errors import UsageError

    defines: dict[str, str | bool] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not name:
            raise UsageError(f"-D {item}: the name is missing", "write -D NAME=VALUE")
        defines[name] = value if equals else True
    return defines


@app.command("gramine-sgx-sign")
def gramine_sgx_sign(
    manifest: Annotated[Path, typer.Option("--manifest", "-m", help="Output of gramine-manifest.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .manifest.sgx to write.")],
    sigfile: Annotated[
        Path | None,
        typer.Option("--sigfile", "-s", help="The SIGSTRUCT to write; NAME.sig if not given."),
    ] = None,
    libpal: Annotated[
        Path | None, typer.Option("--libpal", "-l", help="Gramine's libpal.so.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", "-k", help="PEM file; Gramine's default if not given.")
    ] = None,
    passphrase: Annotated[
        str | None,
        typer.Option(
            "--passphrase",
            "--password",
            "-p",
            help="Passphrase of the key. Everybody on the machine can read it here: better "
            "--passphrase-file.",
        ),
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the passphrase.")
    ] = None,
    date: Annotated[
        str | None, typer.Option("--date", "-d", help="YYYY-MM-DD or today, for the SIGSTRUCT.")
    ] = None,
    depfile: Annotated[Path | None, typer.Option(help="Dependency file for make or ninja.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not list the areas.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="List the areas.")] = False,
    chroot: Chroot = None,
    gramine_version: GramineVersion = "1.9",
    pkglibdir: PkgLibDir = None,
    permissive: Annotated[
        bool,
        typer.Option(help="Sign, with a warning, what the stock tool would and no loader takes."),
    ] = False,
) -> None:
    """Measure a manifest and sign it."""
    from imagekit.cli.passphrases import open_signer
    from imagekit.enclave.releases import release_named
    from imagekit.release.gramine_tools import describe_signed, sign_manifest_file, write_signed
    from imagekit.render.variables import DEFAULT_PKGLIBDIR, GramineVariables
    from imagekit.spec.dates import sigstruct_date

    gramine = GramineVariables(pkglibdir or DEFAULT_PKGLIBDIR)
    if passphrase is not None:
        ui.warn("a passphrase on the command line can be read by everybody on this machine")
    signer = open_signer(key or _default_key(), passphrase_file, passphrase)
    ui.quiet = ui.quiet or (quiet and not verbose)
    with ui.progress() as progress:
        signed, inputs = sign_manifest_file(
            manifest,
            libpal or Path(gramine.libpal),
            signer,
            date=sigstruct_date(date),
            release=release_named(gramine_version),
            gramine=gramine,
            chroot=chroot,
            permissive=permissive,
            progress=progress,
        )
    for finding in signed.warnings:
        ui.warn(f"{finding.line} ({finding.hint})")
    write_signed(
        signed,
        manifest_sgx=output,
        sigfile=sigfile or _default_sigfile(manifest),
        depfile=depfile,
        inputs=inputs,
    )
    if not ui.quiet:
        ui.result(describe_signed(signed))


def _default_key() -> Path:
    import os

    config = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    return Path(config) / "gramine" / "enclave-key.pem"


def _default_sigfile(manifest: Path) -> Path:
    return manifest.with_name(manifest.name.removesuffix(".manifest") + ".sig")
