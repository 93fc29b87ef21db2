"""What a stage of a rendered Dockerfile runs: the assembler's own rules, on a folder.

Shipped in the build context as a zipapp (see :mod:`imagekit.images.bases.stage_app`) and run with
the builder image's Python::

    stage.pyz normalise --epoch N [--exclude PATTERN]... ROOT
    stage.pyz unpack --sha256 HEX --to PATH [--archive] [--take F] [--strip N] [--mode M] FILE ROOT

ROOT is the folder that becomes the image. Standard library alone, but for truststores in PKCS #12.
"""

import argparse
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from imagekit.errors import ImagekitError, InputError
from imagekit.files import disk_error
from imagekit.images.bases.normalise import Normaliser
from imagekit.images.bases.repack import Node, Tree, check_name, content_of
from imagekit.images.bases.unpack import Unpacking, unpack
from imagekit.images.tarwrite import DIRECTORY, SYMLINK


def normalise_folder(root: Path, normaliser: Normaliser) -> None:
    """Do to a folder what the assembler does to a distribution's tar.

    Raises:
        InputError: something that has no place in a layer.
    """
    for name, folders, files in os.walk(root, topdown=False):
        for last in sorted([*folders, *files]):
            file = Path(name) / last
            path = f"/{file.relative_to(root)}"
            mode, keep = file.lstat().st_mode, normaliser.keep(path)
            if stat.S_ISDIR(mode):
                if not keep:
                    _drop_folder(file)
            elif not keep:
                file.unlink()
            elif stat.S_ISREG(mode) and normaliser.rewrites(path):
                file.write_bytes(normaliser.rewrite(path, file.read_bytes()))
            elif not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise InputError(f"{path} is a device or pipe", "exclude it, or mend the package")


def put_tree(tree: Tree, root: Path, where: str) -> None:
    """Put an artifact's files into a folder as an engine would unpack their layer.

    Missing parents are made; those that are there stay as they are.

    Raises:
        InputError: a path leads through something that is no folder.
    """
    written: dict[int, Path] = {}
    for path in sorted(tree.nodes, key=os.fsencode):
        check_name(path, where)
        node, target = tree.nodes[path], root / path
        _make_parents(target.parent, root, where)
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            target.unlink()
        if node.kind == DIRECTORY:
            target.mkdir(exist_ok=True)
            target.chmod(node.mode)
            os.chown(target, node.uid, node.gid)
            continue
        if target.is_dir():
            shutil.rmtree(target)
        if node.kind == SYMLINK:
            target.symlink_to(node.link)
        elif id(node) in written:
            target.hardlink_to(written[id(node)])
        else:
            _write(target, node, tree.content)
            written[id(node)] = target


def check_hash(file: Path, sha256: str) -> None:
    """Refuse a file with another content.

    Raises:
        InputError: another hash, or unreadable.
    """
    try:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise disk_error(error, file, "read") from None
    if found != sha256:
        raise InputError(
            f"{file}: expected sha256 {sha256}, got {found}", "render the build context anew"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; errors are told in two lines as everywhere."""
    words = _parse(argv)
    os.umask(0o022)
    try:
        if words.command == "normalise":
            normalise_folder(words.root, Normaliser(words.epoch, tuple(words.exclude)))
            words.root.chmod(0o755)
        else:
            check_hash(words.file, words.sha256)
            how = Unpacking(
                words.name, words.to, words.archive, words.take, words.strip, words.mode
            )
            with tempfile.TemporaryDirectory() as scratch:
                tree = unpack(how, words.file, Path(scratch))
                with tree.content:
                    put_tree(tree, words.root, how.name)
    except ImagekitError as error:
        print(f"error: {error.problem}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stage.pyz")
    commands = parser.add_subparsers(dest="command", required=True)
    normalise = commands.add_parser("normalise")
    normalise.add_argument("--epoch", type=int, required=True)
    normalise.add_argument("--exclude", action="append", default=[])
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("--name", required=True)
    unpacking.add_argument("--sha256", required=True)
    unpacking.add_argument("--to", required=True)
    unpacking.add_argument("--archive", action="store_true")
    unpacking.add_argument("--take")
    unpacking.add_argument("--strip", type=int, default=0)
    unpacking.add_argument("--mode", type=lambda text: int(text, 8), default=0o644)
    unpacking.add_argument("file", type=Path)
    for command in (normalise, unpacking):
        command.add_argument("root", type=Path)
    return parser.parse_args(argv)


def _drop_folder(folder: Path) -> None:
    """Remove a folder; one that holds something to be kept stays, as root's plain folder."""
    if any(folder.iterdir()):
        folder.chmod(0o755)
        os.chown(folder, 0, 0)
    else:
        folder.rmdir()


def _make_parents(folder: Path, root: Path, where: str) -> None:
    missing = []
    while folder != root and not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(
            f"{where}: leads through /{folder.relative_to(root)}, which is no folder",
            "give the path without symbolic links",
        )
    for made in reversed(missing):
        made.mkdir(mode=0o755)


def _write(target: Path, node: Node, content: BinaryIO) -> None:
    with target.open("xb") as output:
        for block in content_of(node, content, str(target)):
            output.write(block)
    os.chown(target, node.uid, node.gid)
    target.chmod(node.mode)
