"""What goes wrong with container engines, said in one line with a hint.

The text of an exception from requests or docker-py is never shown: it holds the request's address,
and that holds the build arguments.
"""

import errno
import re
import shutil
import socket
import ssl
from collections.abc import Iterator

from imagekit.errors import EngineError, printable

TEXT_LIMIT = 600
"""How many characters of an engine's own message are shown; the end is kept."""

NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
"""What engines say of a full disk."""

_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"CERTIFICATE_VERIFY_FAILED|unable to get local issuer|certificate verif\w+ failed"
        r"|signed by unknown authority|certificate signed by unknown"
        r"|PKIX path building failed|self.signed certificate",
        "a proxy re-signs TLS: give its CA certificate as base.ca_bundle in imagekit.yaml",
    ),
    (
        r"requires BuildKit|unknown flag: mount",
        "this step needs BuildKit: install docker-buildx",
    ),
    (
        r"unknown instruction|dockerfile parse error",
        "correct the Dockerfile; here-documents need BuildKit (install docker-buildx)",
    ),
    (
        r"pull access denied|manifest unknown|manifest for .* not found|failed to resolve source"
        r"|repository does not exist|not found: does not exist|unable to copy from source docker"
        r"|short-name resolution|short-name .* did not resolve",
        "check the image that FROM names, log in to its registry (docker login), or load it first",
    ),
    (
        r"Temporary failure (in name resolution|resolving)|Could not resolve|no such host"
        r"|Name or service not known|Network is unreachable|Connection timed out|i/o timeout"
        r"|Could not connect|Failed to connect|connection refused|407 Proxy|proxyconnect"
        r"|Failed to establish a new connection",
        "check the network and DNS of the engine's containers; behind a proxy set http_proxy, "
        "https_proxy and no_proxy",
    ),
)


class RefusedError(EngineError):
    """The engine answered, and what it answered is no."""


class UnusableError(EngineError):
    """There is an engine, but it is not for this user, or too old: one may do without it."""


def engine_text(text: object) -> str:
    """An engine's message as one printable line, its end kept."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= TEXT_LIMIT else "…" + line[-TEXT_LIMIT:]


def hint_for(text: str, root: str | None, otherwise: str) -> str:
    """What to do about an engine's message.

    Args:
        text: the message, or the last lines of a build.
        root: the folder where the engine keeps its images, if known.
        otherwise: the hint for a message that tells nothing.
    """
    if NO_SPACE.search(text):
        return _space(root)
    for pattern, hint in _HINTS:
        if re.search(pattern, text, re.IGNORECASE):
            return hint
    return otherwise


def _space(root: str | None) -> str:
    where = f"where the engine keeps its images ({root})" if root else "where the engine runs"
    free = ""
    if root:
        try:
            free = f"; {shutil.disk_usage(root).free >> 20} MiB are free there"
        except OSError:  # on another machine, or not to be looked at by this user
            free = ""
    return f"make room {where}{free}; docker system df shows what takes it"


def absent(error: BaseException) -> bool:
    """Whether nothing answers at that address, as against something that answers badly."""
    import requests

    if isinstance(error, requests.ConnectTimeout | requests.ReadTimeout):
        return True
    found = _system_error(error)
    return isinstance(
        found, FileNotFoundError | ConnectionRefusedError | socket.gaierror | NotADirectoryError
    ) or (found is not None and found.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH))


def connect_fault(error: BaseException, host: str, *, default: bool) -> EngineError:
    """The error for a connection that did not come about.

    Args:
        error: from requests or docker-py.
        host: the address, as people write it.
        default: whether the address was not chosen but is Docker's own.
    """
    import requests
    from docker.errors import TLSParameterError

    hint = "start the engine (dockerd), or name another with DOCKER_HOST"
    if not default:
        hint = "start the engine there, or correct DOCKER_HOST"
    found = _system_error(error)
    if isinstance(found, PermissionError):
        return UnusableError(
            f"this user may not use the container engine at {host}",
            "add yourself to the group docker (usermod -aG docker NAME, then log in anew), "
            "or do without an engine: --engine assemble",
        )
    if isinstance(error, TLSParameterError):
        return EngineError(
            f"the container engine at {host} cannot be reached over TLS: certificates are missing",
            "DOCKER_CERT_PATH must name a folder with ca.pem, cert.pem and key.pem",
        )
    if isinstance(found, ssl.SSLError) or isinstance(error, requests.exceptions.SSLError):
        reason = getattr(found, "verify_message", "") or getattr(found, "reason", "") or "TLS"
        return EngineError(
            f"the container engine at {host} cannot be reached over TLS: {engine_text(reason)}",
            "check DOCKER_TLS_VERIFY and the certificates in DOCKER_CERT_PATH",
        )
    if isinstance(error, requests.ConnectTimeout | requests.ReadTimeout):
        reason = "no answer in time"
    elif found is not None:
        reason = found.strerror or type(found).__name__
    else:
        return not_docker(host)
    return EngineError(f"no container engine answers at {host}: {engine_text(reason)}", hint)


def not_docker(host: str) -> EngineError:
    """The error for an address where something else answers."""
    return EngineError(
        f"what answers at {host} is no container engine with the Docker API",
        "correct DOCKER_HOST (over TLS also set DOCKER_TLS_VERIFY=1)",
    )


def talk_fault(error: BaseException, who: str, doing: str, root: str | None) -> EngineError:
    """The error for a request that failed although the engine answers.

    Args:
        error: from requests, urllib3 or docker-py.
        who: the engine's name and address.
        doing: what was tried, as in "cannot <doing>".
        root: the folder where the engine keeps its images, if known.
    """
    from docker.errors import APIError

    if isinstance(error, APIError):
        text = engine_text(error.explanation or f"HTTP status {error.status_code}")
        return RefusedError(
            f"{who} cannot {doing}: {text}", hint_for(text, root, "look at the engine's log")
        )
    found = _system_error(error)
    reason = found.strerror if found is not None and found.strerror else "the connection was cut"
    return EngineError(
        f"{who} cannot {doing}: {engine_text(reason)}",
        "check that the engine still runs, then try again",
    )


def _system_error(error: BaseException) -> OSError | None:
    """The operating system's error inside the wrappers of requests and urllib3."""
    return next((found for found in _inside(error) if _is_plain(found)), None)  # type: ignore[return-value]


def _is_plain(error: BaseException) -> bool:
    # requests' own exceptions are OSErrors too, without a number
    return isinstance(error, OSError) and error.errno is not None


def _inside(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting:
        here = waiting.pop(0)
        if id(here) in seen:
            continue
        seen.add(id(here))
        yield here
        more = [*here.args, getattr(here, "reason", None), here.__cause__, here.__context__]
        waiting += [item for item in more if isinstance(item, BaseException)]
