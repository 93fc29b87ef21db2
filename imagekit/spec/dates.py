"""Which date and which second an image bears: never the clock's, unless somebody asks for it."""

import os
from datetime import UTC, date, datetime

from imagekit.errors import UsageError

VARIABLE = "SOURCE_DATE_EPOCH"


def source_date_epoch() -> int | None:
    """Give ``SOURCE_DATE_EPOCH`` (seconds since 1970), or None if it is not set.

    Raises:
        UsageError: it is set to something else than such a number.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) > 253402300799:
        raise UsageError(
            f"{VARIABLE}={text!r} is no number of seconds since 1970", "for example 1700000000"
        )
    return int(text)


def day_of(epoch: int) -> str:
    """Give the UTC day of a second since 1970 as ``YYYY-MM-DD``."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d")


def check_date(text: str | None) -> None:
    """Refuse a date that a build should not bear; ``0000-00-00`` stands for none.

    Raises:
        UsageError: not of the form YYYY-MM-DD, or no day of the calendar.
    """
    if text is None or text == "0000-00-00":
        return
    try:
        if len(text) != len("YYYY-MM-DD"):
            raise ValueError
        date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--date {text} is no date", "write YYYY-MM-DD") from None


def sigstruct_date(wanted: str | None) -> str:
    """Give the date for a SIGSTRUCT made by the drop-in signer.

    Args:
        wanted: what ``--date`` says; None and ``today`` mean SOURCE_DATE_EPOCH or else today, as
            in the stock tool.
    """
    if wanted not in (None, "today"):
        return wanted
    epoch = source_date_epoch()
    return day_of(epoch) if epoch is not None else datetime.now(UTC).strftime("%Y-%m-%d")
