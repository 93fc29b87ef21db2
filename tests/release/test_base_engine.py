"""A base from an engine and from a plain docker build, compared with the assembled one."""

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from company_archive import serve_archive
from image_files import Entry, Seen, differences, of_archive, of_image, run_settings
from test_base_context import certificate

from imagekit.errors import EngineError, InputError
from imagekit.images.bases.assemble import assemble
from imagekit.images.bases.recipe import Ingredients
from imagekit.images.cache import Cache
from imagekit.release import base_engine
from imagekit.release.base_context import BaseContext, base_context
from imagekit.release.base_engine import EngineRoot, ensure_builder
from imagekit.spec.base import parse_base
from imagekit.spec.fields import parse_yaml

ROOT = Path(__file__).parents[2]
TEST_CACHE = ROOT / ".imagekit" / "test-cache"
PROXY = "proxy-of-a-test.example"

SPEC = """\
distribution: {suite: bookworm, variant: apt}
packages: [company-tool, iputils-ping, libcap2-bin, tini]   # ping gets a file capability
sources: [{name: company, uri: "@archive", suites: [./], signed_by: archive/key.asc}]
artifacts:
  - {path: gramine-standin_1.9_amd64.deb, sha256: @gramine-standin_1.9_amd64.deb}
  - {path: a.tar, sha256: @a.tar, strip: 1, to: /opt/a}
  - {path: one, sha256: @one, to: /var/tmp/x/, mode: "0755"}
files:
  - {path: /etc/a b, text: "it's \\"$HOME\\"", mode: "0640"}
  - {path: /tmp/b, source: ./one}
env: {ODD: "a \\"b\\" $HOME \\\\ c", EMPTY: ""}
user: "1000"
workdir: /opt/a
entrypoint: [/usr/bin/tini, --, 'a "b" $c']
exclude: [/usr/share/doc/*, /usr/share/locale/*]
date: 2026-01-01
ca_bundle: ./ca.pem
"""


def gateway(engine):
    """This machine's address as containers see it."""
    form = "{{(index .IPAM.Config 0).Gateway}}"
    return engine.docker("network", "inspect", "bridge", "--format", form)


@pytest.fixture
def folder(engine, tmp_path):
    """A project folder with the files that SPEC names, and the archive in it."""
    place = tmp_path / "project"
    (place / "archive").mkdir(parents=True)
    address = gateway(engine)
    public, private = certificate(address)
    (place / "ca.pem").write_bytes(public)
    (tmp_path / "server.pem").write_bytes(private + public)
    with serve_archive(place / "archive", address, tmp_path / "server.pem") as url:
        (place / "url").write_text(url)
        yield write_files(place)


def write_files(place):
    standin = ROOT / "examples/quickstart/make_standin.py"
    name = "gramine-standin_1.9_amd64.deb"
    subprocess.run([sys.executable, standin, place / name], check=True, capture_output=True)
    (place / "one").write_bytes(b"one")
    with tarfile.open(place / "a.tar", "w") as tar:
        for path, kind, link in (
            ("a-1/d/f", tarfile.REGTYPE, ""),
            ("a-1/d/hard", tarfile.LNKTYPE, "a-1/d/f"),
            ("a-1/soft", tarfile.SYMTYPE, "d/f"),
        ):
            member = tarfile.TarInfo(path)
            member.type, member.linkname, member.mode = kind, link, 0o700
            member.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"data"))
    return place


def spec_of(folder, text=SPEC):
    for name in ("gramine-standin_1.9_amd64.deb", "a.tar", "one"):
        text = text.replace("@" + name, hashlib.sha256((folder / name).read_bytes()).hexdigest())
    text = text.replace("@archive", (folder / "url").read_text())
    return parse_base(parse_yaml(textwrap.dedent(text), "imagekit.yaml"))


def build(engine, context, tag, *, buildkit):
    """A plain docker build, with a proxy for a scheme that no archive here uses."""
    command = ["buildx", "build", "--load"] if buildkit else ["build"]
    proxy = ("--build-arg", f"ftp_proxy=http://{PROXY}:3128")
    done = subprocess.run(
        ["docker", "--host", engine.host, *command, "--tag", tag, *proxy, str(context)],
        env={**os.environ, "DOCKER_BUILDKIT": "1" if buildkit else "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def traces(saved, folder):
    """What an archive of docker save (layers, config, history) holds of the CA and the proxy."""
    lines = (folder / "ca.pem").read_bytes().splitlines()[1:-1]
    data = saved.read_bytes()
    searched = (lines[2], base64.b64decode(b"".join(lines)), PROXY.encode())
    return [text for text in searched if text in data]


def images(engine):
    return sorted(set(engine.docker("images", "--quiet", "--all").split()))


@pytest.mark.integration("mmdebstrap", "gpg", "dpkg-deb", root=True)
def test_whoever_makes_a_base_makes_the_same(engine, buildx, folder, tmp_path):
    spec, cache = spec_of(folder), Cache(tmp_path / "cache")
    daemon, said = engine.daemon(), []
    ensure_builder(spec, daemon, folder, Cache(TEST_CACHE / "builder"), said.append)
    context = tmp_path / "context"
    base_context(spec, folder, cache, spec.epoch, standin=True, with_artifacts=True).write(context)
    with ThreadPoolExecutor() as pool:  # each waits for the network and the disk most of the time
        builds = {
            tag: pool.submit(build, engine, context, tag, buildkit=tag == "kit:1")
            for tag in ("kit:1", "classic:1")
        }
        assembled = assemble(spec, folder, cache, spec.epoch)
        for built in builds.values():
            built.result()

    expected = of_image(assembled.image)
    assert expected.files["usr/bin/ping"].capability
    assert expected.files["tmp"].mode == 0o1777
    assert "usr/share/company-tool" in expected.files  # written by a package's script
    for tag in builds:
        engine.docker("save", "--output", str(tmp_path / "saved.tar"), tag)
        seen = of_archive(tmp_path / "saved.tar")
        assert differences(expected, seen) == []
        assert run_settings(seen) == run_settings(expected)
        assert traces(tmp_path / "saved.tar", folder) == []

    # in the engine, but normalised and put together here: the same bytes; BuildKit's cache serves
    # the stages that both files have
    other = Cache(tmp_path / "other")
    before = images(engine)
    root = EngineRoot(daemon, other, folder, said.append)
    made = assemble(spec, folder, other, spec.epoch, make_root=root)
    assert made.image.digest == assembled.image.digest
    assert made.packages == assembled.packages
    assert {"tini", "gramine-standin"} <= {package.name for package in made.packages}
    assert images(engine) == before
    assert list((other.root / "work").iterdir()) == []


@pytest.mark.integration("mmdebstrap", "gpg", "dpkg-deb", root=True)
def test_without_the_ca_the_companys_archive_is_refused(engine, folder, tmp_path):
    text = SPEC.replace("ca_bundle: ./ca.pem\n", "")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(EngineError) as caught:
        assemble(spec_of(folder, text), folder, cache, 0)
    assert "base.ca_bundle" in caught.value.hint


def test_the_search_for_traces_finds_each(tmp_path):
    folder, pem = tmp_path, certificate()[0]
    (folder / "ca.pem").write_bytes(pem)
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    for data in (pem, der, f"|1 https_proxy=http://{PROXY}:3128 /bin/sh".encode()):
        (tmp_path / "saved.tar").write_bytes(b"x" * 1000 + data)
        assert len(traces(tmp_path / "saved.tar", folder)) == 1


def test_the_comparison_sees_every_difference():
    entry = Entry("file", 0o644, 0, 0, "", "", "00")
    one = Seen({"a": entry, "b": entry}, {frozenset("ab")}, {})
    others = [entry._replace(**change) for change in (
        {"kind": "5"}, {"mode": 0o600}, {"uid": 1}, {"gid": 1}, {"link": "x"},
        {"capability": "x"}, {"sha256": "11"},
    )]  # fmt: skip
    for other in others:
        assert differences(one, one._replace(files={"a": entry, "b": other})) != []
    assert differences(one, one._replace(files={"a": entry})) != []
    assert differences(one, one._replace(links=set())) != []
    assert differences(one, one) == []


@pytest.fixture
def tiny_builder(engine):
    """The name of the builder image on an image that can build nothing."""
    engine.docker("tag", "local/tiny:1", "imagekit-builder:bookworm")
    yield
    engine.docker("rmi", "imagekit-builder:bookworm")


def test_a_builder_image_that_is_there_is_used(engine, tiny_builder, tmp_path):
    spec = parse_base(parse_yaml("distribution: {suite: bookworm}", "f"))
    said = []
    ensure_builder(spec, engine.daemon(), tmp_path, Cache(tmp_path / "c"), said.append)
    assert said == []


def test_without_a_builder_and_mmdebstrap_the_key_is_named(engine, tmp_path, monkeypatch):
    spec = parse_base(parse_yaml("distribution: {suite: bookworm}", "f"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"base\.distribution\.builder") as caught:
        ensure_builder(spec, engine.daemon(), tmp_path, Cache(tmp_path / "c"), lambda _: None)
    assert "mmdebstrap" in caught.value.hint


def test_a_failing_build_leaves_nothing_and_says_which_step(
    engine, tiny_builder, no_buildx, tmp_path
):
    spec = parse_base(parse_yaml("distribution: {suite: bookworm}", "f"))
    before = images(engine)
    cache = Cache(tmp_path / "cache")
    root = EngineRoot(engine.daemon(), cache, tmp_path, lambda _: None)
    with pytest.raises(EngineError) as caught:
        assemble(spec, tmp_path, cache, 0, make_root=root)
    assert "RUN" in caught.value.problem and "apt-get" in caught.value.problem
    assert list((cache.root / "work").iterdir()) == []
    assert images(engine) == before


SMALL = b"""\
FROM local/tiny:1 AS made
RUN echo data > /data
FROM scratch
COPY --from=made / /
"""


@pytest.mark.parametrize("builder", ["no_buildx", "buildx"])
def test_two_runs_on_one_engine_keep_each_their_own(
    engine, tiny_builder, builder, tmp_path, monkeypatch, request
):
    """Another run begins and ends while this one's image, the same one, is built but not read."""
    request.getfixturevalue(builder)
    before = images(engine)
    monkeypatch.setattr(
        base_engine, "root_context", lambda _: BaseContext({"Dockerfile": SMALL}, {})
    )
    spec = parse_base(parse_yaml("distribution: {suite: bookworm}", "f"))
    cache, ids, roots = Cache(tmp_path / "cache"), [], []
    export = base_engine.export_image

    def run(name):
        (tmp_path / name).mkdir()
        root = EngineRoot(engine.daemon(), cache, tmp_path, lambda _: None)
        roots.append(root(Ingredients(spec, (), {}, 0, None), tmp_path / name).read_bytes())

    def export_late(daemon, reference, *more):
        ids.append(reference.name)
        if len(ids) == 1:
            run("second")
        return export(daemon, reference, *more)

    monkeypatch.setattr(base_engine, "export_image", export_late)
    run("first")
    assert ids[0] == ids[1]
    assert roots[0] == roots[1]
    assert b"data" in roots[0]
    assert images(engine) == before
    assert "imagekit-root" not in engine.docker("images")
