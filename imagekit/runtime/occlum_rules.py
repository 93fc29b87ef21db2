"""What a strict image for Occlum may not leave to the host, beyond what one for Gramine may not.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Iterable  # noqa: UP035 - Python 3.8

from .command import FOLDER, TEMPORARY
from .paths import APP

_LOADS = r"(PYTHON|LD_|IMAGEKIT_|OCCLUM)\w*|HOME|GCONV_PATH|LOCPATH|GLIBC_TUNABLES"
"""Variables by which a host would choose what the launcher itself loads or takes this place for.
Occlum starts its interpreter with these still set, as it gives no options to one."""

_PRIVATE = (APP, "/bin", "/etc", "/lib", "/lib64", "/opt/occlum", "/usr", FOLDER)
"""Where an enclave of Occlum has programs, libraries and settings; and the launcher secrets."""


def check_occlum(passthrough: Iterable[str], exposed: Iterable[str], code: Iterable[str]) -> None:
    """Make sure that a host of Occlum chooses no code of a strict enclave, and sees no secret.

    Args:
        passthrough: variables that the host may set.
        exposed: folders in the enclave that are the host's own.
        code: files and folders that programs are loaded from, besides the system's.

    Raises:
        ValueError: it would; the text begins with the key, as the project file has it.
    """
    found = (name for name in sorted(passthrough) if re.fullmatch(_LOADS, name, re.ASCII))
    for name in found:
        raise ValueError(
            f"launch.passthrough: {name} chooses what the launcher in the enclave of Occlum loads"
        )
    for folder in exposed:
        for private in (*_PRIVATE, *code):
            if _below(folder, private) or _below(private, folder):
                raise ValueError(
                    f"occlum.mounts: {folder} would put {private} into the host's hand"
                )
        if _below(TEMPORARY, folder):
            raise ValueError(f"occlum.mounts: {folder} would show the job's own files to the host")


def _below(path: str, top: str) -> bool:
    """Whether a path is the other or below it."""
    parts, tops = (tuple(filter(None, name.split("/"))) for name in (path, top))
    return parts[: len(tops)] == tops
