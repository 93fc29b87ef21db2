"""The ``imagekit`` command: all groups, and the one place where errors end.

Modules that are imported here import nothing heavy: ``imagekit --help`` is typer and little else.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from imagekit import __version__
from imagekit.cli import build, image, project, render
from imagekit.cli.groups import add_later
from imagekit.cli.ui import ui
from imagekit.errors import ImagekitError

app = typer.Typer(
    name="imagekit",
    help="Measured, signed and reproducible SGX enclave images, without a daemon.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.command()(project.init)
app.command()(project.plan)
app.command()(render.render)
add_later(app, "base", "The base image: make it, lock what it is made of.")
app.command()(build.build)
add_later(app, "key", "Enclave signing keys: RSA-3072 with e = 3.")
add_later(
    app, "kms", "Register measurements with eHSM or BigDL's attestation service, and check them."
)
add_later(
    app,
    "secrets",
    "Make keystores, passwords, data keys and Kubernetes Secrets, without openssl or keytool.",
)
app.command()(image.inspect)
app.command()(image.measure)
app.command()(image.verify)
add_later(app, "tool", "Drop-in replacements for gramine-manifest, gramine-sgx-sign, sgx_sign.")

_EVERYWHERE = {"-v": "verbose", "--verbose": "verbose", "--quiet": "quiet"}
_FLAG_OWNERS = ("tool",)  # below these the same letters belong to the stock tools


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"imagekit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tracebacks too; may stand anywhere.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Results and warnings only; may stand anywhere.")
    ] = False,
) -> None:
    """Measured, signed and reproducible SGX enclave images, without a daemon."""


def _take_flags(arguments: Sequence[str]) -> list[str]:
    """Take the flags that may stand anywhere out of the arguments and set `ui` by them."""
    rest: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--" or argument in _FLAG_OWNERS:
            return rest + list(arguments[position:])
        if argument in _EVERYWHERE:
            setattr(ui, _EVERYWHERE[argument], True)
        else:
            rest.append(argument)
    return rest


def _fail(problem: str, hint: str) -> None:
    print(f"error: {problem}", file=sys.stderr)
    print(f"hint: {hint}", file=sys.stderr, flush=True)


def run(command: typer.Typer, arguments: Sequence[str], name: str) -> int:
    """Run a command and give its exit code; every error ends here, in two lines.

    Args:
        command: what to run.
        arguments: without the program's name.
        name: how the program is called.
    """
    try:
        code = command(args=_take_flags(arguments), prog_name=name, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except ImagekitError as error:
        if ui.verbose:
            raise
        _fail(error.problem, error.hint)
        return error.exit_code
    except typer.Abort:
        return 130
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        message = getattr(error, "format_message", error.__str__)()
        if context is not None and message == context.get_help():
            print(message, file=sys.stderr)  # a group without a command
        else:
            where = context.command_path if context is not None else name
            _fail(" ".join(message.split()), f"see {where} --help")
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; there is nobody to tell
        return 1
    except Exception as error:
        if ui.verbose:
            raise
        _fail(
            f"unexpected {type(error).__name__}: {error}",
            "this is a defect of imagekit; run again with -v and report what it prints",
        )
        return 1
