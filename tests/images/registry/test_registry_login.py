"""Logging in, TLS and where credentials go."""

import base64
import json
import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from registry_parts import (
    IDENTITY_TOKEN,
    PASSWORD,
    Certificates,
    Fault,
    FaultProxy,
    Registry,
    log_in,
    make_image,
    start_registry,
)

from imagekit.errors import EngineError, ImagekitError, InputError
from imagekit.images.cache import Cache
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS
from imagekit.images.references import RegistryReference
from imagekit.images.registry import tls
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.credentials import find_credentials
from imagekit.images.registry.pull import pull_image
from imagekit.images.registry.push import Pusher

pytestmark = [
    pytest.mark.integration("docker-registry"),
    pytest.mark.usefixtures("no_waiting", "no_trust"),
]


@pytest.fixture
def no_trust(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No certificates and no proxies of this machine's user."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in (
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "REQUESTS_CA_BUNDLE",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tls, "CERTIFICATES", tmp_path / "certs.d")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "a")


def at(host: str, repository: str = "team/app", tag: str | None = "1") -> RegistryReference:
    return RegistryReference(host, repository, tag)


def secure(registry: Registry) -> RegistryAccess:
    return RegistryAccess(ca_file=registry.ca)


def pull(host: str, folder: Path, access: RegistryAccess, repository: str = "team/app") -> Image:
    return pull_image(at(host, repository), Cache(folder), access, NO_PROGRESS)


def check(error: ImagekitError, *words: str) -> None:
    for line in (error.problem, error.hint):
        assert line.isprintable()
        assert line
    for word in words:
        assert word in error.problem + error.hint
    told = "".join(traceback.format_exception(error))
    for secret in (
        PASSWORD,
        IDENTITY_TOKEN,
        base64.b64encode(f"team:{PASSWORD}".encode()).decode(),
    ):
        assert secret not in told


def helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put a credential helper on PATH; gives the file it notes its calls in."""
    calls = folder / "calls"
    path = folder / "bin" / "docker-credential-test"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\nread server\necho \"$1 $server\" >>'{calls}'\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    return calls


def configure(value: object) -> Path:
    path = Path(os.environ["DOCKER_CONFIG"]) / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


# Passwords


def test_a_password_of_docker_login(
    secure_registry: Registry, cache: Cache, tmp_path: Path
) -> None:
    access, host = secure(secure_registry), secure_registry.host
    image = make_image(cache, 1000)
    with pytest.raises(EngineError) as caught:
        Pusher(access).push(image, at(host))
    check(caught.value, "401", "nobody is logged in", f"docker login {host}")
    path = log_in(secure_registry)
    Pusher(access).push(image, at(host))
    assert pull(host, tmp_path / "b", access).digest == image.digest
    secure_registry = replace(secure_registry, password="wrong-" + PASSWORD)
    log_in(secure_registry)
    with pytest.raises(EngineError) as caught:
        pull(host, tmp_path / "c", access)
    check(caught.value, "401", "user 'team'", str(path), f"docker login {host}")


def test_passwords_of_netrc_are_not_used(
    secure_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login team password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with pytest.raises(EngineError, match="nobody is logged in"):
        pull(secure_registry.host, tmp_path / "b", secure(secure_registry))


@pytest.mark.parametrize("key", ["credHelpers", "credsStore"])
def test_a_credential_helper(
    secure_registry: Registry,
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    host, access = secure_registry.host, secure(secure_registry)
    monkeypatch.setenv("IMAGEKIT_KEY_PASSPHRASE", "key-passphrase")
    answer = json.dumps({"ServerURL": host, "Username": "team", "Secret": PASSWORD})
    script = f"echo \"$IMAGEKIT_KEY_PASSPHRASE\" >'{tmp_path}/leak'; echo '{answer}'"
    calls = helper(tmp_path, monkeypatch, script)
    configure({key: {host: "test"} if key == "credHelpers" else "test", "auths": {host: {}}})
    Pusher(access).push(make_image(cache, 10), at(host))
    assert calls.read_text() == f"get {host}\n"  # asked once
    assert (tmp_path / "leak").read_text() == "\n"
    found = find_credentials(host)
    assert found is not None
    assert found.who == "user 'team' from docker-credential-test"
    assert PASSWORD not in repr(found)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"echo {PASSWORD}; exit 1", "it failed"),
        (f"echo {PASSWORD}", "it failed"),
        ("echo '{}'", "it failed"),
        ("echo '[1]'", "it failed"),
        ("printf '\\377'", "it failed"),
        ("echo credentials not found in native keychain; exit 1", "nobody is logged in"),
        ('echo \'{"Username":"","Secret":""}\'', "nobody is logged in"),
    ],
)
def test_a_credential_helper_that_fails(
    secure_registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    words: str,
) -> None:
    helper(tmp_path, monkeypatch, script)
    configure({"credsStore": "test"})
    with pytest.raises(ImagekitError) as caught:
        pull(secure_registry.host, tmp_path / "b", secure(secure_registry))
    check(caught.value, words, f"docker login {secure_registry.host}")


def test_a_credential_helper_that_is_missing(
    secure_registry: Registry, registry: Registry, cache: Cache, tmp_path: Path
) -> None:
    path = configure({"credsStore": "none"})
    with pytest.raises(InputError) as caught:
        pull(secure_registry.host, tmp_path / "b", secure(secure_registry))
    check(caught.value, "docker-credential-none", "PATH", str(path))
    # Where nobody asks for a login, nobody asks the helper.
    Pusher(RegistryAccess(insecure=True)).push(make_image(cache, 10), at(registry.host))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": []}',
        '{"auths": {"%s": "x"}}',
        '{"auths": {"%s": {"auth": 5}}}',
        '{"auths": {"%s": {"auth": "bm9jb2xvbg=="}}}',
        '{"auths": {"%s": {"auth": "é"}}}',
        '{"credHelpers": []}',
        '{"credHelpers": ["x"]}',
        '{"credsStore": {"a": 1}}',
    ],
)
def test_a_damaged_configuration(secure_registry: Registry, tmp_path: Path, text: str) -> None:
    path = configure(text.replace("%s", secure_registry.host))
    if text in ('{"auths": []}', '{"credHelpers": []}'):  # nothing in it
        assert find_credentials(secure_registry.host) is None
        return
    with pytest.raises(InputError) as caught:
        pull(secure_registry.host, tmp_path / "b", secure(secure_registry))
    check(caught.value, str(path))


def test_where_the_configuration_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure_registry: Registry
) -> None:
    path = log_in(secure_registry)
    home = tmp_path / "home" / ".docker" / "config.json"
    home.parent.mkdir(parents=True)
    path.rename(home)
    assert find_credentials(secure_registry.host) is None  # DOCKER_CONFIG names another folder
    monkeypatch.delenv("DOCKER_CONFIG")
    found = find_credentials(secure_registry.host)
    assert found is not None
    assert found.source == str(home)
    assert find_credentials("other.example") is None
    hub = {"https://index.docker.io/v1/": {"auth": base64.b64encode(b"me:x").decode()}}
    home.write_text(json.dumps({"auths": hub}))
    found = find_credentials("docker.io")
    assert found is not None
    assert found.user == "me"


# Tokens


def test_a_token_for_everybody_and_one_for_the_user(
    token_registry: Registry, cache: Cache, tmp_path: Path
) -> None:
    access, host = secure(token_registry), token_registry.host
    state = token_registry.tokens
    assert state is not None
    image = make_image(cache, 1000, 2000)
    with pytest.raises(EngineError) as caught:
        Pusher(access).push(image, at(host))
    check(caught.value, "401", "nobody is logged in", f"docker login {host}")
    log_in(token_registry)
    state.asked.clear()
    pusher = Pusher(access)
    pusher.push(image, at(host))
    own = ("repository:team/app:pull,push",)
    assert state.asked == [("GET", own, "team")]  # one token for everything
    pushed = pusher.push(image, at(host, "team/two"))
    assert pushed.mounted == sum(layer.size for layer in image.layers) + len(image.config)
    assert state.asked[1:] == [
        ("GET", ("repository:team/two:pull,push",), "team"),
        ("GET", ("repository:team/app:pull", "repository:team/two:pull,push"), "team"),
    ]
    log_in(token_registry, auth="")
    state.asked.clear()
    (Path(os.environ["DOCKER_CONFIG"]) / "config.json").unlink()
    assert pull(host, tmp_path / "b", access).digest == image.digest
    assert state.asked == [("GET", ("repository:team/app:pull",), "")]


def test_an_identity_token(token_registry: Registry, cache: Cache) -> None:
    access, host = secure(token_registry), token_registry.host
    state = token_registry.tokens
    assert state is not None
    log_in(token_registry, auth="", identitytoken=IDENTITY_TOKEN)
    Pusher(access).push(make_image(cache, 10), at(host))
    assert state.asked == [("POST", ("repository:team/app:pull,push",), "team")]
    path = log_in(token_registry, identitytoken="wrong-" + IDENTITY_TOKEN)
    with pytest.raises(EngineError) as caught:
        Pusher(access).push(make_image(cache, 20), at(host))
    check(caught.value, "401", "an identity token", str(path), state.realm)


def test_a_token_that_expires_is_renewed(token_registry: Registry, cache: Cache) -> None:
    state = token_registry.tokens
    assert state is not None
    log_in(token_registry)
    state.life = 1
    pusher = Pusher(secure(token_registry))
    pusher.push(make_image(cache, 10), at(token_registry.host))
    count = len(state.asked)
    import time

    time.sleep(0.8)  # a quarter of its life before its end it counts as expired
    pusher.push(make_image(cache, 20), at(token_registry.host))
    assert len(state.asked) > count


def test_rights_that_are_refused_are_not_asked_for_endlessly(
    token_registry: Registry, cache: Cache, tmp_path: Path
) -> None:
    state = token_registry.tokens
    assert state is not None
    log_in(token_registry)
    image = make_image(cache, 10)
    Pusher(secure(token_registry)).push(image, at(token_registry.host))
    state.forbidden.add("team/app")
    state.asked.clear()
    with pytest.raises(EngineError) as caught:
        pull(token_registry.host, tmp_path / "b", secure(token_registry))
    check(caught.value, "user 'team'", "docker login")
    assert len(state.asked) == 3  # the first, and one more each after HEAD and GET


@pytest.mark.parametrize("refuse", [False, True])
def test_without_rights_on_the_base_it_is_sent_not_mounted(
    token_registry: Registry, cache: Cache, refuse: bool
) -> None:
    access, host = secure(token_registry), token_registry.host
    state = token_registry.tokens
    assert state is not None
    log_in(token_registry)
    base = make_image(cache, 1000)
    Pusher(access).push(base, at(host, "secret/base"))
    state.forbidden.add("secret/base")
    state.refuse = refuse
    cell = make_image(cache, 10, seed=1, base=base)
    pushed = Pusher(access, known=[at(host, "secret/base")]).push(cell, at(host))
    assert pushed.mounted == 0
    assert token_registry.tag("team/app", "1") == cell.digest
    state.forbidden.add("team/app")
    with pytest.raises(EngineError) as caught:
        Pusher(access).push(base, at(host))
    check(caught.value, "user 'team'", "docker login")


def bearer(realm: str) -> Fault:
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}
    return Fault("GET", status=401, headers=challenge, times=9)


def test_a_token_the_registry_forgot_is_renewed(
    registry: Registry,
    certificates: Certificates,
    fault_proxy: Callable[..., FaultProxy],
    cache: Cache,
) -> None:
    proxy = fault_proxy(registry, certificates)
    login = bearer(f"https://{proxy.host}/token")
    image = make_image(cache, 10)
    proxy.faults = [
        Fault("GET", "/token", status=200, body=b'{"token": "one"}'),
        Fault("GET", "/token", status=200, body=b'{"access_token": "two"}'),
        replace(login, path="/v2/$"),
        replace(login, method="PUT", path=image.layers[0].hex, times=1),
    ]
    Pusher(RegistryAccess(ca_file=certificates.ca)).push(image, at(proxy.host))
    assert registry.tag("team/app", "1") == image.digest
    assert proxy.requests("GET", "manifests")[0].headers["Authorization"] == "Bearer one"
    assert proxy.requests("PUT", "manifests")[0].headers["Authorization"] == "Bearer two"
    assert not any(fault.times for fault in proxy.faults if "token" in fault.path)


def test_tokens_are_not_fetched_over_plain_http(
    registry: Registry,
    certificates: Certificates,
    fault_proxy: Callable[..., FaultProxy],
    tmp_path: Path,
) -> None:
    proxy, elsewhere = fault_proxy(registry, certificates), fault_proxy(registry)
    log_in(replace(registry, host=proxy.host, user="team", password=PASSWORD))
    proxy.faults = [bearer(f"http://{elsewhere.host}/token")]
    with pytest.raises(EngineError) as caught:
        pull(proxy.host, tmp_path / "b", RegistryAccess(ca_file=certificates.ca))
    check(caught.value, "plain http", elsewhere.host)
    assert not elsewhere.seen


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"token": "a\\nb"}', b'{"token": 5}'])
def test_what_is_no_token(
    registry: Registry,
    certificates: Certificates,
    fault_proxy: Callable[..., FaultProxy],
    tmp_path: Path,
    body: bytes,
) -> None:
    proxy = fault_proxy(registry, certificates)
    token = Fault("GET", "/token", status=200, body=body, times=9)
    proxy.faults = [token, bearer(f"https://{proxy.host}/token")]
    with pytest.raises(EngineError) as caught:
        pull(proxy.host, tmp_path / "b", RegistryAccess(ca_file=certificates.ca))
    check(caught.value, "no token", f"https://{proxy.host}/token")


# Where credentials go


def test_another_host_sees_no_credentials(
    registry: Registry,
    certificates: Certificates,
    fault_proxy: Callable[..., FaultProxy],
    cache: Cache,
    tmp_path: Path,
) -> None:
    proxy, other = fault_proxy(registry, certificates), fault_proxy(registry, certificates)
    log_in(replace(registry, host=proxy.host, user="team", password=PASSWORD))
    access = RegistryAccess(ca_file=certificates.ca)
    login = {"WWW-Authenticate": 'Basic realm="x"'}

    image = make_image(cache, 1000)
    proxy.faults = [
        Fault("GET", "/v2/$", status=401, headers=login),
        Fault("POST", "uploads", times=9, location=lambda u: u.replace(proxy.host, other.host)),
    ]
    Pusher(access).push(image, at(proxy.host))
    assert registry.tag("team/app", "1") == image.digest
    assert len(other.requests("PUT")) == 2

    layer = image.layers[0]
    target = {"Location": f"https://{other.host}/v2/team/app/blobs/{layer.digest}"}
    proxy.faults = [
        Fault("GET", "/v2/$", status=401, headers=login),
        Fault("GET", layer.hex, status=307, headers=target),
    ]
    assert pull(proxy.host, tmp_path / "b", access).digest == image.digest
    assert len(other.requests("GET", layer.hex)) == 1

    assert not any("Authorization" in item.headers for item in other.seen)
    assert all("Authorization" in item.headers for item in proxy.seen if item.path != "/v2/")


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
@pytest.mark.parametrize("path", ["/v2/$", "manifests", "blobs", "tags/list"])
def test_what_a_registry_redirects_to_has_no_say_in_logging_in(
    registry: Registry,
    certificates: Certificates,
    fault_proxy: Callable[..., FaultProxy],
    cache: Cache,
    tmp_path: Path,
    path: str,
    scheme: str,
) -> None:
    proxy, other = fault_proxy(registry, certificates), fault_proxy(registry, certificates)
    log_in(replace(registry, host=proxy.host, user="team", password=PASSWORD))
    access = RegistryAccess(ca_file=certificates.ca)
    image = make_image(cache, 1000)
    realm = f'{scheme} realm="https://{other.host}/token",service="x"'
    other.faults = [
        Fault("GET", "/token", status=200, body=b'{"token": "t"}', times=99),
        Fault(status=401, headers={"WWW-Authenticate": realm}, times=99),
    ]
    away = {"Location": f"https://{other.host}/elsewhere"}
    proxy.faults = [Fault("GET|HEAD", path, status=307, headers=away, times=99)]
    if path != "/v2/$":  # the registry itself wants a password
        login = {"WWW-Authenticate": 'Basic realm="x"'}
        proxy.faults.insert(0, Fault("GET", "/v2/$", status=401, headers=login))
    for act in (
        lambda: Pusher(access).push(image, at(proxy.host)),
        lambda: pull(proxy.host, tmp_path / "b", access),
        lambda: pull_image(at(proxy.host, tag="none"), cache, access, NO_PROGRESS),
    ):
        with suppress(EngineError):
            act()
    assert other.seen
    assert not other.requests("GET", "/token")
    assert not any("Authorization" in item.headers for item in other.seen)


def test_a_redirect_to_plain_http_is_not_followed(
    registry: Registry,
    certificates: Certificates,
    fault_proxy: Callable[..., FaultProxy],
    cache: Cache,
    tmp_path: Path,
) -> None:
    proxy, plain = fault_proxy(registry, certificates), fault_proxy(registry)
    access = RegistryAccess(ca_file=certificates.ca)
    image = make_image(cache, 1000)
    proxy.faults = [
        Fault("POST", "uploads", times=9, location=lambda url: url.replace("https:", "http:"))
    ]
    with pytest.raises(EngineError) as caught:
        Pusher(access).push(image, at(proxy.host))
    check(caught.value, "plain http", "X-Forwarded-Proto")
    proxy.faults = []
    Pusher(access).push(image, at(proxy.host))
    target = {"Location": f"http://{plain.host}/x"}
    proxy.faults = [Fault("GET", "blobs", status=307, headers=target, times=9)]
    with pytest.raises(EngineError) as caught:
        pull(proxy.host, tmp_path / "b", access)
    check(caught.value, "plain http", plain.host)
    assert not plain.seen


def test_no_secret_in_logs(
    token_registry: Registry, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = log_in(token_registry)
    Pusher(secure(token_registry)).push(make_image(cache, 10), at(token_registry.host))
    log_in(token_registry, auth="", identitytoken=IDENTITY_TOKEN)
    Pusher(secure(token_registry)).push(make_image(cache, 20), at(token_registry.host))
    assert "PUT" in caplog.text
    auth = base64.b64encode(f"team:{PASSWORD}".encode()).decode()
    for secret in (PASSWORD, IDENTITY_TOKEN, auth, "Bearer", "eyJ"):
        assert secret not in caplog.text
    assert path.exists()


# TLS


def test_which_ca_is_trusted(
    registry: Registry,
    certificates: Certificates,
    fault_proxy: Callable[..., FaultProxy],
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = fault_proxy(registry, certificates).host
    Pusher(RegistryAccess(insecure=True)).push(make_image(cache, 10), at(registry.host))

    def refused(access: RegistryAccess = RegistryAccess()) -> None:  # noqa: B008 - a tuple
        with pytest.raises(EngineError) as caught:
            pull(host, tmp_path / "b", access)
        check(caught.value, "CA this machine does not know", "--cacert FILE", "--insecure", host)

    refused()
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(certificates.ca))
        pull(host, tmp_path / "b", RegistryAccess())
        monkeypatch.delenv(name)
        refused()
    folder = tmp_path / "certs.d" / host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(certificates.ca.read_bytes())
    pull(host, tmp_path / "b", RegistryAccess())
    other = tmp_path / "other.pem"
    other.write_bytes(certificates.wrong_name.read_bytes())
    refused(RegistryAccess(ca_file=other))  # in place of all others
    pull(host, tmp_path / "b", RegistryAccess(ca_file=certificates.ca))
    pull(host, tmp_path / "b", RegistryAccess(insecure=True))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_bundle_that_is_unusable(tmp_path: Path, content: bytes | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(InputError) as caught:
        pull("registry.example", tmp_path / "b", RegistryAccess(ca_file=bundle))
    check(caught.value, str(bundle), "PEM")


def test_certificates_that_do_not_fit(
    registry: Registry,
    certificates: Certificates,
    fault_proxy: Callable[..., FaultProxy],
    tmp_path: Path,
) -> None:
    for path, words in (
        (certificates.wrong_name, "for another host"),
        (certificates.expired, "expired"),
    ):
        host = fault_proxy(registry, replace(certificates, cert=path, key=path)).host
        with pytest.raises(EngineError) as caught:
            pull(host, tmp_path / "b", RegistryAccess(ca_file=certificates.ca))
        check(caught.value, words, host)


def test_plain_http_is_spoken_only_when_asked_for(
    registry: Registry, cache: Cache, tmp_path: Path, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(registry)
    for act in (
        lambda access: pull(proxy.host, tmp_path / "b", access),
        lambda access: Pusher(access).push(make_image(cache, 10), at(proxy.host)),
    ):
        with pytest.raises(EngineError) as caught:
            act(RegistryAccess())
        check(caught.value, "plain http", "--insecure", proxy.host)
    assert not proxy.seen


def test_insecure_does_not_fall_back_to_plain_http_after_trouble(tmp_path: Path) -> None:
    got = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    got.append(connection.recv(100)[:1])
                    connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(EngineError, match="cut"):
            host = f"127.0.0.1:{server.getsockname()[1]}"
            pull(host, tmp_path / "b", RegistryAccess(insecure=True))
        server.shutdown(socket.SHUT_RDWR)
    assert got == [b"\x16"] * len(got)  # TLS handshakes alone
    assert got


def test_a_client_certificate(certificates: Certificates, cache: Cache, tmp_path: Path) -> None:
    keys = f"certificate: {certificates.cert}, key: {certificates.key}"
    http = f"  tls: {{{keys}, clientcas: [{certificates.ca}]}}\n"
    with start_registry(tmp_path / "mutual", http=http) as started:
        folder = tmp_path / "certs.d" / started.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certificates.ca.read_bytes())
        with pytest.raises(EngineError) as caught:
            Pusher(RegistryAccess()).push(make_image(cache, 10), at(started.host))
        check(caught.value, started.host)
        (folder / "client.cert").write_bytes(certificates.cert.read_bytes())
        with pytest.raises(InputError) as problem:
            Pusher(RegistryAccess()).push(make_image(cache, 10), at(started.host))
        check(problem.value, "client.cert", "client.key")
        (folder / "client.key").write_bytes(certificates.key.read_bytes())
        Pusher(RegistryAccess()).push(make_image(cache, 10), at(started.host))


# Proxies


def test_a_proxy_of_the_environment(
    registry: Registry,
    certificates: Certificates,
    fault_proxy: Callable[..., FaultProxy],
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tunnel: Callable[[str], tuple[str, list[str]]],
) -> None:
    named = replace(certificates, cert=certificates.wrong_name, key=certificates.wrong_name)
    behind = fault_proxy(registry, named)
    address, lines = tunnel(behind.host)
    image = make_image(cache, 10)
    access = RegistryAccess(ca_file=certificates.ca)
    monkeypatch.setenv("https_proxy", f"http://me:{PASSWORD}@{address}")
    Pusher(access).push(image, at("registry.example"))  # a name that only the proxy knows
    assert registry.tag("team/app", "1") == image.digest
    assert lines[0].startswith("CONNECT registry.example:443 ")
    sent = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert f"proxy-authorization: basic {sent}".lower() in [line.lower() for line in lines]
    assert not any("Proxy-Authorization" in item.headers for item in behind.seen)

    lines.clear()
    with pytest.raises(EngineError, match="another host"):
        pull("docker.io", tmp_path / "b", access, "library/debian")
    assert lines[0].startswith("CONNECT registry-1.docker.io:443 ")

    monkeypatch.setenv("https_proxy", f"http://me:{PASSWORD}@127.0.0.1:1")
    with pytest.raises(EngineError) as caught:
        pull("registry.example", tmp_path / "b", access)
    check(caught.value, "proxy", "registry.example", "https_proxy")
    # This machine itself is reached directly, and so is what no_proxy names.
    own = fault_proxy(registry, certificates)
    assert pull(own.host, tmp_path / "b", access).digest == image.digest
    monkeypatch.setenv("no_proxy", "registry.invalid")
    with pytest.raises(EngineError, match=r"no such host|no name server answers"):
        pull("registry.invalid", tmp_path / "b", access)


@pytest.fixture
def tunnel() -> Callable[[str], tuple[str, list[str]]]:
    """Makes an http proxy that tunnels everything to one address; gives its own."""
    import socket
    import threading

    def make(target: str) -> tuple[str, list[str]]:
        lines: list[str] = []
        listening = socket.create_server(("127.0.0.1", 0))

        def copy(source: socket.socket, sink: socket.socket) -> None:
            with source, sink:
                try:
                    while data := source.recv(65536):
                        sink.sendall(data)
                    sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

        def accept() -> None:
            with listening:
                while True:
                    client, _ = listening.accept()
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += client.recv(65536)
                    lines.extend(head.decode().splitlines())
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    host, _, port = target.partition(":")
                    server = socket.create_connection((host, int(port)))
                    pairs = ((client, server), (server.dup(), client.dup()))
                    for pair in pairs:
                        threading.Thread(target=copy, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        port = listening.getsockname()[1]
        return f"127.0.0.1:{port}", lines

    return make
