"""``copy_bom``: copies what a list names into the tree of an enclave (Occlum 0.26 to 0.31).

usage: copy_bom -f BOM --root DIR [--include-dir D]… [--dry-run]

Folders are copied with their links, files with links followed, programs and libraries with the
libraries that they are linked with. Only adds. Python 3.8, standard library.
"""

# ruff: noqa: PTH115 - Path.readlink came with Python 3.9

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from bom_yaml import YamlError, parse

PLACES = {
    "": {"includes": list, "excludes": list, "targets": list},
    "targets": {"target": str, "mkdirs": list, "createlinks": list, "copy": list},
    "createlinks": {"src": str, "linkname": str},
    "copy": {"from": str, "dirs": list, "files": list},
    "files": {"name": str, "hash": str, "autodep": bool, "rename": str},
}
NEEDED = {"targets": ("target",), "createlinks": ("src", "linkname"), "files": ("name",)}


class BomError(Exception):
    """Why it stops."""


def standin_home() -> Path:
    """Where the toolchain is."""
    default = Path(__file__).resolve().parent.parent.parent
    return Path(os.environ.get("OCCLUM_STANDIN_HOME") or default)


# -- the list


def read_bom(path: Path) -> dict:
    """Read a list and check its shape."""
    try:
        document = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BomError(f"cannot read {path}: {error.strerror}") from None
    except (YamlError, UnicodeDecodeError) as error:
        raise BomError(f"{path}: {error}") from None
    return _checked(str(path), "", document if document is not None else {})


def _checked(where: str, place: str, value: object) -> dict:
    if not isinstance(value, dict):
        raise BomError(f"{where}: keys expected, not {value!r}")
    for key, inner in value.items():
        kind = PLACES[place].get(key)
        if kind is None:
            raise BomError(f"{where}: unknown key {key!r}")
        if inner is None and kind is list:
            value[key] = inner = []
        if not isinstance(inner, kind):
            raise BomError(f"{where}: {key}: {inner!r} is not what is expected there")
        if kind is list:
            value[key] = [_item(where, key, one) for one in inner]
        elif kind is str:
            value[key] = _expanded(where, inner)
    for key in NEEDED.get(place, ()):
        if key not in value:
            raise BomError(f"{where}: {place}: {key} is missing")
    return value


def _item(where: str, key: str, value: object) -> object:
    if key == "files" and isinstance(value, str):
        value = {"name": value}
    if key in PLACES:
        return _checked(where, key, value)
    if not isinstance(value, str):
        raise BomError(f"{where}: {key}: {value!r} is no text")
    return _expanded(where, value)


def _expanded(where: str, text: str) -> str:
    """Put in the variables of the environment."""

    def value(match: re.Match) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise BomError(f"{where}: {text}: the environment has no {name}")
        return os.environ[name]

    return re.sub(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))", value, text)


def with_includes(path: Path, folders: list) -> tuple:
    """Give targets and excludes of a list and of those that it includes, the included first."""
    targets, excludes, seen = [], [], set()

    def add(bom: Path) -> None:
        if bom.resolve() in seen:
            return
        seen.add(bom.resolve())
        document = read_bom(bom)
        for name in document.get("includes", []):
            found = [folder / name for folder in folders if (folder / name).is_file()]
            if not found:
                raise BomError(f"{bom}: includes: {name} is in no folder of --include-dir")
            add(found[0])
        targets.extend(document.get("targets", []))
        excludes.extend(document.get("excludes", []))

    add(path)
    return targets, excludes


# -- the tree


class Tree:
    """The tree of the enclave.

    Args:
        root: its folder.
        dry: whether nothing is written.
    """

    def __init__(self, root: Path, dry: bool) -> None:
        self.root, self.dry = root, dry

    def place(self, path: str) -> Path:
        """Give where a path of the enclave stands; links in its folders are followed inside."""
        parts = [part for part in path.split("/")[::-1] if part not in ("", ".")]
        done: list = []
        budget = 40
        while parts:
            part = parts.pop()
            if part == "..":
                done = done[:-1]
                continue
            here = self.root.joinpath(*done, part)
            if parts and here.is_symlink():
                budget -= 1
                if not budget:
                    raise BomError(f"{path}: its links lead in a circle")
                target = os.readlink(here)
                done = [] if target.startswith("/") else done
                parts += [name for name in target.split("/")[::-1] if name not in ("", ".")]
            else:
                done.append(part)
        return self.root.joinpath(*done)

    def folder(self, path: str) -> Path:
        """Make a folder; a link in its place is followed. Gives where it stands."""
        place = self.place(f"{path}/x").parent
        if not self.dry:
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BomError(f"{place}: {error.strerror}") from None
        return place

    def link(self, path: str, target: str) -> None:
        """Make a link; one that is there has to be the same."""
        self.folder(path.rpartition("/")[0])
        place = self.place(path)
        if place.is_symlink() and os.readlink(place) == target:
            return
        if os.path.lexists(place):
            raise BomError(f"{place}: is there already, and is no link to {target}")
        say(f"link {place} -> {target}")
        if not self.dry:
            place.symlink_to(target)

    def file(self, source: Path, path: str) -> None:
        """Copy a file, links followed."""
        self.folder(path.rpartition("/")[0])
        self._copy(source, self.place(path))

    def _copy(self, source: Path, place: Path) -> None:
        if place.is_dir() and not place.is_symlink():
            raise BomError(f"{place}: is a folder, {source} is a file")
        if self.dry:
            say(f"copy {source} -> {place}")
            return
        try:
            if os.path.lexists(place):
                place.unlink()  # as rsync does, which writes aside
            shutil.copyfile(source, place)
            place.chmod(stat.S_IMODE(source.stat().st_mode))
        except OSError as error:
            raise BomError(f"cannot copy {source} to {place}: {error.strerror}") from None

    def copy_folder(self, source: Path, path: str, excludes: list) -> list:
        """Copy what is in a folder with its links; give the paths inside of its files."""
        found, pending = [], [""]
        while pending:
            below = pending.pop()
            folder = source / below.lstrip("/")
            place = self.folder(f"{path}{below}")
            if not self.dry:
                place.chmod(stat.S_IMODE(folder.stat().st_mode))
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                inner = f"{below}/{entry.name}"
                is_folder = entry.is_dir(follow_symlinks=False)
                if any(_excludes(pattern, inner, is_folder) for pattern in excludes):
                    continue
                if is_folder:
                    pending.append(inner)
                elif entry.is_symlink():
                    self._copy_link(entry.path, f"{path}{inner}")
                elif entry.is_file():
                    self.file(Path(entry.path), f"{path}{inner}")
                    found.append(Path(entry.path))
        return found

    def _copy_link(self, source: str, path: str) -> None:
        place, target = self.place(path), os.readlink(source)
        if place.is_dir() and not place.is_symlink():
            raise BomError(f"{place}: is a folder, {source} is a link")
        if not self.dry:
            if os.path.lexists(place):
                place.unlink()
            place.symlink_to(target)


def _excludes(pattern: str, path: str, is_folder: bool) -> bool:
    """Tell whether a pattern of rsync excludes a path, which begins with the slash of the top."""
    if pattern.endswith("/"):
        if not is_folder:
            return False
        pattern = pattern[:-1]
    if pattern.startswith("/"):
        return _matches(pattern, path)
    if "/" in pattern or "**" in pattern:
        return _matches(f"/{pattern}", path) or _matches(f"*/{pattern}", path, stars=True)
    return fnmatch.fnmatchcase(path.rpartition("/")[2], pattern)


def _matches(pattern: str, path: str, stars: bool = False) -> bool:
    """Match a whole path; a star matches within one name, unless `stars` or two of them."""
    if stars or "**" in pattern:
        return fnmatch.fnmatchcase(path, pattern)
    names, patterns = path.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(
        fnmatch.fnmatchcase(name, patterns[at]) for at, name in enumerate(names)
    )


# -- libraries


class Libraries:
    """Finds the libraries that a program or library is linked with, by asking its loader."""

    def __init__(self, config: Path) -> None:
        self.loaders = []
        if config.is_file():
            for line in config.read_text().splitlines():
                words = line.split()
                if words and not words[0].startswith("#"):
                    self.loaders.append((words[0], words[1] if len(words) > 1 else ""))

    def needed(self, path: Path) -> tuple:
        """Give the libraries of a file, its loader among them, and what is missing."""
        with path.open("rb") as stream:
            head = stream.read(4096)
        if head[:5] != b"\x7fELF\x02" or len(head) < 64:
            return [], []
        wanted = _interpreter(head)
        loader = next(
            (one for one in self.loaders if wanted in ("", one[0]) and Path(one[0]).exists()), None
        )
        if loader is None:
            return [], ([wanted] if wanted else [])
        command = [loader[0], "--list", str(path)]
        environment = {"LC_ALL": "C", "LD_LIBRARY_PATH": loader[1]}
        done = subprocess.run(command, env=environment, stdout=-1, stderr=-1, check=False)
        found, missing = [], []
        for line in done.stdout.decode("utf-8", "replace").splitlines():
            match = re.match(r"\s*(?:(\S+) => )?(not found|/\S+)", line)
            if match is not None and match[2] == "not found":
                missing.append(match[1])
            elif match is not None:
                found.append(match[2])
        # Called by itself, the loader stops at the first library that is not there.
        said = done.stderr.decode("utf-8", "replace")
        missing += re.findall(r"loading shared libraries: (\S+): cannot open shared", said)
        return ([*found, loader[0]] if found else []), missing


def _interpreter(head: bytes) -> str:
    """Give the loader that the head of an ELF file names; "" for none."""
    start, size, count = (
        int.from_bytes(head[at : at + length], "little")
        for at, length in ((32, 8), (54, 2), (56, 2))
    )
    for number in range(count):
        entry = head[start + number * size :][:56]
        if len(entry) == 56 and entry[:4] == b"\3\0\0\0":
            at, length = (int.from_bytes(entry[n : n + 8], "little") for n in (8, 32))
            return head[at : at + length].rstrip(b"\0").decode("ascii", "replace")
    return ""


# -- the run


class Run:
    """One run over all targets."""

    def __init__(self, tree: Tree, excludes: list, libraries: Libraries) -> None:
        self.tree, self.excludes, self.libraries = tree, excludes, libraries
        self.source = tree.root.resolve().parent
        self.copied: set = set()

    def target(self, target: dict) -> None:
        top = "/" + target["target"].strip("/")
        self.tree.folder(top)
        for name in target.get("mkdirs", []):
            self.tree.folder(f"{top}/{name}")
        for link in target.get("createlinks", []):
            self.tree.link(f"{top}/{link['linkname']}", link["src"])
        for copy in target.get("copy", []):
            self.copy(top, copy)

    def copy(self, top: str, copy: dict) -> None:
        source = self.source / copy["from"] if "from" in copy else self.source
        dirs, files = copy.get("dirs", []), copy.get("files", [])
        if not dirs and not files:
            if "from" not in copy:
                raise BomError(f"target {top}: copy: from is missing")
            dirs = [f"{source}/"]
        for name in dirs:
            self.folder(top, source, name)
        for file in files:
            self.file(top, source, file)

    def folder(self, top: str, source: Path, name: str) -> None:
        path = source / name
        if not path.is_dir():
            raise BomError(f"{path}: no such folder")
        inside = top if name.endswith("/") else f"{top.rstrip('/')}/{path.name}"
        say(f"copy {path}/ -> {inside}")
        for file in self.tree.copy_folder(path, inside.rstrip("/"), self.excludes):
            self.dependencies(file, strict=False)

    def file(self, top: str, source: Path, file: dict) -> None:
        path = source / file["name"]
        if not path.is_file():
            raise BomError(f"{path}: no such file")
        if "hash" in file:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest != file["hash"].lower():
                raise BomError(f"{path}: its SHA-256 is {digest}, not {file['hash']}")
        name = file.get("rename", path.name)
        say(f"copy {path} -> {top.rstrip('/')}/{name}")
        self.tree.file(path, f"{top}/{name}")
        if file.get("autodep", True):
            self.dependencies(path, strict=True)

    def dependencies(self, path: Path, strict: bool) -> None:
        found, missing = self.libraries.needed(path)
        if missing and strict:
            raise BomError(f"{path}: {', '.join(missing)} not found, which it is linked with")
        for name in missing:
            say(f"warning: {path}: {name} not found, which it is linked with")
        for library in found:
            if library not in self.copied:
                self.copied.add(library)
                self.tree.file(Path(library), library)


def say(line: str) -> None:
    """Say something on stderr."""
    print(f"copy_bom: {line}", file=sys.stderr)


def main(arguments: list) -> int:
    """Run the command; gives its exit code."""
    try:
        options = _options(arguments)
        home = standin_home()
        folders = [Path(name) for name in options["--include-dir"]] + [home / "etc/template"]
        targets, excludes = with_includes(Path(options["-f"][-1]), folders)
        libraries = Libraries(home / "etc/template/occlum_elf_loader.config")
        tree = Tree(Path(options["--root"][-1]), bool(options["--dry-run"]))
        run = Run(tree, excludes, libraries)
        for target in targets:
            run.target(target)
    except BomError as error:
        say(f"error: {error}")
        return 1
    return 0


def _options(arguments: list) -> dict:
    found: dict = {name: [] for name in ("-f", "--root", "--include-dir", "--dry-run")}
    words = list(arguments)
    while words:
        name, equals, value = words.pop(0).partition("=")
        name = {"--file": "-f", "-i": "--include-dir"}.get(name, name)
        if name not in found:
            raise BomError(f"unknown option {name}")
        if name == "--dry-run":
            value = "yes"
        elif not equals:
            if not words:
                raise BomError(f"{name} needs a value")
            value = words.pop(0)
        found[name].append(value)
    for name in ("-f", "--root"):
        if not found[name]:
            raise BomError(f"{name} is missing")
    return found
