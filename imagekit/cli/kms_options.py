"""Options of every ``imagekit kms`` command that talks to a service, and what they stand for."""

import inspect
import os
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from imagekit.cli.ui import ui
from imagekit.errors import UsageError

if TYPE_CHECKING:
    from imagekit.kms.account import Account
    from imagekit.kms.connection import Connection
    from imagekit.kms.registrar import Registrar
    from imagekit.runtime.ehsm import Credentials

APP_ID = "IMAGEKIT_KMS_APP_ID"
API_KEY = "IMAGEKIT_KMS_API_KEY"

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


@dataclass(frozen=True)
class Door:
    """What a command line says of a service and of who asks. The fields are the options."""

    url: Annotated[
        str | None,
        typer.Option(envvar="IMAGEKIT_KMS_URL", help="HOST:PORT of the service; HTTPS always."),
    ] = None
    service: Annotated[str | None, typer.Option(help="ehsm (default) or bigdl.")] = None
    account: Annotated[
        Path | None,
        typer.Option(envvar="IMAGEKIT_KMS_ACCOUNT", help="Account file, from imagekit kms enroll."),
    ] = None
    app_id: Annotated[
        str | None, typer.Option(help=f"App id, instead of an account file; also {APP_ID}.")
    ] = None
    api_key_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the API key, - is stdin; also {API_KEY}."),
    ] = None
    cacert: Annotated[
        Path | None, typer.Option(help="CAs to trust in place of the system's, PEM.")
    ] = None
    server_name: Annotated[
        str | None, typer.Option(help="Name in the certificate, if not the host's.")
    ] = None
    pin_sha256: Annotated[
        str | None,
        typer.Option(
            envvar="IMAGEKIT_KMS_PIN_SHA256", help="SHA-256 that the certificate must have."
        ),
    ] = None
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Take whatever certificate is presented.")
    ] = False
    proxy: Annotated[
        str | None, typer.Option(help="http://HOST:PORT; the environment's are not asked.")
    ] = None
    timeout: Annotated[int, typer.Option(help="Seconds for one exchange.")] = 30

    def kind(self) -> str:
        """Give the kind of service that is meant.

        Raises:
            UsageError: none that is known.
        """
        from imagekit.kms.account import EHSM, SERVICES

        kind = self.service or EHSM
        if kind not in SERVICES:
            raise UsageError(f"--service {kind} is not known", f"take {', '.join(SERVICES)}")
        return kind

    def connection(self) -> "Connection":
        """Give the way to the service; a missing check is shouted.

        Raises:
            ImagekitError: an option is unusable, or with ``--insecure`` nobody answers.
        """
        from imagekit.kms.account import DEFAULT_PORTS
        from imagekit.kms.connection import open_connection, pinned_to, presented_certificate

        if self.url is None:
            raise UsageError("which service?", "give --url HOST:PORT, or --account FILE")
        if self.insecure and (self.pin_sha256 or self.cacert):
            raise UsageError(
                "--insecure together with --pin-sha256 or --cacert", "leave --insecure out"
            )
        made = open_connection(
            self.url,
            cacert=self.cacert,
            server_name=self.server_name,
            pin=self.pin_sha256,
            proxy=self.proxy,
            timeout=self.timeout,
            default_port=DEFAULT_PORTS[self.kind()],
        )
        if self.insecure:
            ui.warn(
                "--insecure: NOBODY VOUCHES FOR THIS SERVICE. Whoever answers is believed, and may "
                "be anybody on the way"
            )
            made = pinned_to(made, presented_certificate(made))
            ui.warn(f"taken for this run: certificate with SHA-256 {made.service.pin.hex()}")
        return made

    def opened(self) -> "tuple[Connection, Account]":
        """Give the way to the service and the account.

        Raises:
            ImagekitError: an option is unusable, or there is no account.
        """
        from imagekit.kms.account import Account, read_account

        if self.account is not None:
            given = read_account(self.account)
            door = self._with(given)
            return door.connection(), given
        connection = self.connection()
        who = self._credentials()
        pin, name = connection.service.pin.hex(), connection.service.server_name
        return connection, Account(self.kind(), connection.address, who, pin, name)

    def _with(self, given: "Account") -> "Door":
        """Fill in what an account file knows; what contradicts it is refused."""
        for option, mine, other in (
            ("--service", self.service, given.service),
            ("--url", self.url and self.url.removeprefix("https://").rstrip("/"), given.url),
            ("--app-id", self.app_id, given.credentials.app_id),
        ):
            if mine is not None and mine != other:
                raise UsageError(
                    f"{option} {mine} is not that of {self.account}, which is {other}",
                    "name the account file of that service, or leave the option out",
                )
        known = self.pin_sha256 or self.cacert or self.insecure
        return replace(
            self,
            url=given.url,
            service=given.service,
            server_name=self.server_name or given.server_name or None,
            pin_sha256=self.pin_sha256 if known else given.pin or None,
        )

    def registrar(self) -> "tuple[Registrar, Account]":
        """Give the service as one that keeps policies, and the account.

        Raises:
            ImagekitError: as :meth:`opened`.
        """
        from imagekit.kms.account import BIGDL

        connection, account = self.opened()
        if account.service == BIGDL:
            from imagekit.kms.bigdl import BigDl

            return BigDl(connection, account.credentials, ui.say), account
        from imagekit.kms.ehsm import Ehsm

        return Ehsm(connection, account.credentials, ui.say), account

    def _credentials(self) -> "Credentials":
        from imagekit.cli.passphrases import api_key_source
        from imagekit.kms.account import check_credentials

        app_id = self.app_id or os.environ.get(APP_ID)
        if not app_id:
            raise UsageError(
                "no account: neither --account nor --app-id",
                "make one with: imagekit kms enroll ACCOUNT_FILE",
            )
        where = "--api-key-file" if self.api_key_file else API_KEY
        return check_credentials(app_id, api_key_source(self.api_key_file, app_id), where)


_P = ParamSpec("_P")


@cache
def _shared() -> list[inspect.Parameter]:
    """The options of :class:`Door` as parameters; each command that starts would read them anew."""
    kinds = typing.get_type_hints(Door, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(one.name, keyword, default=one.default, annotation=kinds[one.name])
        for one in fields(Door)
    ]


def with_door(command: Callable[Concatenate[Door, _P], None]) -> Callable[..., None]:
    """Give a command the options of :class:`Door`, behind its own.

    Args:
        command: takes a Door first; typer does not see that parameter.
    """

    def run(**given: Any) -> None:
        door = Door(**{field.name: given.pop(field.name) for field in fields(Door)})
        command(door, **given)  # type: ignore[call-arg]

    hints = typing.get_type_hints(command, include_extras=True)
    own = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name])
        for one in list(inspect.signature(command).parameters.values())[1:]
    ]
    parameters = [*own, *_shared()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, __name__
    return run
