"""How registries are reached, and which checks somebody asked to leave out."""

from pathlib import Path
from typing import NamedTuple


class RegistryAccess(NamedTuple):
    """How registries are reached.

    Attributes:
        insecure: plain http, and certificates that nobody vouches for, are accepted.
        ca_file: PEM bundle of the CAs to trust in place of this machine's, or None.
    """

    insecure: bool = False
    ca_file: Path | None = None
