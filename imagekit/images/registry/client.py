"""One registry: its requests and answers (OCI distribution-spec 1.1)."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from imagekit.errors import EngineError
from imagekit.images.oci import INDEX_TYPES, MANIFEST_TYPES
from imagekit.images.references import DOCKER_HUB
from imagekit.images.registry import retry
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.answer import Answer
from imagekit.images.registry.auth import Auth, Scopes
from imagekit.images.registry.failures import (
    NoTlsError,
    RefusedError,
    codes,
    raise_if_passing,
    shown_url,
    status_failure,
)
from imagekit.images.registry.retry import retrying
from imagekit.images.registry.transport import Body, Download, Transport, join, origin

_HUB_API = "registry-1.docker.io"
_ACCEPT = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
_FIRST_DELAYS = 1


class RegistryClient:
    """A registry; may be used from several threads. It is first spoken to when it is needed.

    Args:
        host: the registry as references name it.
        access: how it is reached.

    Attributes:
        host: the registry.
        stop: set to end waits for further tries.
    """

    def __init__(self, host: str, access: RegistryAccess) -> None:
        self.host = host
        self.stop = threading.Event()
        self._access = access
        self._transport = Transport(access)
        self._auth = Auth(host, self._transport)
        self._lock = threading.Lock()
        self._root = ""

    def abort(self) -> None:
        """End requests and waits in other threads; none begins: nobody needs the work any more."""
        self.stop.set()
        self._transport.abort()

    def call(
        self,
        method: str,
        path: str,
        scopes: Scopes,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Answer:
        """Send a request once, logging in where that is wanted.

        Args:
            method: the HTTP method.
            path: what follows ``/v2/``, or a whole URL that the registry gave.
            scopes: what the request needs.
            headers: further headers.
            body: the body.

        Raises:
            PassingError: another try may go better.
            EngineError: the registry cannot be reached.
            InputError: Docker's configuration is unusable.
        """
        url = self._url(path)
        answer = self._transport.send(
            method, url, headers or {}, body, self._authorization(url, scopes)
        )
        # What the registry redirects to has no say in how to log in here.
        if answer.status == 401 and not answer.foreign and self._ours(url):
            self._auth.learn(answer, scopes)
            answer = self._transport.send(
                method, url, headers or {}, body, self._authorization(url, scopes)
            )
        raise_if_passing(answer, self.host)
        return answer

    @contextmanager
    def download(self, path: str, scopes: Scopes, headers: Mapping[str, str]) -> Iterator[Download]:
        """As :meth:`call` for a GET whose body is read block by block.

        Args:
            path: as for :meth:`call`.
            scopes: as for :meth:`call`.
            headers: as for :meth:`call`.

        Raises:
            PassingError: as for :meth:`call`.
            EngineError: as for :meth:`call`.
            InputError: as for :meth:`call`.
        """
        url = self._url(path)
        for last in (False, True):
            authorization = self._authorization(url, scopes)
            with self._transport.download(url, headers, authorization) as download:
                if download.answer.status == 401 and not last and not download.answer.foreign:
                    self._auth.learn(download.answer, scopes)
                    continue
                raise_if_passing(download.answer, self.host)
                yield download
                return

    def manifest(self, method: str, repository: str, which: str, scopes: Scopes) -> Answer:
        """GET or HEAD a manifest or index ("Pulling manifests"), with tries.

        Args:
            method: GET or HEAD.
            repository: the repository.
            which: a tag or digest.
            scopes: what the request needs.

        Raises:
            EngineError: the registry failed; an answer that says no comes back as it is.
        """
        return retrying(
            lambda: self.call(
                method, f"{repository}/manifests/{which}", scopes, {"Accept": _ACCEPT}
            ),
            self.stop,
        )

    def failure(self, answer: Answer, doing: str) -> EngineError:
        """Give the error for an answer that is not what was asked for.

        Args:
            answer: the registry's.
            doing: what was tried, as in "cannot <doing>: …".
        """
        return status_failure(answer, doing, self._auth.who, self.host)

    def _authorization(self, url: str, scopes: Scopes) -> str | None:
        return self._auth.header(scopes) if self._ours(url) else None

    def _ours(self, url: str) -> bool:
        return origin(url) == origin(self._root)

    def _url(self, path: str) -> str:
        with self._lock:
            if not self._root:
                delays = retry.DELAYS[:_FIRST_DELAYS]  # a mistyped host is told soon
                self._root = retrying(self._find, self.stop, delays)
        return join(self._root, path)

    def _find(self) -> str:
        """The root of the API, after a look whether a registry is there ("Determining Support")."""
        api = _HUB_API if self.host == DOCKER_HUB else self.host
        try:
            return self._look(f"https://{api}/v2/")
        except (NoTlsError, RefusedError):  # after other failures https may be right
            if not self._access.insecure:
                raise
        return self._look(f"http://{api}/v2/")

    def _look(self, root: str) -> str:
        answer = self._transport.send("GET", root, {})
        raise_if_passing(answer, self.host)
        self._check_registry(answer)
        if answer.status == 401 and not answer.foreign:
            self._auth.learn(answer, ())
        return root

    def _check_registry(self, answer: Answer) -> None:
        page = answer.headers.get("Content-Type", "").lower().startswith("text/html")
        speaks = "Docker-Distribution-Api-Version" in answer.headers
        if answer.status == 401 and "WWW-Authenticate" in answer.headers:
            return
        if answer.status == 200 and (speaks or not page):
            return
        if answer.status in (401, 403) and (speaks or codes(answer)):
            raise self.failure(answer, f"use the registry {self.host}")
        raise EngineError(
            f"{shown_url(answer.url)}: no container registry answers there, but "
            + ("a web page" if page else f"status {answer.status}"),
            "check the host and port of the image's name",
        )
