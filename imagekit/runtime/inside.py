"""The launcher inside the enclave: check what the host asks for, then become the program.

It is the first program in the enclave. A strict manifest fixes its arguments, its code and
``launch.json`` are trusted files; what the host can choose arrives in passed-through variables,
each of which must match its pattern, and in one launch request, whose every word must fit the
closed grammar of the specification. There is no shell, nothing is expanded, and nothing of this
program stays behind: ``execve`` replaces it, so signals and the exit code are the program's own.

Order: specification, request, role, attestation, keys, files, program. Nothing is written and no
key is set before the attestation has succeeded.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH103, PTH120
from __future__ import annotations

import os
import re
from typing import Mapping, NoReturn  # noqa: UP035 - Python 3.8

from . import launch
from .command import FOLDER, TEMPORARY, Command
from .launch import LONGEST_VALUE
from .paths import FLINK_POD_TEMPLATE
from .place import NATIVE, OCCLUM_VARIABLES, Place, find_place
from .request import INJECTIONS, VARIABLE, Request, is_service, parse_request
from .start import become, read_launch
from .stop import REFUSED, UNUSABLE, Stop

_KEPT_BACK = {name.encode() for name in (VARIABLE, *OCCLUM_VARIABLES, "sgx_command", "API_KEY")}
"""What a program has no need of, in the profile that gives it all the rest of the host's."""

_NUMBER = re.compile(r"[0-9]{1,15}")
_SETTINGS = {"MALLOC_ARENA_MAX": _NUMBER, "TF_MKL_ALLOC_MAX_BYTES": _NUMBER}
"""What the host may set for every role: limits of memory, no code."""
_OUTSIDE = ("SGX_ENABLED", "SGX_MODE", "SGX_LOG_LEVEL", "SGX_MEM_SIZE")
"""What the entry point has acted on, or what the image's manifest has decided."""


def read_request(host: Mapping[bytes, bytes]) -> Request | None:
    """Give the launch request that came in, None if there is none.

    Raises:
        Stop: it is not usable.
    """
    value = host.get(VARIABLE.encode())
    if value is None:
        return None
    try:
        return parse_request(value.decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise Stop(REFUSED, f"{VARIABLE}: refused: {reason}") from None


def environment(spec: launch.Launch, host: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Make the program's environment.

    Strict: the fixed values and what the host may pass through; a variable that the host has not
    set is simply absent. Compat: everything of the host, and fixed values where it has none.

    Args:
        spec: the launch specification.
        host: the environment that came in, as bytes.

    Raises:
        Stop: a value that does not match its pattern, is too long or not UTF-8. The variable is
            named, its value never shown.
    """
    env = {name.encode(): value.encode() for name, value in spec.env.items()}
    if spec.profile == "compat":
        return {**env, **{name: value for name, value in host.items() if name not in _KEPT_BACK}}
    for name, pattern in sorted(spec.passthrough.items()):
        value = host.get(name.encode())
        if value is None:
            continue
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            raise Stop(REFUSED, f"{name}: refused, its value is not UTF-8 text") from None
        _check_value(name, text, pattern)
        env[name.encode()] = value
    return env


def _check_value(name: str, value: str, pattern: re.Pattern[str]) -> None:
    if len(value.encode()) > LONGEST_VALUE:
        raise Stop(REFUSED, f"{name}: refused, its value is longer than {LONGEST_VALUE} bytes")
    if pattern.fullmatch(value) is None:
        raise Stop(REFUSED, f"{name}: refused, its value does not match the sealed pattern")


def split_request(
    spec: launch.Launch, request: Request
) -> tuple[Request, dict[str, str], dict[str, str]]:
    """Part the request's variables by who answers for them.

    Args:
        spec: the launch specification.
        request: the request.

    Returns:
        The request with the variables of its role alone; those of attestation and storage; those
        that go into the program's environment.

    Raises:
        Stop: in the strict profile, a variable that nobody answers for, or a value that does not
            match its pattern.
    """
    strict = spec.profile == "strict"
    services = _services_of(request)
    role: dict[str, str] = {}
    service: dict[str, str] = {}
    settings: dict[str, str] = {}
    for name, value in sorted(request.env.items()):
        if name in spec.passthrough:
            continue  # it comes by itself, if at all
        if name in services:
            if strict and re.fullmatch(services[name], value, re.ASCII) is None:
                raise Stop(REFUSED, f"{name}: refused, its value does not have the form of one")
            service[name] = value
        elif name in _SETTINGS:
            _check_value(name, value, _SETTINGS[name])
            settings[name] = value
        elif strict and name in INJECTIONS:
            raise Stop(
                REFUSED,
                f"{name}: refused: the host brings no code into this enclave (profile strict)",
            )
        elif name not in _OUTSIDE and name not in INJECTIONS:
            role[name] = value
    return request._replace(env=role), service, settings


def _services_of(request: Request) -> Mapping[str, str]:
    if not any(map(is_service, request.env)):
        return {}
    from .settings import ATTESTATION, STORAGE  # only here: a start without them is quicker

    return {**ATTESTATION, **STORAGE}


def compose(spec: launch.Launch, request: Request | None, place: Place) -> Command:
    """Give the program that a request asks for; the sealed one if it names no role.

    Raises:
        Stop: it asks for something that it may not have.
    """
    if request is None or not request.role:
        return _sealed(spec, request)
    if request.role not in launch.ROLES:
        raise Stop(REFUSED, "the role is refused: it is not one that the launcher knows")
    if spec.profile == "strict" and request.role not in spec.roles:
        raise Stop(REFUSED, f"the role {request.role} is refused: launch.roles does not name it")
    if request.role in launch.SPARK_ROLES:
        from . import spark

        return spark.compose(spec, request, place)
    from . import flink

    return flink.compose(spec, request, place)


def _sealed(spec: launch.Launch, request: Request | None) -> Command:
    if not spec.argv:
        known = f": {', '.join(spec.roles)}" if spec.roles else ""
        raise Stop(REFUSED, f"this image seals no command: start it with one of its roles{known}")
    if request is not None and (request.args or request.conf or request.env):
        raise Stop(REFUSED, "arguments are refused: this image's command is sealed")
    return Command(spec.argv, {}, {}, {})


def prepare(command: Command) -> None:
    """Write the program's files, for its user alone.

    Raises:
        Stop: the folder cannot be written.
    """
    if not command.files:
        return
    try:
        for path, content in sorted(command.files.items()):
            assert path.startswith(f"{FOLDER}/") or path == FLINK_POD_TEMPLATE, path
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            if path != FLINK_POD_TEMPLATE:
                _own(FOLDER)
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(number, "wb") as file:
                file.write(content)
    except OSError as error:
        raise Stop(UNUSABLE, f"{FOLDER}: cannot be written: {error.strerror}") from None


def enter(folder: str) -> None:
    """Make a folder the working one: Spark puts files there that it has fetched.

    Raises:
        Stop: it cannot be entered.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise Stop(UNUSABLE, f"{folder}: {error.strerror}") from None


def _own(folder: str) -> None:
    """Natively /tmp belongs to everybody: somebody else's folder is not written to."""
    status = os.lstat(folder)
    if status.st_uid != os.geteuid():
        raise Stop(UNUSABLE, f"{folder}: belongs to another user")
    if status.st_mode & 0o077:
        os.chmod(folder, 0o700)  # noqa: PTH101


def run(spec_path: str, host: Mapping[bytes, bytes]) -> NoReturn:
    """Read specification and request, check, attest, set keys, become the program.

    Args:
        spec_path: ``launch.json``.
        host: the environment that came in.

    Raises:
        Stop: see the functions above, :mod:`.attest` and :mod:`.storage`.
    """
    spec = read_launch(spec_path)
    place = find_place(host, libos=spec.libos)
    env = environment(spec, host)
    request = read_request(host)
    service: dict[str, str] = {}
    settings: dict[str, str] = {}
    if request is not None:
        request, service, settings = split_request(spec, request)
    command = compose(spec, request, place)
    _services(spec, service, command, place)
    prepare(command)
    if request is not None and request.role:
        enter(TEMPORARY)
    for name, value in {**settings, **command.env}.items():
        env[name.encode()] = value.encode()
    become(command.argv[0], command.argv, env)


def _services(spec: launch.Launch, env: Mapping[str, str], command: Command, place: Place) -> None:
    """Attest if told to, then set keys and look at the folders."""
    if env or spec.attestation.required:
        from .settings import wanted

        if wanted(env, spec.attestation):
            from . import attest

            attest.attest(spec, env, place)
    if env or (place.kind != NATIVE and (spec.encrypted or command.storage)):
        from . import storage

        storage.unlock(spec, env, place)
        storage.check(spec, command.storage, place)
