"""What ``imagekit kms attest`` does between its options and the checks."""

from pathlib import Path
from typing import TYPE_CHECKING

from imagekit.cli.ui import ui
from imagekit.errors import CheckError, InputError, UsageError

if TYPE_CHECKING:
    from imagekit.cli.kms_options import Door
    from imagekit.kms.quotes import Expectation

LONGEST_QUOTE = 1 << 16
_HINT = "give this service no key and no measurement before you know why"


def obtain(door: "Door", file: Path | None) -> bytes:
    """Give a quote: that of a file, or the one that the service shows.

    Raises:
        ImagekitError: there is none.
    """
    from imagekit.kms.account import EHSM
    from imagekit.kms.ehsm import Ehsm

    if file is not None:
        try:
            with file.open("rb") as opened:
                return opened.read(LONGEST_QUOTE + 1)
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}", "name a file with a quote") from None
    connection, account = door.opened()
    if account.service != EHSM:
        raise UsageError(
            f"a service of kind {account.service} shows no quote of its own",
            "take an account of an eHSM, or --quote FILE",
        )
    return Ehsm(connection, account.credentials, ui.say).generate_quote()


def judge(
    quote: bytes,
    expected: "Expectation",
    collateral: Path | None,
    accept: list[str],
    from_file: bool,
    json: bool,
) -> None:
    """Check a quote, and say everything that was found.

    Raises:
        CheckError: it does not stand up.
    """
    import datetime
    from dataclasses import asdict

    from imagekit.kms.collateral import read_collateral
    from imagekit.kms.quotes import check_quote
    from imagekit.kms.tcb import DEFAULT_ACCEPT

    known = read_collateral(collateral) if collateral else None
    accepted = DEFAULT_ACCEPT | set(accept)
    try:
        now = datetime.datetime.now(datetime.UTC)
        verdict = check_quote(quote, expected, now, known, accepted)
    except InputError as error:
        if from_file:
            raise
        raise CheckError(f"what the service shows is no quote: {error.problem}", _HINT) from None
    if json:
        facts = asdict(verdict.facts)
        lists = {name: getattr(verdict, name) for name in ("passed", "failed", "not_proved")}
        ui.json({"ok": not verdict.failed, **lists, **facts})
    else:
        for name, lines in (
            ("ok", verdict.passed),
            ("NOT PROVED", verdict.not_proved),
            ("FAILED", verdict.failed),
        ):
            for line in lines:
                ui.say(f"{name:<11} {line}")
    if verdict.failed:
        more = f" (and {len(verdict.failed) - 1} more)" if len(verdict.failed) > 1 else ""
        raise CheckError(
            f"the quote does not stand up: {verdict.failed[0]}{more}",
            _HINT,
        )
    if not json:
        for name in ("mr_enclave", "mr_signer", "mr_td"):
            if value := getattr(verdict.facts, name):
                ui.result(f"{name:<17}: {value}")
