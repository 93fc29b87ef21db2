"""``imagekit tool sgx-sign``: a drop-in replacement for the Intel SGX SDK's ``sgx_sign``.

Options are spelled as there: long names behind one dash. Those with two dashes are imagekit's own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from imagekit import __version__
from imagekit.cli.ui import ui
from imagekit.errors import UsageError

if TYPE_CHECKING:
    from imagekit.release.sgx_sign import ReadyEnclave

_HELP = {"help_option_names": ["--help", "-help"]}
app = typer.Typer(
    help="Drop-in replacement for the Intel SGX SDK's sgx_sign.",
    no_args_is_help=True,
    context_settings=_HELP,
)


class IntelCommand(TyperCommand):
    """A command that takes each option once and no path that begins with a dash."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the words before they are parsed.

        Raises:
            UsageError: an option is repeated, or its value begins with a dash.
        """
        known = {name: option for option in self.params for name in option.opts}
        words = iter(args)
        seen: set[str] = set()
        for word in words:
            name = word.partition("=")[0]
            if name not in known:
                continue
            if name in seen:
                raise UsageError(f"{name} is given more than once", "give it once")
            seen.add(name)
            if not getattr(known[name], "is_flag", False) and "=" not in word:
                _check_value(name, next(words, ""))
        return super().parse_args(ctx, args)


def _check_value(name: str, value: str) -> None:
    if value.startswith("-") and not (name == "--passphrase-file" and value == "-"):
        raise UsageError(
            f"{name} is followed by {value}, which begins with a dash",
            f"a file of that name is written ./{value}",
        )


Enclave = Annotated[Path, typer.Option("-enclave", help="The enclave's shared library.")]
Config = Annotated[
    Path | None, typer.Option("-config", help="Its XML configuration; defaults if not given.")
]
Out = Annotated[Path, typer.Option("-out", help="The file to write.")]
Css = Annotated[Path | None, typer.Option("-cssfile", help="Write the SIGSTRUCT here, too.")]
Dump = Annotated[Path | None, typer.Option("-dumpfile", help="Write what dump writes here, too.")]
Resign = Annotated[bool, typer.Option("-resign", help="Sign an enclave that is signed already.")]
IgnoreRel = Annotated[
    bool, typer.Option("-ignore-rel-error", help="Warn of relocations in code only.")
]
IgnoreInit = Annotated[
    bool, typer.Option("-ignore-init-sec-error", help="Warn of an .init section only.")
]
Date = Annotated[
    str | None, typer.Option(help="YYYY-MM-DD or today, for the SIGSTRUCT.", metavar="DAY")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imagekit {__version__}, in place of sgx_sign 2.26.100.0")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-version", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Drop-in replacement for the Intel SGX SDK's sgx_sign."""


@app.command("sign", cls=IntelCommand, context_settings=_HELP)
def sign(
    enclave: Enclave,
    key: Annotated[Path, typer.Option("-key", help="Private key, PEM.")],
    out: Out,
    config: Config = None,
    cssfile: Css = None,
    dumpfile: Dump = None,
    resign: Resign = False,
    ignore_rel_error: IgnoreRel = False,
    ignore_init_sec_error: IgnoreInit = False,
    date: Date = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the key's passphrase.")
    ] = None,
) -> None:
    """Measure an enclave and sign it."""
    from imagekit.cli.passphrases import open_signer
    from imagekit.release.sgx_files import check_paths, write_signed
    from imagekit.release.sgx_sign import sign_ready
    from imagekit.spec.dates import check_date, sigstruct_date

    outputs = {"-out": out, "-cssfile": cssfile, "-dumpfile": dumpfile}
    check_paths({"-enclave": enclave, "-config": config, "-key": key, **outputs})
    day = sigstruct_date(date)
    check_date(day)
    signer = open_signer(key, passphrase_file)
    ready = _ready(enclave, config, resign, ignore_rel_error, ignore_init_sec_error)
    signed = sign_ready(ready, signer, day)
    _say(*signed.warnings)
    write_signed(signed, out=out, cssfile=cssfile, dumpfile=dumpfile)
    _results(ready, signed.sigstruct.mr_signer)


@app.command("gendata", cls=IntelCommand, context_settings=_HELP)
def gendata(
    enclave: Enclave,
    out: Out,
    config: Config = None,
    resign: Resign = False,
    ignore_rel_error: IgnoreRel = False,
    ignore_init_sec_error: IgnoreInit = False,
    date: Date = None,
) -> None:
    """Write what is to be signed elsewhere: 256 bytes."""
    from imagekit.enclave.sigstruct import encode_date
    from imagekit.files import write_atomically
    from imagekit.release.sgx_files import check_paths
    from imagekit.spec.dates import check_date, sigstruct_date

    check_paths({"-enclave": enclave, "-config": config, "-out": out})
    day = sigstruct_date(date)
    check_date(day)
    ready = _ready(enclave, config, resign, ignore_rel_error, ignore_init_sec_error)
    write_atomically(out, ready.dated(encode_date(day)).to_be_signed())
    _results(ready, None)


@app.command("catsig", cls=IntelCommand, context_settings=_HELP)
def catsig(
    enclave: Enclave,
    key: Annotated[Path, typer.Option("-key", help="Public key of the key that signed, PEM.")],
    sig: Annotated[Path, typer.Option("-sig", help="The signature: 384 bytes, as openssl writes.")],
    unsigned: Annotated[Path, typer.Option("-unsigned", help="What gendata wrote.")],
    out: Out,
    config: Config = None,
    cssfile: Css = None,
    dumpfile: Dump = None,
    resign: Resign = False,
    ignore_rel_error: IgnoreRel = False,
    ignore_init_sec_error: IgnoreInit = False,
) -> None:
    """Put a signature that was made elsewhere into an enclave."""
    from imagekit.release.gramine_tools import read_input
    from imagekit.release.sgx_files import check_paths, write_signed
    from imagekit.release.sgx_sign import join_signature
    from imagekit.signing.keyfile import load_public_modulus

    inputs = {"-enclave": enclave, "-config": config, "-key": key, "-sig": sig}
    outputs = {"-out": out, "-cssfile": cssfile, "-dumpfile": dumpfile}
    check_paths({**inputs, "-unsigned": unsigned, **outputs})
    modulus = load_public_modulus(key)
    signature, material = read_input(sig, "signature"), read_input(unsigned, "signing material")
    ready = _ready(enclave, config, resign, ignore_rel_error, ignore_init_sec_error)
    names = {"signature": str(sig), "tbs": str(unsigned)}
    signed = join_signature(ready, modulus, signature, material, names)
    _say(*signed.warnings)
    write_signed(signed, out=out, cssfile=cssfile, dumpfile=dumpfile)
    _results(ready, signed.sigstruct.mr_signer)


@app.command("dump", cls=IntelCommand, context_settings=_HELP)
def dump(
    enclave: Enclave,
    dumpfile: Annotated[
        Path | None, typer.Option("-dumpfile", help="The text to write; stdout if not given.")
    ] = None,
    cssfile: Css = None,
) -> None:
    """Show an enclave's metadata as text; works on unsigned files, too."""
    from imagekit.release.sgx_files import check_paths, dump_file

    check_paths({"-enclave": enclave, "-dumpfile": dumpfile, "-cssfile": cssfile})
    text, warnings = dump_file(enclave, dumpfile, cssfile)
    _say(*warnings)
    if dumpfile is None:
        ui.result(text.rstrip("\n"))


def _ready(
    enclave: Path, config: Path | None, resign: bool, relocations: bool, init: bool
) -> "ReadyEnclave":
    """Read, lay out and measure an enclave, and say what is unwise about it."""
    from imagekit.release.sgx_files import read_config_file, read_enclave_file
    from imagekit.release.sgx_sign import Tolerance, make_ready

    with ui.progress() as progress:
        ready = make_ready(
            read_enclave_file(enclave),
            str(enclave),
            read_config_file(config) if config is not None else None,
            str(config),
            tolerance=Tolerance(resign, relocations, init),
            progress=progress,
        )
    _say(*ready.warnings)
    return ready


def _say(*warnings: str) -> None:
    for line in warnings:
        ui.warn(line)


def _results(ready: "ReadyEnclave", mr_signer: bytes | None) -> None:
    lines: Mapping[str, bytes | None] = {
        "mr_enclave": ready.measurement.mr_enclave,
        "mr_signer": mr_signer,
    }
    ui.say(f"required memory: {ready.measurement.plan.required_memory} bytes")
    for name, value in lines.items():
        if value is not None:
            ui.result(f"{name:<17}: {value.hex()}")
