"""How the runtime ends: exit codes and the one error.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

REFUSED = 2
"""A value from outside is refused, or the container is used wrongly."""
UNUSABLE = 3
"""Something that is needed is missing or unusable."""
UNREACHABLE = 4
"""A service did not answer."""
FAILED = 5
"""A check failed: a quote, an answer, a key."""
KMS_REFUSED = 7
"""The key management service said no."""


class Stop(Exception):
    """The runtime cannot go on.

    Attributes:
        code: exit code.
        line: what is wrong, one line, without any value from outside and without any secret.
    """

    def __init__(self, code: int, line: str) -> None:
        super().__init__(line)
        self.code = code
        self.line = line
