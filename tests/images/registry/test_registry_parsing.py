"""What registries say, read without a network."""

import itertools
import threading
import time
from contextlib import suppress
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import EngineError, InputError
from imagekit.images.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    compact_json,
    digest_of,
)
from imagekit.images.registry import retry
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.answer import Answer
from imagekit.images.registry.auth import Auth, _token
from imagekit.images.registry.failures import (
    codes,
    printable,
    retry_after,
    shown_url,
    status_failure,
    tag_is_immutable,
)
from imagekit.images.registry.manifests import choose_platform, document_type
from imagekit.images.registry.pull import listed_tags
from imagekit.images.registry.retry import PassingError, Retries, retrying
from imagekit.images.registry.transport import Transport, join, origin

DIGEST = digest_of(b"")


def answer(status: int = 400, body: bytes = b"", **headers: str) -> Answer:
    found = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, found, "https://registry.example/v2/a", False, body)


def test_waits_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(retry.DELAYS) == list(retry.DELAYS)
    assert len(retry.DELAYS) == 5
    assert sum(retry.DELAYS) < 20
    monkeypatch.setattr(retry, "DELAYS", (0.01, 0.02, 0.04))
    tries = []

    def fail() -> None:
        tries.append(time.monotonic())
        raise PassingError("problem", "hint")

    with pytest.raises(EngineError, match=r"problem \(tried 4 times\)"):
        retrying(fail, threading.Event())
    waits = [after - before for before, after in itertools.pairwise(tries)]
    assert all(wait >= delay for wait, delay in zip(waits, retry.DELAYS, strict=True))


def test_nobody_waits_for_work_that_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "DELAYS", (30.0,))
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    with pytest.raises(EngineError):
        Retries(stop).wait(PassingError("problem", "hint"))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 0), ("", 0), ("7", 7), (" 12 ", 12), ("-1", 0), ("soon", 0), ("9" * 99, 999999999)],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    assert retry_after(value, 0) == seconds


def test_retry_after_a_date() -> None:
    assert retry_after(formatdate(1_000_030, usegmt=True), 1_000_000) == 30
    assert retry_after(formatdate(999_000, usegmt=True), 1_000_000) == 0


@given(st.text())
def test_no_retry_after_is_trouble(value: str) -> None:
    assert retry_after(value, time.time()) >= 0


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(compact_json))
def test_no_error_body_is_trouble(body: bytes) -> None:
    codes(answer(body=body))


def test_errors_of_registries_are_one_printable_line() -> None:
    body = b'{"errors":[{"code":"X\\n","message":"\\u001b[31mred\\u202e"},{"code":"Y"}]}'
    error = status_failure(answer(body=body), "push docker://x", "nobody", "x")
    assert error.problem.isprintable()
    assert "X : [31mred ; Y" in error.problem
    assert len(printable("x" * 9999)) == 200


def test_urls_are_shown_without_secrets() -> None:
    url = "https://user:secret@cdn.example:1/a/b?X-Signature=secret#secret"
    assert shown_url(url) == "https://cdn.example:1/a/b"
    assert "secret" not in shown_url("https://[secret")
    assert origin("https://registry.example/x") == "https://registry.example:443"
    with pytest.raises(EngineError):
        origin("https://registry.example:port/")


@pytest.mark.parametrize(
    ("header", "scheme", "realm", "service"),
    [
        ('Bearer realm="https://a/t",service="s",scope="x y"', "bearer", "https://a/t", "s"),
        ('bearer service="s, t" , realm="https://a/t?x=1"', "bearer", "https://a/t?x=1", "s, t"),
        ('Basic realm="x", Bearer realm="https://a/t",service=s', "bearer", "https://a/t", "s"),
        ('Basic realm="a \\"b\\""', "basic", 'a "b"', ""),
        ("Basic", "basic", "", ""),
        ("Bearer service=s", None, "", ""),
        ("Negotiate", None, "", ""),
        ("", None, "", ""),
    ],
)
def test_challenges(header: str, scheme: str | None, realm: str, service: str) -> None:
    auth = Auth("registry.example", Transport(RegistryAccess()))
    auth.learn(answer(401, WWW_Authenticate=header), ())
    found = auth._challenge
    assert (found.scheme if found else None) == scheme
    if found:
        assert (found.realm, found.service) == (realm, service)


@given(st.text(alphabet='Basicer =",\\x') | st.text())
def test_no_challenge_is_trouble(header: str) -> None:
    auth = Auth("registry.example", Transport(RegistryAccess()))
    auth.learn(answer(401, WWW_Authenticate=header), ())


def test_a_long_challenge_is_not_read_to_its_end() -> None:
    challenge = 'Bearer realm="https://a/t"'
    for header, known in (
        (challenge + "," + "x" * 65536, True),
        ("x" * 65536 + " " + challenge, False),
        ("x" * 65536, False),
        ("x" * 100 + challenge, False),  # no scheme has such a name
    ):
        auth = Auth("registry.example", Transport(RegistryAccess()))
        auth.learn(answer(401, WWW_Authenticate=header), ())
        assert (auth._challenge is not None) is known


@pytest.mark.parametrize(
    "life", ["1" + "0" * 400, "-1", "0", "null", '"300"', "[]", "true", "1e400"]
)
def test_no_life_of_a_token_is_trouble(life: str) -> None:
    token, seconds = _token(answer(200, f'{{"token": "t", "expires_in": {life}}}'.encode()))
    assert token == "t"
    assert 0 < seconds <= 86400


def test_a_number_without_end_is_no_token() -> None:
    body = b'{"token": "t", "expires_in": 1' + b"0" * 5000 + b"}"
    with pytest.raises(EngineError, match="gives no token"):
        _token(answer(200, body))


JSON = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda s: (
        st.lists(s)
        | st.dictionaries(st.sampled_from(["token", "access_token", "expires_in", "tags"]), s)
    ),
)


@given(JSON.map(compact_json) | st.binary())
def test_no_token_and_no_list_of_tags_is_trouble(body: bytes) -> None:
    with suppress(EngineError):
        token, seconds = _token(answer(200, body))
        assert token.isascii()
        assert seconds > 0
    with suppress(InputError):
        assert all(isinstance(tag, str) for tag in listed_tags(body))


def test_tags_are_few_and_short() -> None:
    tags = [f"{number:04}" for number in range(5000)]
    assert listed_tags(compact_json({"tags": tags})) == tags[:1000]
    assert listed_tags(compact_json({"tags": ["b", 5, "x" * 129, "", "a"]})) == ["a", "b"]
    for odd in (5, None, {"a": 1}, "abc"):
        assert listed_tags(compact_json({"tags": odd})) == []


@given(st.text(alphabet="htps:/[]@?#%1a. ") | st.text())
def test_no_location_is_trouble(target: str) -> None:
    with suppress(EngineError):
        origin(join("https://registry.example/v2/", target))


def test_a_location_that_is_no_url_is_told() -> None:
    with pytest.raises(EngineError, match=r"registry.example.*a URL that is none"):
        join("https://registry.example/v2/", "http://[")


def test_a_full_registry_is_not_taken_for_an_immutable_tag() -> None:
    def says(message: str, status: int = 412) -> bool:
        body = compact_json({"errors": [{"code": "PRECONDITION", "message": message}]})
        return tag_is_immutable(answer(status, body))

    assert says("configured as immutable")
    assert not says("exceeds the quota of the project, which is immutable")
    assert not says("manifest invalid", 400)
    assert not says("immutable", 500)


INDEX = {"schemaVersion": 2, "manifests": []}
MANIFEST = {"schemaVersion": 2, "config": {}, "layers": []}


@pytest.mark.parametrize(
    ("content_type", "value", "kind"),
    [
        (OCI_MANIFEST, MANIFEST, OCI_MANIFEST),
        (f"{DOCKER_MANIFEST}; charset=utf-8", MANIFEST, DOCKER_MANIFEST),
        ("application/json", {**MANIFEST, "mediaType": DOCKER_MANIFEST}, DOCKER_MANIFEST),
        ("", MANIFEST, OCI_MANIFEST),
        ("text/plain", INDEX, OCI_INDEX),
        (DOCKER_LIST, INDEX, DOCKER_LIST),
        (OCI_INDEX, MANIFEST, None),
        (OCI_MANIFEST, INDEX, None),
        (OCI_MANIFEST, {**MANIFEST, "mediaType": DOCKER_MANIFEST}, None),
        (OCI_MANIFEST, {**INDEX, **MANIFEST}, None),
        ("", {}, None),
        ("", {"schemaVersion": 1}, None),
        ("", {**MANIFEST, "mediaType": ["x"]}, OCI_MANIFEST),
    ],
)
def test_what_a_document_is(content_type: str, value: object, kind: str | None) -> None:
    data = compact_json(value)
    if kind is None:
        with pytest.raises(InputError):
            document_type(content_type, data, "x")
    else:
        assert document_type(content_type, data, "x") == kind


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda s: (
            st.lists(s)
            | st.dictionaries(
                st.sampled_from(["manifests", "platform", "os", "mediaType", "digest", "size"]), s
            )
        ),
    )
)
def test_no_index_is_trouble(value: object) -> None:
    data = compact_json(value)
    for read in (lambda: document_type("", data, "x"), lambda: choose_platform(data, "x")):
        try:
            read()
        except InputError as error:
            assert error.problem.isprintable()


def entry(platform: object, digest: str = DIGEST) -> dict[str, object]:
    value = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1}
    return value if platform is None else {**value, "platform": platform}


def test_which_entry_of_an_index_is_ours() -> None:
    amd64 = {"os": "linux", "architecture": "amd64"}
    other = digest_of(b"other")

    def choose(*entries: dict[str, object]) -> str:
        return choose_platform(compact_json({"manifests": list(entries)}), "x").digest

    assert choose(entry(None)) == DIGEST
    assert choose(entry({**amd64, "variant": "v1"})) == DIGEST
    assert choose(entry({**amd64, "variant": "v2"}, other), entry(amd64)) == DIGEST
    assert choose(entry(amd64), entry(amd64)) == DIGEST
    for entries in (
        [],
        [entry(None), entry(None, other)],
        [entry({**amd64, "variant": "v3"})],
        [entry({"os": "\x1b[31m", "architecture": "x"})],
        [entry(amd64), entry(amd64, other)],
        [{**entry(amd64), "mediaType": "application/vnd.example"}],
        [{**entry(amd64), "mediaType": []}],
    ):
        with pytest.raises(InputError) as caught:
            choose(*entries)
        assert caught.value.problem.isprintable()
        assert caught.value.hint.isprintable()
