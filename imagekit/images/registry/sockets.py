"""Connections that can be cut from another thread."""

import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection


class Sockets:
    """The connections of a transport: urllib3 has no way to end a request from another thread.

    Attributes:
        pools: what urllib3 makes them with.
    """

    def __init__(self) -> None:
        self._live: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._cut = False
        opened = self._opened

        class Plain(HTTPConnection):
            def connect(self) -> None:
                opened(self, super().connect)

        class Tls(HTTPSConnection):
            def connect(self) -> None:
                opened(self, super().connect)

        class PlainPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Plain

        class TlsPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Tls

        self.pools = {"http": PlainPool, "https": TlsPool}

    def cut(self) -> None:
        """Cut all connections; none is made any more."""
        with self._lock:
            self._cut = True
            live = list(self._live)
        for connection in live:
            found = getattr(connection.sock, "socket", connection.sock)  # TLS within TLS
            if isinstance(found, socket.socket):  # else it is not connected
                with suppress(OSError):
                    # TLS's own shutdown() would let another thread send in clear for a moment.
                    socket.socket.shutdown(found, socket.SHUT_RDWR)

    def _opened(self, connection: HTTPConnection, connect: Callable[[], None]) -> None:
        with self._lock:
            self._live.add(connection)
        self._check()
        connect()
        self._check()

    def _check(self) -> None:
        with self._lock:
            if self._cut:
                raise ConnectionAbortedError("given up")
