"""What the container's entry point runs, outside the enclave: start Gramine, Occlum, or neither.

Everything here is in the host's hands; it decides nothing that security rests on. It gathers what
the container was asked for, checks what is needed, says in one line what is missing, and replaces
itself by the next program. Where it is process 1 of the container it does the duties of one first
(:mod:`.init`).

| started with | what happens |
|---|---|
| a role or nothing, ``SGX_ENABLED=true`` | ``gramine-sgx bash`` in ``/ppml``; :mod:`.occlum` says |
| | what it is with Occlum |
| the same and ``SGX_MODE=direct`` | ``gramine-direct bash`` in ``/ppml``: no enclave, development |
| a role or nothing, ``SGX_ENABLED=false`` | the same program natively, by the launcher's rules |
| anything else | that command, outside the enclave |

In the strict profile the request goes in as one variable and the launcher inside decides. In the
compat profile the manifest runs ``$sgx_command``, as BigDL's images do: the launcher, unless the
host sets the variable itself.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time.
# ruff: noqa: PTH113, PTH118, PTH123
from __future__ import annotations

import os
import re
import sys
from typing import Mapping, NoReturn, Sequence  # noqa: UP035 - Python 3.8

from . import gather
from .launch import OCCLUM, Launch
from .plan import Places, Plan, heading, need_device, need_provision, packed, which
from .request import Request
from .start import become, read_launch
from .stop import REFUSED, UNUSABLE, Stop


def decide(
    arguments: Sequence[str], env: Mapping[str, str], places: Places, spec_path: str
) -> Plan:
    """Decide what to do; reads files, changes nothing.

    Args:
        arguments: of the container.
        env: of the container.
        places: where things stand.
        spec_path: ``launch.json``; the launcher is beside it.

    Raises:
        Stop: an unusable value, or something that is needed is missing.
    """
    found = gather.role_of(arguments)
    if found is None:
        return _given(arguments, env)
    role, args = found
    spec = read_launch(spec_path)
    request = gather.gather(role, args, env, spec)
    if not _enabled(request, env):
        notes = heading(spec, role, "without an enclave, unprotected")
        return Plan(None, (), None, packed(request), notes)
    if spec.libos == OCCLUM:
        from . import occlum  # only here: images of Gramine do without

        return occlum.decide(request, env, spec, places)
    mode = env.get("SGX_MODE") or "sgx"
    if mode not in ("sgx", "direct"):
        raise Stop(REFUSED, 'SGX_MODE is neither "sgx" nor "direct"')
    if mode == "direct":
        _need(places, ".manifest")
        notes = heading(spec, role, "under Gramine without an enclave: the host sees all memory")
        return _gramine("gramine-direct", request, env, spec, spec_path, places, notes)
    _need(places, ".manifest.sgx")
    _need(places, ".sig")
    _need_devices(request, spec, places)
    notes = heading(spec, role, f"in the enclave of {places.folder}/{places.name}.manifest.sgx")
    return _gramine("gramine-sgx", request, env, spec, spec_path, places, notes)


def _given(arguments: Sequence[str], env: Mapping[str, str]) -> Plan:
    word = arguments[0]
    program = word if "/" in word else which(word, env)
    if not program:
        raise Stop(UNUSABLE, "the given command is neither a role nor on PATH")
    note = "a command was given: it runs outside the enclave"
    return Plan(program, tuple(arguments), None, {}, (note,))


def _enabled(request: Request, env: Mapping[str, str]) -> bool:
    """SGX_ENABLED, or what the job's own properties say where it is not set."""
    value = env.get("SGX_ENABLED")
    if value is None:
        for name in ("spark.kubernetes.sgx.enabled", "kubernetes.sgx.enabled"):
            value = request.conf.get(name, value)
    if value not in ("true", "false"):
        state = "is not set" if value is None else "is neither"
        raise Stop(REFUSED, f'SGX_ENABLED {state}: set it to "true" or "false"')
    return value == "true"


def _need(places: Places, suffix: str) -> None:
    path = os.path.join(places.folder, places.name + suffix)
    if not os.path.isfile(path):
        raise Stop(UNUSABLE, f"{path} is missing: this is a base, or not signed")


def _need_devices(request: Request, spec: Launch, places: Places) -> None:
    need_device(places)
    from .settings import wanted  # only here: most starts need no more than the above

    if not wanted(request.env, spec.attestation):
        return
    need_provision(places.provision)
    if not os.path.exists(places.aesm):  # noqa: PTH110
        raise Stop(UNUSABLE, f"attestation needs the service aesmd: {places.aesm} is missing")


def _gramine(
    program: str,
    request: Request,
    env: Mapping[str, str],
    spec: Launch,
    spec_path: str,
    places: Places,
    notes: tuple[str, ...],
) -> Plan:
    path = which(program, env)
    if not path:
        raise Stop(UNUSABLE, f"{program} is not on PATH: Gramine is not installed in this image")
    added = packed(request)
    if spec.profile == "compat":
        own = env.get("sgx_command")
        if own and not request.role:
            added = {}
            notes = (*notes, "sgx_command is set by the host: it runs as it is")
        elif not request.role and not spec.argv:
            raise Stop(REFUSED, "nothing to run: give a role or set sgx_command (profile compat)")
        else:
            added["sgx_command"] = f"{sys.executable} -I -S {_launcher(spec_path)}"
            added.update(_size(places, program))
    folders = tuple(mount.host for mount in spec.encrypted)
    return Plan(path, (program, places.name), places.folder, added, notes, folders)


def _launcher(spec_path: str) -> str:
    return os.path.join(os.path.dirname(spec_path), "launcher.pyz")  # noqa: PTH120


def _size(places: Places, program: str) -> dict[str, str]:
    """The enclave's size for the launcher; a strict manifest seals it, this one knows nothing."""
    from .place import SIZE_VARIABLE  # only here: under strict it is not needed outside

    suffix = ".manifest.sgx" if program == "gramine-sgx" else ".manifest"
    path = os.path.join(places.folder, places.name + suffix)
    with open(path, encoding="utf-8", errors="replace") as file:
        found = re.search(r'^(?:sgx\.)?enclave_size = "([0-9]+[MG])"$', file.read(), re.MULTILINE)
    return {SIZE_VARIABLE: found[1]} if found else {}


def _make(folder: str) -> None:
    """Make a folder of encrypted files: no library OS does, and each refuses to start without."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
    except OSError as error:
        raise Stop(UNUSABLE, f"{folder}: the folder of encrypted files: {error.strerror}") from None


def start(arguments: Sequence[str], spec_path: str, places: Places) -> NoReturn:
    """Do what :func:`decide` says.

    Args:
        arguments: of the container.
        spec_path: ``launch.json``.
        places: where things stand.

    Raises:
        Stop: something is missing or cannot be started.
    """
    env = dict(os.environ)
    plan = decide(arguments, env, places, spec_path)
    written = None
    own = plan.folder is None and not plan.env  # a command that was given has no quotes of ours
    if env.get("PCCS_URL") and not own:
        from .qcnl import write_qcnl

        written = write_qcnl(env, places.qcnl, places.temporary)
    for note in plan.notes:
        print(f"imagekit: {note}", file=sys.stderr)
    if written is not None:
        print(f"imagekit: PCCS_URL written to {written}", file=sys.stderr)
    sys.stderr.flush()
    for folder in plan.folders:
        _make(folder)
    env.update(plan.env)
    encoded = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
    if os.getpid() == 1:
        from .init import supervise

        supervise()
    if plan.program is None:
        from . import inside  # only here: in an enclave it runs in a process of its own
        from .place import OCCLUM_VARIABLES  # a host that sets these makes no enclave of this

        for name in OCCLUM_VARIABLES:
            encoded.pop(name.encode(), None)
        inside.run(spec_path, encoded)
    if plan.folder is not None:
        try:
            os.chdir(plan.folder)
        except OSError as error:
            raise Stop(UNUSABLE, f"{plan.folder}: {error.strerror}") from None
    become(plan.program, plan.argv, encoded)
