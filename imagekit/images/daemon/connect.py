"""Connecting to a container engine that speaks the Docker Engine API: Docker, or Podman's service.

The engine is looked for where the docker command looks: DOCKER_HOST (with DOCKER_TLS_VERIFY and
DOCKER_CERT_PATH), else the current context (DOCKER_CONTEXT, ``docker context use``), else the
socket /var/run/docker.sock.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
import requests
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.context import ContextAPI
from docker.errors import (
    APIError,
    DockerException,
    NotFound,
    create_api_error_from_http_exception,
)
from docker.utils import kwargs_from_env, parse_host
from urllib3.exceptions import HTTPError

from imagekit.errors import EngineError
from imagekit.images.daemon.faults import (
    UnusableError,
    absent,
    connect_fault,
    not_docker,
    talk_fault,
)

MINIMUM_API = "1.29"
"""The oldest API that will do: that of Docker Engine 17.05, the first with multi-stage builds."""

_SOCKET = "unix:///var/run/docker.sock"
_QUICK_SECONDS = 3.0
_USUAL_SECONDS = 60.0
_PODMAN = "Podman Engine"
_API = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}")
_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")


@dataclass(frozen=True)
class Daemon:
    """A container engine that answered.

    Attributes:
        name: such as ``Docker Engine 20.10.24`` or ``Podman 4.3.1``.
        api: the version of the Docker API that is spoken with it.
        host: its address, such as ``unix:///var/run/docker.sock``.
        podman: whether it is Podman.
        settings: what docker-py needs to connect; may hold names of certificate files.
        child_env: the variables that lead a docker command to the same engine.
    """

    name: str
    api: str
    host: str
    podman: bool
    settings: Mapping[str, Any] = field(repr=False)
    child_env: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name} at {self.host}"

    @contextmanager
    def talk(self, doing: str, *, patient: bool = False) -> Iterator[docker.APIClient]:
        """Connect for one purpose.

        Leaving closes the connection whatever is under way on it, and an engine gives up a build
        whose client is gone. Everything docker-py, requests and urllib3 raise inside becomes an
        EngineError; to treat an answer such as "not found" differently, catch it inside.

        Args:
            doing: what is done, as in "<engine> cannot <doing>".
            patient: wait for answers without a limit of time.

        Raises:
            EngineError: the engine refused or went away.
        """
        timeout = None if patient else _USUAL_SECONDS
        try:
            _knock(self.settings, timeout)
            with _client(self.settings, self.api, timeout) as client:
                yield client
        except (DockerException, requests.RequestException, HTTPError, OSError) as error:
            root = self.root if "info" in self.__dict__ else None  # asking would come here again
            raise talk_fault(error, str(self), doing, root) from None

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the engine says of itself (``docker info``).

        Raises:
            EngineError: it does not answer.
        """
        with self.talk("tell about itself") as client:
            found: dict[str, Any] = client.info()
            return found

    @property
    def containerd_store(self) -> bool:
        """Whether images are kept by containerd, where an image's id is its manifest's digest."""
        if self.podman:
            return False
        status = self.info.get("DriverStatus") or []
        return ["driver-type", "io.containerd.snapshotter.v1"] in [list(item) for item in status]

    @property
    def root(self) -> str | None:
        """The folder where the engine keeps its images, if it is on this machine."""
        found = self.info.get("DockerRootDir")
        return found if self.host.startswith("unix:") and isinstance(found, str) else None

    @property
    def known_root(self) -> str | None:
        """The same, or None if the engine does not say, as one that has just died."""
        with suppress(EngineError):
            return self.root
        return None

    def untag(self, name: str) -> None:
        """Take a name away from its image, and with its last name the image; no name, no error.

        Raises:
            EngineError: the engine refuses.
        """
        with self.talk(f"remove the name {name}") as client, suppress(NotFound):
            client.remove_image(name)


def connect() -> Daemon:
    """Connect to the engine.

    Raises:
        EngineError: none answers, this user may not use it, TLS fails, it is too old, or what
            answers is something else.
    """
    place = _place()
    try:
        return _greet(place, _USUAL_SECONDS)
    except (DockerException, requests.RequestException, HTTPError, OSError) as error:
        raise _fault(error, place) from None


def find() -> Daemon | None:
    """Connect to the engine if one answers.

    Returns:
        The engine, or None if nothing answers at its address.

    Raises:
        UnusableError: this user may not use it, or it is too old.
        EngineError: something answers, but it cannot be used (see :func:`connect`).
    """
    place = _place()
    try:
        return _greet(place, _QUICK_SECONDS)
    except (DockerException, requests.RequestException, HTTPError, OSError) as error:
        if absent(error):
            return None
        raise _fault(error, place) from None


@dataclass(frozen=True)
class _Place:
    """Where the engine is looked for, and who said so."""

    settings: dict[str, Any]
    child_env: dict[str, str]
    chosen: bool

    @property
    def host(self) -> str:
        """The address without what is secret in it."""
        address = str(self.settings.get("base_url") or _SOCKET).removeprefix("http+")
        return _PASSWORD.sub("//", address)


def _place() -> _Place:
    if os.environ.get("DOCKER_HOST"):
        names = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION")
        child = {name: os.environ[name] for name in names if name in os.environ}
        try:
            return _Place(dict(kwargs_from_env()), child, True)
        except DockerException as error:
            place = _Place({"base_url": os.environ["DOCKER_HOST"]}, child, True)
            raise connect_fault(error, place.host, default=False) from None
    name = os.environ.get("DOCKER_CONTEXT") or None
    try:
        context = ContextAPI.get_context(name)
    except (DockerException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = type(error).__name__
        raise EngineError(
            f"the docker context {name or '(current)'} cannot be read: {problem}",
            "look at it with docker context inspect, or set DOCKER_HOST",
        ) from None
    if context is None:
        raise EngineError(
            f"there is no docker context {name or '(current)'}",
            "list them with docker context ls, or set DOCKER_HOST",
        )
    if context.name == "default" or not context.Host:
        return _Place({"base_url": _SOCKET}, {"DOCKER_HOST": _SOCKET}, False)
    settings: dict[str, Any] = {"base_url": context.Host}
    if context.TLSConfig is not None:
        settings["tls"] = context.TLSConfig
    return _Place(settings, {"DOCKER_CONTEXT": context.name}, True)


@contextmanager
def _client(
    settings: Mapping[str, Any], api: str, timeout: float | None
) -> Iterator[docker.APIClient]:
    """A docker-py client whose connections are closed at the end, answers half read or not."""
    wanted: dict[str, Any] = {**settings, "version": api, "timeout": timeout}
    if str(settings.get("base_url")).startswith("ssh://"):
        wanted["use_ssh_client"] = True
    client = docker.APIClient(**wanted)
    # REQUESTS_CA_BUNDLE would else replace the engine's own CA, and a web proxy be asked for it.
    client.trust_env = False
    answers: list[requests.Response] = []

    def keep(answer: requests.Response, *_args: object, **_more: object) -> None:
        answers.append(answer)
        try:
            answer.raise_for_status()  # docker-py overlooks errors that come in several chunks
        except requests.HTTPError as error:
            create_api_error_from_http_exception(error)

    client.hooks["response"].append(keep)
    try:
        yield client
    finally:
        for answer in answers:
            answer.close()
        client.close()


def _greet(place: _Place, timeout: float) -> Daemon:
    """Ask for the version, and agree on that of the API."""
    _knock(place.settings, timeout)
    with _client(place.settings, MINIMUM_API, timeout) as client:
        try:
            version: Any = client.version(api_version=False)
        except (APIError, requests.exceptions.InvalidJSONError, KeyError, TypeError):
            raise not_docker(place.host) from None
    offered = version.get("ApiVersion") if isinstance(version, dict) else None
    if not isinstance(offered, str) or not _API.fullmatch(offered):
        raise not_docker(place.host)
    listed = version.get("Components")
    parts = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    podman = [item.get("Version") for item in parts if item.get("Name") == _PODMAN]
    number = str(version.get("Version", "")).partition("+")[0]
    name = f"Podman {podman[0]}" if podman else f"Docker Engine {number}"
    if _numbers(offered) < _numbers(MINIMUM_API):
        raise UnusableError(
            f"{name} at {place.host} is too old: it speaks API {offered}, "
            f"imagekit needs {MINIMUM_API} (Docker Engine 17.05) or later",
            "upgrade the engine, or do without one: --engine assemble",
        )
    if version.get("Os", "linux") != "linux":
        raise EngineError(
            f"{name} at {place.host} runs {version['Os']} containers",
            "switch it to Linux containers",
        )
    # What we know, unless it is newer than the engine or the engine has given it up.
    known = min(offered, DEFAULT_DOCKER_API_VERSION, key=_numbers)
    oldest = version.get("MinAPIVersion")
    given = isinstance(oldest, str) and _API.fullmatch(oldest)
    api = max(known, oldest, key=_numbers) if given else known
    return Daemon(name, api, place.host, bool(podman), place.settings, place.child_env)


def _knock(settings: Mapping[str, Any], timeout: float | None) -> None:
    """See whether a socket on this machine takes connections; raises OSError.

    docker-py would leave its own half of one that does not to the garbage collector.
    """
    scheme, _, path = str(parse_host(settings["base_url"])).partition("://")
    if scheme == "http+unix":
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(timeout)
            probe.connect(path)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _fault(error: BaseException, place: _Place) -> EngineError:
    if isinstance(error, DockerException) and "paramiko" in str(error):
        return EngineError(
            f"{place.host} cannot be reached: docker-py needs paramiko for ssh",
            "pip install paramiko, or forward the socket: ssh -L /tmp/d.sock:/var/run/docker.sock",
        )
    if isinstance(error, DockerException) and "bind address" in str(error):
        return EngineError(
            f"{place.host!r} is no address of a container engine",
            "correct DOCKER_HOST: unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST",
        )
    fault = connect_fault(error, place.host, default=not place.chosen)
    other = _podman_socket()
    if not place.chosen and other is not None and absent(error):
        return EngineError(fault.problem, f"Podman is here: set DOCKER_HOST=unix://{other}")
    return fault


def _podman_socket() -> Path | None:
    """The socket of a Podman service on this machine, if there is one."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    places = [Path("/run/podman/podman.sock")]
    if own:
        places.insert(0, Path(own) / "podman" / "podman.sock")
    try:
        return next((path for path in places if path.is_socket()), None)
    except OSError:
        return None
