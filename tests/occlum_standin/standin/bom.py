"""The command ``copy_bom``: fills the tree of an enclave by a list in YAML.

usage: copy_bom -f BOM --root DIR [--include-dir DIR]... [--dry-run]

It only adds. Files are copied with links followed, folders with links kept. Libraries that copied
programs are linked with come along, to the paths where the loader finds them.
"""

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
from typing import Any, Iterator  # noqa: UP035 - Python 3.8

from standin.plain_yaml import NotYaml, parse

LOADER = "/lib64/ld-linux-x86-64.so.2"
KEYS = {
    "bom": {"includes", "excludes", "targets"},
    "target": {"target", "mkdirs", "createlinks", "copy"},
    "link": {"src", "linkname"},
    "copy": {"from", "dirs", "files"},
    "file": {"name", "hash", "autodep", "rename"},
}
_FOUND = re.compile(r"^\s*(\S+) => (\S+) \(0x[0-9a-f]+\)$")
_MISSING = re.compile(r"^\s*(\S+) => not found$")


class Failure(Exception):
    """What ends the command, as it is printed."""


def expanded(text: object) -> str:
    """Give a text with the environment's variables filled in."""
    if not isinstance(text, str):
        raise Failure(f"{text!r}: expected a string")

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        if name not in os.environ:
            raise Failure(f"environment variable {name} is not set, in {text}")
        return os.environ[name]

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)


def _items(table: dict[str, Any], key: str) -> list[Any]:
    found = table.get(key) or []
    if not isinstance(found, list):
        raise Failure(f"{key}: expected a list")
    return found


def _table(value: object, kind: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Failure(f"{kind}: expected a map")
    unknown = sorted(set(value) - KEYS[kind])
    if unknown:
        raise Failure(f"unknown field `{unknown[0]}` in {kind}")
    return value


class Copier:
    """Fills one tree.

    Args:
        root: the tree's folder.
        dry: whether to say what would be done and do nothing.
    """

    def __init__(self, root: Path, dry: bool) -> None:
        self.root, self.dry = root, dry
        self.excludes: list[str] = []
        self._programs: dict[str, bool] = {}  # and whether a missing library is an error

    def target(self, value: object) -> None:
        """Fill one folder of the tree."""
        target = _table(value, "target")
        place = self._inside(expanded(target.get("target")))
        self._make(place)
        for name in _items(target, "mkdirs"):
            self._make(self._inside(expanded(name), place))
        for link in _items(target, "createlinks"):
            self._link(place, _table(link, "link"))
        for copy in _items(target, "copy"):
            self._copy(place, _table(copy, "copy"))

    def _copy(self, place: Path, copy: dict[str, Any]) -> None:
        source = expanded(copy["from"]) if "from" in copy else str(self.root.resolve().parent)
        folders, files = _items(copy, "dirs"), _items(copy, "files")
        if not folders and not files:
            if "from" not in copy:
                raise Failure("copy: neither from nor dirs nor files")
            self._folder(source, place)
        for name in folders:
            path = os.path.join(source, expanded(name))  # noqa: PTH118
            base = os.path.basename(path)  # noqa: PTH119 - "" behind a slash at the end
            self._folder(path, place / base if base else place)
        for item in files:
            entry = {"name": item} if isinstance(item, str) else _table(item, "file")
            self._file(os.path.join(source, expanded(entry.get("name"))), place, entry)  # noqa: PTH118

    def _file(self, path: str, place: Path, entry: dict[str, Any]) -> None:
        if not os.path.isfile(path):  # noqa: PTH113
            raise Failure(f"{path}: no such file")
        wanted = entry.get("hash")
        if wanted is not None:
            found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            if found != str(wanted):
                raise Failure(f"{path}: the hash is {found}, not {wanted}")
        name = expanded(entry.get("rename", Path(path).name))
        self._put(path, place / name)
        if entry.get("autodep", True) is not False:
            self._programs[path] = True

    def _folder(self, path: str, place: Path) -> None:
        if not os.path.isdir(path):  # noqa: PTH112
            raise Failure(f"{path}: no such directory")
        self._make(place)
        for child in self._children(path):
            target = place / os.path.relpath(child, path)
            mode = os.lstat(child).st_mode
            if stat.S_ISLNK(mode):
                self._set_link(target, os.readlink(child))  # noqa: PTH115
            elif stat.S_ISDIR(mode):
                self._make(target)
                self._say_mode(child, target)
            elif stat.S_ISREG(mode):
                self._put(child, target)
                self._programs.setdefault(child, False)
            else:
                print(f"[WARN] {child}: skipped, no file", file=sys.stderr)

    def _children(self, top: str) -> Iterator[str]:
        for folder, names, files in os.walk(top):
            kept = [n for n in sorted(names) if not self._excluded(top, folder, n, True)]
            names[:] = kept
            for name in kept + sorted(files):
                if name in kept or not self._excluded(top, folder, name, False):
                    yield os.path.join(folder, name)  # noqa: PTH118

    def _excluded(self, top: str, folder: str, name: str, is_folder: bool) -> bool:
        """Tell whether rsync's --exclude would leave a name out."""
        inside = "/" + os.path.relpath(os.path.join(folder, name), top)  # noqa: PTH118
        for pattern in self.excludes:
            if pattern.endswith("/") and not is_folder:
                continue
            plain = pattern.rstrip("/")
            if plain.startswith("/"):
                hit = fnmatch.fnmatchcase(inside, plain)
            elif "/" in plain:
                hit = fnmatch.fnmatchcase(inside, f"*/{plain}")
            else:
                hit = fnmatch.fnmatchcase(name, plain)
            if hit:
                return True
        return False

    def _link(self, place: Path, link: dict[str, Any]) -> None:
        if {"src", "linkname"} - set(link):
            raise Failure("createlinks: src or linkname is missing")
        self._set_link(place / expanded(link["linkname"]), expanded(link["src"]))

    def _set_link(self, path: Path, target: str) -> None:
        self._guard(path)
        if self._say(f"ln -s {target} {path}"):
            return
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            raise Failure(f"{path}: exists, and is no link")
        path.symlink_to(target)

    def _make(self, place: Path) -> None:
        self._guard(place)
        if place.is_dir() or self._say(f"mkdir -p {place}"):
            return
        try:
            place.mkdir(parents=True)
        except OSError as error:
            raise Failure(f"{place}: {error.strerror}") from None

    def _put(self, source: str, place: Path) -> None:
        self._guard(place)
        if self._say(f"rsync -aL {source} {place}"):
            return
        if place.is_symlink():
            place.unlink()
        try:
            shutil.copy2(source, str(place))
        except OSError as error:
            raise Failure(f"{source} to {place}: {error.strerror}") from None

    def _say_mode(self, source: str, place: Path) -> None:
        if not self.dry:
            place.chmod(stat.S_IMODE(os.lstat(source).st_mode))

    def _say(self, line: str) -> bool:
        if self.dry:
            print(line)
        return self.dry

    def _inside(self, path: str, top: Path | None = None) -> Path:
        place = os.path.normpath(f"/{path.lstrip('/')}").lstrip("/")
        return (top or self.root) / place

    def _guard(self, place: Path) -> None:
        """What a link in the tree leads to outside of it is the machine's own."""
        top = self.root.resolve()
        found = place.parent.resolve()
        if found != top.parent and top not in (found, *found.parents):
            raise Failure(f"{place}: leads out of {self.root}")

    def add_libraries(self) -> None:
        """Copy what the programs are linked with."""
        missing = []
        found: set[str] = set()
        for path, needed in sorted(self._programs.items()):
            for name, library in libraries(path):
                if library is None:
                    line = f"{path}: needs {name}, which is not found"
                    print(f"[{'ERROR' if needed else 'WARN'}] {line}", file=sys.stderr)
                    missing += [line] if needed else []
                elif library not in found:
                    found.add(library)
                    self._library(library)
        if missing:
            raise Failure(f"{len(missing)} dependencies are missing")

    def _library(self, library: str) -> None:
        place = self._inside(library)
        if not place.exists():
            self._make(place.parent)
            self._put(library, place)


def libraries(path: str) -> list[tuple[str, str | None]]:
    """Give what a program is linked with: names, and paths where the loader finds them."""
    with Path(path).open("rb") as file:
        if file.read(4) != b"\x7fELF" or not os.path.exists(LOADER):  # noqa: PTH110
            return []
    done = subprocess.run(
        [LOADER, "--list", os.path.abspath(path)],  # noqa: PTH100
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    found: list[tuple[str, str | None]] = []
    for line in done.stdout.decode("utf-8", "surrogateescape").splitlines():
        hit, miss = _FOUND.match(line), _MISSING.match(line)
        if hit and hit.group(2) != LOADER:
            found.append((hit.group(1), hit.group(2)))
        elif miss:
            found.append((miss.group(1), None))
    return found


def read_bom(path: Path, folders: list[Path], above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Give a list and those that it includes, these first."""
    if path.resolve() in above:
        raise Failure(f"{path}: includes itself")
    try:
        bom = _table(parse(path.read_bytes().decode()), "bom")
    except (OSError, UnicodeDecodeError, NotYaml) as error:
        raise Failure(f"{path}: {error}") from None
    found = []
    for name in _items(bom, "includes"):
        places = [folder / expanded(name) for folder in (path.parent, *folders)]
        hits = [place for place in places if place.is_file()]
        if not hits:
            raise Failure(f"{path}: includes {name}, which is in no include directory")
        found += read_bom(hits[0], folders, (*above, path.resolve()))
    return [*found, bom]


def _options(words: list[str]) -> tuple[Path, Path, list[Path], bool]:
    values: dict[str, list[str]] = {"-f": [], "--root": [], "--include-dir": [], "-i": []}
    dry = False
    names = {"--file": "-f", "-i": "--include-dir"}
    while words:
        flag, *words = words
        flag = names.get(flag, flag)
        if flag == "--dry-run":
            dry = True
        elif flag in values and words:
            values[flag].append(words[0])
            words = words[1:]
        else:
            raise Failure(f"unexpected argument {flag}\n{__doc__}")
    if len(values["-f"]) != 1 or len(values["--root"]) != 1:
        raise Failure(f"-f and --root are needed, once each\n{__doc__}")
    folders = [Path(name) for name in values["--include-dir"]]
    return Path(values["-f"][0]), Path(values["--root"][0]), folders, dry


def main(words: list[str]) -> int:
    """Run the command line."""
    try:
        bom, root, folders, dry = _options(words)
        lists = read_bom(bom, folders)
        copier = Copier(root, dry)
        if not dry:
            root.mkdir(parents=True, exist_ok=True)
        copier.excludes = [expanded(n) for one in lists for n in _items(one, "excludes")]
        for one in lists:
            for target in _items(one, "targets"):
                copier.target(target)
        copier.add_libraries()
    except Failure as error:
        print(f"[ERROR] copy_bom: {error}", file=sys.stderr)
        return 1
    return 0
