import datetime
import hashlib
import ipaddress
import os
import shutil
import stat
import subprocess
import textwrap
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dockerfile_rules import commands, lint, parse

from imagekit.errors import EngineError, InputError
from imagekit.images.bases.inputs import BaseInputs, with_hashes
from imagekit.images.bases.instage import main as stage
from imagekit.images.bases.trust import read_ca_bundle, with_system
from imagekit.images.cache import Cache
from imagekit.images.compose import new_image
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.progress import NO_PROGRESS
from imagekit.release.base_context import BaseContext, base_context, root_context, root_of_image
from imagekit.spec.base import parse_base
from imagekit.spec.fields import parse_yaml

EPOCH = 1704067200
PINNED = f"registry.example/debian:12@sha256:{'ab' * 32}"

TEXT = """\
distribution: {suite: bookworm, variant: apt}
packages: [tini, bash]
sources:
  - name: extra
    uri: https://x.example/
    suites: [s]
    components: [main]
    signed_by: key.asc
artifacts:
  - {path: my x.deb, sha256: @deb}
  - {path: a.tar, sha256: @tar, strip: 1, to: /opt/a}
  - {path: ./one, sha256: @one, to: /opt/, mode: "0755"}
files:
  - {path: /etc/a, text: "hé", mode: "0640"}
  - {path: /etc/b, source: ./one}
env: {A: b}
user: "1000"
exclude: [/usr/share/doc/*]
"""


def certificate(address: str = "127.0.0.1") -> tuple[bytes, bytes]:
    """A CA's certificate, good for a server at an address too, and its private key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Company CA of a test")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return (
        built.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


@pytest.fixture
def files(tmp_path):
    """A project folder with the files that TEXT names; gives the folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "key.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nx\n-----END\n")
    (folder / "my x.deb").write_bytes(b"deb")
    (folder / "one").write_bytes(b"one")
    subprocess.run(
        ["tar", "-cf", folder / "a.tar", "--transform=s,^,a-1/,", "one"], cwd=folder, check=True
    )
    return folder


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def spec(folder, text=TEXT):
    for name, mark in (("my x.deb", "@deb"), ("a.tar", "@tar"), ("one", "@one")):
        text = text.replace(mark, hashlib.sha256((folder / name).read_bytes()).hexdigest())
    return parse_base(parse_yaml(textwrap.dedent(text), "imagekit.yaml"))


def context(folder, cache, text=TEXT, *, with_artifacts=True, standin=False):
    return base_context(
        spec(folder, text), folder, cache, EPOCH, standin=standin, with_artifacts=with_artifacts
    )


def dockerfile(made):
    return made.files["Dockerfile"].decode()


def test_every_file_that_is_copied_is_there_and_nothing_else_is_let_through(files, cache, tmp_path):
    made = context(files, cache)
    written = made.write(tmp_path / "out")
    there = {str(path.relative_to(tmp_path / "out")) for path in written}
    lines, _ = parse(dockerfile(made))
    copied = set()
    for line in lines:
        if line.name == "COPY" and "--from" not in line.rest:
            for source in line.rest.split()[:-1]:
                found = [n for n in there if n == source or n.startswith(source.rstrip("/") + "/")]
                assert found, source
                copied.update(found)
    assert copied == there - {"Dockerfile", ".dockerignore"}
    ignore = (tmp_path / "out/.dockerignore").read_text().splitlines()
    assert ignore[0] == "*" and {line[1:] for line in ignore[1:]} == copied
    assert lint(dockerfile(made), user=True) == []
    assert {stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in made.files} == {
        0o644
    }


def test_the_stages_words_are_understood_and_their_hashes_checked(files, cache, tmp_path):
    made = context(files, cache)
    made.write(tmp_path / "out")
    root = tmp_path / "root"
    root.mkdir()
    lines, _ = parse(dockerfile(made))
    places = {
        "/imagekit/artifacts": str(tmp_path / "out/artifacts"),
        "/imagekit/files": str(tmp_path / "out/build/files"),
        "/tree": str(root),
    }
    shells = [line.rest for line in lines if "stage.pyz" in line.rest and line.name == "RUN"]
    assert len(shells) == 5
    for shell in shells:
        (words,) = commands(shell)
        words = words[words.index("/imagekit/stage.pyz") + 1 :]
        for old, new in places.items():
            words = [word.replace(old, new) if word.startswith(old) else word for word in words]
        assert stage(words) == 0
    assert (root / "opt/a/one").read_bytes() == b"one"
    assert stat.S_IMODE((root / "opt/one").stat().st_mode) == 0o755
    assert (root / "etc/a").read_text() == "hé"
    assert stat.S_IMODE((root / "etc/a").stat().st_mode) == 0o640
    assert (root / "etc/b").read_bytes() == b"one"


def test_artifacts_are_written_on_demand_only_and_once(files, cache, tmp_path):
    without = context(files, cache, with_artifacts=False)
    assert not without.artifacts
    assert without.files == context(files, cache).files
    text = TEXT.replace("@one, to: /opt/,", "@one, to: /opt/x/,")
    twice = text.replace("files:", "  - {path: ./one, sha256: @one, to: /opt/y/}\nfiles:")
    made = context(files, cache, twice)
    assert len(made.artifacts) == 3
    made.write(tmp_path / "out")
    made.write(tmp_path / "out")  # a second time, over the first
    assert len(list((tmp_path / "out/artifacts").iterdir())) == 3


def test_an_artifact_given_by_a_symlink_arrives_as_a_file_of_its_own(files, cache, tmp_path):
    (files / "one").rename(files / "one-1.0")
    (files / "one").symlink_to("one-1.0")
    made = context(files, cache)
    made.write(tmp_path / "out")
    written = list((tmp_path / "out/artifacts").iterdir())
    assert len(written) == 3
    for file in written:
        assert not file.is_symlink()
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.name
        file.write_bytes(b"changed in place")
    assert (files / "one-1.0").read_bytes() == b"one"
    assert (files / "my x.deb").read_bytes() == b"deb"


def test_what_the_cache_has_is_not_copied(cache, tmp_path):
    stored = cache.artifacts.add_bytes(b"fetched").digest
    path = cache.artifacts.path(stored)
    made = BaseContext({}, {"artifacts/x": path}, cache.root)
    made.write(tmp_path / "out")
    made.write(tmp_path / "out")
    assert (tmp_path / "out/artifacts/x").samefile(path)


def test_two_contexts_of_one_spec_are_equal(files, tmp_path):
    one = context(files, Cache(tmp_path / "1"))
    moved = shutil.copytree(files, tmp_path / "elsewhere")
    two = context(moved, Cache(tmp_path / "2"))
    assert one.files == two.files
    assert str(tmp_path).encode() not in b"".join(one.files.values())


def test_a_builder_is_taken_by_its_digest(files, cache):
    text = TEXT.replace("variant: apt", f'variant: apt, builder: "{PINNED}"')
    assert f"ARG BUILDER={PINNED}\n" in dockerfile(context(files, cache, text))
    assert "mmdebstrap --variant=apt --include" not in dockerfile(context(files, cache, text))
    local = dockerfile(context(files, cache))
    assert "ARG BUILDER=imagekit-builder:bookworm\n" in local
    assert "docker import - imagekit-builder:bookworm" in local


def test_a_stand_in_is_labelled(files, cache):
    label = 'LABEL io.imagekit.standin="true"\n'
    assert label in dockerfile(context(files, cache, standin=True))
    assert label not in dockerfile(context(files, cache))


def test_archives_on_this_machine_are_refused(files, cache):
    for text in (
        TEXT.replace("variant: apt", 'variant: apt, mirrors: ["file:///srv/debian"]'),
        TEXT.replace("https://x.example/", "file:///srv/x"),
    ):
        with pytest.raises(InputError, match="cannot read this machine's files"):
            context(files, cache, text)


def test_a_wrong_artifact_is_never_written(files, cache):
    (files / "a.tar").write_bytes(b"other")
    text = TEXT.replace("@tar", "00" * 32)
    with pytest.raises(InputError, match="expected sha256"):
        context(files, cache, text)


def test_packages_are_installed_early_where_the_root_has_no_apt(files, cache):
    text = dockerfile(context(files, cache, TEXT.replace("variant: apt", "variant: essential")))
    words = [word for line in parse(text)[0] for c in commands_of(line) for word in c]
    assert "--include=bash,tini" in words and "tini" not in words
    assert '--customize-hook=sh "$1"/tmp/imagekit/fetch.sh "$1"' in words


def commands_of(line):
    return commands(line.rest) if line.name == "RUN" else []


def ingredients(folder, cache, text=TEXT):
    found = with_hashes(spec(folder, text), None)
    return BaseInputs(found, folder, cache, EPOCH, None, NO_PROGRESS).ingredients()


def test_the_engines_own_context_makes_the_distribution_alone(files, cache):
    made = root_context(ingredients(files, cache))
    assert lint(dockerfile(made)) == []
    lines, stages = parse(dockerfile(made))
    assert [stage.name for stage in stages] == ["builder", "bootstrap", "distribution", ""]
    assert lines[-1].rest == "--from=distribution / /"
    assert list(made.artifacts.values()) == [files / "my x.deb"]
    whole, _ = parse(dockerfile(context(files, cache)))
    assert [line for line in lines if line.stage < 3] == [
        line._replace(rest=line.rest.replace("path:./", "path:"))
        for line in whole
        if line.stage < 3
    ]  # so that BuildKit's cache serves both


def test_an_image_with_other_layers_than_asked_for_is_refused(cache):
    layers = [write_layer([LayerFile(f"/{n}", b"")], cache.blobs, 0) for n in "ab"]
    image = new_image(layers, cache.blobs, created=0)
    with pytest.raises(EngineError, match="2 layers"):
        root_of_image(image, cache)
    image = new_image(layers[:1], cache.blobs, created=0)
    assert root_of_image(image, cache).is_file()


# -- a company's CA


def test_a_ca_bundle_is_for_the_builder_stage_alone(files, cache):
    pem, _ = certificate()
    (files / "ca.pem").write_bytes(b"# Company CA\n" + pem.replace(b"\n", b"\r\n"))
    text = TEXT + "ca_bundle: ./ca.pem\n"
    for made in (context(files, cache, text), root_context(ingredients(files, cache, text))):
        assert made.files["build/ca.pem"] == pem
        lines, _ = parse(dockerfile(made))
        users = [line for line in lines if "ca.pem" in line.rest]
        assert {line.stage for line in users} == {0} and {u.name for u in users} == {"COPY", "RUN"}
        assert not [line for line in lines if line.name == "ENV" and "CERT" in line.rest.upper()]
        assert lint(dockerfile(made)) == []
    with_it, without = context(files, cache, text), context(files, cache)
    assert "build/ca.pem" not in without.files
    assert set(with_it.files) - set(without.files) == {"build/ca.pem"}


def test_a_ca_bundle_does_not_change_what_a_base_depends_on(files, cache):
    pem, _ = certificate()
    (files / "ca.pem").write_bytes(pem)
    keys = [
        BaseInputs(
            with_hashes(spec(files, text), None), files, cache, EPOCH, None, NO_PROGRESS
        ).key_of_all()
        for text in (
            TEXT,
            TEXT + "ca_bundle: ./ca.pem\n",
            TEXT.replace("variant: apt", f'variant: apt, builder: "{PINNED}"'),
        )
    ]
    assert keys[0] == keys[1] == keys[2]


def test_several_certificates_are_taken(tmp_path):
    both = certificate()[0] + b"\nSubject: x\n" + certificate()[0]
    (tmp_path / "ca.pem").write_bytes(both)
    assert read_ca_bundle(tmp_path / "ca.pem").count(b"BEGIN") == 2
    assert b"Subject" not in read_ca_bundle(tmp_path / "ca.pem")


def bad_bundles():
    pem, key = certificate()
    rsa = key.replace(b"PRIVATE KEY", b"RSA PRIVATE KEY")
    encrypted = key.replace(b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY")
    half = pem[: len(pem) // 2]
    return {
        "key": (pem + key, "holds a private key"),
        "rsa": (rsa + pem, "holds a private key"),
        "encrypted": (encrypted + pem, "holds a private key"),
        "public": (pem + key.replace(b"PRIVATE", b"PUBLIC"), "PEM certificates alone"),
        "cut": (half, "PEM certificates alone"),
        "second-cut": (pem + half, "PEM certificates alone"),
        "empty": (b"", "PEM certificates alone"),
        "der": (bytes(range(256)), "PEM certificates alone"),
        "damaged": (pem.replace(b"-\nMII", b"-\nAAA"), "damaged"),
    }


@pytest.mark.parametrize("name", sorted(bad_bundles()))
def test_a_bundle_of_anything_else_is_refused(tmp_path, name):
    data, problem = bad_bundles()[name]
    (tmp_path / "ca.pem").write_bytes(data)
    with pytest.raises(InputError, match=problem) as caught:
        read_ca_bundle(tmp_path / "ca.pem")
    assert str(tmp_path / "ca.pem") in caught.value.problem


def test_a_missing_bundle_is_named(files, cache):
    with pytest.raises(InputError, match=r"CA bundle .*none\.pem"):
        context(files, cache, TEXT + "ca_bundle: none.pem\n")


def test_the_systems_certificates_count_too(tmp_path, monkeypatch):
    pem, other = certificate()[0], certificate()[0]
    (tmp_path / "system.pem").write_bytes(other)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    assert pem in with_system(pem) and other in with_system(pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert pem in with_system(pem)


# -- the scripts


def test_the_scripts_are_plain_posix_shell():
    from imagekit.images.bases.recipe import FETCH, INSTALL, script

    for name in (FETCH, INSTALL):
        checked = subprocess.run(["sh", "-n"], input=script(name), capture_output=True, check=False)
        assert checked.stderr == b""
        text = script(name).decode()
        assert text.startswith("#!/bin/sh\n") and "\nset -eu\n" in text
    if shutil.which("shellcheck"):
        for name in (FETCH, INSTALL):
            subprocess.run(["shellcheck", "-"], input=script(name), check=True)


def test_the_package_holds_scripts_and_templates():
    import tomllib

    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    build = settings["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"]["dockerfiles"] == "imagekit/_templates/dockerfiles"
    assert "dockerfiles" in build["sdist"]["include"]
    assert os.access(Path(__file__).parents[2] / "imagekit/images/bases/install.sh", os.R_OK)
