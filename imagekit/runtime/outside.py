"""What the container's entry point runs, outside the enclave: start Gramine, or the bare command.

Everything here is in the host's hands; it decides nothing that security rests on. It checks what is
needed and says in one line what is missing, then replaces itself by the next program, so signals
and exit codes pass.

| started with | what happens |
|---|---|
| no arguments, ``SGX_ENABLED=true`` | ``gramine-sgx bash`` in ``/ppml`` |
| the same and ``SGX_MODE=direct`` | ``gramine-direct bash`` in ``/ppml``: no enclave, development |
| no arguments, ``SGX_ENABLED=false`` | the sealed command, natively, by the launcher's own rules |
| a command | that command, outside the enclave |

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH113, PTH116, PTH118
from __future__ import annotations

import os
import shutil
import stat
import sys
from typing import Mapping, NamedTuple, NoReturn, Sequence  # noqa: UP035 - Python 3.8

from . import inside
from .inside import REFUSED, UNUSABLE, Stop

ROLES = ("driver", "driver-py", "driver-r", "executor")
"""Words that Spark on Kubernetes starts a container with; no command has these names."""


class Places(NamedTuple):
    """Where things stand in the image.

    Attributes:
        folder: where manifest and signature are, and where Gramine is started.
        name: the manifest's name without suffixes.
        devices: SGX device files, any of which will do.
    """

    folder: str = "/ppml"
    name: str = "bash"
    devices: tuple[str, ...] = ("/dev/sgx_enclave", "/dev/sgx/enclave")


class Plan(NamedTuple):
    """What to do next.

    Attributes:
        program: path of the program to become; None for the sealed command, natively.
        argv: its arguments, its own name first.
        folder: working folder to change to, None to stay.
        note: line to print before.
    """

    program: str | None
    argv: tuple[str, ...]
    folder: str | None
    note: str


def decide(arguments: Sequence[str], env: Mapping[str, str], places: Places) -> Plan:
    """Decide what to do; touches nothing, looks at files only.

    Args:
        arguments: of the container.
        env: of the container.
        places: where things stand.

    Raises:
        Stop: an unusable value, or something that is needed is missing.
    """
    if arguments:
        return _given(arguments, env)
    enabled = env.get("SGX_ENABLED")
    if enabled == "false":
        return Plan(None, (), None, "SGX_ENABLED=false: the sealed command runs without an enclave")
    if enabled != "true":
        state = "is not set" if enabled is None else "is neither"
        raise Stop(REFUSED, f'SGX_ENABLED {state}: set it to "true" or "false"')
    mode = env.get("SGX_MODE") or "sgx"
    if mode == "direct":
        _need(places, ".manifest")
        note = "SGX_MODE=direct: Gramine without an enclave, the host sees all memory"
        return _gramine("gramine-direct", env, places, note)
    if mode != "sgx":
        raise Stop(REFUSED, 'SGX_MODE is neither "sgx" nor "direct"')
    _need(places, ".manifest.sgx")
    _need(places, ".sig")
    if not any(_is_device(path) for path in places.devices):
        raise Stop(
            UNUSABLE,
            f"no SGX device: neither {' nor '.join(places.devices)} is there; give the container "
            "the device, or set SGX_ENABLED=false",
        )
    note = f"starting the enclave of {places.folder}/{places.name}.manifest.sgx"
    return _gramine("gramine-sgx", env, places, note)


def _given(arguments: Sequence[str], env: Mapping[str, str]) -> Plan:
    word = arguments[0]
    if word in ROLES:
        raise Stop(REFUSED, f"the role {word} is not part of this image: its command is sealed")
    program = word if "/" in word else shutil.which(word, path=env.get("PATH"))
    if not program:
        raise Stop(UNUSABLE, "the given command is not on PATH")
    note = "a command was given: it runs outside the enclave"
    return Plan(program, tuple(arguments), None, note)


def _need(places: Places, suffix: str) -> None:
    path = os.path.join(places.folder, places.name + suffix)
    if not os.path.isfile(path):
        raise Stop(UNUSABLE, f"{path} is missing: this is a base, or not signed")


def _gramine(program: str, env: Mapping[str, str], places: Places, note: str) -> Plan:
    path = shutil.which(program, path=env.get("PATH"))
    if not path:
        raise Stop(UNUSABLE, f"{program} is not on PATH: Gramine is not installed in this image")
    return Plan(path, (program, places.name), places.folder, note)


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def start(arguments: Sequence[str], spec_path: str, places: Places) -> NoReturn:
    """Do what :func:`decide` says.

    Args:
        arguments: of the container.
        spec_path: ``launch.json``, for the native run.
        places: where things stand.

    Raises:
        Stop: something is missing or cannot be started.
    """
    plan = decide(arguments, os.environ, places)
    print(f"imagekit: {plan.note}", file=sys.stderr)
    if plan.program is None:
        inside.run(spec_path, os.environb)
    if plan.folder is not None:
        try:
            os.chdir(plan.folder)
        except OSError as error:
            raise Stop(UNUSABLE, f"{plan.folder}: {error.strerror}") from None
    inside.become(plan.program, plan.argv, os.environb)
