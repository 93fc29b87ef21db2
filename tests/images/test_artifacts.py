import datetime
import hashlib
import http.server
import io
import ipaddress
import json
import os
import ssl
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from company_archive import serve_folder

from imagekit.errors import EngineError, InputError
from imagekit.images.bases import workdir
from imagekit.images.bases.artifacts import fetch
from imagekit.images.bases.jks import TrustedCertificate, parse_jks, rewrite_truststore, write_jks
from imagekit.images.bases.lock import BaseLock, drift, load_lock, write_lock
from imagekit.images.bases.normalise import Normaliser
from imagekit.images.bases.packages import Package
from imagekit.images.bases.recipe import deb822
from imagekit.images.bases.workdir import hold, remove_tree, work_folder
from imagekit.images.cache import Cache
from imagekit.spec.base import AptSource, Artifact, SourceKey

DATA = b"some content " * 1000
GOOD = hashlib.sha256(DATA).hexdigest()
WRONG = "00" * 32


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path == "/missing.tgz":
            self.send_error(404)
            return
        if self.path == "/redirect.tgz":
            self.send_response(302)
            self.send_header("Location", "/good.tgz")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        if self.path == "/cut.tgz":
            self.wfile.write(DATA[:500])
            self.close_connection = True
        else:
            self.wfile.write(DATA)

    def log_message(self, *_args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.requests = []
        running.handle_error = lambda *_details: None
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def url(server, name, scheme="http"):
    return Artifact("url", f"{scheme}://127.0.0.1:{server.server_port}/{name}", to="/opt/x")


def leftovers(cache):
    return [path for path in cache.root.rglob("*") if path.is_file() and path.name != GOOD]


def test_a_url_is_fetched_once_and_then_taken_from_the_cache(server, cache, tmp_path):
    first = fetch(url(server, "good.tgz"), tmp_path, cache, GOOD)
    again = fetch(url(server, "good.tgz"), tmp_path, cache, GOOD)
    assert first == again and first.path.read_bytes() == DATA and first.size == len(DATA)
    assert server.requests == ["/good.tgz"]
    assert not leftovers(cache)


def test_redirects_are_followed(server, cache, tmp_path):
    assert fetch(url(server, "redirect.tgz"), tmp_path, cache, GOOD).sha256 == GOOD


def test_a_damaged_cache_file_is_noticed_and_fetched_again(server, cache, tmp_path):
    path = fetch(url(server, "good.tgz"), tmp_path, cache, GOOD).path
    path.write_bytes(DATA[:-1] + b"X")
    assert fetch(url(server, "good.tgz"), tmp_path, cache, GOOD).path.read_bytes() == DATA
    assert len(server.requests) == 2


def test_another_hash_is_refused_naming_both(server, cache, tmp_path):
    with pytest.raises(InputError) as caught:
        fetch(url(server, "good.tgz"), tmp_path, cache, WRONG)
    assert WRONG in caught.value.problem and GOOD in caught.value.problem
    assert not leftovers(cache) and not cache.artifacts.has("sha256:" + GOOD)


def test_a_missing_page_says_so(server, cache, tmp_path):
    with pytest.raises(EngineError, match=r"missing\.tgz: the server answers 404"):
        fetch(url(server, "missing.tgz"), tmp_path, cache, GOOD)


def test_a_cut_connection_is_noticed_and_leaves_nothing(server, cache, tmp_path):
    with pytest.raises(EngineError, match=r"cut after 500 of 13000 bytes"):
        fetch(url(server, "cut.tgz"), tmp_path, cache, GOOD)
    assert not leftovers(cache)


def test_a_server_that_is_not_there_gives_the_url_and_a_hint(server, cache, tmp_path):
    artifact = Artifact("url", "http://127.0.0.1:9/x.tgz", to="/x")
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9/x\.tgz: cannot be reached") as caught:
        fetch(artifact, tmp_path, cache, GOOD)
    assert "proxy" in caught.value.hint


def test_plain_http_is_refused_without_a_hash(server, cache, tmp_path):
    with pytest.raises(InputError, match="http cannot be trusted without a hash"):
        fetch(url(server, "good.tgz"), tmp_path, cache, None)
    assert server.requests == []


def test_an_unknown_certificate_authority_gets_the_bundle_hint(
    server, cache, tmp_path, monkeypatch
):
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(EngineError, match="certificate check failed") as caught:
        fetch(url(server, "good.tgz", "https"), tmp_path, cache, GOOD)
    assert "SSL_CERT_FILE" in caught.value.hint and "base.ca_bundle" in caught.value.hint
    bundle = certificate.read_bytes().partition(b"-----END PRIVATE KEY-----\n")[2]
    artifact = url(server, "good.tgz", "https")
    assert fetch(artifact, tmp_path, cache, GOOD, ca_bundle=bundle).sha256 == GOOD
    cache.artifacts.path(f"sha256:{GOOD}").unlink()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetch(url(server, "good.tgz", "https"), tmp_path, cache, GOOD).sha256 == GOOD


def self_signed(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_local_file_is_checked(cache, tmp_path):
    (tmp_path / "x.tgz").write_bytes(DATA)
    artifact = Artifact("path", "./x.tgz", to="/x", where="imagekit.yaml:3: base.artifacts[0]")
    assert fetch(artifact, tmp_path, cache, GOOD).sha256 == GOOD
    with pytest.raises(InputError, match="expected sha256"):
        fetch(artifact, tmp_path, cache, WRONG)
    with pytest.raises(InputError, match=r"^imagekit\.yaml:3: .*no such file"):
        fetch(Artifact("path", "y.tgz", where=artifact.where), tmp_path, cache, GOOD)


# -- packages of a Python index


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Offer a wheel and an sdist whose setup.py leaves a trace, without any network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    info = "Metadata-Version: 2.1\nName: tinywheel\nVersion: 1.0\n"
    with zipfile.ZipFile(folder / "tinywheel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinywheel/__init__.py", "")
        wheel.writestr("tinywheel-1.0.dist-info/METADATA", info)
        wheel.writestr("tinywheel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tinywheel-1.0.dist-info/RECORD", "")
    setup = (
        b"import os, pathlib, setuptools\npathlib.Path(os.environ['TRACE']).touch()\n"
        b"setuptools.setup(name='tinysdist', version='2.0')\n"
    )
    with tarfile.open(folder / "tinysdist-2.0.tar.gz", "w:gz") as sdist:
        for name, data in (("setup.py", setup), ("PKG-INFO", info.encode())):
            member = tarfile.TarInfo(f"tinysdist-2.0/{name}")
            member.size = len(data)
            sdist.addfile(member, io.BytesIO(data))
    return {path.name.partition("-")[0]: path for path in folder.iterdir()}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("requirement", ["tinywheel==1.0", "tinysdist==2.0"])
def test_wheels_and_sdists_come_through_pip(requirement, index, cache, tmp_path):
    original = index[requirement.partition("==")[0]]
    found = fetch(Artifact("pypi", requirement, to="/x"), tmp_path, cache, sha256(original))
    assert found.path.read_bytes() == original.read_bytes()
    assert list((cache.root / "work").iterdir()) == []


def test_with_a_wrong_hash_no_code_of_the_package_runs(index, cache, tmp_path):
    artifact = Artifact("pypi", "tinysdist==2.0", to="/x")
    with pytest.raises(InputError) as caught:
        fetch(artifact, tmp_path, cache, WRONG)
    assert WRONG in caught.value.problem and sha256(index["tinysdist"]) in caught.value.problem
    assert not (tmp_path / "trace").exists()


def test_a_package_that_is_not_in_the_index_says_so(index, cache, tmp_path):
    with pytest.raises(EngineError, match=r"nothere==1\.0: the package index has no such"):
        fetch(Artifact("pypi", "nothere==1.0", to="/x"), tmp_path, cache, GOOD)


def test_an_unreachable_index_says_so(index, cache, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(EngineError, match="index cannot be reached"):
        fetch(Artifact("pypi", "tinywheel==1.0", to="/x"), tmp_path, cache, GOOD)


def test_an_index_behind_a_companys_ca_needs_the_bundle(index, cache, tmp_path, monkeypatch):
    wheel, certificate = index["tinywheel"], self_signed(tmp_path)
    page = wheel.parent / "simple" / "tinywheel" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="/{wheel.name}">{wheel.name}</a>')
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    bundle = certificate.read_bytes().partition(b"-----END PRIVATE KEY-----\n")[2]
    artifact = Artifact("pypi", "tinywheel==1.0", to="/x")
    with serve_folder(wheel.parent, "127.0.0.1", certificate) as address:
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}simple")
        with pytest.raises(EngineError, match="certificate was refused") as caught:
            fetch(artifact, tmp_path, cache, sha256(wheel))
        assert "base.ca_bundle" in caught.value.hint
        assert fetch(artifact, tmp_path, cache, sha256(wheel), ca_bundle=bundle).size > 0
        cache.artifacts.path(f"sha256:{sha256(wheel)}").unlink()
        # certificates that pip is told of elsewhere count as before
        monkeypatch.setenv("PIP_CERT", str(certificate))
        others = ssl.create_default_context().get_ca_certs(binary_form=True)
        other = ssl.DER_cert_to_PEM_cert(others[0]).encode()
        assert fetch(artifact, tmp_path, cache, sha256(wheel), ca_bundle=other).size > 0


# -- scratch folders


def test_a_killed_run_leaves_a_folder_that_the_next_run_removes(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from imagekit.images.bases.workdir import work_folder\n"
        "with work_folder(Path(sys.argv[1])) as f:\n"
        "    (f / 'big').write_bytes(b'x'); print(f, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    folder = Path(process.stdout.readline().strip())
    with work_folder(tmp_path):
        assert folder.is_dir()  # its owner lives
    process.kill()
    process.communicate()
    assert (folder / "big").exists()
    with work_folder(tmp_path) as mine:
        assert mine.is_dir() and not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_kept_while_a_program_started_in_it_lives(tmp_path):
    with work_folder(tmp_path) as folder:
        held = hold(folder)
        (tmp_path / "moved").mkdir()
        folder.rename(tmp_path / "moved" / "x")  # so that leaving does not remove it
    try:
        with work_folder(tmp_path / "moved"):
            assert (tmp_path / "moved" / "x").is_dir()
    finally:
        os.close(held)
    with work_folder(tmp_path / "moved"):
        assert not (tmp_path / "moved" / "x").exists()


def test_a_folder_with_a_mount_in_it_is_not_removed(tmp_path, monkeypatch):
    inside = tmp_path / "work" / "root" / "proc dir"
    inside.mkdir(parents=True)
    (inside / "precious").touch()
    table = tmp_path / "mountinfo"
    escaped = str(inside).replace(" ", "\\040")
    table.write_text(f"47 27 0:41 / {escaped} rw,relatime - proc proc rw\n")
    monkeypatch.setattr(workdir, "_MOUNTS", table)
    remove_tree(tmp_path / "work")
    assert (inside / "precious").exists()
    table.write_text("47 27 0:41 / /elsewhere rw,relatime - proc proc rw\n")
    remove_tree(tmp_path / "work")
    assert not (tmp_path / "work").exists()


# -- the truststore


def truststore(entries, now):
    """Write a JKS file like Java does: in the given order, with times."""
    body = struct.pack(">III", 0xFEEDFEED, 2, len(entries))
    for alias, der in entries:
        body += struct.pack(">IH", 2, len(alias)) + alias.encode() + struct.pack(">q", now)
        body += struct.pack(">H", 5) + b"X.509" + struct.pack(">I", len(der)) + der
    key = "changeit".encode("utf-16-be")
    return body + hashlib.sha1(key + b"Mighty Aphrodite" + body).digest()


CERTIFICATES = [("debian:b.pem", b"\x30\x02bb"), ("debian:a.pem", b"\x30\x03aaa")]


def test_truststores_with_other_times_and_orders_become_equal():
    one = rewrite_truststore(truststore(CERTIFICATES, 1700000000123), 1704067200, "cacerts")
    two = rewrite_truststore(truststore(CERTIFICATES[::-1], 1800000000456), 1704067200, "cacerts")
    assert one == two == truststore(sorted(CERTIFICATES), 1704067200000)
    assert [(c.alias, c.kind, c.der) for c in parse_jks(one, "x")] == [
        (alias, "X.509", der) for alias, der in sorted(CERTIFICATES)
    ]


@pytest.mark.parametrize("position", [4, 20, 45, -1])
def test_a_damaged_truststore_is_refused(position):
    data = bytearray(truststore(CERTIFICATES, 0))
    data[position] ^= 1
    with pytest.raises(InputError, match="/cacerts: "):
        rewrite_truststore(bytes(data), 0, "/cacerts")


def test_a_truststore_with_a_private_key_is_refused():
    data = truststore(CERTIFICATES, 0)[:-20]
    data = data[:12] + struct.pack(">I", 1) + data[16:]
    key = "changeit".encode("utf-16-be")
    data += hashlib.sha1(key + b"Mighty Aphrodite" + data).digest()
    with pytest.raises(InputError, match="private key"):
        rewrite_truststore(data, 0, "cacerts")


def test_a_pkcs12_truststore_is_converted(tmp_path):
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import pkcs12

    certificate = x509.load_pem_x509_certificate(self_signed(tmp_path).read_bytes())
    data = pkcs12.serialize_java_truststore(
        [pkcs12.PKCS12Certificate(certificate, b"mine")],
        serialization.BestAvailableEncryption(b"changeit"),
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    expected = write_jks({"mine": TrustedCertificate("mine", "X.509", der)}, 5)
    assert rewrite_truststore(data, 5, "cacerts") == expected


# -- normalising


@pytest.mark.parametrize(
    "path",
    [
        "/etc/machine-id",
        "/etc/resolv.conf",
        "/dev/null",
        "/var/log/apt/term.log",
        "/var/cache/apt/pkgcache.bin",
        "/var/lib/apt/lists/lock",
        "/var/lib/dpkg/status-old",
        "/var/cache/ldconfig/aux-cache",
        "/usr/lib/jvm/x/lib/server/classes.jsa",
        "/usr/lib/python3/dist-packages/__pycache__",
        "/usr/lib/python3/dist-packages/__pycache__/a.cpython-311.pyc",
        "/usr/share/doc/x/copyright",
    ],
)
def test_what_depends_on_the_build_is_left_out(path):
    assert not Normaliser(0, ["/usr/share/doc/*"]).keep(path)


@pytest.mark.parametrize("path", ["/dev", "/var/log", "/usr/share/doc", "/var/lib/dpkg/status"])
def test_the_rest_is_kept(path):
    assert Normaliser(0, ["/usr/share/doc/*"]).keep(path)


def test_password_days_and_automatic_keyrings_are_pinned():
    normaliser = Normaliser(86400 * 100)
    shadow = normaliser.rewrite("/etc/shadow", b"root:*:19675:0:99999:7:::\nx:!::0:::::\n")
    assert shadow == b"root:*:100:0:99999:7:::\nx:!::0:::::\n"
    line = b'deb [signed-by="/usr/share/keyrings/debian-archive-keyring.gpg"] http://m b main\n'
    assert normaliser.rewrite("/etc/apt/sources.list", line) == b"deb http://m b main\n"


# -- sources and locks


def test_a_source_carries_its_key_and_binary_keys_are_armored():
    source = AptSource("g", "https://x.example", ("b",), ("main",), SourceKey(path="k"))
    text = deb822(source, b"\x99\x01binary")
    assert "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQFiaW5hcnk=\n =" in text
    assert all(line and (line[0] == " " or ":" in line) for line in text.splitlines())


PACKAGES = (Package("b", "1", "amd64", GOOD), Package("a", "2", "amd64"))


def test_a_lock_is_written_sorted_and_read_back(tmp_path):
    path = tmp_path / "imagekit.base.lock.json"
    assert load_lock(path) is None
    write_lock(path, BaseLock({"pypi:x==1": GOOD}, PACKAGES))
    first = path.read_bytes()
    write_lock(path, BaseLock({"pypi:x==1": GOOD}, PACKAGES[::-1]))
    assert path.read_bytes() == first
    value = json.loads(first)
    assert value["schema"] == 1 and [p["name"] for p in value["packages"]] == ["a", "b"]
    assert load_lock(path).artifacts == {"pypi:x==1": GOOD}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": 2}',
        '{"schema": 1}',
        '{"schema":1,"artifacts":[{"name":"x","sha256":"y"}],"packages":[]}',
        '{"schema":1,"artifacts":[],"packages":[{"name":1}]}',
        '{"schema":1,"artifacts":[],"packages":3}',
    ],
)
def test_a_damaged_lock_is_an_input_error(text, tmp_path):
    path = tmp_path / "lock"
    path.write_text(text)
    with pytest.raises(InputError, match="lock"):
        load_lock(path)


def test_other_versions_are_named():
    lock = BaseLock({}, PACKAGES)
    assert drift(lock, PACKAGES) is None
    assert drift(BaseLock({}), PACKAGES) is None
    found = drift(lock, (Package("a", "3", "amd64"), Package("c", "1", "amd64")))
    assert found.differences == ("a 2 → 3", "b 1 → (none)", "c (none) → 1")
    assert "a 2 → 3" in found.problem and "base lock" in found.hint
    other = drift(lock, (PACKAGES[1], Package("b", "1", "amd64", WRONG)))
    assert other.differences == ("b 1 with another content",)
