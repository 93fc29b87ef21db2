"""What a real engine cannot be made to do on demand: bad answers, and a connection that breaks."""

import itertools
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Answer = tuple[int, Sequence[bytes]]
"""A status and the pieces of a body, sent in chunks."""


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def _served(server: _Server) -> Iterator[None]:
    try:
        with server:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            try:
                yield
            finally:
                server.shutdown()
    finally:
        Path(str(server.server_address)).unlink(missing_ok=True)


class FakeEngine:
    """A server on a unix socket whose answers a test chooses.

    Args:
        socket_path: where it listens.
        answers: pattern of "METHOD path" (without the API version) to answer, or to a function
            of the request's body; the first that fits counts. Nothing fits: 404.
    """

    def __init__(
        self, socket_path: Path, answers: dict[str, Answer | Callable[[bytes], Answer]]
    ) -> None:
        self.host = f"unix://{socket_path}"
        self.requests: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                path = re.sub(r"^/v[0-9.]+", "", self.path)
                fake.requests.append(f"{self.command} {path}")
                body = self._body()
                asked = f"{self.command} {path}"
                fitting = (made for pattern, made in answers.items() if re.match(pattern, asked))
                answer = next(fitting, (404, [b'{"message":"page not found"}']))
                self._send(*(answer(body) if callable(answer) else answer))

            do_GET = do_POST = do_PUT = do_DELETE = _answer

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _send(self, status: int, pieces: Sequence[bytes]) -> None:
                self.send_response(status)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in pieces:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")

            def address_string(self) -> str:
                return "client"

            def log_message(self, format: str, *args: Any) -> None:
                return None

        self._server = _Server(str(socket_path), Handler)

    @contextmanager
    def serving(self) -> Iterator["FakeEngine"]:
        """Serve meanwhile."""
        with _served(self._server):
            yield self


class CuttingProxy:
    """Passes on what goes between client and engine, counts it, and can break the connection.

    Attributes:
        host: its address.
        up: bytes from the client.
        cut: how many bytes of answers, or of requests (``cut_up``), to let through, None for all.
        record: folder that gets a file with the client's bytes per connection, or None.
    """

    def __init__(self, socket_path: Path, engine: Path) -> None:
        self.host = f"unix://{socket_path}"
        self.up = 0
        self.cut: int | None = None
        self.cut_up: int | None = None
        self.record: Path | None = None
        self._numbers = itertools.count()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.socket(socket.AF_UNIX) as other, suppress(OSError):
                    other.connect(str(engine))
                    thread = threading.Thread(
                        target=proxy._pass, args=(self.request, other, True), daemon=True
                    )
                    thread.start()
                    proxy._pass(other, self.request, False)
                    thread.join()

        self._server = _Server(str(socket_path), Handler)

    def _pass(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        seen = 0
        with ExitStack() as stack, suppress(OSError):
            log = None
            if up and self.record is not None:
                log = stack.enter_context((self.record / str(next(self._numbers))).open("wb"))
            while data := source.recv(65536):
                if log is not None:
                    log.write(data)
                seen += len(data)
                self.up += len(data) if up else 0
                limit = self.cut_up if up else self.cut
                if limit is not None and seen > limit:
                    break
                target.sendall(data)
            else:
                target.shutdown(socket.SHUT_WR)
                return
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def serving(self) -> Iterator["CuttingProxy"]:
        """Serve meanwhile."""
        with _served(self._server):
            yield self
