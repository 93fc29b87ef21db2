"""HTTP for registries: connections, TLS, proxies, redirects, time limits; no retries, no tokens.

urllib3 is used bare because requests trusts its own bundle of CAs, takes passwords from ``.netrc``
and decides itself where credentials go after a redirect.
"""

import ssl
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import urljoin, urlsplit

import urllib3
from requests.utils import get_auth_from_url, get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from imagekit import __version__
from imagekit.errors import EngineError
from imagekit.images.oci import DOCUMENT_LIMIT
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.answer import Answer
from imagekit.images.registry.failures import network_failure, printable, shown_url
from imagekit.images.registry.sockets import Sockets
from imagekit.images.registry.tls import tls_context

CONNECT_SECONDS = 20.0
"""How long connecting may take, and taking over one block of an upload."""

SILENCE_SECONDS = 120.0
"""How long a server may stay silent before and within its answer."""

Body = bytes | Callable[[], Iterator[bytes]]
"""The body of a request; the callable is called for each time it is sent."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_BLOCK = 1 << 18
_LOOPBACK = ("localhost", "127.", "::1")


class Download:
    """The body of an answer, which comes in blocks.

    Attributes:
        answer: status and headers.
    """

    def __init__(self, answer: Answer, response: urllib3.BaseHTTPResponse) -> None:
        self.answer = answer
        self._response = response

    def blocks(self) -> Iterator[bytes]:
        """The bytes as they arrive, so that a cut connection loses none of them.

        Raises:
            PassingError: the connection was cut.
        """
        while True:
            try:
                block = self._response.read1(_BLOCK, decode_content=False)
            except (HTTPError, OSError, ValueError) as error:
                raise network_failure(self.answer.url, error) from None
            if not block:
                return
            yield block


class Transport:
    """Sends requests; may be used from several threads.

    Args:
        access: how registries are reached.
    """

    def __init__(self, access: RegistryAccess) -> None:
        self._access = access
        self._managers: dict[tuple[str, str | None], urllib3.PoolManager] = {}
        self._live: set[urllib3.BaseHTTPResponse] = set()
        self._sockets = Sockets()
        self._lock = threading.Lock()
        if access.insecure:  # the user asked for it: nothing to warn of at every request
            warnings.simplefilter("ignore", InsecureRequestWarning)

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None = None,
        authorization: str | None = None,
    ) -> Answer:
        """Send a request and read the answer whole.

        Args:
            method: the HTTP method; only GET and HEAD follow redirects.
            url: where to.
            headers: the headers, without credentials.
            body: the body; a callable needs a Content-Length among the headers.
            authorization: sent to the host of ``url`` alone.

        Raises:
            PassingError: no answer, or not the whole of it.
            EngineError: the host, its certificate or its answer is unusable.
        """
        response, where, foreign = self._open(method, url, headers, body, authorization)
        try:
            return _whole(response, where, foreign)
        finally:
            response.close()

    @contextmanager
    def download(
        self, url: str, headers: Mapping[str, str], authorization: str | None = None
    ) -> Iterator[Download]:
        """Send a GET whose body (with 200 and 206) is read block by block.

        Args:
            url: as for :meth:`send`.
            headers: as for :meth:`send`.
            authorization: as for :meth:`send`.

        Raises:
            PassingError: as for :meth:`send`.
            EngineError: as for :meth:`send`.
        """
        response, where, foreign = self._open("GET", url, headers, None, authorization)
        with self._lock:
            self._live.add(response)
        try:
            if response.status in (200, 206):
                answer = Answer(response.status, response.headers, where, foreign)
            else:
                answer = _whole(response, where, foreign)
            yield Download(answer, response)
        finally:
            with self._lock:
                self._live.discard(response)
            response.close()

    def abort(self) -> None:
        """End the requests that are under way in other threads; nothing is sent any more."""
        self._sockets.cut()
        with self._lock:
            live = list(self._live)
        for response in live:
            with suppress(OSError, ValueError, RuntimeError):
                response.shutdown()

    def _open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        authorization: str | None,
    ) -> tuple[urllib3.BaseHTTPResponse, str, bool]:
        """The answer behind all redirects, its URL, and whether that is another host."""
        asked = origin(url)
        for _ in range(_MOST_REDIRECTS + 1):
            own = authorization if origin(url) == asked else None
            response = self._once(method, url, headers, body, own)
            target = response.headers.get("Location")
            if method not in ("GET", "HEAD") or response.status not in _REDIRECTS or not target:
                return response, url, origin(url) != asked
            response.close()
            url = join(url, target)
        raise EngineError(
            f"{shown_url(url)}: more than {_MOST_REDIRECTS} redirects",
            "check the registry's address",
        )

    def _once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        authorization: str | None,
    ) -> urllib3.BaseHTTPResponse:
        self._check_scheme(url)
        sent = {
            "User-Agent": f"imagekit/{__version__}",
            "Accept-Encoding": "identity",  # digests are over the bytes as they are stored
            **headers,
        }
        if authorization is not None:
            sent["Authorization"] = authorization
        try:
            return self._manager(url).request(
                method,
                url,
                body=body() if callable(body) else body,
                headers=sent,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=SILENCE_SECONDS),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError, ValueError) as error:
            # The exception itself may quote headers, so it is not chained.
            raise network_failure(url, error) from None

    def _check_scheme(self, url: str) -> None:
        scheme = url.partition(":")[0].lower()
        if scheme == "https" or (scheme == "http" and self._access.insecure):
            return
        if scheme == "http":
            raise EngineError(
                f"{shown_url(url)}: the registry sends us to plain http",
                "correct the address it gives itself (behind a proxy X-Forwarded-Proto), or accept "
                "the risk with --insecure",
            )
        raise EngineError(f"the registry sends us to a {printable(scheme)} URL", "ask who runs it")

    def _manager(self, url: str) -> urllib3.PoolManager:
        """The connections to the URL's host."""
        proxy = _proxy_for(url)
        key = (origin(url), proxy)
        with self._lock:
            if key not in self._managers:
                context = None
                if url.lower().startswith("https:"):
                    context = tls_context(urlsplit(url).netloc.rpartition("@")[2], self._access)
                if proxy is None:
                    made = urllib3.PoolManager(maxsize=16, ssl_context=context)
                else:
                    made = _through(proxy, context)
                made.pool_classes_by_scheme = self._sockets.pools
                self._managers[key] = made
            return self._managers[key]


def join(url: str, target: str) -> str:
    """The URL that a server's ``Location`` names.

    Args:
        url: the URL that was asked.
        target: the header; may be relative.

    Raises:
        EngineError: it is no URL.
    """
    try:
        return urljoin(url, target)
    except ValueError:
        raise EngineError(
            f"{shown_url(url)} sends us to a URL that is none", "ask who runs it"
        ) from None


def origin(url: str) -> str:
    """Scheme, host and port of a URL, the port always there."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise EngineError(
            "the registry sends us to a URL that is none", "ask who runs it"
        ) from None
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _whole(response: urllib3.BaseHTTPResponse, url: str, foreign: bool) -> Answer:
    try:
        body = response.read(DOCUMENT_LIMIT + 1, decode_content=False)
    except (HTTPError, OSError, ValueError) as error:
        raise network_failure(url, error) from None
    if len(body) > DOCUMENT_LIMIT:
        raise EngineError(
            f"{shown_url(url)}: an answer of more than {DOCUMENT_LIMIT} bytes",
            "check that the address is that of a registry",
        )
    return Answer(response.status, response.headers, url, foreign, body)


def _proxy_for(url: str) -> str | None:
    """The proxy the environment names; none for this machine itself, as Docker does it."""
    host = urlsplit(url).hostname or ""
    if host.startswith(_LOOPBACK):
        return None
    found: str | None = select_proxy(url, get_environ_proxies(url, no_proxy=None))
    return found and (found if "://" in found else f"http://{found}")


def _through(proxy: str, context: ssl.SSLContext | None) -> urllib3.ProxyManager:
    parts = urlsplit(proxy)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.scheme not in ("http", "https"):
        raise EngineError(
            f"the proxy {printable(address)} speaks {printable(parts.scheme)}",
            "name an http or https proxy in https_proxy",
        )
    user, password = get_auth_from_url(proxy)
    headers = urllib3.make_headers(proxy_basic_auth=f"{user}:{password}") if user else None
    return urllib3.ProxyManager(address, proxy_headers=headers, maxsize=16, ssl_context=context)
