"""What the stages of a Dockerfile run does the same to a folder as the assembler does to tars."""

import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from imagekit.errors import InputError
from imagekit.images.bases import stage_app as stage_app_module
from imagekit.images.bases.instage import normalise_folder, put_tree
from imagekit.images.bases.normalise import Normaliser
from imagekit.images.bases.repack import Tree, add_parents, content_of, read_content, read_tree
from imagekit.images.bases.stage_app import stage_app
from imagekit.images.bases.unpack import Unpacking, unpack
from imagekit.images.tarwrite import DIRECTORY, REGULAR, SYMLINK

EPOCH = 1704067200
ME = (os.geteuid(), os.getegid())

Found = dict[str, tuple[bytes, int, str, bytes]]


def write_tar(path: Path, entries: list[tuple[str, object, int]]) -> Path:
    """Entries are (name, bytes | None for a folder | "->target" | "=hard link", mode)."""
    with tarfile.open(path, "w") as tar:
        for name, what, mode in entries:
            member = tarfile.TarInfo(name)
            member.uid, member.gid = ME
            member.mode = mode
            if isinstance(what, bytes):
                member.size = len(what)
                tar.addfile(member, io.BytesIO(what))
                continue
            if what is None:
                member.type = tarfile.DIRTYPE
            else:
                text = str(what)
                member.type = tarfile.SYMTYPE if text.startswith("->") else tarfile.LNKTYPE
                member.linkname = text.lstrip("->=")
            tar.addfile(member)
    return path


def on_disk(root: Path) -> Found:
    found: Found = {}
    for folder, folders, files in os.walk(root):
        for last in [*folders, *files]:
            path = Path(folder) / last
            status = path.lstat()
            kind = {stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK, stat.S_IFREG: REGULAR}[
                stat.S_IFMT(status.st_mode)
            ]
            found[str(path.relative_to(root))] = (
                kind,
                0o777 if kind == SYMLINK else stat.S_IMODE(status.st_mode),
                str(path.readlink()) if kind == SYMLINK else "",
                path.read_bytes() if kind == REGULAR else b"",
            )
    return found


def in_tree(tree: Tree) -> Found:
    return {
        path: (
            node.kind,
            0o777 if node.kind == SYMLINK else node.mode,
            node.link,
            b"".join(content_of(node, tree.content, path)) if node.kind == REGULAR else b"",
        )
        for path, node in tree.nodes.items()
    }


ROOT = [
    ("etc", None, 0o755),
    ("etc/shadow", b"root:*:20000:0:::::\n", 0o640),
    ("etc/hosts", b"", 0o644),
    ("etc/hostname", b"host\n", 0o644),
    ("etc/passwd-", b"old", 0o600),
    ("var", None, 0o755),
    ("var/log", None, 0o755),
    ("var/log/x", None, 0o700),
    ("var/log/x/y", b"y", 0o644),
    ("var/lib", None, 0o755),
    ("var/lib/apt", None, 0o755),
    ("var/lib/apt/extended_states", b"Package: b\n\nPackage: a\n\n", 0o644),
    ("tmp", None, 0o1777),
    ("tmp/imagekit", None, 0o755),
    ("tmp/imagekit/installed", b"", 0o644),
    ("usr", None, 0o755),
    ("usr/bin", None, 0o755),
    ("usr/bin/su", b"su", 0o4755),
    ("usr/bin/su2", "=usr/bin/su", 0o4755),
    ("bin", "->usr/bin", 0o777),
    ("usr/lib", None, 0o755),
    ("usr/lib/__pycache__", None, 0o755),
    ("usr/lib/__pycache__/a.pyc", b"", 0o644),
    ("usr/doc", None, 0o700),
    ("usr/doc/a", b"a", 0o644),
    ("usr/kept", None, 0o700),
    ("usr/kept/a", b"a", 0o644),
]
EXCLUDE = ("/usr/doc/*", "/usr/kept")


def test_a_folder_is_normalised_as_a_tar_is(tmp_path):
    archive = write_tar(tmp_path / "root.tar", ROOT)
    normaliser = Normaliser(EPOCH, EXCLUDE)
    tree = read_tree(archive, tmp_path, "root")
    with tree.content:
        nodes = {path: node for path, node in tree.nodes.items() if normaliser.keep("/" + path)}
        for path, node in nodes.items():
            if node.kind == REGULAR and normaliser.rewrites("/" + path):
                node.data = normaliser.rewrite("/" + path, read_content(tree, node))
        add_parents(nodes, {})
        expected = in_tree(Tree(nodes, tree.content))
    folder = tmp_path / "root"
    subprocess.run(["mkdir", folder], check=True)
    subprocess.run(["tar", "-xpf", archive, "-C", folder], check=True)
    normalise_folder(folder, normaliser)
    assert on_disk(folder) == expected
    assert expected["usr/kept"][1] == 0o755  # its own entry is excluded, what is in it is not
    assert "etc/hosts" not in expected and "tmp/imagekit" not in expected
    assert (folder / "usr/bin/su").samefile(folder / "usr/bin/su2")


def test_a_device_or_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="/pipe is a device or pipe"):
        normalise_folder(tmp_path, Normaliser(EPOCH))


ARTIFACT = [
    ("a-1", None, 0o700),
    ("a-1/bin", None, 0o700),
    ("a-1/bin/tool", b"tool", 0o750),
    ("a-1/bin/tool2", "=a-1/bin/tool", 0o750),
    ("a-1/bin/tool3", "->tool", 0o777),
    ("a-1/doc", b"doc", 0o600),
]


@pytest.mark.parametrize(
    "how",
    [
        Unpacking("a", "/opt/a", archive=True),
        Unpacking("a", "/opt/a", archive=True, strip=1),
        Unpacking("a", "/tmp/a/b", archive=True, take="a-1/bin"),
        Unpacking("a", "/opt/a.tar", archive=False, mode=0o600),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are set")
def test_an_artifact_is_put_where_its_layer_would_be(tmp_path, how):
    archive = write_tar(tmp_path / "a.tar", ARTIFACT)
    root = tmp_path / "root"
    (root / "tmp").mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    tree = unpack(how, archive, tmp_path)
    with tree.content:
        put_tree(tree, root, "a")
    layer = unpack(how, archive, tmp_path)
    with layer.content:
        add_parents(layer.nodes, {})
        expected = in_tree(layer)
    expected["tmp"] = (DIRECTORY, 0o1777, "", b"")  # as it was
    assert on_disk(root) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners are set")
def test_what_stands_in_the_way_is_replaced_as_an_engine_does_it(tmp_path):
    archive = write_tar(tmp_path / "a.tar", ARTIFACT)
    root = tmp_path / "root"
    (root / "opt/a/doc").mkdir(parents=True)
    (root / "opt/a/doc/x").write_text("x")
    (root / "opt/a/bin").symlink_to("/elsewhere")
    tree = unpack(Unpacking("a", "/opt/a", archive=True, strip=1), archive, tmp_path)
    with tree.content:
        put_tree(tree, root, "a")
    assert (root / "opt/a/doc").read_bytes() == b"doc"
    assert (root / "opt/a/bin/tool").read_bytes() == b"tool"
    assert not (root / "opt/a/bin").is_symlink()


def test_a_path_through_a_link_is_refused(tmp_path):
    archive = write_tar(tmp_path / "a.tar", ARTIFACT)
    root = tmp_path / "root"
    root.mkdir()
    (root / "lib").symlink_to("usr/lib")
    tree = unpack(Unpacking("a", "/lib/a", archive=True), archive, tmp_path)
    with tree.content, pytest.raises(InputError, match="leads through /lib"):
        put_tree(tree, root, "a")


def test_a_mark_that_removes_files_is_refused(tmp_path):
    archive = write_tar(tmp_path / "a.tar", [("a/.wh.b", b"", 0o644)])
    tree = unpack(Unpacking("a", "/a", archive=True), archive, tmp_path)
    with tree.content, pytest.raises(InputError, match="mark that removes"):
        put_tree(tree, tmp_path / "root", "a")


# -- the zipapp


def run(pyz: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """With an interpreter that sees neither this environment nor any package."""
    command = [sys.executable, "-I", "-S", str(pyz), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={})


@pytest.fixture
def pyz(tmp_path):
    path = tmp_path / "stage.pyz"
    path.write_bytes(stage_app())
    return path


def test_it_needs_nothing_but_the_standard_library(pyz, tmp_path):
    (tmp_path / "root").mkdir()
    done = run(pyz, "normalise", "--epoch", EPOCH, tmp_path / "root")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "root/f").write_bytes(b"")
    done = run(pyz, "normalise", "--epoch", EPOCH, "--exclude", "/f", tmp_path / "root")
    assert done.returncode == 0 and not (tmp_path / "root/f").exists()


@pytest.mark.parametrize("module", stage_app_module._MODULES)
def test_it_holds_no_module_too_many(pyz, tmp_path, monkeypatch, module):
    rest = tuple(name for name in stage_app_module._MODULES if name != module)
    monkeypatch.setattr(stage_app_module, "_MODULES", rest)
    (tmp_path / "less.pyz").write_bytes(stage_app())
    assert run(tmp_path / "less.pyz", "normalise", "--epoch", 1, tmp_path).returncode == 1


def test_its_bytes_depend_on_the_source_alone(pyz):
    assert stage_app() == pyz.read_bytes()


def test_another_content_than_the_named_one_is_refused(pyz, tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    wrong = "00" * 32
    done = run(
        pyz, *("unpack", "--name", "x", "--sha256", wrong, "--to", "/x"), tmp_path / "x", tmp_path
    )
    assert done.returncode == 3
    right = hashlib.sha256(b"x").hexdigest()
    assert f"error: {tmp_path}/x: expected sha256 {wrong}, got {right}" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_old_python_is_named(tmp_path):
    text = stage_app_module._MAIN.replace("(3, 11)", "(9, 0)")
    (tmp_path / "main.py").write_text(text)
    done = run(tmp_path / "main.py")
    assert done.returncode == 1 and "base.distribution.builder" in done.stderr
