"""Passwords: what is refused, and how one is made."""

import re
import secrets
import string

from imagekit.errors import InputError

SHORTEST = 6
"""Characters; keytool and Java's older keystores take no fewer."""
LONGEST = 244
"""Characters; with a newline behind them RSA-2048 encrypts no more (PKCS #1 v1.5)."""
GENERATED = 32
"""Letters and digits of a password that is made here: 190 bits."""

_FITTING = re.compile("[!-~]*")
_SPECIAL = re.compile(r"[^A-Za-z0-9._~+/=@%:,^-]")


class Password:
    """A password that was looked at; no representation shows it.

    Args:
        text: printable ASCII characters without spaces: it goes through shells, properties files
            and Java, which do not agree on anything else.
        where: where it came from, for the error.

    Raises:
        InputError: it is too short or too long, or has other characters.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str, where: str) -> None:
        rule = f"take {SHORTEST} to {LONGEST} printable ASCII characters, no spaces"
        if not _FITTING.fullmatch(text):
            found = "a line break" if re.search(r"[\r\n]", text) else "a space or another character"
            raise InputError(f"{where}: the password has {found} that cannot be in one", rule)
        if len(text) < SHORTEST:
            raise InputError(f"{where}: the password has fewer than {SHORTEST} characters", rule)
        if len(text) > LONGEST:
            raise InputError(f"{where}: the password has more than {LONGEST} characters", rule)
        self._text = text

    @classmethod
    def generate(cls) -> "Password":
        """Make one of random letters and digits, which no program reads in another way."""
        letters = string.ascii_letters + string.digits
        return cls("".join(secrets.choice(letters) for _ in range(GENERATED)), "generated")

    def __repr__(self) -> str:
        """Without the password."""
        return "Password(…)"

    def reveal(self) -> bytes:
        """Give the password."""
        return self._text.encode("ascii")

    @property
    def is_plain(self) -> bool:
        """Whether shells, properties files and Flink's configuration all read it alike.

        Flink 1.x ends a value at ``#``, properties files take ``\\`` as an escape, shells have
        quotes and ``$``.
        """
        return not _SPECIAL.search(self._text)
