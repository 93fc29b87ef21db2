"""``imagekit secrets``: keystores, passwords, data keys, accounts, and their Kubernetes objects."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imagekit.cli.kms_options import Door, DryRun, with_door
from imagekit.cli.options import Json
from imagekit.cli.secrets_job import PASSWORD_FILE, Job
from imagekit.cli.ui import ui
from imagekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagekit.secrets.certificates import Subject
    from imagekit.secrets.folder import SecretFiles
    from imagekit.secrets.passwords import Password
    from imagekit.secrets.tls import Maker

app = typer.Typer()

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")]
Namespace = Annotated[str | None, typer.Option(help="Namespace of the Kubernetes objects.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help="File with the password, - for stdin; also IMAGEKIT_PASSWORD."),
]
Generate = Annotated[
    bool, typer.Option("--generate", help=f"Make a password, and leave it in {PASSWORD_FILE}.")
]
Days = Annotated[int, typer.Option(help="How long the certificate is valid.")]
KeySize = Annotated[int, typer.Option(help="Bits of the RSA key: 2048, 3072, 4096.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what the command made before.")]


@app.command()
def ssl(
    output: Output = Path("keys"),
    name: Annotated[str, typer.Option(help="CN of the certificate.")] = "localhost",
    san: Annotated[
        list[str] | None,
        typer.Option(help="Another DNS name or IP address of the server; repeatable."),
    ] = None,
    days: Days = 365,
    key_size: KeySize = 3072,
    password_file: PasswordFile = None,
    generate: Generate = False,
    namespace: Namespace = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make a TLS key with a self-signed certificate: PEM files, keystores, Secret ssl-keys."""
    from imagekit.secrets import certificates, tls

    whom = certificates.subject(name, san or [], days)
    certificates.check_key_size(key_size)
    job = Job(output, force, dry_run, json, namespace)
    source = (password_file, generate, "the keystores")
    _certify(job, whom, key_size, source, (tls.SSL_SECRET, tls.SSL_NAMES, tls.ssl))


@app.command()
def password(
    output: Output = Path("password"),
    password_file: PasswordFile = None,
    generate: Generate = False,
    namespace: Namespace = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Write a password as BigDL's jobs read it; this encodes it and does not protect it."""
    from imagekit.secrets import encoded

    facts = {"secrets": [encoded.PASSWORD_SECRET, encoded.SPARK_SECRET]}
    job = Job(output, force, dry_run, json, namespace)
    job.with_password(
        encoded.NAMES,
        (password_file, generate, "Spark's jobs"),
        lambda password: encoded.encoded(password, namespace),
        facts,
    )
    ui.say("key and ciphertext lie together: whoever has the folder has the password")


@app.command()
def flink(
    output: Output = Path("flink-keys"),
    days: Days = 365,
    key_size: KeySize = 4096,
    password_file: PasswordFile = None,
    generate: Generate = False,
    namespace: Namespace = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make the keystore by which Flink's processes know each other, and Secret flink-ssl-key."""
    from imagekit.secrets import certificates, tls

    whom = certificates.subject(tls.FLINK_NAME, [], days)
    certificates.check_key_size(key_size)
    job = Job(output, force, dry_run, json, namespace)
    source = (password_file, generate, "the keystore")
    _certify(job, whom, key_size, source, (tls.FLINK_SECRET, tls.FLINK_NAMES, tls.flink))


def _certify(
    job: Job,
    whom: "Subject",
    key_size: int,
    source: tuple[Path | None, bool, str],
    what: "tuple[str, Sequence[str], Maker]",
) -> None:
    """Make a key with a certificate, by the Secret's name, the files' names and what makes them."""
    secret, files, make = what
    facts: dict[str, Any] = {"secrets": [secret]}

    def made(password: "Password") -> "SecretFiles":
        found, facts["certificate"] = make(whom, key_size, password, job.namespace)
        return found

    names = ", ".join(dict.fromkeys([whom.name, *map(str, whom.names)]))
    ui.say(f"RSA-{key_size}, certificate for {names}, valid {whom.days} days")
    job.with_password(files, source, made, facts)


@app.command()
@with_door
def data_key(
    door: Door,
    output: Output = Path("encrypted_keys"),
    ehsm: Annotated[
        bool, typer.Option("--ehsm", help="Have an eHSM make it; else a file has it, for tests.")
    ] = False,
    key_id: Annotated[
        str | None, typer.Option(help="Key of the eHSM to encrypt it under; else a new one.")
    ] = None,
    namespace: Namespace = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make the key of encrypted mounts: 16 bytes in a file, or encrypted by an eHSM."""
    from imagekit.secrets import data_key as keys

    job = Job(output, force, dry_run, json, namespace)
    job.check(*keys.LOCAL_NAMES, *keys.EHSM_NAMES)
    facts = {"secrets": [keys.SECRET]}
    if not ehsm:
        if key_id is not None:
            raise UsageError("--key-id is for an eHSM's key", "give --ehsm as well")
        ui.warn("the host can read this key: for tests; an eHSM's, with --ehsm, it cannot")
        job.finish(keys.LOCAL_NAMES, lambda: keys.local_key(namespace), facts)
        return
    from imagekit.kms.account import EHSM
    from imagekit.kms.faults import as_errors

    connection, account = door.opened()
    if account.service != EHSM:
        raise UsageError(f"a service of kind {account.service} makes no keys", "take an eHSM")

    def make() -> "SecretFiles":
        with as_errors():
            where = (connection.service, account.credentials, namespace)
            return keys.ehsm_key(*where, key_id, connection.ask)

    ui.say(f"data key of {connection.address}, under {key_id or 'a new key'}")
    job.finish(keys.EHSM_NAMES, make, facts)
    if key_id is None:
        ui.warn("an eHSM's keys expire after a year, and what they encrypted is lost with them")


@app.command()
def rbac(
    output: Output = Path("rbac"),
    name: Annotated[str, typer.Option(help="Name of account, role and binding.")] = "spark",
    for_: Annotated[str, typer.Option("--for", help="spark, flink or both.")] = "both",
    token: Annotated[
        bool, typer.Option("--token", help="Also a token that does not expire (Kubernetes 1.24).")
    ] = False,
    namespace: Annotated[str, typer.Option(help="Namespace of the objects.")] = "default",
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Write a service account with a role that lets Spark and Flink start their pods."""
    from imagekit.secrets import rbac as roles

    job = Job(output, force, dry_run, json, namespace)
    job.check(roles.YAML)
    files = roles.rbac(name, namespace, for_, token)
    ui.say(f"account {name} in namespace {namespace}, role for {for_}")
    job.finish([roles.YAML], lambda: files, {"name": name})
