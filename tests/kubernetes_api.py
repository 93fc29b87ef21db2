"""A small Kubernetes API server for tests: it keeps what is posted, and tells whoever watches.

What the clients in Spark (3.1 to 4.3) and Flink (1.16 to 1.20) ask of it is there: create, read,
list with label selectors, watch, replace, patch (merge, JSON, apply), delete, for any kind. Nothing
is checked and nothing is run; :mod:`kubernetes_agent` runs pods where a test wants that.

    with KubernetesApi() as api:
        ...  # --master k8s://{api.url}
        pod = api.wait_for("pods", 1)[0]
"""

import copy
import json
import re
import select
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from kubernetes_objects import Object, Target, listed, merged, patched, selector, status

__all__ = ["KubernetesApi", "make_certificate"]

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/[^/]+(?:/namespaces/(?P<namespace>[^/]+)(?=/.))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<part>[a-z]+))?)?/?"
)
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class KubernetesApi:
    """The server; a context manager that stops it.

    Attributes:
        url: where it listens, on 127.0.0.1.
        posted: all that was created, in order: plural and object as it was sent.
        authorization: each value of the header Authorization that came.
        requests: what a role would have to allow: verb, group, resource.
    """

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.posted: list[tuple[str, Object]] = []
        self.authorization: set[str] = set()
        self.requests: set[tuple[str, str, str]] = set()
        self._objects: dict[Target, Object] = {}
        self._events: list[tuple[int, str, Target, Object]] = []
        self._version = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.api = self
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_for(self, plural: str, count: int, seconds: float = 60) -> list[Object]:
        """Give what was posted of a kind, once there are `count`; fails after `seconds`."""

        def found() -> list[Object]:
            return [body for name, body in self.posted if name == plural]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= count, seconds)
            assert len(found()) >= count, f"{len(found())} {plural}, not {count}"
            return copy.deepcopy(found())

    def objects(self, plural: str) -> list[Object]:
        """Give the objects of a kind that are there now."""
        with self._changed:
            return [copy.deepcopy(o) for key, o in self._objects.items() if key.plural == plural]

    def create(self, plural: str, body: Object, namespace: str = "default") -> Object:
        """Put an object in, as if it were posted."""
        with self._changed:
            name = body["metadata"].get("name")
            if name is None:
                name = f"{body['metadata']['generateName']}{self._version + 1:05d}"
            self.posted.append((plural, copy.deepcopy(body)))
            new = copy.deepcopy(body)
            new["metadata"] |= {
                "name": name,
                "namespace": namespace,
                "uid": f"00000000-0000-4000-8000-{self._version + 1:012d}",
                "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            if plural == "pods":
                new.setdefault("status", {"phase": "Pending"})
            return self._store("ADDED", Target(namespace, plural, name), new)

    def change(self, plural: str, name: str, patch: Object, namespace: str = "default") -> None:
        """Merge `patch` into an object; nothing happens if it is gone."""
        key = Target(namespace, plural, name)
        with self._changed:
            if key in self._objects:
                self._store("MODIFIED", key, merged(self._objects[key], patch))

    def _store(self, event: str, key: Target, new: Object) -> Object:
        self._version += 1
        new["metadata"]["resourceVersion"] = str(self._version)
        if event == "DELETED":
            del self._objects[key]
        else:
            self._objects[key] = new
        self._events.append((self._version, event, key, copy.deepcopy(new)))
        self._changed.notify_all()
        return copy.deepcopy(new)

    def answer(
        self, method: str, target: Target, query: dict[str, str], kind: str, body: Any
    ) -> tuple[int, Object]:
        """Do what a request other than a watch asks for."""
        with self._changed:
            matched = selector(query)
            found = {
                key: value
                for key, value in self._objects.items()
                if target.holds(key) and matched(value)
            }
            if method == "POST":
                key = target._replace(name=body["metadata"].get("name"))
                if key.name is not None and key in self._objects:
                    return 409, status(409, "AlreadyExists")
                return 201, self.create(target.plural, body, target.namespace)
            if method == "PATCH" and kind.startswith("application/apply-patch") and not found:
                return 201, self.create(target.plural, body, target.namespace)
            if target.name is None and method == "GET":
                return 200, listed(target.plural, list(found.values()), self._version)
            if not found and target.plural == "namespaces":
                return 200, {
                    "kind": "Namespace",
                    "apiVersion": "v1",
                    "metadata": {"name": target.name},
                }
            if target.name is not None and not found:
                return 404, status(404, "NotFound")
            if method == "DELETE":
                for key, value in found.items():
                    self._store("DELETED", key, copy.deepcopy(value))
                return 200, status(200, "")
            ((key, value),) = found.items()
            if method == "PUT":
                kept = {"uid": value["metadata"]["uid"]}
                value = merged(body, {"metadata": kept})
            elif method == "PATCH":
                value = patched(value, body)
            return 200, self._store("MODIFIED", key, value) if method != "GET" else value

    def events(
        self, target: Target, query: dict[str, str], send: Callable[[Object | None], None]
    ) -> None:
        """Send each event to a watcher, and None now and then, until it or the server ends."""
        matched = selector(query)
        since = int(query.get("resourceVersion") or 0)
        while True:
            with self._changed:
                if self._stopped:
                    return
                new = [event for event in self._events if event[0] > since]
                if not new:
                    self._changed.wait(0.2)
                since = max([since, *(event[0] for event in new)])
            for _, name, key, value in new:
                if target.holds(key) and matched(value):
                    send({"type": name, "object": value})
            send(None)


def make_certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """Make a server's certificate for host names and 127.0.0.1; gives it and its key, as files."""
    certificate, key = folder / "api.crt", folder / "api.key"
    known = ",".join(["subjectAltName=IP:127.0.0.1", *(f"DNS:{name}" for name in names)])
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=kubernetes", "-addext", known, "-keyout", str(key)]
    subprocess.run([*command, "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: KubernetesApi


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        if "Authorization" in self.headers:
            self.server.api.authorization.add(self.headers["Authorization"])
        found = _PATH.fullmatch(address.path)
        body = self._body()
        if found is not None:
            self.server.api.requests.add(self._wanted(found, query))
        if self.headers.get("Upgrade", "").lower() == "websocket":
            # The clients want 200 or 503 here to go on without a web socket.
            self.close_connection = True
            self._send(200, {})
        elif address.path == "/version":
            self._send(200, {"major": "1", "minor": "31", "gitVersion": "v1.31.0"})
        elif found is None:
            self._send(404, status(404, "NotFound"))
        else:
            target = Target(found["namespace"] or "", found["plural"], found["name"])
            if query.get("watch") in ("true", "1"):
                self._watch(target, query)
            else:
                kind = self.headers.get("Content-Type", "")
                self._send(*self.server.api.answer(self.command, target, query, kind, body))

    def _wanted(self, found: re.Match[str], query: dict[str, str]) -> tuple[str, str, str]:
        """Verb, group and resource of a request, as Kubernetes' authorization has them."""
        verb = _VERBS[self.command]
        if query.get("watch") in ("true", "1"):
            verb = "watch"
        elif found["name"] is None:
            verb = {"get": "list", "delete": "deletecollection"}.get(verb, verb)
        part = f"/{found['part']}" if found["part"] else ""
        return verb, found["group"] or "", found["plural"] + part

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _body(self) -> Any:
        data = b""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return json.loads(data) if data else None

    def _send(self, code: int, document: Object) -> None:
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _watch(self, target: Target, query: dict[str, str]) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        ends = time.monotonic() + float(query.get("timeoutSeconds") or 3600)

        def send(event: Object | None) -> None:
            if event is None:
                gone = select.select([self.connection], [], [], 0)[0]
                if gone or time.monotonic() > ends:
                    raise ConnectionError
                return
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()

        try:
            self.server.api.events(target, query, send)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            return
