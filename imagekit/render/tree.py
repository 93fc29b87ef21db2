"""Where trusted files are looked up: the machine, a folder taken as root, or an image.

A tree answers questions about paths. :class:`HostTree` and :class:`ChrootTree` are what
gramine-manifest reads; the merged view of an image is the third one (see ``images/rootfs.py``) and
has the same methods.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Protocol

from imagekit.errors import InputError

_RUN = 128  # files per task: handing one over costs as much as hashing a small file
_MAX_LINKS = 40  # as the kernel's MAXSYMLINKS


class Tree(Protocol):
    """A file tree with symbolic links."""

    def kind(self, path: str) -> str | None:
        """Give ``file`` or ``dir``, links followed; None for anything else or nothing."""

    def is_link(self, path: str) -> bool:
        """Say whether the last component is itself a symbolic link."""

    def resolve(self, path: str) -> str:
        """Give the path without any link in it; InputError when it leads nowhere."""

    def children(self, path: str) -> Sequence[str]:
        """Give the names in a folder, sorted by code point."""

    def sha256(self, path: str) -> str:
        """Give the lower-case hex SHA-256 of a file's content, links followed."""

    def walkable(self, path: str) -> bool:
        """Say whether a file met on a walk (not named explicitly) is taken up."""


def hash_files(tree: Tree, paths: Sequence[str]) -> dict[str, str]:
    """Hash many files of a tree on two threads; SHA-256 of large buffers runs without the GIL."""
    unique = list(dict.fromkeys(paths))
    runs = [unique[start : start + _RUN] for start in range(0, len(unique), _RUN)]
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda run: [tree.sha256(path) for path in run], runs)
        return dict(zip(unique, chain.from_iterable(done), strict=True))


class HostTree:
    """The machine's own files; relative paths start at `cwd`."""

    def __init__(self, cwd: Path | None = None) -> None:
        self._cwd = cwd or Path()
        self._hashes: dict[tuple[int, int], str] = {}

    def host_path(self, path: str) -> Path:
        """Give where the file really is."""
        return self._cwd / path

    def kind(self, path: str) -> str | None:
        """See :class:`Tree`."""
        try:
            target = self.host_path(path)
            return "dir" if target.is_dir() else "file" if target.is_file() else None
        except (OSError, ValueError):
            return None

    def is_link(self, path: str) -> bool:
        """See :class:`Tree`."""
        return self.host_path(path).is_symlink()

    def resolve(self, path: str) -> str:
        """See :class:`Tree`; Gramine keeps the links of host paths, so this only checks."""
        if self.kind(path) is None:
            raise InputError(f"{path}: no such file or folder", "check the path")
        return path

    def children(self, path: str) -> list[str]:
        """See :class:`Tree`."""
        try:
            return sorted(child.name for child in self.host_path(path).iterdir())
        except PermissionError:
            return []  # as gramine-manifest: what may not be read is left out
        except OSError as error:
            raise _unreadable(path, error) from None

    def sha256(self, path: str) -> str:
        """See :class:`Tree`; a file reached by several names is read once."""
        try:
            with self.host_path(path).open("rb") as file:
                status = os.fstat(file.fileno())
                inode = (status.st_dev, status.st_ino)
                if inode not in self._hashes:
                    self._hashes[inode] = hashlib.file_digest(file, "sha256").hexdigest()
                return self._hashes[inode]
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None

    def walkable(self, path: str) -> bool:
        """See :class:`Tree`: gramine-manifest skips what it may not read."""
        return os.access(self.host_path(path), os.R_OK)


class ChrootTree(HostTree):
    """A folder taken as the root, links resolved inside it (``--chroot``).

    One behaviour of gramine-manifest 1.9 is kept, since its output is measured: a link *met on a
    walk* that points outside its folder by an absolute path, or out of the root, is left out;
    :attr:`skipped` lists those. Named explicitly such links are resolved inside the root.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._root = root
        self.skipped: list[str] = []

    def host_path(self, path: str) -> Path:
        """Give where the file really is, links resolved inside the root."""
        return self._root / self.resolve(path).lstrip("/")

    def resolve(self, path: str) -> str:
        """See :class:`Tree`; nothing ever leads out of the root."""
        return self._resolve(path, follow_last=True)

    def _resolve(self, path: str, *, follow_last: bool, as_host: bool = False) -> str:
        """Resolve inside the root.

        With `as_host`, what the machine itself would look up outside the root is an error.
        """
        if not path.startswith("/"):
            raise InputError(
                f"{path}: not an absolute path", "with --chroot all URIs begin with file:/"
            )
        parts = path.split("/")[::-1]
        done: list[str] = []
        links = 0
        while parts:
            part = parts.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if as_host and not done:
                    raise InputError(f"{path}: leads out of {self._root}", "mend the link")
                del done[-1:]
                continue
            here = self._root.joinpath(*done, part)
            is_last = not any(p not in ("", ".") for p in parts)
            if here.is_symlink() and (follow_last or not is_last):
                links += 1
                if links > _MAX_LINKS:
                    raise InputError(f"{path}: too many levels of symbolic links", "mend the link")
                target = str(here.readlink())
                if target.startswith("/"):
                    if as_host:
                        raise InputError(f"{path}: leads out of {self._root}", "mend the link")
                    done = []
                parts += target.split("/")[::-1]
                continue
            if not is_last and not here.is_dir():
                raise InputError(f"{path}: {part} is not a folder", "check the path")
            done.append(part)
        if not os.path.lexists(self._root.joinpath(*done)):
            raise InputError(f"{path}: no such file in {self._root}", "check the path")
        return "/" + "/".join(done)

    def kind(self, path: str) -> str | None:
        """See :class:`Tree`."""
        try:
            return super().kind(path)
        except InputError:
            return None

    def is_link(self, path: str) -> bool:
        """See :class:`Tree`."""
        try:
            where = self._resolve(path, follow_last=False)
        except InputError:
            return False
        return (self._root / where.lstrip("/")).is_symlink()

    def walkable(self, path: str) -> bool:
        """See :class:`Tree`; links that the stock tool looks up on the machine are left out."""
        try:
            self._resolve(path, follow_last=True, as_host=True)
        except InputError:
            self.skipped.append(path)
            return False
        return super().walkable(path)


def _unreadable(path: str, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"{path}: {reason}", "check that the file is there and readable")
