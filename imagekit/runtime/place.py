"""Where this process runs: natively, under Gramine without an enclave, or in an enclave.

Occlum shows nothing by which it could be known. Its configuration seals three variables
(:func:`occlum_environment`), and the entry point takes them away where it starts a job natively.

Gramine shows ``/dev/attestation`` in both of its modes; only an enclave has ``attestation_type`` in
it (Gramine 1.9; measured in direct mode, read in its documentation for SGX). A host cannot make
these files inside, but in direct mode it sees and changes all memory: only a verified quote proves
anything.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH112, PTH118, PTH123
from __future__ import annotations

import os
import re
from typing import Mapping, NamedTuple  # noqa: UP035 - Python 3.8

from .launch import GRAMINE, OCCLUM
from .stop import UNUSABLE, Stop

NATIVE = "native"
DIRECT = "direct"
ENCLAVE = "enclave"

SIZE_VARIABLE = "IMAGEKIT_ENCLAVE_SIZE"
"""Sealed by the manifest: its ``sgx.enclave_size``, as ``16G`` or ``512M``. With Occlum it is what
programs share: ``resource_limits.user_space_size``."""
LIBOS_VARIABLE = "IMAGEKIT_LIBOS"
"""Sealed by Occlum's configuration alone: ``occlum``."""
ATTESTATION_VARIABLE = "IMAGEKIT_ATTESTATION"
"""Sealed by Occlum's configuration alone: ``dcap`` or ``none``."""
OCCLUM_VARIABLES = (LIBOS_VARIABLE, SIZE_VARIABLE, ATTESTATION_VARIABLE)

_SIZE = re.compile(r"([0-9]{1,9})([MG])")


class Place(NamedTuple):
    """Where this process runs.

    Attributes:
        kind: NATIVE, DIRECT or ENCLAVE.
        quotes: whether it can get quotes (``sgx.remote_attestation = "dcap"``).
        enclave_size: bytes of the enclave, None where there is none.
        attestation: the folder ``/dev/attestation``, of Gramine.
        libos: what runs the enclave, or would.
    """

    kind: str
    quotes: bool
    enclave_size: int | None
    attestation: str
    libos: str = GRAMINE

    @property
    def in_occlum(self) -> bool:
        """Whether Occlum runs this."""
        return self.kind == ENCLAVE and self.libos == OCCLUM


def find_place(
    env: Mapping[bytes, bytes], attestation: str = "/dev/attestation", libos: str = GRAMINE
) -> Place:
    """Find out where this process runs.

    Args:
        env: the environment that came in.
        attestation: Gramine's folder.
        libos: what the image is for.

    Raises:
        Stop: an attestation type or an enclave size that is not known.
    """
    if libos == OCCLUM:
        return _in_occlum(env, attestation)
    size = enclave_size(env)
    if not os.path.isdir(attestation):
        return Place(NATIVE, False, None, attestation)
    try:
        with open(os.path.join(attestation, "attestation_type"), encoding="ascii") as file:
            kind = file.read(32).strip("\0\n ")
    except (FileNotFoundError, PermissionError):  # Gramine answers either, in direct mode
        return Place(DIRECT, False, size, attestation)
    except (OSError, ValueError):
        raise Stop(UNUSABLE, f"{attestation}/attestation_type cannot be read") from None
    if kind not in ("none", "dcap"):
        raise Stop(UNUSABLE, f"{attestation}/attestation_type is neither none nor dcap")
    return Place(ENCLAVE, kind == "dcap", size, attestation)


def _in_occlum(env: Mapping[bytes, bytes], attestation: str) -> Place:
    if env.get(LIBOS_VARIABLE.encode()) != OCCLUM.encode():
        return Place(NATIVE, False, None, attestation, OCCLUM)
    kind = env.get(ATTESTATION_VARIABLE.encode())
    if kind not in (b"none", b"dcap"):
        raise Stop(UNUSABLE, f"{ATTESTATION_VARIABLE} is neither none nor dcap")
    return Place(ENCLAVE, kind == b"dcap", enclave_size(env), attestation, OCCLUM)


def occlum_environment(size: str, attestation: str) -> dict[str, str]:
    """Give the variables that ``env.default`` of an ``Occlum.json`` has to seal for the launcher.

    Besides what :func:`find_place` goes by, those that keep its interpreter, which Occlum starts
    without options, from folders that can be written to.

    Args:
        size: of the user space, as ``16G`` or ``512M``.
        attestation: ``dcap`` or ``none``.
    """
    return {
        LIBOS_VARIABLE: OCCLUM,
        SIZE_VARIABLE: size,
        ATTESTATION_VARIABLE: attestation,
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def enclave_size(env: Mapping[bytes, bytes]) -> int | None:
    """Give the enclave's size in bytes, None if the manifest does not say it.

    Raises:
        Stop: it is not a size.
    """
    value = env.get(SIZE_VARIABLE.encode())
    if value is None:
        return None
    found = _SIZE.fullmatch(value.decode("ascii", "replace"))
    if found is None:
        raise Stop(UNUSABLE, f"{SIZE_VARIABLE} is not a size such as 16G")
    return int(found[1]) << (30 if found[2] == "G" else 20)
