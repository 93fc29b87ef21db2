"""What goes wrong between us and a registry, said for people."""

import email.utils
import json
import re
import socket
import ssl
import time
from urllib.parse import urlsplit

from urllib3 import exceptions as http

from imagekit import errors
from imagekit.errors import EngineError
from imagekit.images.registry.answer import Answer
from imagekit.images.registry.retry import PassingError

PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""The HTTP statuses after which another try may go better (RFC 9110, 15.5 and 15.6; RFC 6585)."""

_NETWORK_HINT = "check the network; behind a proxy, set http_proxy, https_proxy and no_proxy"
_AGAIN = "try again; what is there already is not sent or fetched again"
_PLAIN = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
_UNKNOWN_CA = {18, 19, 20, 21}
_EXPIRED, _NOT_YET = 10, 9
_WRONG_NAME = {62, 64}
_LONGEST = 200
_NO_SPACE = re.compile(r"quota|no space|insufficient.storage|upper limit|storage limit", re.I)
_IMMUTABLE = re.compile(
    r"immutab|already.?exists|cannot be overwritten|TAG_INVALID|is locked|disallowed", re.I
)


class DeniedError(EngineError):
    """The registry wants other credentials, or refuses these (401 or 403)."""


class NoTlsError(EngineError):
    """The server does not speak TLS."""


class RefusedError(PassingError):
    """Nobody listens at the port."""


def shown_url(url: str) -> str:
    """The URL for a message: without user, query and fragment, which may hold secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the server's URL"
    return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")


def printable(text: object) -> str:
    """Text of a server for a message: one line, printable, cut short."""
    found = " ".join(errors.printable(str(text)).split())
    return found if len(found) <= _LONGEST else found[: _LONGEST - 1] + "…"


def network_failure(url: str, error: Exception) -> EngineError:
    """Give the error for a request that got no answer, or only a part of one.

    Args:
        url: where it went.
        error: what urllib3 raised.
    """
    where = shown_url(url)
    if isinstance(error, http.ProxyError):
        said = str(_reason(error))
        found = f": {printable(said)}" if said.startswith("Tunnel connection failed") else ""
        return PassingError(
            f"{where}: the proxy cannot be reached or refuses{found}", _NETWORK_HINT
        )
    if isinstance(error, http.LocationValueError | http.InvalidHeader):
        return EngineError(f"{where}: the server sends us to no usable URL", "check the address")
    reason = _reason(error)
    if isinstance(reason, ssl.SSLError):
        return _tls_failure(where, reason)
    if isinstance(error, http.NameResolutionError):
        if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_AGAIN:
            return PassingError(f"{where}: no name server answers", _NETWORK_HINT)
        return EngineError(f"{where}: no such host", "check the name; " + _NETWORK_HINT)
    if isinstance(error, http.ConnectTimeoutError | http.NewConnectionError):
        text = getattr(reason, "strerror", None) or "no answer"
        kind = RefusedError if isinstance(reason, ConnectionRefusedError) else PassingError
        return kind(f"{where}: cannot be reached: {printable(text)}", _NETWORK_HINT)
    if isinstance(error, http.TimeoutError) or isinstance(reason, TimeoutError):
        return PassingError(f"{where}: the server fell silent", _AGAIN)
    if isinstance(error, http.HTTPError | OSError):
        return PassingError(f"{where}: the connection was cut", _AGAIN)
    return EngineError(f"{where}: the server does not speak HTTP properly", "check the address")


def _reason(error: BaseException) -> BaseException:
    """The innermost exception that urllib3 wrapped."""
    for _ in range(5):
        inner = next(
            (item for item in reversed(error.args) if isinstance(item, BaseException)),
            error.__cause__,
        )
        if inner is None:
            break
        error = inner
    return error


def _tls_failure(where: str, error: ssl.SSLError) -> EngineError:
    hint = "name the CA's bundle with --cacert FILE, or accept the risk with --insecure"
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _WRONG_NAME:
            problem = "the certificate is for another host"
            hint = "use the name in the certificate, or accept the risk with --insecure"
        elif error.verify_code in (_EXPIRED, _NOT_YET):
            problem = "the certificate has expired or is not valid yet"
            hint = "check this machine's clock; else have the certificate renewed"
        elif error.verify_code in _UNKNOWN_CA:
            problem = "the certificate is signed by a CA this machine does not know"
        else:
            problem = f"the certificate is refused: {printable(error.verify_message)}"
        return EngineError(f"{where}: {problem}", hint)
    if error.reason in _PLAIN:
        return NoTlsError(
            f"{where}: the server does not speak TLS, perhaps plain http",
            "plain http is spoken only with --insecure: anyone on the way can change the images",
        )
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return PassingError(f"{where}: the connection was cut", _AGAIN)
    reason = printable(error.reason or "TLS failed").replace("_", " ").lower()
    return EngineError(f"{where}: TLS failed: {reason}", hint)


def codes(answer: Answer) -> list[tuple[str, str]]:
    """Code and message of each error in a registry's answer (distribution-spec, "Error Codes")."""
    try:
        listed = json.loads(answer.body)["errors"]
        return [(str(item.get("code", "")), str(item.get("message", ""))) for item in listed]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return []


def status_failure(answer: Answer, doing: str, who: str, host: str) -> EngineError:
    """Give the error for an answer that is not what was asked for.

    Args:
        answer: the registry's.
        doing: what was tried and where, as in "cannot <doing>: …".
        who: whose credentials were sent, for people.
        host: the registry, as ``docker login`` takes it.
    """
    said = "; ".join(f"{code}: {text}" if text else code for code, text in codes(answer))
    reason = f" ({printable(said)})" if said else ""
    problem = f"cannot {doing}: {shown_url(answer.url)} answers {answer.status}{reason}"
    if answer.foreign:
        return EngineError(problem, _AGAIN)
    if answer.status in (507, 413) or _NO_SPACE.search(said):
        return EngineError(problem, "the registry is full or limits sizes: make room in it")
    if answer.status == 401:
        return DeniedError(f"{problem}; {who}", f"log in with: docker login {host}")
    if answer.status == 403 or any(code == "DENIED" for code, _ in codes(answer)):
        return DeniedError(
            f"{problem}; {who}",
            f"ask for the right to do this, or log in as somebody who has it: docker login {host}",
        )
    if 300 <= answer.status < 400:
        return EngineError(problem, "the registry sends us elsewhere: use its final address")
    if any(code == "NAME_UNKNOWN" for code, _ in codes(answer)):
        return EngineError(
            problem, "check the name; some registries want the repository made first"
        )
    return EngineError(problem, "check the name, and the registry's own log")


def raise_if_passing(answer: Answer, host: str) -> None:
    """Raise for an answer after which another try may go better.

    Raises:
        PassingError: with the wait the server asks for.
    """
    if answer.status not in PASSING:
        return
    said = "; ".join(f"{code}: {text}" for code, text in codes(answer))
    reason = f" ({printable(said)})" if said else ""
    hint = "the registry is in trouble: try again later, or ask who runs it"
    if answer.status == 429:
        hint = f"the registry limits requests: wait, or log in with: docker login {host}"
    wait = retry_after(answer.headers.get("Retry-After"), time.time())
    asks = f", asks to wait {wait:.0f} s" if wait else ""
    where = shown_url(answer.url)
    raise PassingError(f"{where} answers {answer.status}{reason}{asks}", hint, wait)


def retry_after(value: str | None, now: float) -> float:
    """Seconds to wait by a ``Retry-After`` header: a number or a date (RFC 9110, 10.2.3).

    Args:
        value: the header, None if there is none; what is neither counts as none.
        now: seconds since 1970.
    """
    if not value:
        return 0.0
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def tag_is_immutable(answer: Answer) -> bool:
    """Whether an answer to the upload of a manifest says that its tag cannot be moved.

    Registries agree on no code for it: ECR says ``TAG_INVALID`` and "immutable" with 400, Harbor
    ``PRECONDITION`` with 412, others 409 or a text.
    """
    if answer.status not in (400, 403, 405, 409, 412):
        return False
    said = " ".join(f"{code} {text}" for code, text in codes(answer))
    if _NO_SPACE.search(said):
        return False
    return answer.status in (409, 412) or bool(_IMMUTABLE.search(said))
