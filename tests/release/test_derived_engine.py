"""A base on top of an image with packages that an engine installs, compared with plain builds.

A small Debian image stands for the official one of Occlum: its own layers, user and settings stay.
"""

import hashlib
import io
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from company_archive import serve_archive
from image_files import differences, of_archive, of_image, run_settings
from test_base_context import certificate
from test_base_engine import TEST_CACHE, build, gateway, images, traces

from imagekit.errors import EngineError, InputError, UsageError
from imagekit.images.bases.builder import make_builder
from imagekit.images.bases.derive import Below, derive, lock_derived
from imagekit.images.bases.inputs import DerivedInputs
from imagekit.images.bases.install_on import Installation
from imagekit.images.cache import Cache
from imagekit.images.daemon.load import load_image
from imagekit.images.layout import OciLayout
from imagekit.images.progress import NO_PROGRESS
from imagekit.release.derived_context import derived_context, source_name
from imagekit.release.package_engine import EnginePackages
from imagekit.spec.base import parse_base
from imagekit.spec.fields import parse_yaml

EPOCH = 1704067200
NEEDS = pytest.mark.integration("mmdebstrap", "gpg", "dpkg-deb", root=True)

BELOW = """\
from: oci:builder
files:
  - {path: /etc/apt/sources.list.d/company.sources, source: company.sources}
  - {path: /etc/apt/apt.conf.d/docker-clean, text: 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };'}
  - {path: /srv/old/a, text: a}
  - {path: /srv/old/b, text: b}
  - {path: /srv/turned/a, text: a}
  - {path: /srv/one, text: "1"}
  - {path: /srv/touched, text: "1"}
user: "1000"
workdir: /srv
env: {KEPT: "yes", LD_LIBRARY_PATH: /opt/occlum}
"""  # noqa: E501
SPEC = """\
from: oci:below
packages: [company-tool, iputils-ping]   # ping gets a file capability
artifacts:
  - {path: sweeper_1_all.deb, sha256: @sweeper_1_all.deb}
  - {path: a.tar, sha256: @a.tar, strip: 1, to: /opt/a}
  - {path: one, sha256: @one, to: /root/x/, mode: "0755"}
files:
  - {path: /etc/a b$c, text: "it's", mode: "0640"}
  - {path: /root/.profile2, source: ./one}
  - {path: /opt/a/d/more, text: more}
env: {ODD: "a \\"b\\" $HOME", EMPTY: ""}
workdir: /opt/a
entrypoint: [/bin/sh, -c, 'echo "$0"']
ca_bundle: ./ca.pem
"""
CONTROL = """\
Package: sweeper
Version: 1
Architecture: all
Depends: libcap2-bin
Maintainer: Nobody <nobody@company.example>
Description: removes and changes what was there
"""
POSTINST = """\
#!/bin/sh
set -e
rm -r /srv/old /srv/one
rm -r /srv/turned
ln -s /usr/share/sweeper /srv/turned
touch /srv/touched
chmod 0750 /mnt
mkdir -p -m 0700 /srv/new/closed
echo 1 > "/srv/new/closed/a b
c"
ln /srv/new/closed/a* /srv/new/hard
echo x > /tmp/x
echo y > /var/log/y
"""
VARIABLE = ("var/lib/apt/extended_states", "etc/shadow")
"""What imagekit rewrites, and a plain build leaves as it is."""


@dataclass(frozen=True)
class Place:
    """A project folder with a base image in it."""

    folder: Path

    def spec(self, text=SPEC):
        for name in ("sweeper_1_all.deb", "a.tar", "one"):
            digest = hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
            text = text.replace("@" + name, digest)
        return parse_base(parse_yaml(text, "imagekit.yaml"))

    def inputs(self, cache, text=SPEC, lock=None):
        return DerivedInputs(self.spec(text), self.folder, cache, EPOCH, lock, NO_PROGRESS)

    def below(self, said=None, engine="docker"):
        image = OciLayout.open(self.folder / "below").image(None)
        talk = [].append if said is None else said.append
        return Below(image, EnginePackages(engine, talk))


@pytest.fixture(scope="session")
def builder():
    """A Debian image with apt and Python, made once."""
    spec = parse_base(parse_yaml("distribution: {suite: bookworm}", "f"))
    return make_builder(spec, Path(), Cache(TEST_CACHE / "builder"))


def deb822(url, key):
    lines = [f" {line.strip() or '.'}" for line in key.splitlines()]
    return "\n".join(["Types: deb", f"URIs: {url}", "Suites: ./", "Signed-By:", *lines, ""])


def write_deb(folder, name, control, postinst):
    root = folder / "deb" / "DEBIAN"
    root.mkdir(parents=True, exist_ok=True)
    (root / "control").write_text(control)
    (root / "postinst").write_text(postinst)
    (root / "postinst").chmod(0o755)
    command = ["dpkg-deb", "--root-owner-group", "--build", root.parent, folder / name]
    subprocess.run(command, check=True, capture_output=True)


def write_files(folder):
    write_deb(folder, "sweeper_1_all.deb", CONTROL, POSTINST)
    (folder / "one").write_bytes(b"one")
    with tarfile.open(folder / "a.tar", "w") as tar:
        for path, kind, link in (
            ("a-1/d/f", tarfile.REGTYPE, ""),
            ("a-1/soft", tarfile.SYMTYPE, "d/f"),
        ):
            member = tarfile.TarInfo(path)
            member.type, member.linkname, member.mode = kind, link, 0o700
            member.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"data"))


@pytest.fixture
def place(engine, builder, tmp_path):
    """A project folder with an image that names a company's archive, which is served."""
    folder = tmp_path / "project"
    (folder / "archive").mkdir(parents=True)
    address = gateway(engine)
    public, private = certificate(address)
    (folder / "ca.pem").write_bytes(public)
    (tmp_path / "server.pem").write_bytes(private + public)
    write_files(folder)
    with serve_archive(folder / "archive", address, tmp_path / "server.pem") as url:
        key = (folder / "archive/key.asc").read_text()
        (folder / "company.sources").write_text(deb822(url, key))
        spec = parse_base(parse_yaml(BELOW, "f"))
        cache = Cache(tmp_path / "below-cache")
        made = derive(
            DerivedInputs(spec, folder, cache, 1, None, NO_PROGRESS), Below(builder, None)
        )
        OciLayout.create(folder / "below").put(made.image, "below")
        yield Place(folder)


@NEEDS
def test_packages_are_added_and_a_plain_build_gives_the_same(
    engine, buildx, place, builder, tmp_path
):
    said, cache, before = [], Cache(tmp_path / "cache"), images(engine)
    below = place.below(said)
    made = derive(place.inputs(cache), below)
    assert images(engine) == before
    assert list((cache.root / "work").iterdir()) == []
    assert any("digest depends on the day" in line for line in said)

    # the image below is there as it was, and three layers and the settings are new
    assert made.image.layers[: len(below.image.layers)] == below.image.layers
    assert len(made.image.layers) == len(below.image.layers) + 4
    names = {package.name: package for package in made.packages}
    assert {"company-tool", "iputils-ping", "sweeper", "libcap2-bin", "apt"} <= names.keys()
    assert names["iputils-ping"].sha256
    seen = of_image(made.image)
    assert seen.files["usr/bin/ping"].capability
    assert not {"srv/old", "srv/one", "srv/turned/a", "tmp/x", "var/log/y"} & seen.files.keys()
    assert seen.files["srv/turned"].link == "/usr/share/sweeper"
    assert seen.files["mnt"].mode == 0o750 and seen.files["tmp"].mode == 0o1777
    assert seen.files["srv/new/closed"].mode == 0o700
    assert seen.files["root"].mode == 0o700
    assert "srv/new/closed/a b\nc" in seen.files
    settings = run_settings(seen)
    assert settings["user"] == "1000"
    assert {"KEPT=yes", "EMPTY=", 'ODD=a "b" $HOME'} <= set(settings["env"])

    # only what changed is in the new layer
    added = entries(made.image, len(below.image.layers))
    assert {"srv/.wh.old", "srv/.wh.one", "srv/turned", "mnt", "srv/new/hard"} <= added.keys()
    assert not {"srv/touched", "usr/bin/apt-get", "sbin/start-stop-daemon"} & added.keys()
    assert not [name for name in added if name.startswith(("tmp/", "var/lib/apt/lists/"))]
    assert {member.mtime for member in added.values()} == {EPOCH}

    check_plain_builds(engine, place, builder, seen, tmp_path)
    check_second_run(place, made, cache)


def entries(image, number):
    with image.blobs.open_blob(image.layers[number].digest) as stream:
        return {member.name: member for member in tarfile.open(fileobj=io.BytesIO(stream.read()))}


def check_plain_builds(engine, place, builder, seen, tmp_path):
    """With both builders: the same files, and nothing of the CA or the proxy."""
    daemon, cache = engine.daemon(), Cache(tmp_path / "plain")
    spec, context = place.spec(), tmp_path / "context"
    derived_context(
        spec, place.folder, cache, EPOCH, standin=False, user="1000", with_artifacts=True
    ).write(context)
    image = OciLayout.open(place.folder / "below").image(None)
    load_image(daemon, image, [source_name(spec, None).name], NO_PROGRESS)
    load_image(daemon, builder, ["imagekit-builder:bookworm"], NO_PROGRESS)
    with ThreadPoolExecutor() as pool:
        tags = ("kit:1", "classic:1")
        for built in [
            pool.submit(build, engine, context, tag, buildkit=tag == "kit:1") for tag in tags
        ]:
            built.result()
    for tag in tags:
        engine.docker("save", "--output", str(tmp_path / "saved.tar"), tag)
        plain = of_archive(tmp_path / "saved.tar")
        found = differences(seen, plain)
        assert [line for line in found if not line.startswith(VARIABLE)] == []
        assert run_settings(plain) == run_settings(seen)
        assert traces(tmp_path / "saved.tar", place.folder) == []


def check_second_run(place, made, cache):
    """Nothing is asked of an engine, whatever is in the cache of installed packages."""

    def refuse(order, folder, progress):
        raise AssertionError(order)

    again = derive(place.inputs(cache), Below(place.below().image, refuse))
    assert again.cached and again.image.digest == made.image.digest
    assert again.packages == made.packages
    text = SPEC.replace("text: more", "text: other")  # the packages' layer is kept
    other = derive(place.inputs(cache, text), Below(place.below().image, refuse))
    assert other.image.digest != made.image.digest
    assert other.image.layers[:-1] == made.image.layers[:-1]


UNPACKED = """\
from: oci:below
artifacts:
  - {path: sweeper_1_all.deb, sha256: @sweeper_1_all.deb}
"""


@NEEDS
def test_the_lock_names_image_and_packages_and_is_kept_to(place, tmp_path):
    """Of a local package alone, without the company's archive: on an image of Debian's."""
    cache, said = Cache(tmp_path / "cache"), []
    text = UNPACKED + "ca_bundle: ./ca.pem\n"
    below = place.below(said)
    lock = lock_derived(place.inputs(cache, text), below)
    assert lock.below == ("oci:below", below.image.digest)
    assert {"sweeper", "libcap2-bin"} <= {package.name for package in lock.packages}

    def refuse(order, folder, progress):
        raise AssertionError(order)

    # what was locked is what is built, without another installation
    made = derive(place.inputs(cache, text, lock), Below(below.image, refuse), locked_only=True)
    assert made.drift is None
    assert len(made.image.layers) == len(below.image.layers) + 1
    # two installations of the same packages are the same, byte for byte
    again = derive(place.inputs(Cache(tmp_path / "again"), text, lock), below)
    assert again.image.digest == made.image.digest
    # and the archives are asked again, whatever the engine has kept
    place_deb = CONTROL.replace("Version: 1", "Version: 2")
    write_deb(place.folder, "sweeper_1_all.deb", place_deb, POSTINST)
    other = place.inputs(cache, text, lock)
    with pytest.raises(InputError, match="sweeper 1 → 2") as caught:
        derive(other, below, locked_only=True)
    assert "base lock" in caught.value.hint
    drifted = derive(other, below)
    assert drifted.drift.differences == ("sweeper 1 → 2",)


@NEEDS
def test_a_package_that_no_archive_has_is_named(engine, place, tmp_path):
    before = images(engine)
    text = "from: oci:below\npackages: [no-such-package]\nca_bundle: ./ca.pem\n"
    cache = Cache(tmp_path / "cache")
    with pytest.raises(EngineError) as caught:
        derive(place.inputs(cache, text), place.below())
    assert "no-such-package" in caught.value.problem
    assert "base.packages" in caught.value.hint
    assert list((cache.root / "work").iterdir()) == []
    assert images(engine) == before


@NEEDS
def test_without_the_ca_the_companys_archive_is_refused(place, tmp_path):
    with pytest.raises(EngineError) as caught:
        derive(
            place.inputs(Cache(tmp_path / "cache"), "from: oci:below\npackages: [company-tool]"),
            place.below(),
        )
    assert "base.ca_bundle" in caught.value.hint or "base.packages" in caught.value.hint


@NEEDS
def test_docker_and_podman_give_the_same_base(engine, podman, builder, tmp_path, monkeypatch):
    write_files(tmp_path)
    below = BELOW.replace(BELOW.splitlines()[2] + "\n", "")  # without the company's archive
    assert "company" not in below
    inputs = DerivedInputs(
        parse_base(parse_yaml(below, "f")), tmp_path, Cache(tmp_path / "b"), 1, None, NO_PROGRESS
    )
    image = derive(inputs, Below(builder, None)).image
    digests = set()
    for one in (engine, podman):
        monkeypatch.setenv("DOCKER_HOST", one.host)
        given = Place(tmp_path).inputs(Cache(tmp_path / one.socket.name), UNPACKED)
        made = derive(given, Below(image, EnginePackages("auto", [].append)))
        assert {"srv/turned", "srv/.wh.old", "srv/new/hard"} <= entries(made.image, -1).keys()
        assert one.containers() == []
        digests.add(made.image.digest)
    assert len(digests) == 1


def test_without_an_engine_it_is_said_who_needs_one(tmp_path, monkeypatch, builder):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    order = Installation(builder, ("tini",), (), EPOCH)
    with pytest.raises(EngineError):
        EnginePackages("auto", [].append)(order, tmp_path)
    with pytest.raises(UsageError, match="--engine assemble") as caught:
        EnginePackages("assemble", [].append)(order, tmp_path)
    assert "--engine docker" in caught.value.hint
