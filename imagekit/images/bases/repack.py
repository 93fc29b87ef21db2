"""Archives of others become trees: what a layer of ours may be made of.

Reads tar (plain, gzip, xz, bzip2) and zip. Only what a layer may hold comes through: files, hard
links, symbolic links and directories; of the extended attributes only ``security.capability``,
since the others (labels of a security module) belong to the machine that built the archive.
Standard library alone: the stages of a Dockerfile run this code too.
"""

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imagekit.errors import InputError
from imagekit.files import disk_error
from imagekit.images.progress import NO_PROGRESS, Advance, Progress
from imagekit.images.streams import decompress, read_blocks, sniff
from imagekit.images.tarread import Member as Source
from imagekit.images.tarread import TarReader
from imagekit.images.tarwrite import (
    DIRECTORY,
    REGULAR,
    SYMLINK,
)

_BLOCK = 1 << 20
CAPABILITY = "security.capability"
"""The one extended attribute that is kept."""
_MAX_REWRITTEN = 64 << 20


@dataclass(eq=False)
class Node:
    """One thing in an archive; several paths may share it (hard links).

    Attributes:
        kind: a tar type: REGULAR, SYMLINK or DIRECTORY.
        offset: where the content stands in ``Tree.content`` (bytes); -1 = it was not kept.
        data: the content itself when it was replaced.
    """

    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    link: str = ""
    offset: int = -1
    capability: bytes | None = None
    data: bytes | None = None


@dataclass
class Tree:
    """An archive's content: nodes by path (no leading slash), bytes in an open file."""

    nodes: dict[str, Node]
    content: BinaryIO


def read_tree(
    archive: Path,
    scratch: Path,
    where: str,
    progress: Progress = NO_PROGRESS,
    wanted: Callable[[str], bool] = lambda _path: True,
) -> Tree:
    """Read an archive.

    Args:
        archive: the file; its format is told from its first bytes.
        scratch: folder for the unpacked content (not needed for a plain tar).
        where: what it is called in errors.
        progress: told the bytes read.
        wanted: says of a path whether its content is needed; other paths are remembered only.

    Raises:
        InputError: damaged, unsafe names, or things that have no place in a layer.
    """
    try:
        size = archive.stat().st_size
        with archive.open("rb") as stream, progress.task(f"unpack {where}", size) as advance:
            form = sniff(stream.read(8))
            stream.seek(0)
            if form == "zip":
                return _read_zip(stream, scratch / "content", where, wanted, advance)
            blocks = decompress(_told(read_blocks(stream, where), advance), form, where)
            if form == "plain":
                return Tree(_read_tar(blocks, where, None, wanted), archive.open("rb"))
            with ExitStack() as undo:
                content = undo.enter_context((scratch / "content").open("w+b"))
                tree = Tree(_read_tar(blocks, where, content, wanted), content)
                undo.pop_all()
            return tree
    except OSError as error:
        raise disk_error(error, archive, "unpack") from error


def check_name(path: str, where: str) -> None:
    """Refuse the name of a whiteout (OCI image-spec, "Whiteouts").

    Raises:
        InputError: the path's last part begins with ``.wh.``.
    """
    if path.rpartition("/")[2].startswith(".wh."):
        raise _unfit(where, path, "a mark that removes files of other layers")


def content_of(node: Node, content: BinaryIO, path: str) -> Iterator[bytes]:
    """Give a regular file's content in pieces.

    Args:
        node: the file.
        content: where its offset points to.
        path: what it is called in errors.

    Raises:
        InputError: it was not kept (a hard link to something outside), or is cut short.
    """
    if node.data is not None:
        yield node.data
        return
    if node.offset < 0:
        raise _unfit("archive", path, "a hard link to a file outside of what is taken")
    content.seek(node.offset)
    left = node.size
    while left:
        block = content.read(min(_BLOCK, left))
        if not block:
            raise InputError(f"{path}: its content is cut short", "try again")
        yield block
        left -= len(block)


def read_content(tree: Tree, node: Node) -> bytes:
    """Give the content of a small file.

    Raises:
        InputError: larger than 64 MiB.
    """
    if node.data is not None:
        return node.data
    if node.size > _MAX_REWRITTEN:
        raise InputError(f"a file of {node.size} bytes is too large to be rewritten", "exclude it")
    tree.content.seek(node.offset)
    return tree.content.read(node.size)


def add_parents(tree: dict[str, Node], known: Mapping[str, Node]) -> None:
    """Add missing parent directories, as they are in ``known`` or else root's with mode 0755."""
    for path in list(tree):
        parent = path.rpartition("/")[0]
        while parent and parent not in tree:
            tree[parent] = known.get(parent) or Node(DIRECTORY, 0o755)
            parent = parent.rpartition("/")[0]


def _read_tar(
    blocks: Iterator[bytes],
    where: str,
    spool: BinaryIO | None,
    wanted: Callable[[str], bool],
) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    reader = TarReader(blocks, where)
    for member in reader:
        if not member.path:
            continue
        if member.kind == "1":
            target = nodes.get(member.link)
            if target is None or target.kind != REGULAR:
                raise _unfit(where, member.path, f"a hard link to {member.link}, which is no file")
            nodes[member.path] = target
        elif member.kind in "025":
            node = nodes[member.path] = _node(member, spool is None)
            if spool is not None and member.kind == "0" and wanted(member.path):
                node.offset = spool.tell()
                for piece in reader.content():
                    spool.write(piece)
        elif wanted(member.path):
            raise _unfit(where, member.path, "a device or pipe")
    return nodes


def _node(member: Source, plain: bool) -> Node:
    kind = {"0": REGULAR, "2": SYMLINK, "5": DIRECTORY}[member.kind]
    return Node(
        kind,
        member.mode,
        member.uid,
        member.gid,
        member.size,
        member.link if kind == SYMLINK else "",
        member.offset if plain else -1,
        member.xattrs.get(CAPABILITY),
    )


def _read_zip(
    stream: BinaryIO, spool: Path, where: str, wanted: Callable[[str], bool], advance: Advance
) -> Tree:
    nodes: dict[str, Node] = {}
    try:
        with ExitStack() as undo, zipfile.ZipFile(stream) as archive:
            content = undo.enter_context(spool.open("w+b"))
            for info in archive.infolist():
                path = _zip_path(info.filename, where)
                if not path:
                    continue
                if path in nodes and not info.is_dir():
                    raise _unfit(where, path, "a name that is given twice")
                nodes[path] = _zip_node(archive, info, where, content, wanted(path))
                advance(info.compress_size)
            undo.pop_all()
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: damaged zip data", "fetch or build it anew") from error
    return Tree(nodes, content)


def _zip_node(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str, spool: BinaryIO, wanted: bool
) -> Node:
    mode = info.external_attr >> 16
    if info.is_dir():
        return Node(DIRECTORY, stat.S_IMODE(mode) or 0o755)
    if stat.S_ISLNK(mode):
        if info.file_size > 4096:
            raise _unfit(where, info.filename, "a symbolic link of that length")
        return Node(SYMLINK, 0o777, link=archive.read(info).decode("utf-8", "surrogateescape"))
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise _unfit(where, info.filename, "a device or pipe")
    node = Node(REGULAR, stat.S_IMODE(mode) or 0o644, size=info.file_size)
    if wanted:
        node.offset = spool.tell()
        with archive.open(info) as member:
            while block := member.read(_BLOCK):
                spool.write(block)
        if spool.tell() - node.offset != info.file_size:
            raise _unfit(where, info.filename, "another size than it says")
    return node


def _zip_path(name: str, where: str) -> str:
    parts = [part for part in name.split("/") if part and part != "."]
    if ".." in parts or "\0" in name or "\\" in name or name.startswith("/"):
        raise _unfit(where, ascii(name), "an unsafe name")
    return "/".join(parts)


def _told(blocks: Iterator[bytes], advance: Advance) -> Iterator[bytes]:
    for block in blocks:
        advance(len(block))
        yield block


def _unfit(where: str, path: str, what: str) -> InputError:
    return InputError(
        f"{where}: {path} is {what}, which is not taken into an image",
        "use another archive, or take only a part of it",
    )
