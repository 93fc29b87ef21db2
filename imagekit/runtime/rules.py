"""What the host may choose of a job's properties under strict: one rule, for Spark and for Flink.

A property counts if the image seals the same value, if ``launch.conf_allowed`` names it, or if it
is in the product's own table; and its value has to match. Everything else ends the start.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Collection, Mapping, NamedTuple  # noqa: UP035 - Python 3.8

from .launch import LONGEST_VALUE, Launch
from .stop import REFUSED, Stop
from .words import shown


class Table(NamedTuple):
    """A product's properties that the host may set.

    Attributes:
        forms: property → expression that its value must match as a whole.
        families: the same for names that end in something free: expression → expression.
        elsewhere: properties whose values are looked at elsewhere, with the job.
        always_sent: what the product itself sends with every job, whether anybody chose it or not:
            where the image seals one of these, its value is taken without a word.
    """

    forms: Mapping[str, str]
    families: Mapping[str, str]
    elsewhere: Collection[str]
    always_sent: Collection[str]


def check(spec: Launch, table: Table, name: str, value: str, option: str = "") -> bool:
    """Check a property from outside.

    Args:
        spec: the launch specification.
        table: of the product.
        name: of the property.
        value: its value, which no message shows.
        option: what brought it, for the message, such as ``SPARK_JAVA_OPT_7``.

    Returns:
        Whether the host's value counts; if not, the sealed one does.

    Raises:
        Stop: it is refused.
    """
    what = f"{option} ({shown(name)})" if option else shown(name)
    if name in spec.conf:
        if value == spec.conf[name] or name in table.always_sent:
            return False
        raise Stop(REFUSED, f"{what}: refused, launch.conf seals another value: leave it out")
    form = spec.conf_allowed.get(name) or _form(table, name)
    if form is None and name in table.elsewhere:
        return True
    if form is None:
        raise Stop(
            REFUSED,
            f"{what}: refused, the host may not set it (profile strict): seal it in launch.conf or "
            "name it in launch.conf_allowed",
        )
    if len(value.encode()) > LONGEST_VALUE or re.fullmatch(form, value) is None:
        raise Stop(REFUSED, f"{what}: refused, its value does not match its pattern")
    return True


def _form(table: Table, name: str) -> re.Pattern[str] | None:
    """The product's own expression. They are compiled where they are used: there are many."""
    form = table.forms.get(name)
    if form is None and len(name) < LONGEST_VALUE:
        families = table.families.items()
        form = next((form for names, form in families if re.fullmatch(names, name, re.ASCII)), None)
    return None if form is None else re.compile(form, re.ASCII)
