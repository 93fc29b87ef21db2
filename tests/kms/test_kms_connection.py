"""The way to a service: proxies, first looks, and options that are no such thing."""

import socket
import socketserver
import threading
from contextlib import contextmanager, suppress

import pytest
from attestation_service import old_certificate, start_service
from kms_parts import *  # noqa: F403 - fixtures
from registry_parts import *  # noqa: F403 - fixtures

from imagekit.errors import EngineError, UsageError
from imagekit.kms.account import Account
from imagekit.kms.certificate import describe_certificate
from imagekit.kms.connection import (
    open_connection,
    parse_proxy,
    pinned_to,
    presented_certificate,
)
from imagekit.kms.ehsm import version
from imagekit.runtime.ehsm import Credentials


class _Proxy(socketserver.BaseRequestHandler):
    """An HTTP proxy that knows CONNECT, and answers as it is told."""

    answer = b"HTTP/1.1 200 Connection established\r\n\r\n"
    asked: list[bytes]

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.request.recv(1)
        self.asked.append(head)
        self.request.sendall(self.answer)
        if b" 200 " not in self.answer:
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as out:
            there = threading.Thread(target=pump, args=(self.request, out))
            there.start()
            pump(out, self.request)
            there.join()


def pump(source, target):
    """Pass on what comes, and its end, however it ends: the other direction waits for that."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(answer=_Proxy.answer):
    handler = type("Proxy", (_Proxy,), {"asked": [], "answer": answer})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True  # what hangs in one fails its test, not the whole run
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", handler.asked
        finally:
            server.shutdown()
            thread.join()


def test_a_proxy_is_asked_if_it_is_named_and_sees_only_a_tunnel(service):
    with proxy() as (url, asked):
        connection = open_connection(service.address, pin=service.pin, proxy=url)
        assert version(connection)
        assert presented_certificate(connection)
    assert len(asked) == 2
    assert asked[0].startswith(f"CONNECT {service.address} HTTP/1.1\r\n".encode())
    assert [path for path, _ in service.seen] == ["/ehsm?Action=GetVersion"]


def test_proxies_of_the_environment_are_not_asked(service, monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert version(open_connection(service.address, pin=service.pin))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "does not connect"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "does not connect"),
        (b"SSH-2.0-x\r\n\r\n", "does not connect"),
        (b"HTTP/1.1 200 OK\r\nX: ", "not whole"),
        (b"x" * 9000, "not whole"),
        (b"", "not whole"),
    ],
)
def test_a_proxy_that_does_not_connect_is_said(service, answer, words):
    with proxy(answer) as (url, _):
        if b" 200 " in answer:  # it never ends: closed when nothing more is sent
            connection = open_connection(service.address, pin=service.pin, proxy=url, timeout=1)
            with pytest.raises(EngineError):
                version(connection)
            return
        connection = open_connection(service.address, pin=service.pin, proxy=url, timeout=2)
        with pytest.raises(EngineError, match=words):
            version(connection)
    assert not service.seen


def test_a_proxy_cannot_stand_in_for_the_service(service, certificates):
    other = certificates.__class__(*[certificates.wrong_name] * 5)
    with start_service(other) as elsewhere, proxy() as (url, _):
        moved = open_connection(elsewhere.address, pin=service.pin, proxy=url)
        with pytest.raises(EngineError, match="pinned"):
            version(moved)
        assert not elsewhere.seen


@pytest.mark.parametrize(
    "text",
    ["", "127.0.0.1:1", "https://h:1", "http://h", "http://h:1/x", "http://h:99999", "http://[::1"],
)
def test_what_is_no_proxy_is_refused(text):
    with pytest.raises(UsageError):
        parse_proxy(text)


def test_a_proxys_password_is_refused_and_not_repeated():
    with pytest.raises(UsageError) as found:
        parse_proxy("http://user:hunter22@proxy.example:1")
    assert "hunter22" not in f"{found.value.problem} {found.value.hint}"


def test_a_proxy_can_be_an_ipv6_address():
    assert parse_proxy("http://[::1]:3128") == ("::1", 3128)


def test_a_certificate_of_version_1_is_shown_pinned_and_used(tmp_path):
    """eHSM's own: no library makes such ones any more, and the default context refuses them."""
    certificates = old_certificate(tmp_path)
    with start_service(certificates) as service:
        connection = open_connection(service.address)
        with pytest.raises(EngineError, match="pin"):
            version(connection)
        der = presented_certificate(connection)
        facts = describe_certificate(der)
        assert (facts["version"], facts["subject"], facts["names"]) == (1, "CN=ehsm", [])
        assert facts["sha256"] == service.pin
        assert version(pinned_to(connection, der))
        by_name = open_connection(service.address, cacert=certificates.cert, server_name="ehsm")
        assert version(by_name)
        with pytest.raises(EngineError):
            version(open_connection(service.address, cacert=certificates.cert))


@pytest.mark.parametrize("data", [b"", b"x", b"\x30\x03\x02\x01\x01"])
def test_what_is_no_certificate_is_described_by_its_digest_alone(data):
    facts = describe_certificate(data)
    assert len(facts["sha256"]) == 64
    assert (facts["subject"], facts["names"]) == ("", [])


def test_an_account_does_not_show_its_key():
    account = Account("ehsm", "h:1", Credentials("app", "s3cret-key"))
    assert "s3cret-key" not in f"{account} {account!r} {vars(account)!r}"
