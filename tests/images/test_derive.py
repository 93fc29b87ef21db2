"""A base on top of an image, without an engine: layers, settings, cache, lock, refusals."""

import fnmatch
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from imagekit.enclave.standin import MARK
from imagekit.errors import EngineError, InputError
from imagekit.images.bases.assemble import STANDIN_LABEL
from imagekit.images.bases.derive import Below, derive, lock_derived
from imagekit.images.bases.inputs import DerivedInputs
from imagekit.images.bases.install_on import skipped
from imagekit.images.bases.lock import BaseLock, ImageBelow, load_lock, write_lock
from imagekit.images.bases.normalise import Normaliser
from imagekit.images.cache import Cache
from imagekit.images.compose import new_image
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.layout import OciLayout
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS
from imagekit.images.rootfs import Rootfs
from imagekit.spec.base import parse_base
from imagekit.spec.fields import parse_yaml

EPOCH = 1704067200
FILES = (
    LayerFile("/usr/bin/apt-get", b"apt", 0o755),
    LayerFile("/usr/lib/libc.so", b"c"),
    LayerFile("/lib", link="usr/lib"),
    LayerFile("/usr/lib32", link="lib"),
    LayerFile("/root", mode=0o700, directory=True),
    LayerFile("/tmp", mode=0o1777, directory=True),
    LayerFile("/opt/occlum/build/bin/occlum", b"occlum", 0o755),
    LayerFile("/etc/hosts", b"old"),
    LayerFile("/etc/gone/a", b"a"),
    LayerFile("/etc/gone/b", b"b"),
    LayerFile("/etc/kept", b"kept", 0o640),
)


@pytest.fixture
def below(tmp_path: Path) -> Image:
    """An image as somebody else made it, in a layout."""
    store = Cache(tmp_path / "maker").blobs
    image = new_image(
        [write_layer(FILES[:6], store, 5), write_layer(FILES[6:], store, 6)],
        store,
        created=7,
        labels={"theirs": "1"},
        env={"PATH": "/opt/occlum/build/bin:/usr/bin", "LEFT": "as it is"},
        entrypoint=["/old"],
        command=["word"],
        user="occlum",
        workdir="/root",
    )
    layout = OciLayout.create(tmp_path / "below")
    layout.put(image, "below")
    return OciLayout.open(tmp_path / "below").image("below")


class Installer:
    """Takes the engine's place: gives a tar as the image's add.sh would."""

    def __init__(self, changed=(), removed=(), version="1"):
        self.changed, self.removed, self.version = changed, removed, version
        self.orders = []

    def __call__(self, order, folder, progress):
        self.orders.append(order)
        target = folder / "changes.tar"
        with tarfile.open(target, "w") as tar:
            folders = {
                f"changed/{'/'.join(name.split('/')[:n])}": mode
                for name, *_ in self.changed
                for n, mode in [(i, 0o755) for i in range(1, name.count("/") + 1)]
            }
            for name, mode in sorted(folders.items()):
                member = tarfile.TarInfo(name)
                member.type, member.mode = tarfile.DIRTYPE, mode
                tar.addfile(member)
            for name, data, mode in self.changed:
                member = tarfile.TarInfo(f"changed/{name}")
                member.mode, member.mtime = mode, len(self.orders)
                if isinstance(data, str):
                    member.type, member.linkname = tarfile.SYMTYPE, data
                    tar.addfile(member)
                    continue
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            listed = f"tini\t{self.version}\tamd64\n".encode()
            gone = b"".join(path.encode() + b"\0" for path in self.removed)
            for name, data in (("removed", gone), ("installed", listed), ("available", b"")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return target


def refuse(order, folder, progress):
    raise AssertionError("no engine is to be asked")


def inputs(tmp_path, text="", cache=None, lock=None):
    spec = parse_base(parse_yaml(f"from: oci:below\n{text}", "imagekit.yaml"))
    return DerivedInputs(
        spec, tmp_path, cache or Cache(tmp_path / "cache"), EPOCH, lock, NO_PROGRESS
    )


def artifact(tmp_path, files, name="a.tar"):
    """Write an archive; gives its hash."""
    with tarfile.open(tmp_path / name, "w") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o700
            tar.addfile(member, io.BytesIO(data))
    return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def members(image, number=-1):
    with image.blobs.open_blob(image.layers[number].digest) as stream:
        return {member.name: member for member in tarfile.open(fileobj=io.BytesIO(stream.read()))}


def rootfs(image):
    return Rootfs.from_image(image, None)


def test_artifacts_and_files_become_layers_on_the_images_own(tmp_path, below):
    digest = artifact(tmp_path, {"spark-3/bin/x": b"x", "spark-3/jars/y": b"y"})
    text = f"""
artifacts: [{{path: a.tar, sha256: {digest}, strip: 1, to: /opt/spark}}]
files: [{{path: /root/conf, text: hé, mode: "0600"}}, {{path: /etc/hosts, text: new}}]
env: {{LEFT: changed, NEW: "1"}}
entrypoint: [/usr/bin/tini, --]
"""
    made = derive(inputs(tmp_path, text), Below(below, refuse))
    image = made.image
    assert image.layers[:2] == below.layers and len(image.layers) == 4
    assert image.env == {
        "PATH": "/opt/occlum/build/bin:/usr/bin", "LEFT": "changed", "NEW": "1"
    }  # fmt: skip
    assert image.entrypoint == ("/usr/bin/tini", "--") and image.command == ()
    assert image.run_config["User"] == "occlum" and image.run_config["WorkingDir"] == "/root"
    assert image.labels == {
        "theirs": "1", "org.opencontainers.image.created": "2024-01-01T00:00:00Z"
    }  # fmt: skip
    view = rootfs(image)
    assert view.read("/opt/spark/bin/x") == b"x" and view.read("/etc/hosts") == b"new"
    assert view.read("/root/conf") == "hé".encode()
    assert view.entry("/root").mode == 0o700 and view.entry("/root/conf").mode == 0o600
    assert view.read("/opt/occlum/build/bin/occlum") == b"occlum"
    assert {m.mtime for m in members(image, 2).values()} == {EPOCH}
    assert [entry.get("created_by") for entry in image.config_json["history"][2:]] == [
        "imagekit: path:a.tar in /opt/spark",
        "imagekit: 2 files",
    ]
    assert made.packages == () and made.drift is None and not made.cached


def test_the_digest_depends_on_nothing_else_and_a_second_run_does_nothing(tmp_path, below):
    digest = artifact(tmp_path, {"x": b"x"})
    text = f"artifacts: [{{path: a.tar, sha256: {digest}, to: /opt/x}}]\nenv: {{A: b}}\n"
    one = derive(inputs(tmp_path, text), Below(below, refuse))
    two = derive(inputs(tmp_path, text, Cache(tmp_path / "two")), Below(below, refuse))
    assert one.image.digest == two.image.digest
    (tmp_path / "a.tar").unlink()
    again = derive(inputs(tmp_path, text), Below(below, refuse))
    assert again.cached and again.image.digest == one.image.digest
    # its layers can still be read, those of the layout too
    assert rootfs(again.image).read("/opt/x/x") == b"x"
    other = derive(inputs(tmp_path, text + "date: 2026-01-01\n"), Below(below, refuse))
    assert other.image.digest == one.image.digest  # the caller says which time


def test_settings_alone_add_no_layer(tmp_path, below):
    made = derive(inputs(tmp_path, 'user: "0"\n'), Below(below, refuse)).image
    assert made.layers == below.layers
    assert made.run_config["User"] == "0" and made.entrypoint == ("/old",)
    assert made.command == ("word",)


def test_another_image_below_gives_another_base(tmp_path, below):
    one = derive(inputs(tmp_path, "files: [{path: /a, text: a}]"), Below(below, refuse))
    store = Cache(tmp_path / "maker").blobs
    changed = new_image([write_layer(FILES[:4], store, 5)], store, created=7)
    two = derive(inputs(tmp_path, "files: [{path: /a, text: a}]"), Below(changed, refuse))
    assert not two.cached and two.image.layers[0] == changed.layers[0] != one.image.layers[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("files: [{path: /lib/x, text: x}]", "/lib, in the image a symbolic link to usr/lib"),
        ("files: [{path: /etc/hosts/x, text: x}]", "/etc/hosts, in the image a file"),
        ("files: [{path: /opt/occlum, text: x}]", "replace /opt/occlum, in the image a folder"),
        ("artifacts: [{path: a.tar, sha256: @, to: /lib/x}]", "/lib, in the image a symbolic"),
        # the spec's path alone does not show it
        (
            "artifacts: [{path: b.tar, sha256: @b, to: /usr}]",
            "/usr/lib32, in the image a symbolic link",
        ),
        (
            "artifacts: [{path: c.tar, sha256: @c, to: /usr}]",
            "replace /usr/lib, in the image a fold",
        ),
        ("artifacts: [{path: one, sha256: @one, to: /usr}]", "replace /usr, in the image a fold"),
    ],
)
def test_what_would_take_something_away_is_refused(text, problem, tmp_path, below):
    (tmp_path / "one").write_bytes(b"1")
    hashes = {
        "@b": artifact(tmp_path, {"lib32/x": b"x"}, "b.tar"),
        "@c": artifact(tmp_path, {"lib": b"x"}, "c.tar"),
        "@one": hashlib.sha256(b"1").hexdigest(),
        "@": artifact(tmp_path, {"x": b"x"}),
    }
    for mark, digest in hashes.items():
        text = text.replace(mark, digest)
    with pytest.raises(InputError) as caught:
        derive(inputs(tmp_path, text), Below(below, refuse))
    assert problem in caught.value.problem and caught.value.hint


def test_an_image_for_another_platform_is_refused(tmp_path, below):
    config = {**below.config_json, "architecture": "arm64"}
    foreign = Image(
        below.descriptor, below.manifest, json.dumps(config).encode(), below.layers, below.blobs
    )
    with pytest.raises(InputError, match=r"base\.from oci:below is for linux/arm64"):
        derive(inputs(tmp_path), Below(foreign, refuse))


def test_packages_need_apt_in_the_image_and_no_engine_is_asked_without(tmp_path):
    store = Cache(tmp_path / "maker").blobs
    bare = new_image([write_layer(FILES[1:3], store, 5)], store, created=7)
    with pytest.raises(InputError, match="has no /usr/bin/apt-get") as caught:
        derive(inputs(tmp_path, "packages: [tini]"), Below(bare, refuse))
    assert "base.packages" in caught.value.hint


CHANGES = (
    ("usr/bin/tini", b"tini", 0o755),
    ("usr/bin/apt-get", b"apt", 0o755),  # touched only
    ("etc/kept", b"kept", 0o600),  # other mode
    ("etc/turned", "/usr/lib", 0o777),
    ("var/log/apt/history.log", b"today", 0o644),
    ("usr/lib/x.pyc", b"c", 0o644),
    ("root/.cache", b"c", 0o644),
    ("etc/shadow", b"root:*:20000:0:::::\n", 0o640),
)


def test_what_packages_changed_becomes_one_layer(tmp_path, below):
    install = Installer(CHANGES, ["/etc/gone", "/etc/gone/a", "/etc/gone/b", "/opt/none"])
    made = derive(inputs(tmp_path, "packages: [tini, bash]"), Below(below, install))
    (order,) = install.orders
    assert (order.image, order.packages) == (below, ("bash", "tini"))
    found = members(made.image)
    assert set(found) == {
        "etc", "etc/.wh.gone", "etc/kept", "etc/shadow", "etc/turned", "root", "root/.cache",
        "usr", "usr/bin", "usr/bin/tini", "var", "var/log",
    }  # fmt: skip
    assert found["root"].mode == 0o755  # as the engine says it is now
    view = rootfs(made.image)
    assert view.kind("/etc/gone") is None and view.entry("/etc/kept").mode == 0o600
    assert view.read("/etc/shadow") == b"root:*:19723:0:::::\n"
    assert [(p.name, p.version) for p in made.packages] == [("tini", "1")]
    history = made.image.config_json["history"][-1]["created_by"]
    assert history == "imagekit: installed bash tini"


def test_a_folder_that_became_a_link_is_replaced_without_marks(tmp_path, below):
    install = Installer(
        [("etc/gone", "/usr/lib", 0o777)], ["/etc/gone", "/etc/gone/a", "/etc/gone/b"]
    )
    made = derive(inputs(tmp_path, "packages: [tini]"), Below(below, install)).image
    assert [name for name in members(made) if ".wh." in name] == []
    assert rootfs(made).resolve("/etc/gone") == "/usr/lib"


def test_marks_keep_the_folders_they_stand_in(tmp_path, below):
    install = Installer([], ["/root/.x", "/tmp", "/etc/gone/a"])
    made = derive(inputs(tmp_path, "packages: [tini]"), Below(below, install)).image
    view = rootfs(made)
    assert view.entry("/root").mode == 0o700
    assert view.children("/etc/gone") == ["b"]


def test_installing_again_is_not_needed_and_refresh_asks_for_it(tmp_path, below):
    install = Installer([("usr/bin/tini", b"1", 0o755)])
    text = "packages: [tini]\nfiles: [{path: /a, text: a}]\n"
    one = derive(inputs(tmp_path, text), Below(below, install))
    assert derive(inputs(tmp_path, text), Below(below, refuse)).cached
    changed = derive(inputs(tmp_path, text + "env: {A: b}"), Below(below, refuse))
    assert changed.image.layers == one.image.layers
    install.changed = [("usr/bin/tini", b"2", 0o755)]
    fresh = derive(inputs(tmp_path, text), Below(below, install), refresh=True)
    assert len(install.orders) == 2 and fresh.image.layers[2] != one.image.layers[2]


def test_an_answer_without_its_lists_is_an_engines_fault(tmp_path, below):
    def broken(order, folder, progress):
        with tarfile.open(folder / "x.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo("changed"))
        return folder / "x.tar"

    with pytest.raises(EngineError):
        derive(inputs(tmp_path, "packages: [tini]"), Below(below, broken))
    assert list((tmp_path / "cache" / "work").iterdir()) == []


def test_the_lock_holds_image_packages_and_hashes(tmp_path, below):
    digest = artifact(tmp_path, {"x": b"x"})
    text = "packages: [tini]\nartifacts: [{path: a.tar, to: /opt/x}]\n"
    install = Installer([("usr/bin/tini", b"1", 0o755)])
    lock = lock_derived(inputs(tmp_path, text), Below(below, install))
    assert lock.below == ImageBelow("oci:below", below.digest)
    assert lock.artifacts == {"path:a.tar": digest}
    write_lock(tmp_path / "lock", lock)
    assert load_lock(tmp_path / "lock") == lock
    made = derive(inputs(tmp_path, text, lock=lock), Below(below, refuse), locked_only=True)
    assert made.drift is None


def test_what_is_not_locked_is_told_or_refused(tmp_path, below):
    with pytest.raises(InputError, match="locks no image") as caught:
        derive(inputs(tmp_path, "env: {A: b}"), Below(below, refuse), locked_only=True)
    assert "base lock" in caught.value.hint
    other = BaseLock({}, below=ImageBelow("oci:below", "sha256:" + "0" * 64))
    text = "files: [{path: /a, text: a}]"
    made = derive(inputs(tmp_path, text, lock=other), Below(below, refuse))
    assert made.drift.differences == (
        f"oci:below (sha256:000000000000) → oci:below ({below.digest[:19]})",
    )
    with pytest.raises(InputError, match=r"not what imagekit\.base\.lock\.json names"):
        derive(inputs(tmp_path, text, lock=other), Below(below, refuse), locked_only=True)


def test_other_packages_than_the_locked_ones_are_told(tmp_path, below):
    text, install = "packages: [tini]", Installer()
    lock = lock_derived(inputs(tmp_path, text), Below(below, install))
    install.version = "2"
    made = derive(inputs(tmp_path, text, lock=lock), Below(below, install), refresh=True)
    assert made.drift.differences == ("tini 1 → 2",)
    assert "base.from" in made.drift.hint


@pytest.mark.parametrize(
    "value", ["1", "{}", '{"image": "a"}', '{"image": 1, "digest": "sha256:00"}', "null"]
)
def test_a_damaged_image_in_the_lock_is_an_input_error(value, tmp_path):
    (tmp_path / "lock").write_text(
        f'{{"schema": 1, "artifacts": [], "packages": [], "from": {value}}}'
    )
    with pytest.raises(InputError, match="damaged"):
        load_lock(tmp_path / "lock")


def test_the_image_leaves_out_what_a_distribution_leaves_out():
    """The patterns that find gets are the normaliser's own."""
    patterns = skipped().decode().splitlines()
    normaliser = Normaliser(0)
    for path in ("/tmp/x", "/var/log/a/b", "/etc/machine-id", "/a/b.pyc", "/usr/x", "/etc/hosts2"):
        found = any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
        assert found == (not normaliser.keep(path)), path


def test_a_standin_among_the_packages_is_labelled(tmp_path, below):
    install = Installer([("usr/lib/gramine/sgx/libpal.so", MARK, 0o755)])
    made = derive(inputs(tmp_path, "packages: [tini]"), Below(below, install)).image
    assert made.labels[STANDIN_LABEL] == "true"
