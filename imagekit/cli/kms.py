"""``imagekit kms``: accounts, measurements and policies at key management services."""

from pathlib import Path
from typing import Annotated

import typer

from imagekit.cli import kms_register as registering
from imagekit.cli.kms_options import Door, DryRun, with_door
from imagekit.cli.kms_targets import (
    DEFAULT_LOCK,
    AllowDebug,
    AllowStandin,
    ImageName,
    Lock,
    Record,
    RegistryCaCert,
    Targets,
)
from imagekit.cli.options import Json
from imagekit.cli.ui import ui

app = typer.Typer()

app.command()(registering.register)
app.command()(registering.check)


@app.command()
@with_door
def enroll(
    door: Door,
    file: Annotated[Path, typer.Argument(help="Where to write the account; never overwritten.")],
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Have a service make an account, and keep it in a file of mode 0600."""
    from imagekit.kms.account import BIGDL, Account, check_writable, write_account

    kind = door.kind()
    check_writable(file)
    connection = door.connection()
    facts = {"service": kind, "url": connection.address, "file": str(file)}
    if dry_run:
        _tell(json, {**facts, "app_id": None}, f"would enroll with {connection.address}")
        return
    if kind == BIGDL:
        from imagekit.kms.bigdl import enroll as ask
    else:
        from imagekit.kms.ehsm import enroll as ask
    who = ask(connection)
    pin, name = connection.service.pin.hex(), connection.service.server_name
    write_account(file, Account(kind, connection.address, who, pin, name))
    _tell(json, {**facts, "app_id": who.app_id}, f"app_id           : {who.app_id}")
    ui.say(f"the API key is in {file}, mode 0600, and nowhere else: a lost one cannot be had again")


@app.command()
@with_door
def fingerprint(door: Door, json: Json = False) -> None:
    """Show the certificate that answers, for a comparison by another way; nothing is believed."""
    from imagekit.kms.certificate import describe_certificate
    from imagekit.kms.connection import presented_certificate

    connection = door.connection()
    facts = describe_certificate(presented_certificate(connection))
    if json:
        ui.json({"url": connection.address, **facts})
        return
    for name in ("subject", "issuer", "not_before", "not_after", "version", "names"):
        shown = ", ".join(facts[name]) if isinstance(facts[name], list) else facts[name]
        ui.say(f"{name:<17}: {shown or '(none)'}")
    ui.result(f"sha256           : {facts['sha256']}")
    ui.say("compare it with what the service's owner sees, then give it as --pin-sha256")


@app.command()
@with_door
def attest(
    door: Door,
    quote: Annotated[
        Path | None, typer.Option(help="Check this quote instead of asking a service.")
    ] = None,
    mr_enclave: Annotated[str | None, typer.Option(help="64 hex digits it must have.")] = None,
    mr_signer: Annotated[str | None, typer.Option(help="64 hex digits it must have.")] = None,
    collateral: Annotated[
        Path | None, typer.Option(help="TCB info, QE identity and CRLs, from a PCCS.")
    ] = None,
    accept: Annotated[
        list[str] | None, typer.Option(help="TCB status besides UpToDate; repeatable.")
    ] = None,
    allow_debug: AllowDebug = False,
    save: Annotated[Path | None, typer.Option(help="Keep the quote in this file.")] = None,
    json: Json = False,
) -> None:
    """Have an eHSM show a quote of its own enclave, and check it on this machine."""
    from imagekit.cli.kms_attest import judge, obtain
    from imagekit.files import write_atomically
    from imagekit.kms.policy import parse_digits
    from imagekit.kms.quotes import Expectation

    expected = Expectation(
        mr_enclave and parse_digits("mr_enclave", mr_enclave),
        mr_signer and parse_digits("mr_signer", mr_signer),
        allow_debug=allow_debug,
    )
    found = obtain(door, quote)
    if save is not None:
        write_atomically(save, found)
        ui.say(f"written: {save}")
    judge(found, expected, collateral, accept or [], quote is not None, json)


@app.command()
@with_door
def secret(
    door: Door,
    image: ImageName = None,
    policy_id: Annotated[
        str | None, typer.Option(help="The policy's id; that of the image, as recorded, if not.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the Secret, mode 0600.")
    ] = Path("kms-secret.yaml"),
    name: Annotated[str, typer.Option(help="Name of the Secret.")] = "kms-secret",
    namespace: Annotated[str | None, typer.Option(help="Its namespace.")] = None,
    lock: Lock = DEFAULT_LOCK,
    record: Record = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Write the Secret that pods attest with; prints the env of a container, without a secret."""
    from imagekit.kms.account import EHSM
    from imagekit.kms.ehsm import parse_policy_id
    from imagekit.kms.hand_over import environment, secret_document, write_secret
    from imagekit.release.registering import recorded_id

    account = door.opened()[1]
    targets = Targets(lock, record)
    if policy_id is None:
        policy_id = recorded_id(account, targets.record, lock, image)
    elif account.service == EHSM and policy_id:
        policy_id = parse_policy_id(policy_id)
    document = secret_document(account, policy_id, name, namespace)
    env = environment(account, name)
    if not dry_run:
        write_secret(output, document, force)
    if json:
        facts = {"file": str(output), "secret": name, "policy_id": policy_id, "env": env}
        ui.json({**facts, "dry_run": dry_run})
        return
    would = "would write" if dry_run else "written"
    ui.say(f"{would}: {output}, Secret {name} with app_id, api_key and policy_id {policy_id}")
    ui.result(env.rstrip("\n"))


@app.command()
def policy(
    image: Annotated[str, typer.Argument(help="Image reference.")],
    form: Annotated[str, typer.Option("--format", help="ita, maa, marblerun or ra-tls.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; stdout if not given.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Accept a signer whose private key is public.")
    ] = False,
    allow_standin: AllowStandin = False,
    registry_cacert: RegistryCaCert = None,
    json: Json = False,
) -> None:
    """Write a policy for another service, which its own tools upload; nobody is asked."""
    from imagekit.errors import UsageError
    from imagekit.files import write_atomically
    from imagekit.kms.policy import QUOTE_POLICY, check_policy, policy_of
    from imagekit.kms.policy_texts import FORMATS, policy_text

    if form not in FORMATS:
        raise UsageError(f"--format {form} is not known", f"take {', '.join(FORMATS)}")
    targets = Targets(allow_standin=allow_standin, registry_cacert=registry_cacert)
    subject = targets.subject(image)
    for line in check_policy(policy_of(QUOTE_POLICY, subject.enclave._asdict()), force):
        ui.warn(line)
    text = policy_text(form, subject.enclave, image.split("/")[-1].split(":")[-2])
    if output is not None:
        write_atomically(output, text.encode())
        ui.say(f"written: {output}")
    if json:
        ui.json({"image": image, "format": form, "policy": text, **subject.enclave._asdict()})
    elif output is None:
        ui.result(text.rstrip("\n"))


def _tell(json: bool, facts: dict[str, str | None], line: str) -> None:
    if json:
        ui.json(facts)
    else:
        ui.result(line)
