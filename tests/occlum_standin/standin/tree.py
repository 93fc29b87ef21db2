"""A tree as a file system in protected files, in place of Occlum's SEFS.

Each file is a protected file; ``metadata``, another one, has names, modes, links and the files'
tags, so that whatever changes in the tree changes the tag of ``metadata``, as it does with SEFS.
Times, owners and the bits beyond 0777 are not kept there either.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from standin.protected import Damaged, mac_text, protect, unprotect

METADATA = "metadata"


class NotAFile(Exception):
    """The tree holds something that cannot be kept."""


def _below(top: Path) -> list[Path]:
    found = []
    for folder, names, files in os.walk(top):
        found += [Path(folder) / name for name in names + files]
    return sorted(found, key=lambda path: os.fsencode(str(path.relative_to(top))))


def pack(top: Path, target: Path) -> str:
    """Write the tree of a folder; give its tag, as text.

    Raises:
        NotAFile: there is a device, socket or pipe in it.
    """
    target.mkdir(parents=True)
    entries = []
    for number, path in enumerate([top, *_below(top)]):
        status = path.lstat()
        entry = {"path": os.fsdecode(os.fsencode(str(path.relative_to(top))))}
        entry["mode"] = f"{stat.S_IMODE(status.st_mode) & 0o777:o}"
        if stat.S_ISLNK(status.st_mode):
            entry.update(type="symlink", target=os.readlink(str(path)), mode="777")  # noqa: PTH115
        elif stat.S_ISDIR(status.st_mode):
            entry.update(type="dir")
        elif stat.S_ISREG(status.st_mode):
            name = str(number)
            data, mac = protect(path.read_bytes(), name)
            (target / name).write_bytes(data)
            entry.update(type="file", file=name, mac=mac_text(mac))
        else:
            raise NotAFile(f"{path}: neither a file, a folder nor a link")
        entries.append(entry)
    text = json.dumps({"magic": "0x2f8dbe2a", "entries": entries}, sort_keys=True)
    data, mac = protect(text.encode("ascii"), METADATA)
    (target / METADATA).write_bytes(data)
    return mac_text(mac)


def unpack(source: Path, target: Path, mac: str) -> None:
    """Write what :func:`pack` has packed into an empty folder.

    Raises:
        Damaged: a tag is not the one that was given, or not the file's.
    """
    text, found = unprotect((source / METADATA).read_bytes(), METADATA)
    if mac_text(found) != mac:
        raise Damaged(f"{source / METADATA}: has the tag {mac_text(found)}, not {mac}")
    folders = []
    for entry in json.loads(text)["entries"]:
        path = target / entry["path"]
        if entry["type"] == "symlink":
            path.symlink_to(entry["target"])
        elif entry["type"] == "dir":
            path.mkdir(exist_ok=True)
            folders.append((path, int(entry["mode"], 8)))
        else:
            content, found = unprotect((source / entry["file"]).read_bytes(), entry["file"])
            if mac_text(found) != entry["mac"]:
                raise Damaged(f"{source / entry['file']}: is another file than it was")
            path.write_bytes(content)
            path.chmod(int(entry["mode"], 8))
    for path, mode in reversed(folders):
        path.chmod(mode)
