"""What a role becomes: a program, and what has to stand ready before it starts.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

from typing import NamedTuple

TEMPORARY = "/tmp"  # noqa: S108 - inside a strict enclave a tmpfs, which is enclave memory
"""The one folder that a strict manifest lets be written to besides encrypted mounts; there programs
start. Manifests of compat mount the host's folder."""
FOLDER = f"{TEMPORARY}/imagekit"
"""Where files for the program are written, in a folder that only its user may enter."""


class Command(NamedTuple):
    """A program to become.

    Attributes:
        argv: absolute path of the program, and its arguments; no secret in it.
        env: variables of its environment besides those of the launch specification, which they
            win over.
        files: path → content of files to write before, each for its owner alone.
        storage: what a folder is for → the folder, which has to be encrypted: below an encrypted
            mount or in the enclave's own memory.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    files: dict[str, bytes]
    storage: dict[str, str]

    def __repr__(self) -> str:
        """The program alone: environment and files may hold secrets."""
        return f"Command(argv[0]={self.argv[0]!r}, …)"
