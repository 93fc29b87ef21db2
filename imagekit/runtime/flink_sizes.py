"""Sizes, fractions and ranges of Flink's memory options, with Flink's rounding.

Sizes are whole bytes. A fraction is a 32-bit float; a size is multiplied with its decimal form and
cut off.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
import struct
from decimal import Decimal
from typing import Mapping  # noqa: UP035 - Python 3.8

LARGEST = (1 << 63) - 1
"""Bytes: the largest size of Flink's."""
MIB = 1 << 20

_SIZE = re.compile(r"[\x00-\x20]*([0-9]{1,19})[\x00-\x20]*([A-Za-z]*)[\x00-\x20]*")
_UNITS = {"": 0, "b": 0, "bytes": 0}
for _shift, _letter, _word in (
    *((10, "k", "kibibytes"), (20, "m", "mebibytes")),
    *((30, "g", "gibibytes"), (40, "t", "tebibytes")),
):
    _UNITS.update({_letter: _shift, f"{_letter}b": _shift, _word: _shift})
_FRACTION = re.compile(r"-?([0-9]{1,9}(\.[0-9]{0,18})?|\.[0-9]{1,18})([eE]-?[0-9]{1,2})?")

_OLDER = {
    "taskmanager.memory.managed.size": "taskmanager.memory.size",
    "taskmanager.memory.network.min": "taskmanager.network.memory.min",
    "taskmanager.memory.network.max": "taskmanager.network.memory.max",
    "taskmanager.memory.network.fraction": "taskmanager.network.memory.fraction",
}
"""Older names that Flink still reads."""
_UNLIMITED_NETWORK = (1, 17)
"""The first release whose taskmanager.memory.network.max has no default."""


class Options:
    """Memory options of one kind of process, by what follows ``….memory.`` in their names.

    All methods raise ValueError with one line that names properties alone.

    Attributes:
        prefix: ``jobmanager.memory`` or ``taskmanager.memory``.
    """

    def __init__(self, conf: Mapping[str, str], prefix: str, release: tuple[int, ...]) -> None:
        self.conf = dict(conf)
        self.prefix = prefix
        self.release = release
        for name, older in _OLDER.items():
            if older in self.conf:
                self.conf.setdefault(name, self.conf[older])

    def legacy_heap(self, older: str, name: str) -> None:
        """Take the one size of Flink before 1.10, if what it became is not set."""
        if f"{older}.size" in self.conf:
            self.conf.setdefault(name, self.conf[f"{older}.size"])
        elif f"{older}.mb" in self.conf:
            self.conf.setdefault(name, f"{self.conf[f'{older}.mb']}m")

    def has(self, name: str) -> bool:
        """Whether an option is set."""
        return f"{self.prefix}.{name}" in self.conf

    def text(self, name: str, default: str) -> str:
        """Give an option as it is."""
        return self.conf.get(f"{self.prefix}.{name}", default)

    def size(self, name: str, default: int | None = None) -> int:
        """Give a size in bytes. One without a default has to be set."""
        value = self.conf.get(f"{self.prefix}.{name}")
        if value is None:
            assert default is not None
            return default
        return parse_size(f"{self.prefix}.{name}", value)

    def network_max(self) -> int:
        """The default, which depends on the release."""
        return LARGEST if self.release >= _UNLIMITED_NETWORK else 1024 * MIB

    def rest(self, name: str, whole: int, taken: int) -> int:
        """Give what is left of a whole; `name` is the option that would have to be larger."""
        if taken > whole:
            raise ValueError(
                f"{self.prefix}: its parts together are larger than the {name.split('.')[0]} "
                f"memory that is set or follows: raise {self.prefix}.{name}"
            )
        return whole - taken

    def part(self, name: str, whole: int, low: int, high: int, default: float) -> int:
        """A fraction of a whole, between a least and a largest size."""
        low, high, fraction = self._range(name, low, high, default)
        return min(max(self._times(name, whole, fraction), low), high)

    def grown(self, name: str, others: int, low: int, high: int) -> int:
        """The same, of a whole of which all else is known."""
        low, high, fraction = self._range(name, low, high, 0.1)
        return min(max(self._times(name, others, fraction / (1 - fraction)), low), high)

    def in_range(self, name: str, size: int, low: int, high: int, default: float) -> None:
        """Refuse a size that is not between the option's least and largest."""
        low, high, _ = self._range(name, low, high, default)
        if not low <= size <= high:
            raise ValueError(
                f"{self.prefix}: what is left for {name} is not between {self.prefix}.{name}.min "
                "and .max"
            )

    def _range(self, name: str, low: int, high: int, default: float) -> tuple[int, int, float]:
        if name != "managed":  # it has no bounds
            low, high = self.size(f"{name}.min", low), self.size(f"{name}.max", high)
        text = self.text(f"{name}.fraction", str(default))
        if not _FRACTION.fullmatch(text):
            raise ValueError(f"{self.prefix}.{name}.fraction is not a number such as 0.1")
        (fraction,) = struct.unpack("f", struct.pack("f", min(float(text), 1.0)))
        if low > high or not 0 <= fraction < 1:
            raise ValueError(f"{self.prefix}.{name}: min, max and fraction do not fit together")
        return low, high, float(fraction)

    def _times(self, name: str, size: int, factor: float) -> int:
        """Multiply as Java does: the factor's shortest decimal form, all digits, cut off."""
        _, digits, exponent = Decimal(repr(factor)).as_tuple()
        assert isinstance(exponent, int)
        product: int = size * int("".join(map(str, digits)))
        product = product * 10 ** max(exponent, 0) // 10 ** max(-exponent, 0)
        if product > LARGEST:
            raise ValueError(f"{self.prefix}.{name}.fraction gives a size that is too large")
        return product


def parse_size(name: str, text: str) -> int:
    """Give the bytes of a size as Flink writes it: ``4g``, ``512 mb``, ``1024``.

    Args:
        name: the property, for the message.
        text: its value.

    Raises:
        ValueError: it is no such size.
    """
    found = _SIZE.fullmatch(text)
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None or int(found[1]) << unit > LARGEST:
        raise ValueError(f"{name} is not a size such as 4g or 512m")
    return int(found[1]) << unit
