"""Words for yes and no, and names: which stand for a secret, which may be shown.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re

from .stop import REFUSED, Stop

TRUE = ("1", "on", "true", "yes")
FALSE = ("", "0", "false", "no", "off")


def is_true(name: str, value: str) -> bool:
    """Give what a word stands for, whatever its case; nothing at all is no.

    Raises:
        Stop: neither yes nor no. A word that is not understood switches nothing off silently.
    """
    word = value.strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise Stop(REFUSED, f'{name} is neither yes nor no: set it to "true" or "false"')


def is_secret(name: str) -> bool:
    """Say whether a property, variable or option of this name holds a secret.

    As Spark's own ``spark.redaction.regex`` says, and wider: every name that ends in ``key``, too.
    """
    form = "passw(or)?d|secret|token|credential|access.?key|key$"
    return re.search(form, name, re.IGNORECASE) is not None


def shown(name: str) -> str:
    """Give a property's name for a message, if it is plain; it comes from outside."""
    plain = re.fullmatch(r"[A-Za-z0-9_$.*/-]{1,120}", name)
    return name if plain else "a property whose name cannot be printed"
