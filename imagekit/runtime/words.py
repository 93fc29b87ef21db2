"""Words for yes and no in variables.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

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
