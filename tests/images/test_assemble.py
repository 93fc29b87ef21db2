import hashlib
import io
import json
import os
import signal
import ssl
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from imagekit.errors import EngineError, InputError
from imagekit.images.bases.assemble import STANDIN_LABEL, assemble, lock_base
from imagekit.images.bases.lock import BaseLock
from imagekit.images.bases.packages import Package
from imagekit.images.cache import Cache
from imagekit.spec.base import parse_base
from imagekit.spec.fields import parse_yaml

EPOCH = 1704067200
WRONG = "00" * 32

FAKE = '''\
#!@PYTHON@ -I
"""Takes mmdebstrap's place in unit tests: writes a root whose noise differs from run to run."""
import io, os, sys, tarfile, time
state = "@STATE@"
with open(f"{state}/calls", "a") as calls:
    calls.write("\\0".join(sys.argv) + "\\n")
print("I: running apt-get update...", flush=True)
if os.path.exists(f"{state}/fail"):
    print(open(f"{state}/fail").read(), flush=True)
    sys.exit(25)
if os.path.exists(f"{state}/sleep"):
    open(f"{state}/started", "w").close()
    time.sleep(60)
run = sum(1 for _ in open(f"{state}/calls"))
for word in sys.argv[1:]:
    if word.startswith("--aptopt=Acquire::https::CAInfo "):
        ca = open(word.split('"')[1]).read()
        with open(f"{state}/ca", "w") as output:
            output.write(ca)
version = open(f"{state}/version").read() if os.path.exists(f"{state}/version") else "1.0"
target = [word for word in sys.argv[1:] if not word.startswith("-")][1]
entries = [
    ("etc", None), ("tmp", None), ("opt", None), ("usr", None), ("usr/bin", None),
    ("usr/lib", None), ("var", None), ("var/log", None), ("dev", None), ("etc/apt", None),
    ("etc/hostname", f"host{run}"), ("var/log/dpkg.log", str(time.time())),
    ("etc/shadow", f"root:*:{20000 + run}:0:::::\\n"), ("usr/bin/tool", "#!/bin/sh\\n"),
    ("usr/share", None), ("usr/share/doc", None), ("usr/share/doc/x", "doc"),
    ("etc/apt/sources.list", "deb http://m b main\\n"), ("usr/lib/a.pyc", str(run)),
    ("tmp/imagekit", None),
    ("tmp/imagekit/installed", f"tini\\t{version}\\tamd64\\nlocal\\t1\\tall\\n"),
    ("tmp/imagekit/available", f"Package: tini\\nVersion: {version}\\nArchitecture: amd64\\n"
                               f"SHA256: {'ab' * 32}\\n"),
    ("var/lib/apt", None),
    ("var/lib/apt/extended_states", "Package: b\\n\\nPackage: a\\n\\n" if run % 2 else
                                    "Package: a\\n\\nPackage: b\\n\\n"),
]
if run % 2:
    entries.reverse()
with tarfile.open(target, "w") as tar:
    for name, text in entries:
        member = tarfile.TarInfo("./" + name)
        member.mtime = run
        if text is None:
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(member)
        else:
            data = text.encode()
            member.size, member.mode = len(data), 0o755
            member.uname = f"user{run}"
            tar.addfile(member, io.BytesIO(data))
    for name, kind, link in (("usr/bin/tool2", tarfile.LNKTYPE, "./usr/bin/tool"),
                             ("lib", tarfile.SYMTYPE, "usr/lib")):
        member = tarfile.TarInfo("./" + name)
        member.type, member.linkname = kind, link
        tar.addfile(member)
    member = tarfile.TarInfo("./dev/null")
    member.type = tarfile.CHRTYPE
    tar.addfile(member)
print("I: success in 1 seconds", flush=True)
'''


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Put the fake mmdebstrap first on PATH; give the folder that steers and records it."""
    folder = tmp_path / "fake"
    (folder / "bin").mkdir(parents=True)
    text = FAKE.replace("@PYTHON@", sys.executable).replace("@STATE@", str(folder))
    script = folder / "bin" / "mmdebstrap"
    script.write_text(text)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def calls(state):
    return [line.split("\0") for line in (state / "calls").read_text().splitlines()]


def spec(text=""):
    full = "distribution: {suite: bookworm}\n" + textwrap.dedent(text)
    return parse_base(parse_yaml(full, "imagekit.yaml"))


def layer(result, number):
    with result.image.blobs.open_blob(result.image.layers[number].digest) as stream:
        return {member.name: member for member in tarfile.open(fileobj=io.BytesIO(stream.read()))}


def tgz(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid, member.uname = len(data), 0o600, 1000, "packer"
            archive.addfile(member, io.BytesIO(data))

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_noisy_builds_in_two_caches_give_the_same_digest(state, tmp_path):
    one = assemble(spec(), tmp_path, Cache(tmp_path / "one"), EPOCH)
    two = assemble(spec(), tmp_path, Cache(tmp_path / "two"), EPOCH)
    assert len(calls(state)) == 2
    assert one.image.digest == two.image.digest


def test_without_normalising_the_fake_builds_would_differ(state, tmp_path, monkeypatch):
    from imagekit.images.bases.normalise import Normaliser

    monkeypatch.setattr(Normaliser, "rewrites", lambda _self, _path: False)
    one = assemble(spec(), tmp_path, Cache(tmp_path / "one"), EPOCH)
    two = assemble(spec(), tmp_path, Cache(tmp_path / "two"), EPOCH)
    assert one.image.digest != two.image.digest


def test_the_distribution_layer_is_normalised(state, cache, tmp_path):
    found = layer(assemble(spec("exclude: [/usr/share/doc/*]"), tmp_path, cache, EPOCH), 0)
    assert {"etc/hostname", "var/log/dpkg.log", "dev/null", "usr/lib/a.pyc"}.isdisjoint(found)
    assert "usr/share/doc" in found and "usr/share/doc/x" not in found
    assert list(found) == sorted(found)
    assert {member.mtime for member in found.values()} == {EPOCH}
    assert {member.uname for member in found.values()} == {""}
    assert found["tmp"].mode == 0o1777
    assert found["usr/bin/tool2"].linkname == "usr/bin/tool" and found["lib"].issym()


def test_the_second_run_is_served_from_the_cache(state, cache, tmp_path):
    first = assemble(spec(), tmp_path, cache, EPOCH)
    again = assemble(spec(), tmp_path, cache, EPOCH)
    assert not first.cached and again.cached
    assert again.image.digest == first.image.digest and len(calls(state)) == 1
    assemble(spec(), tmp_path, cache, EPOCH, refresh=True)
    assert len(calls(state)) == 2


@pytest.mark.parametrize("damage", ["record", "blob", "manifest"])
def test_a_damaged_cache_is_noticed_and_the_base_made_again(state, cache, tmp_path, damage):
    first = assemble(spec(), tmp_path, cache, EPOCH)
    if damage == "record":
        for path in (cache.root / "bases").glob("*.json"):
            path.write_bytes(path.read_bytes()[:20])
    elif damage == "blob":
        cache.blobs.path(first.image.layers[0].digest).unlink()
    else:
        cache.blobs.path(first.image.digest).write_bytes(b"{}")
    again = assemble(spec(), tmp_path, cache, EPOCH)
    assert not again.cached and again.image.digest == first.image.digest
    assert cache.blobs.has(first.image.layers[0].digest)


def test_a_changed_artifact_leaves_the_distribution_alone(state, cache, tmp_path):
    sha256 = tgz(tmp_path / "a.tgz", {"a-1/bin/x": b"1", "a-1/doc/y": b"2"})
    text = f"artifacts: [{{path: a.tgz, sha256: {sha256}, take: a-1/bin, to: /opt/a}}]\n"
    one = assemble(spec(), tmp_path, cache, EPOCH)
    two = assemble(spec(text), tmp_path, cache, EPOCH)
    assert len(calls(state)) == 1 and two.image.layers[0] == one.image.layers[0]
    found = layer(two, 1)
    assert list(found) == ["opt", "opt/a", "opt/a/x"]
    assert found["opt/a/x"].mode == 0o644 and found["opt/a/x"].uid == 0


def test_zip_archives_single_files_and_files_become_layers(state, cache, tmp_path):

    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("top/in/a.txt", "a")
    (tmp_path / "x.jar").write_bytes(b"jar")
    hashes = {
        n: hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in ("z.zip", "x.jar")
    }
    (tmp_path / "local").write_text("local")
    result = assemble(
        spec(
            f"""\
            artifacts:
              - {{path: z.zip, sha256: {hashes["z.zip"]}, strip: 1, to: /opt/z}}
              - {{path: x.jar, sha256: {hashes["x.jar"]}, to: /opt/jars/, mode: "0600"}}
            files:
              - {{path: /etc/a, text: "hé", mode: "0640"}}
              - {{path: /tmp/b, source: ./local}}
            env: {{A: b}}
            user: 1000:1000
            workdir: /opt
            entrypoint: [/usr/bin/tool]
            """
        ),
        tmp_path,
        cache,
        EPOCH,
    )
    assert list(layer(result, 1)) == ["opt", "opt/z", "opt/z/in", "opt/z/in/a.txt"]
    assert layer(result, 2)["opt/jars/x.jar"].mode == 0o600
    files = layer(result, 3)
    assert files["etc/a"].mode == 0o640 and files["etc/a"].size == 3
    assert files["tmp"].mode == 0o1777  # as the distribution has it
    assert result.image.env["A"] == "b" and result.image.entrypoint == ("/usr/bin/tool",)
    assert result.image.run_config["User"] == "1000:1000"
    assert result.image.labels == {"org.opencontainers.image.created": "2024-01-01T00:00:00Z"}


def test_a_stand_in_is_recognised_by_its_content(state, cache, tmp_path):
    sha256 = tgz(tmp_path / "g.tgz", {"sgx/libpal.so": b"\x7fELF imagekit stand-in PAL"})
    text = f"artifacts: [{{path: g.tgz, sha256: {sha256}, to: /opt/gramine}}]\n"
    assert assemble(spec(text), tmp_path, cache, EPOCH).image.labels[STANDIN_LABEL] == "true"


def test_a_changed_file_makes_another_image(state, cache, tmp_path):
    (tmp_path / "f").write_text("1")
    text = "files: [{path: /etc/f, source: f}]\n"
    one = assemble(spec(text), tmp_path, cache, EPOCH)
    (tmp_path / "f").write_text("2")
    assert assemble(spec(text), tmp_path, cache, EPOCH).image.digest != one.image.digest


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("artifacts: [{path: a.tgz, sha256: @, take: nothing, to: /x}]", "leaves nothing"),
        ("artifacts: [{path: a.tgz, sha256: @, strip: 9, to: /x}]", "leaves nothing"),
        ("artifacts: [{path: a.tgz, sha256: @, to: /lib/x}]", "leads through /lib"),
        ("files: [{path: /lib/x, text: x}]", "leads through /lib"),
        ("files: [{path: /etc/x, source: ./none}]", "none"),
        ("artifacts: [{path: a.tgz, to: /x}]", "no sha256 for a.tgz"),
        (f"artifacts: [{{path: a.tgz, sha256: {WRONG}, to: /x}}]", f"expected sha256 {WRONG}"),
        ("artifacts: [{path: b.zip, sha256: &, to: /x}]", "unsafe name"),
        ("artifacts: [{path: w.tgz, sha256: '%', to: /x}]", "mark that removes files"),
    ],
)
def test_what_would_break_the_image_is_refused(state, cache, tmp_path, text, problem):

    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("../evil", "x")
    whiteout = tgz(tmp_path / "w.tgz", {"a/.wh.tool": b""})
    text = (
        text.replace("@", tgz(tmp_path / "a.tgz", {"a/b": b""}))
        .replace("&", hashlib.sha256((tmp_path / "b.zip").read_bytes()).hexdigest())
        .replace("%", whiteout)
    )
    with pytest.raises(InputError) as caught:
        assemble(spec(text), tmp_path, cache, EPOCH)
    assert problem in caught.value.problem
    work = cache.root / "work"
    assert not work.exists() or list(work.iterdir()) == []


def test_mmdebstraps_arguments(state, cache, tmp_path):
    (tmp_path / "key.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nx\n-----END\n")
    (tmp_path / "my x.deb").write_bytes(b"deb")

    text = f"""\
        packages: [tini, bash]
        sources:
          - name: extra
            uri: https://x.example/
            suites: [s]
            components: [main]
            signed_by: key.asc
        artifacts: [{{path: "my x.deb", sha256: {hashlib.sha256(b"deb").hexdigest()}}}]
        """
    assemble(spec(text), tmp_path, cache, EPOCH)
    words = calls(state)[0]
    fetch = 'sh "$1"/tmp/imagekit/fetch.sh "$1" bash tini "$1"/tmp/imagekit/0.deb'
    assert f"--customize-hook={fetch}" in words and "--variant=minbase" in words
    install = 'chroot "$1" /bin/sh /tmp/imagekit/install.sh bash tini'
    assert words.index(f"--customize-hook={install}") > words.index(f"--customize-hook={fetch}")
    assert not any(word.startswith("--include") for word in words)
    assert any(w.endswith(" /etc/apt/sources.list.d/extra.sources") for w in words)
    assert f"--customize-hook=upload '{tmp_path}/my x.deb' /tmp/imagekit/0.deb" in words


def test_mmdebstrap_gets_the_companys_certificates_and_no_layer_does(state, cache, tmp_path):
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    (tmp_path / "ca.pem").write_text(ssl.DER_cert_to_PEM_cert(certificates[0]))
    one = assemble(spec("ca_bundle: ca.pem"), tmp_path, cache, EPOCH)
    assert (tmp_path / "ca.pem").read_text() in (state / "ca").read_text()
    assert (cache.root / "work").is_dir() and not list((cache.root / "work").iterdir())
    assert one.image.digest == assemble(spec(), tmp_path, cache, EPOCH).image.digest
    assert len(calls(state)) == 1  # the second one is the same base


def test_a_missing_mmdebstrap_is_named_with_the_line_that_installs_it(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="mmdebstrap is not installed") as caught:
        assemble(spec(), tmp_path, cache, EPOCH)
    assert "apt-get install mmdebstrap" in caught.value.hint


def test_a_failing_mmdebstrap_is_reported_with_its_last_words(state, cache, tmp_path):
    (state / "fail").write_text("E: Unable to locate package tinii\nE: mmdebstrap failed to run")
    with pytest.raises(EngineError, match="Unable to locate package tinii") as caught:
        assemble(spec("packages: [tinii]"), tmp_path, cache, EPOCH)
    assert "base.packages" in caught.value.hint
    assert "\n" not in caught.value.problem
    assert list((cache.root / "work").iterdir()) == []


def test_an_interrupted_build_stops_mmdebstrap_and_leaves_nothing(state, cache, tmp_path):
    (state / "sleep").touch()
    code = (
        "import sys, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\nfrom imagekit.images.bases.assemble import assemble\n"
        "from imagekit.images.cache import Cache\nfrom imagekit.spec.base import parse_base\n"
        "from imagekit.spec.fields import parse_yaml\n"
        "spec = parse_base(parse_yaml('distribution: {suite: bookworm}', 'f'))\n"
        "assemble(spec, Path('.'), Cache(Path(sys.argv[1])), 0)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(cache.root)], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 30
    while not (state / "started").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert list((cache.root / "work").iterdir()) == []
    assert list((cache.root / "bases").glob("*.json")) == []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(state).encode() not in path.read_bytes()
        except OSError:
            continue


# -- locks


def test_a_lock_gives_hashes_and_packages(state, cache, tmp_path):
    sha256 = tgz(tmp_path / "a.tgz", {"a/b": b""})
    text = "artifacts: [{path: a.tgz, to: /opt/a}]\n"
    lock = lock_base(spec(text), tmp_path, cache, EPOCH)
    assert dict(lock.artifacts) == {"path:a.tgz": sha256}
    assert lock.packages == (
        Package("local", "1", "all"),
        Package("tini", "1.0", "amd64", "ab" * 32),
    )
    result = assemble(spec(text), tmp_path, cache, EPOCH, lock, locked_only=True)
    assert result.drift is None and len(calls(state)) == 1  # the lock's own root is used
    tgz(tmp_path / "a.tgz", {"a/b": b"changed"})
    with pytest.raises(InputError, match="expected sha256"):
        lock_base(spec(text), tmp_path, cache, EPOCH, previous=lock)


def test_other_versions_than_the_locked_ones_are_a_warning_or_an_error(state, tmp_path):
    lock = lock_base(spec(), tmp_path, Cache(tmp_path / "one"), EPOCH)
    (state / "version").write_text("1.1")
    other = Cache(tmp_path / "two")
    result = assemble(spec(), tmp_path, other, EPOCH, lock)
    assert result.drift.differences == ("tini 1.0 → 1.1",)
    assert assemble(spec(), tmp_path, other, EPOCH, lock).drift == result.drift
    with pytest.raises(InputError, match=r"tini 1\.0 → 1\.1") as caught:
        assemble(spec(), tmp_path, other, EPOCH, lock, locked_only=True)
    assert "snapshot" in caught.value.hint


def test_locked_only_needs_locked_packages(state, cache, tmp_path):
    for lock in (None, BaseLock({})):
        with pytest.raises(InputError, match="no packages are locked"):
            assemble(spec(), tmp_path, cache, EPOCH, lock, locked_only=True)


# -- the real thing


@pytest.mark.integration("mmdebstrap")
def test_two_real_builds_give_the_same_digest(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from imagekit.images.bases.assemble import assemble\n"
        "from imagekit.images.cache import Cache\nfrom imagekit.spec.base import parse_base\n"
        "from imagekit.spec.fields import parse_yaml\n"
        "text = 'distribution: {suite: bookworm, variant: apt}\\npackages: [tini]\\n'\n"
        "spec = parse_base(parse_yaml(text, 'f'))\n"
        "result = assemble(spec, Path('.'), Cache(Path(sys.argv[1])), 1767225600)\n"
        "import json\nprint(json.dumps([result.image.digest, len(result.packages)]))\n"
    )
    found = []
    for number, (zone, umask) in enumerate((("UTC", 0o022), ("Asia/Tokyo", 0o077))):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / str(number))],
            env={**os.environ, "TZ": zone, "USER": f"user{number}", "NOISE": str(number)},
            umask=umask,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
        time.sleep(1.1)
    assert found[0] == found[1] and found[0][1] > 50
