"""Answering a registry that asks who we are (distribution's token specification, RFC 6750, 7617).

A registry answers 401 and says in ``WWW-Authenticate`` how to log in: with ``Basic``, or with a
``Bearer`` token that another server gives out for a scope. Tokens are kept until they expire.
"""

import base64
import json
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from urllib.parse import urlencode

from imagekit.errors import EngineError
from imagekit.images.registry.answer import Answer
from imagekit.images.registry.credentials import Credentials, find_credentials
from imagekit.images.registry.failures import (
    raise_if_passing,
    shown_url,
    status_failure,
)
from imagekit.images.registry.transport import Transport

Scopes = tuple[str, ...]
"""What a request needs: ``repository:NAME:pull`` and the like, sorted."""

_DEFAULT_LIFE = 60.0
_LONGEST_LIFE = 86400
_LONGEST_HEADER = 4096
_CHALLENGE = re.compile(
    r'(?<![A-Za-z])(?P<scheme>[A-Za-z]{1,32})\s+(?P<values>(?:[\w-]+\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s,"]+)(?:\s*,\s*)?)+)'
)
_VALUE = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN = re.compile(r"[\x21-\x7e]+")


def pull_scope(repository: str) -> str:
    """The scope for reading a repository."""
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    """The scope for reading and writing a repository."""
    return f"repository:{repository}:pull,push"


@dataclass(frozen=True)
class _Challenge:
    """How to log in: "basic", or "bearer" with the server that gives out tokens."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


class Auth:
    """What is known of logging in at one registry; may be used from several threads.

    Args:
        host: the registry as references name it.
        transport: reaches the server that gives out tokens.
    """

    def __init__(self, host: str, transport: Transport) -> None:
        self._host = host
        self._transport = transport
        self._challenge: _Challenge | None = None
        self._extra: dict[Scopes, Scopes] = {}
        self._tokens: dict[Scopes, tuple[str, float]] = {}
        self._asking: defaultdict[Scopes, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._looked_up = False
        self._credentials: Credentials | None = None

    @property
    def who(self) -> str:
        """Whose credentials are sent, for people."""
        if self._challenge is None:
            return "no login was asked for"
        found = self._own()
        return f"sent: {found.who}" if found else "nobody is logged in"

    def header(self, scopes: Scopes) -> str | None:
        """Give the ``Authorization`` header for a request; None where none is wanted so far.

        Raises:
            PassingError: the server that gives out tokens is in trouble.
            EngineError: it gives none.
            InputError: Docker's configuration is unusable.
        """
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            own = self._own()
            return _basic(own) if own and not own.is_token else None
        with self._lock:
            asking = self._asking[scopes]
        with asking:
            token, expires = self._tokens.get(scopes, ("", 0.0))
            if time.monotonic() >= expires:
                token, life = self._fetch(challenge, scopes)
                self._tokens[scopes] = token, time.monotonic() + life - min(10.0, life / 4)
        return f"Bearer {token}"

    def learn(self, answer: Answer, scopes: Scopes) -> None:
        """Take in a 401: how to log in; a token that was sent is not used again."""
        challenge = _strongest(answer.headers.get("WWW-Authenticate", ""))
        if challenge is None:
            return
        with self._lock:
            self._challenge = challenge
            self._tokens.pop(scopes, None)
            self._extra[scopes] = tuple(challenge.scope.split())

    def _own(self) -> Credentials | None:
        with self._lock:
            if not self._looked_up:
                self._credentials = find_credentials(self._host)
                self._looked_up = True
            return self._credentials

    def _fetch(self, challenge: _Challenge, scopes: Scopes) -> tuple[str, float]:
        """Get a token and the seconds it lives."""
        own = self._own()
        wanted = sorted({*scopes, *self._extra.get(scopes, ())})
        if own and own.is_token:
            form = {
                "grant_type": "refresh_token",
                "service": challenge.service,
                "client_id": "imagekit",
                "scope": " ".join(wanted),
                "refresh_token": own.secret,
            }
            answer = self._transport.send(
                "POST",
                challenge.realm,
                {"Content-Type": "application/x-www-form-urlencoded"},
                urlencode(form).encode(),
            )
        else:
            query = [("scope", scope) for scope in wanted]
            if challenge.service:
                query.insert(0, ("service", challenge.service))
            if own:
                query.append(("account", own.user))
            separator = "&" if "?" in challenge.realm else "?"
            url = f"{challenge.realm}{separator}{urlencode(query)}"
            answer = self._transport.send("GET", url, {}, None, _basic(own) if own else None)
        raise_if_passing(answer, self._host)
        if answer.status != 200:
            raise status_failure(answer, f"log in at {self._host}", self.who, self._host)
        return _token(answer)


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.user}:{credentials.secret}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def _token(answer: Answer) -> tuple[str, float]:
    try:
        value = json.loads(answer.body)
        token = value.get("token") or value.get("access_token")
        life = value.get("expires_in")
    except (ValueError, RecursionError, AttributeError):
        token = life = None
    # What is no token never becomes part of a message: it may be one nevertheless.
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise EngineError(
            f"{shown_url(answer.url)} gives no token", "ask who runs the registry; try again later"
        )
    if not isinstance(life, int) or life <= 0:
        return token, _DEFAULT_LIFE
    return token, float(min(life, _LONGEST_LIFE))


def _strongest(header: str) -> _Challenge | None:
    """The challenge to answer: Bearer where it is offered, else Basic."""
    header = header[:_LONGEST_HEADER]  # whoever sends more has nothing honest to say
    found: dict[str, _Challenge] = {}
    for match in _CHALLENGE.finditer(header):
        values = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain
            for name, quoted, plain in _VALUE.findall(match["values"])
        }
        scheme = match["scheme"].lower()
        found[scheme] = _Challenge(
            scheme,
            values.get("realm", ""),
            values.get("service", ""),
            values.get("scope", ""),
        )
    if "bearer" in found and found["bearer"].realm:
        return found["bearer"]
    return found.get("basic") or (_Challenge("basic") if header.lower() == "basic" else None)
