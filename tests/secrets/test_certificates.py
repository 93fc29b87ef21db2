"""Certificates: for whom, for how long."""

import datetime
import ipaddress

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from imagekit.errors import UsageError
from imagekit.secrets.certificates import check_key_size, facts, new_key, self_signed, subject


@pytest.fixture(scope="module")
def key():
    return new_key(2048)


def test_it_is_for_the_names_that_were_given_and_its_own(key):
    names = ["DNS:*.svc.example", "ip:10.0.0.1", "IP:::1", "other", "2001:db8::1", "other"]
    whom = subject("localhost", names, 30)
    certificate = self_signed(key, whom)
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["localhost", "*.svc.example", "other"]
    assert found.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address(text) for text in ("10.0.0.1", "::1", "2001:db8::1")
    ]
    assert certificate.subject == certificate.issuer
    assert certificate.subject.rfc4514_string() == "CN=localhost"
    assert facts(certificate, whom)["san"][0] == "DNS:localhost"


@pytest.mark.parametrize("name", ["Team of the night", "1.2.3", "7"])
def test_a_name_that_is_no_address_of_a_server_is_no_alternative(key, name):
    certificate = self_signed(key, subject(name, [], 1))
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_it_serves_both_ends_and_vouches_for_no_other(key):
    extensions = self_signed(key, subject("localhost", [], 1)).extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and usage.key_encipherment and not usage.key_cert_sign
    assert {
        oid._name for oid in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    } == {
        "serverAuth",
        "clientAuth",
    }


def test_it_begins_when_source_date_epoch_says(key, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    whom = subject("localhost", [], 365)
    certificate = self_signed(key, whom)
    begin = datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC)
    assert certificate.not_valid_before_utc == begin
    assert certificate.not_valid_after_utc == begin + datetime.timedelta(days=365)
    assert facts(certificate, whom)["not_after"] == "2024-11-13T22:13:20Z"


def test_else_it_begins_now(key):
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    found = self_signed(key, subject("localhost", [], 1)).not_valid_before_utc
    assert before <= found <= datetime.datetime.now(datetime.UTC)


@pytest.mark.parametrize("text", ["-1", "soon", "1e9", "9" * 13, "200000000001"])
def test_a_time_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(UsageError, match="is no number of seconds"):
        subject("localhost", [], 1)


def test_the_last_time_that_is_taken_can_be_written(key, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "200000000000")
    found = self_signed(key, subject("localhost", [], 9999))
    assert found.not_valid_after_utc - found.not_valid_before_utc == datetime.timedelta(9999)


@pytest.mark.parametrize(
    "text",
    ["", "DNS:", "IP:", "IP:name", "DNS:1.2.3", "1.2.3.4.5", "1.2.3.256", "a..b", "-a", "a-", "a b",
     "*", "a.*.b", "URI:http://x", "ä.example", "a" * 64, "name\n", "fe80::1%eth0"],
)  # fmt: skip
def test_what_is_neither_name_nor_address_is_refused(text):
    with pytest.raises(UsageError, match="neither a DNS name nor an IP address"):
        subject("localhost", [text], 1)


@given(st.text(max_size=70))
def test_a_common_name_is_taken_or_refused_in_two_lines(text):
    try:
        assert subject(text, [], 1).name == text
    except UsageError as error:
        assert error.problem == "--name is not the name of a certificate"


@given(st.text(max_size=70))
def test_an_alternative_name_is_taken_or_refused(text):
    try:
        found = subject("x", [text], 1).names
    except UsageError:
        return
    assert len(found) in (1, 2)
    assert all(str(name).isascii() for name in found)


@pytest.mark.parametrize("days", [0, -1, 10_000])
def test_a_time_without_sense_is_refused(days):
    with pytest.raises(UsageError, match="--days"):
        subject("localhost", [], days)


@pytest.mark.parametrize("bits", [512, 1024, 2047, 8192])
def test_other_sizes_of_keys_are_refused(bits):
    with pytest.raises(UsageError, match="--key-size"):
        check_key_size(bits)
    with pytest.raises(UsageError) as caught:
        new_key(bits)
    assert caught.value.hint == "take 2048, 3072, 4096"
