"""The Occlum versions whose rules are known, and how they turn limits into an enclave.

Facts are those of Occlum 0.26.3, 0.27.x, 0.28.x, 0.29.0, 0.29.5 to 0.29.7, 0.30.0, 0.30.1 and
0.31.0. A rule holds from the first of these that has it until the first that has another one. So
0.29.1 to 0.29.4, which stand between two of them, follow 0.29.0: they have no heap maximum of their
own. Where that is wrong, the enclave that was built differs from the one that was asked for, and
the check of the built enclave says so; :attr:`OcclumVersion.inferred` is set for them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from imagekit.errors import UsageError

MIB, GIB = 1 << 20, 1 << 30

EDMM_SINCE = (0, 30, 0)
"""First version that adds pages as they are used (SGX2 with EDMM)."""

# The last patch release of each minor one that is known.
_LAST_PATCH = {26: 9, 27: 9, 28: 9, 29: 7, 30: 1, 31: 0}
_KNOWN = "0.26.x, 0.27.x, 0.28.x, 0.29.0 to 0.29.7, 0.30.0, 0.30.1, 0.31.0"
_INFERRED = ((0, 29, 1), (0, 29, 4))
# The fork of the Intel SGX SDK that is known to belong to a version, or to all of a minor one.
_SDKS: Mapping[tuple[int, ...], str] = {
    (0, 28): "2.16",
    (0, 29, 7): "2.17.1",
    (0, 30, 0): "2.20",
    (0, 31): "2.21",
}


class Layout(Enum):
    """How ``resource_limits`` become an enclave (:mod:`imagekit.enclave.occlum.enclave_xml`)."""

    FIXED = "0.26 to 0.29.4"
    """One number of threads, one heap size."""
    HEAP_MAX = "0.29.5 to 0.29.7"
    """Heap and threads may grow where the CPU is able to (SGX2)."""
    SGX2 = "0.30.0 and later"
    """Fixed, and what a maximum says replaces what it is the maximum of; or EDMM, if asked for."""


@dataclass(frozen=True, order=True)
class OcclumVersion:
    """One version of Occlum; versions sort by age.

    Attributes:
        number: the three numbers of its name.
    """

    number: tuple[int, int, int]

    @property
    def name(self) -> str:
        """The version as Occlum's images and libraries name it, such as ``0.29.7``."""
        return ".".join(map(str, self.number))

    @property
    def layout(self) -> Layout:
        """How it turns limits into an enclave."""
        if self.number >= EDMM_SINCE:
            return Layout.SGX2
        return Layout.HEAP_MAX if self.number >= (0, 29, 5) else Layout.FIXED

    @property
    def has_edmm(self) -> bool:
        """Whether enclave pages can be added as they are used."""
        return self.number >= EDMM_SINCE

    @property
    def has_features(self) -> bool:
        """Whether CPU features and EDMM are asked for in an object ``feature`` (since 0.30.1)."""
        return self.number >= (0, 30, 1)

    @property
    def adds_proc_and_dev(self) -> bool:
        """Whether ``occlum build`` adds the mounts /proc and /dev by itself (since 0.29.6)."""
        return self.number >= (0, 29, 6)

    @property
    def sdk(self) -> str | None:
        """The fork of the Intel SGX SDK that signs for it; None where that is not known."""
        return _SDKS.get(self.number, _SDKS.get(self.number[:2]))

    @property
    def inferred(self) -> bool:
        """Whether its rules are those of its neighbours, not seen in itself."""
        return _INFERRED[0] <= self.number <= _INFERRED[1]


def occlum_version(text: str) -> OcclumVersion:
    """Give the version that a text names, as in ``0.29.7`` or ``v0.29.7``.

    Raises:
        UsageError: not of that form, or a version whose rules are not known.
    """
    match = re.fullmatch(r"v?(0|[1-9][0-9]{0,3})\.([0-9]{1,4})(?:\.([0-9]{1,4}))?", text, re.ASCII)
    if match is None:
        raise UsageError(f"{text[:60]!r} is no version of Occlum", f"known: {_KNOWN}")
    if match[3] is None:
        raise UsageError(
            f"Occlum {text} leaves the patch release open, and they differ", f"known: {_KNOWN}"
        )
    major, minor, patch = map(int, match.groups())
    if major != 0 or patch > _LAST_PATCH.get(minor, -1):
        raise UsageError(f"the rules of Occlum {text} are not known", f"known: {_KNOWN}")
    return OcclumVersion((major, minor, patch))


NEWEST = OcclumVersion((0, 31, 0))
"""The newest version whose rules are known."""
BIGDL = OcclumVersion((0, 29, 7))
"""The version in BigDL's images."""
