"""What a look at a manifest finds, and how values are shown in it.

A finding is data, not an exception: a manifest is judged whole, and the caller decides what stops
it.
"""

import json
import re
import reprlib
from dataclasses import dataclass
from typing import Literal

ERROR: Literal["error"] = "error"
WARNING: Literal["warning"] = "warning"

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST = 60
_LONGEST_NUMBER = 256  # bits

_shortener = reprlib.Repr()
_shortener.maxlevel = 2
_shortener.maxother = _shortener.maxstring = _LONGEST


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or unwise, in a manifest.

    Attributes:
        key: where, as a dotted TOML path (``sgx.enclave_size``, ``fs.mounts[2].uri``).
        problem: one line that says what is wrong there.
        hint: one line that says what to do.
        severity: ``error`` (no loader takes it, or it does not mean what it says) or ``warning``
            (it runs, at a price).
        stock: whether the stock *signer* refuses it too. The others can be signed with a warning by
            somebody who insists.
        loads: an error that a loader takes all the same: the enclave starts and is not what the
            manifest seems to say. A drop-in signer warns of it, a build refuses it.
    """

    key: str
    problem: str
    hint: str
    severity: Literal["error", "warning"] = ERROR
    stock: bool = False
    loads: bool = False

    @property
    def line(self) -> str:
        """The key and the problem in one line, without the hint."""
        return f"{self.key}: {self.problem}"


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """Give findings without repetitions, errors first, then by key: always in the same order."""
    return tuple(
        sorted(set(findings), key=lambda f: (f.severity != ERROR, f.key, f.problem, f.hint))
    )


def dotted(parent: str, key: str) -> str:
    """Give the path of a key below a parent, quoted where TOML wants quotes; always one line."""
    name = key if _BARE_KEY.fullmatch(key) else _escaped(json.dumps(key))
    return f"{parent}.{name}" if parent else name


def shown(value: object) -> str:
    """Give a TOML value for a message: short, one line, spelt as in TOML where that is easy."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
        return _escaped(json.dumps(text, ensure_ascii=False))
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:
        return "a very long number"  # TOML has them in hexadecimal; Python refuses to write it out
    return " ".join(_shortener.repr(value).split())


def _escaped(text: str) -> str:
    """Spell characters that move a terminal or cannot be seen; JSON leaves many of them as is."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
