"""The file systems of an instance: what stands for Occlum's SEFS. Python 3.8, standard library.

Not Occlum's format, but with its marks: a folder ``__ROOT`` of integrity-only protected files, one
for each file of the tree and ``metadata``, whose MAC stands for all of them: it lists names, modes,
links, and the MACs of the files. No times, no owners. Of larger files the protected file holds the
SHA-256 alone, and the content lies beside it, since the MAC is slow in Python.
"""

# ruff: noqa: PTH115 - Path.readlink came with Python 3.9

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

from protected_files import protected_file

LARGE = 16 << 10
"""Bytes from which on a file's content lies beside its protected file."""
_HEAD, _FIRST, _NODE, _GROUP = 95, 3072, 4096, 96


class SefsError(Exception):
    """It cannot be packed, or is not what was packed."""


def pack(tree: Path, target: Path) -> str:
    """Pack a tree into ``target/__ROOT`` and ``target/.ROOT_MAC``; give the MAC as text."""
    shutil.rmtree(target, ignore_errors=True)
    (target / "__ROOT").mkdir(parents=True)
    entries = []
    for number, path in enumerate(_sorted_paths(tree)):
        whole = tree / os.fsdecode(path)
        info = whole.lstat()
        # Names need not be UTF-8.
        entry = {"path": os.fsdecode(path), "mode": f"{stat.S_IMODE(info.st_mode) & 0o777:o}"}
        if stat.S_ISLNK(info.st_mode):
            entry.update(kind="link", mode="777", target=os.readlink(str(whole)))
        elif stat.S_ISDIR(info.st_mode):
            entry["kind"] = "folder"
        elif stat.S_ISREG(info.st_mode):
            mac = _pack_file(whole, info.st_size, target / "__ROOT" / str(number))
            entry.update(kind="file", name=str(number), size=info.st_size, mac=mac)
        else:
            raise SefsError(f"{whole}: neither a file, a folder nor a link")
        entries.append(entry)
    text = json.dumps({"format": "occlum stand-in", "entries": entries}, sort_keys=True)
    data, mac = protected_file("metadata", text.encode())
    (target / "__ROOT" / "metadata").write_bytes(data)
    (target / ".ROOT_MAC").write_text(f"{mac.strip()}\n")
    return mac.strip()


def _sorted_paths(tree: Path) -> list:
    top = os.fsencode(str(tree)) + b"/"
    found, pending = [b"."], [b""]
    while pending:
        below = pending.pop()
        for entry in os.scandir(top + below):
            path = below + b"/" + entry.name if below else entry.name
            found.append(path)
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
    return sorted(found)


def _pack_file(source: Path, size: int, target: Path) -> str:
    if size < LARGE:
        content = source.read_bytes()
    else:
        sha256 = hashlib.sha256()
        with source.open("rb") as stream, Path(f"{target}.raw").open("wb") as out:
            for block in iter(lambda: stream.read(1 << 20), b""):
                sha256.update(block)
                out.write(block)
        content = f"{sha256.hexdigest()} {size}".encode()
    data, mac = protected_file(target.name, content)
    target.write_bytes(data)
    return mac.strip()


def content_of(data: bytes) -> bytes:
    """Give what a protected file holds; it is not encrypted."""
    size = int.from_bytes(data[_HEAD + 260 : _HEAD + 268], "little")
    start = _HEAD + 320
    found = [data[start : start + min(size, _FIRST)]]
    left = size - len(found[0])
    number = 0
    while left > 0:
        # After the first node: a node of the tree of MACs, then the 96 data nodes below it.
        at = _NODE * (2 + (_GROUP + 1) * (number // _GROUP) + number % _GROUP)
        found.append(data[at : at + min(left, _NODE)])
        if not found[-1]:
            raise SefsError("a protected file is too short")
        left -= len(found[-1])
        number += 1
    return b"".join(found)


def opened(name: str, data: bytes, mac: str) -> bytes:
    """Give what a protected file holds, if its MAC is this one.

    Raises:
        SefsError: it is another file.
    """
    content = content_of(data)
    wanted, found = protected_file(name, content)
    if wanted != data or found.strip() != mac:
        raise SefsError(f"{name}: not the file that the MAC {mac} stands for")
    return content


def entries_of(root: Path, mac: str) -> list:
    """Give the entries of a packed tree, if its MAC is this one."""
    return list(json.loads(opened("metadata", (root / "metadata").read_bytes(), mac))["entries"])


def unpack(root: Path, mac: str, target: Path) -> None:
    """Unpack ``__ROOT`` into an empty folder, if its MAC is this one.

    Raises:
        SefsError: something was changed.
        OSError: something is missing.
    """
    entries = entries_of(root, mac)
    for entry in entries:
        place = target / entry["path"]
        if entry["kind"] == "folder":
            place.mkdir(exist_ok=True)
        elif entry["kind"] == "link":
            place.symlink_to(entry["target"])
        else:
            _unpack_file(root / entry["name"], entry, place)
    for entry in reversed(entries):
        if entry["kind"] != "link":
            (target / entry["path"]).chmod(int(entry["mode"], 8))


def _unpack_file(source: Path, entry: dict, place: Path) -> None:
    content = opened(entry["name"], source.read_bytes(), entry["mac"])
    if entry["size"] < LARGE:
        place.write_bytes(content)
        return
    sha256 = hashlib.sha256()
    with Path(f"{source}.raw").open("rb") as stream, place.open("wb") as out:
        for block in iter(lambda: stream.read(1 << 20), b""):
            sha256.update(block)
            out.write(block)
    if content != f"{sha256.hexdigest()} {entry['size']}".encode():
        raise SefsError(f"{source}.raw: not the file that was packed as {entry['path']}")
