"""What the entry point decides on: where things stand, and what to do next.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time.
# ruff: noqa: PTH113, PTH116, PTH118
from __future__ import annotations

import os
import stat
from typing import Mapping, NamedTuple, Sequence  # noqa: UP035 - Python 3.8

from .launch import Launch
from .paths import OCCLUM_INSTANCE, OCCLUM_START
from .request import VARIABLE, Request, write_request
from .stop import REFUSED, UNUSABLE, Stop


class Places(NamedTuple):
    """Where things stand in the image.

    Attributes:
        folder: where manifest and signature are, and where Gramine is started.
        name: the manifest's name without suffixes.
        devices: SGX device files, any of which will do.
        provision: device files for keys that quoting needs, any of which will do.
        aesm: socket of the service that makes quotes.
        qcnl: configuration of Intel's quote provider library.
        temporary: folder that everybody may write to.
        instance: folder of the Occlum instance, from which it is started.
        start: the program in its enclave.
        occlum: the command, where it is not on PATH.
        cpuinfo: what the kernel says of the CPU.
    """

    folder: str = "/ppml"
    name: str = "bash"
    devices: tuple[str, ...] = ("/dev/sgx_enclave", "/dev/sgx/enclave")
    provision: tuple[str, ...] = ("/dev/sgx_provision", "/dev/sgx/provision")
    aesm: str = "/var/run/aesmd/aesm.socket"
    qcnl: str = "/etc/sgx_default_qcnl.conf"
    temporary: str = "/tmp"  # noqa: S108 - outside there is no other place
    instance: str = OCCLUM_INSTANCE
    start: str = OCCLUM_START
    occlum: str = "/opt/occlum/build/bin/occlum"
    cpuinfo: str = "/proc/cpuinfo"


class Plan(NamedTuple):
    """What to do next.

    Attributes:
        program: path of the program to become; None for the launcher itself, natively.
        argv: its arguments, its own name first.
        folder: working folder to change to, None to stay.
        env: variables to add.
        notes: lines to print before; no values of variables in them.
        folders: folders that the library OS writes to, to be made if they are not there.
    """

    program: str | None
    argv: tuple[str, ...]
    folder: str | None
    env: dict[str, str]
    notes: tuple[str, ...]
    folders: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without the environment, which may hold secrets."""
        return f"Plan({self.program!r}, {self.argv!r}, notes={self.notes!r})"


def heading(spec: Launch, role: str, how: str) -> tuple[str, ...]:
    """Give the first lines to print: what runs where, and what that is worth."""
    what = f"role {role}" if role else "the sealed command"
    notes = [f"{what} {how}"]
    if spec.profile == "compat":
        notes.append("profile compat: the host chooses the command, the environment and the files")
    return tuple(notes)


def which(name: str, env: Mapping[str, str]) -> str | None:
    """Look a program up; :func:`shutil.which` does it, but loads three compressors."""
    for folder in (env.get("PATH") or os.defpath).split(os.pathsep):
        path = os.path.join(folder, name)
        if is_program(path):
            return path
    return None


def is_program(path: str) -> bool:
    """Say whether a file can be executed."""
    return os.path.isfile(path) and os.access(path, os.X_OK)


def is_device(path: str) -> bool:
    """Say whether a character device is there."""
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def packed(request: Request) -> dict[str, str]:
    """Give the one variable that the launcher inside reads.

    Raises:
        Stop: the request is too long for one.
    """
    try:
        return {VARIABLE: write_request(*request)}
    except ValueError as error:
        raise Stop(REFUSED, str(error)) from None


def need_device(places: Places) -> None:
    """Make sure that enclaves can be started here.

    Raises:
        Stop: there is no device for it.
    """
    if not any(map(is_device, places.devices)):
        raise Stop(
            UNUSABLE,
            f"no SGX device: neither {' nor '.join(places.devices)} is there; give the container "
            "the device, or set SGX_ENABLED=false",
        )


def need_provision(paths: Sequence[str]) -> None:
    """Make sure that quotes can be made here.

    Raises:
        Stop: there is no device for it.
    """
    if not any(map(is_device, paths)):
        raise Stop(UNUSABLE, f"attestation needs a device: neither {' nor '.join(paths)} is there")
