"""A platform's state according to collateral, by the library dcap-qvl (``imagekit[quotes]``).

What it decides is Intel's rule for levels of the trusted computing base: which level a platform
reaches, what state Intel gives that level, and what is revoked. It also checks all signatures of
collateral and quote again, from the same root.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from imagekit.errors import InputError, UsageError, printable
from imagekit.kms.collateral import Collateral

UP_TO_DATE = "UpToDate"
TCB_STATUSES = (
    UP_TO_DATE,
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
"""States that may be accepted, in Intel's words. ``Revoked`` may not."""

DEFAULT_ACCEPT = frozenset({UP_TO_DATE})
"""What is accepted unless somebody says otherwise."""


@dataclass(frozen=True)
class TcbState:
    """What the library found.

    Attributes:
        status: one of :data:`TCB_STATUSES`, or another word; "" if `problem` says why there is
            none.
        advisories: Intel's advisories that apply, as ``INTEL-SA-00289``.
        problem: why quote or collateral were refused, one line.
    """

    status: str = ""
    advisories: tuple[str, ...] = ()
    problem: str = ""


def check_accept(accept: frozenset[str]) -> None:
    """Make sure that a set of accepted states has only such as may be accepted.

    Raises:
        UsageError: it has another one.
    """
    for status in sorted(accept - set(TCB_STATUSES)):
        hint = f"it may be {', '.join(TCB_STATUSES)}"
        raise UsageError(f"no TCB status that can be accepted: {status!r}", hint)


def tcb_state(quote: bytes, collateral: Collateral, when: datetime, root: bytes) -> TcbState:
    """Ask dcap-qvl.

    Args:
        quote: the quote.
        collateral: as read.
        when: at which time quote and collateral have to be valid.
        root: certificate of the trusted root, DER.

    Raises:
        InputError: the library is not installed.
    """
    library = _library()
    try:
        given = library.QuoteCollateralV3.from_json(collateral.to_json())
        report = library.verify_with_root_ca(quote, given, root, int(when.timestamp()))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        return TcbState(problem=" ".join(printable(str(error)).split()))
    return TcbState(str(report.status), tuple(sorted(report.advisory_ids)))


def _library() -> Any:
    try:
        import dcap_qvl
    except ImportError:
        raise InputError(
            "collateral was given, but the library that judges it is not installed: dcap-qvl",
            "pip install 'imagekit[quotes]', or leave the collateral out: then the TCB level and "
            "revocation are not checked",
        ) from None
    return dcap_qvl
