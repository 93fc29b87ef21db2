"""``imagekit key``: making and showing enclave signing keys."""

from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli.ui import ui

app = typer.Typer()

PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the passphrase; also IMAGEKIT_KEY_PASSPHRASE."),
]


@app.command()
def generate(
    path: Annotated[Path, typer.Argument(help="Where to write it; never overwritten.")] = Path(
        "enclave-key.pem"
    ),
    encrypt: Annotated[bool, typer.Option(help="Encrypt it with a passphrase.")] = False,
    passphrase_file: PassphraseFile = None,
    json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Make a signing key, mode 0600."""
    from imagekit.cli.passphrases import new_passphrase
    from imagekit.signing.keyfile import generate_key

    wanted = encrypt or passphrase_file is not None
    secret = new_passphrase(passphrase_file, str(path)) if wanted else None
    ui.say(f"making an RSA-3072 key, e = 3{', encrypted' if wanted else ''} …")
    modulus = generate_key(path, secret)
    _show(path, modulus, json)
    ui.say("keep it: mr_signer of every image signed with it is the one above")


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="PEM file, private or public.")],
    passphrase_file: PassphraseFile = None,
    json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Print mr_signer of a key."""
    from imagekit.cli.passphrases import passphrase_source
    from imagekit.signing.keyfile import load_modulus, permission_warning

    modulus = load_modulus(path, lambda: passphrase_source(passphrase_file, str(path)))
    if b"PRIVATE KEY-----" in path.read_bytes() and (warning := permission_warning(path)):
        ui.warn(warning)
    _show(path, modulus, json)


def _show(path: Path, modulus: int, json: bool) -> None:
    from imagekit.enclave.sigstruct import mr_signer_of

    mr_signer = mr_signer_of(modulus).hex()
    if json:
        ui.json({"key": str(path), "mr_signer": mr_signer, "bits": 3072, "exponent": 3})
    else:
        ui.result(f"mr_signer        : {mr_signer}")
