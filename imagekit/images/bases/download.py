"""Downloading one URL with the standard library: the system's proxies and certificates count."""

import http.client
import os
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

from imagekit import __version__
from imagekit.errors import EngineError, ImagekitError, InputError
from imagekit.files import disk_error
from imagekit.images.bases.trust import CA_HINT
from imagekit.images.progress import NO_PROGRESS, Progress

TIMEOUT_SECONDS = 60.0
"""How long a server may stay silent, for the connection and for every single read."""

NETWORK_HINT = "check the network; behind a proxy, set http_proxy, https_proxy and no_proxy"

_BLOCK = 1 << 20


def download(
    url: str,
    target: Path,
    sha256: str | None,
    progress: Progress = NO_PROGRESS,
    ca_bundle: bytes | None = None,
) -> Path:
    """Download ``url`` to the new file ``target`` and give ``target``.

    Redirects are followed. Plain http, also behind a redirect, is refused without a known hash.
    The hash itself is compared by the caller; certificates of ``ca_bundle`` (PEM) are trusted
    besides the system's.

    Raises:
        EngineError: the server cannot be reached, does not answer properly, or stops in the middle.
        InputError: plain http without a hash, or the file cannot be written.
    """
    _check_scheme(url, url, sha256)
    request = urllib.request.Request(url, headers={"User-Agent": f"imagekit/{__version__}"})  # noqa: S310
    try:
        context = ssl.create_default_context()
        if ca_bundle is not None:
            context.load_verify_locations(cadata=ca_bundle.decode("ascii"))
        response = urllib.request.urlopen(  # noqa: S310 - the scheme was checked
            request, timeout=TIMEOUT_SECONDS, context=context
        )
        with closing(response):
            _check_scheme(response.geturl(), url, sha256)
            _save(response, url, target, progress)
    except ImagekitError:
        raise
    except urllib.error.HTTPError as error:
        with error:
            raise EngineError(
                f"{url}: the server answers {error.code} {_printable(error.reason)}",
                "check the URL; the file may have been moved or removed",
            ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, error) from None
    return target


def wrong_hash(name: str, expected: str, found: str) -> InputError:
    """Give the error for content that is not what the spec or lock names."""
    return InputError(
        f"{name}: expected sha256 {expected}, got {found}",
        "find out which one is right before you change the hash in the project file or the lock",
    )


def _save(response: Any, url: str, target: Path, progress: Progress) -> None:
    announced = response.headers.get("Content-Length")
    total = int(announced) if announced is not None and announced.isdigit() else None
    done = 0
    try:
        output = target.open("xb")
    except OSError as error:
        raise disk_error(error, target, "write") from None
    name = url.partition("?")[0].rpartition("/")[2]
    with output, progress.task(f"download {name}", total) as advance:
        while block := response.read(_BLOCK):
            try:
                output.write(block)
            except OSError as error:
                raise disk_error(error, target, "write") from None
            done += len(block)
            advance(len(block))
    if total is not None and done != total:
        raise EngineError(
            f"{url}: the connection was cut after {done} of {total} bytes", "try again"
        )


def _check_scheme(url: str, asked: str, sha256: str | None) -> None:
    scheme = url.partition(":")[0].lower()
    if scheme == "https" or (scheme == "http" and sha256 is not None):
        return
    raise InputError(
        f"{asked}: {scheme} cannot be trusted without a hash",
        "use https, or give the artifact's sha256",
    )


def _unreachable(url: str, error: Exception) -> EngineError:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return EngineError(f"{url}: certificate check failed: {reason.verify_message}", CA_HINT)
    if isinstance(reason, TimeoutError):
        return EngineError(f"{url}: no answer for {TIMEOUT_SECONDS:.0f} seconds", NETWORK_HINT)
    if isinstance(reason, http.client.IncompleteRead):
        return EngineError(f"{url}: the connection was cut", "try again")
    code = getattr(reason, "errno", None)
    text = os.strerror(code) if isinstance(code, int) and code > 0 else str(reason)
    return EngineError(f"{url}: cannot be reached: {_printable(text)}", NETWORK_HINT)


def _printable(text: object) -> str:
    return "".join(c for c in str(text) if c.isprintable())[:200]
