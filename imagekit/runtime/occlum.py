"""How the entry point starts an enclave of Occlum: ``occlum run`` in the instance's folder.

What runs in the enclave is fixed by its configuration: :data:`.paths.OCCLUM_START`, which takes no
arguments. The request goes in as one variable, the only one of the launcher's that the
configuration lets a host set.

| started with | profile strict | profile compat |
|---|---|---|
| a role | ``occlum run /opt/imagekit/enclave/start`` | the same |
| nothing, ``sgx_command`` set | refused inside | ``occlum run`` and that command's words |
| nothing | the sealed command, by the same start | the same, if there is one |

``sgx_command`` is what Gramine's images of BigDL run; with Occlum, where BigDL wrote ``occlum run
<java> …`` itself, it is split at blanks and given to ``occlum run`` as it is: no shell takes part.
Which programs it may name is the configuration's matter (``entry_points``).

``occlum run`` becomes the program that holds the enclave. What is known of that (Occlum 0.29.7):
its exit status is the job's, of which the lower eight bits are left. Nothing is said anywhere of
signals that it gets: take it that SIGTERM ends the enclave at once, with 143, and that the job does
not hear of it.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time.
# ruff: noqa: PTH110, PTH113, PTH118
from __future__ import annotations

import os
import re
from typing import Mapping  # noqa: UP035 - Python 3.8

from . import occlum_settings
from .launch import Launch
from .plan import (
    Places,
    Plan,
    heading,
    is_program,
    need_device,
    need_provision,
    packed,
    which,
)
from .request import Request
from .start import read_file
from .stop import REFUSED, UNUSABLE, Stop

LIBRARY = "build/lib/libocclum-libos.signed.so"
MODE_FILE = ".sgx_mode"
STATUS_FILE = ".__occlum_status"
WRITABLE = ("run/mount/__ROOT", "run/initfs/__ROOT")
"""Folders of the layers that Occlum writes to; an image may lack them, as they are empty."""

_LONGEST_FILE = 1 << 20
_MODES = ("", "sgx", "HW")
"""What ``SGX_MODE`` may be: Intel's SDK has its own words for it."""
_LAUNCH_CONTROL = re.compile(r"^flags\s*:.*\bsgx_lc\b", re.MULTILINE)


def decide(request: Request, env: Mapping[str, str], spec: Launch, places: Places) -> Plan:
    """Decide what to do; reads files, changes nothing.

    Args:
        request: what goes in.
        env: of the container.
        spec: the image's launch specification.
        places: where things stand.

    Raises:
        Stop: an unusable value, or something that is needed is missing.
    """
    _check_mode(env)
    _need_instance(places.instance)
    need_device(places)
    _need_services(request, env, spec, places)
    program = which("occlum", env) or places.occlum
    if not is_program(program):
        raise Stop(
            UNUSABLE,
            f"occlum is neither on PATH nor at {places.occlum}: it is not installed in this image",
        )
    config = occlum_settings.read_config(os.path.join(places.instance, "Occlum.json"))
    level, more = occlum_settings.log_level(env, config)
    notes = (
        *heading(spec, request.role, f"in the enclave of {places.instance}"),
        *more,
        *occlum_settings.notes(env, config),
    )
    words: tuple[str, ...] = (places.start,)
    added = packed(request)
    own = env.get("sgx_command", "").split()
    if spec.profile == "compat" and not request.role:
        if own:
            words, added = _own(own), {}
            notes = (*notes, "sgx_command is set by the host: it runs as it is")
        elif not spec.argv:
            raise Stop(REFUSED, "nothing to run: give a role or set sgx_command (profile compat)")
    folders = tuple(os.path.join(places.instance, name) for name in WRITABLE)
    argv = ("occlum", "run", *words)
    if env.get("SGX_MODE") == "sgx":
        level["SGX_MODE"] = "HW"  # the other is a word of ours, which Occlum does not know
    return Plan(program, argv, places.instance, {**added, **level}, notes, folders)


def _own(words: list[str]) -> tuple[str, ...]:
    if not words[0].startswith("/"):  # which also keeps it from being an option of occlum
        raise Stop(REFUSED, "sgx_command: Occlum takes the absolute path of a program")
    return tuple(words)


def _check_mode(env: Mapping[str, str]) -> None:
    mode = env.get("SGX_MODE", "")
    if mode == "direct":
        raise Stop(
            REFUSED,
            "SGX_MODE=direct is refused: Occlum has no such mode; SGX_ENABLED=false runs the job "
            "without an enclave",
        )
    if mode not in _MODES:
        raise Stop(REFUSED, f"SGX_MODE is refused: with Occlum it is {' or '.join(_MODES[1:])}")


def _need_instance(folder: str) -> None:
    """Make sure that there is an enclave, built and signed for hardware."""
    if not os.path.isfile(os.path.join(folder, LIBRARY)):
        raise Stop(UNUSABLE, f"{folder}/{LIBRARY} is missing: this is a base, or not signed")
    status, mode = _word(folder, STATUS_FILE), _word(folder, MODE_FILE)
    if status == "initialized":
        raise Stop(UNUSABLE, f"{folder} is {status}, not built: this is a base, or not signed")
    if mode not in ("", "HW"):
        raise Stop(UNUSABLE, f"{folder}/{MODE_FILE}: built for simulation or for another machine")


def _word(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise Stop(UNUSABLE, f"{path} is missing: this is a base, or not signed")
    return read_file(path, _LONGEST_FILE, path).decode("utf-8", "replace").strip()


def _need_services(request: Request, env: Mapping[str, str], spec: Launch, places: Places) -> None:
    """Make sure of what ``occlum run`` would wait for, and of what quotes need.

    Intel's library makes quotes in its own process, unless SGX_AESM_ADDR has the service aesmd do
    it. CPUs without launch control need that service for any enclave.
    """
    from .settings import wanted

    attests = wanted(request.env, spec.attestation)
    if attests:
        need_provision(places.provision)
    if os.path.exists(places.aesm):
        return
    if not _has_launch_control(places.cpuinfo):
        raise Stop(
            UNUSABLE,
            f"Occlum needs the service aesmd, as this CPU has no launch control: {places.aesm} is "
            "missing",
        )
    if attests and env.get("SGX_AESM_ADDR"):
        raise Stop(UNUSABLE, f"SGX_AESM_ADDR asks for the service aesmd: {places.aesm} is missing")


def _has_launch_control(path: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return _LAUNCH_CONTROL.search(file.read(_LONGEST_FILE)) is not None
    except OSError:
        return False
