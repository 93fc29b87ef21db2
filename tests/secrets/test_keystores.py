"""Keystores: their form, and that every Java opens them."""

import re
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from keystores import PASSWORD, TYPES, keytool
from runtime_parts import java, old_java

from imagekit.secrets import certificates, tls
from imagekit.secrets.passwords import Password

TRIPLE_DES = bytes.fromhex("060a2a864886f70d010c0103")  # pbeWithSHAAnd3-KeyTripleDES-CBC
SHA1 = bytes.fromhex("06052b0e03021a")
PBES2 = bytes.fromhex("06092a864886f70d01050d")
SHA256 = bytes.fromhex("0609608648016503040201")


@pytest.fixture(scope="module")
def made():
    whom = certificates.subject("localhost", ["IP:127.0.0.1"], 9)
    return tls.ssl(whom, 2048, Password(PASSWORD, "here"), None)


@pytest.fixture(scope="module")
def flink():
    whom = certificates.subject(tls.FLINK_NAME, [], 9)
    return tls.flink(whom, 2048, Password(PASSWORD, "here"), None)


def test_keystores_have_the_form_that_java_knows_before_8u301(made, flink):
    """Older ones do not know PBES2, nor an HMAC with SHA-256."""
    stores = [made.files["keystore.jks"], made.files["keystore.pkcs12"]]
    for store in (*stores, flink.files[tls.FLINK_STORE]):
        assert TRIPLE_DES in store and SHA1 in store
        assert PBES2 not in store and SHA256 not in store


def test_all_files_hold_one_key(made):
    files = made.files
    store = pkcs12.load_pkcs12(files["keystore.jks"], PASSWORD.encode())
    assert files["keystore.jks"] == files["keystore.pkcs12"]
    assert store.cert.friendly_name == b"server"
    key = serialization.load_pem_private_key(files["server.key"], None)
    request = x509.load_pem_x509_csr(files["server.csr"])
    certificate = x509.load_pem_x509_certificate(files["server.crt"])
    numbers = key.public_key().public_numbers()
    for holder in (store.key, store.cert.certificate, request, certificate):
        assert holder.public_key().public_numbers() == numbers
    assert request.is_signature_valid
    assert files["server.pem"] == files["server.key"] + files["server.crt"]
    assert certificate.fingerprint(hashes.SHA256()).hex() == made.certificate["sha256"]


def test_another_password_does_not_open_one(made):
    with pytest.raises(ValueError):
        pkcs12.load_pkcs12(made.files["keystore.jks"], b"another-one")


@pytest.fixture
def stores(made, flink, tmp_path):
    """Alias → path, of each kind of store."""
    names = {"server": ("keystore.jks", made), tls.FLINK_NAME: (tls.FLINK_STORE, flink)}
    for file, one in names.values():
        (tmp_path / file).write_bytes(one.files[file])
    return {alias: tmp_path / file for alias, (file, _) in names.items()}


def every_java():
    others = Path("/usr/lib/jvm").glob("*/bin/keytool")
    found = {path.resolve().parents[1] for path in others}
    return sorted({java(11), java(17), old_java(), *found})


@pytest.mark.integration
def test_every_java_opens_them_by_each_type_and_reads_the_key(stores):
    asked = [("server", kind) for kind in TYPES] + [(tls.FLINK_NAME, ())]
    for home in every_java():
        for alias, kind in asked:
            words = ("-certreq", "-alias", alias, "-keystore", stores[alias], *kind)
            status, said = keytool(home, *words)  # a request is signed with the key
            assert status == 0 and "NEW CERTIFICATE REQUEST" in said, (home, alias, kind, said)


@pytest.mark.integration
def test_an_old_java_refuses_the_newer_form(made, tmp_path):
    """Why the older one is written; and a store that Java cannot open is noticed."""
    store = pkcs12.load_pkcs12(made.files["keystore.jks"], PASSWORD.encode())
    parts = (b"server", store.key, store.cert.certificate, None)
    newest = serialization.BestAvailableEncryption(PASSWORD.encode())
    newer = tmp_path / "newer"
    newer.write_bytes(pkcs12.serialize_key_and_certificates(*parts, newest))
    assert PBES2 in newer.read_bytes()
    assert keytool(java(17), "-list", "-keystore", newer)[0] == 0
    for kind in TYPES:
        status, said = keytool(old_java(), "-list", "-keystore", newer, *kind)
        assert status != 0 and "password was incorrect" in said


@pytest.mark.integration
def test_keytool_makes_a_real_jks_of_one_and_knows_a_wrong_password(stores, tmp_path):
    words = ("-importkeystore", "-srckeystore", stores["server"], "-srcstorepass", PASSWORD)
    target = ("-destkeystore", tmp_path / "real", "-deststoretype", "JKS", "-deststorepass")
    done = subprocess.run(
        [java(11) / "bin" / "keytool", *words, *target, PASSWORD], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "real").read_bytes().startswith(bytes.fromhex("feedfeed"))
    status, said = keytool(java(11), "-list", "-keystore", stores["server"], password="another")
    assert status != 0 and "password was incorrect" in said


@pytest.mark.integration("openssl")
def test_openssl_reads_what_is_written(made, tmp_path):
    for name, data in made.files.items():
        (tmp_path / name).write_bytes(data)

    def openssl(*words):
        command = ["openssl", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "verify OK" in openssl("req", "-in", "server.csr", "-noout", "-verify")
    strict = ("-x509_strict", "-verify_hostname", "localhost", "-purpose", "sslserver")
    assert "OK" in openssl("verify", "-CAfile", "server.crt", *strict, "server.crt")
    assert "OK" in openssl("verify", "-CAfile", "server.crt", "-purpose", "sslclient", "server.crt")
    modulus = openssl("rsa", "-in", "server.pem", "-noout", "-modulus")
    assert re.fullmatch("Modulus=[0-9A-F]{512}\n", modulus)
    options = ("-passin", f"pass:{PASSWORD}", "-nodes")
    assert "PRIVATE KEY" in openssl("pkcs12", "-in", "keystore.pkcs12", *options)
