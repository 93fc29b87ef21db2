"""The tree of an Occlum enclave as it is put together from a base, and as ``copy_bom`` takes it."""

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

from imagekit.errors import InputError
from imagekit.render.image_files import Entry, Files
from imagekit.render.pod_paths import is_normal, pod_path_at, pod_paths_below

OF_INIT = ("/etc/localtime",)
"""What ``occlum init`` puts into a tree by itself; ``copy_bom`` cannot put a link there again."""


class EnclaveTree:
    """What is put into the tree, from where.

    Args:
        files: the base.
        where: the project file, for messages.
        excluded: names that are left out of every folder.
    """

    def __init__(self, files: Files, where: str, excluded: Sequence[str]) -> None:
        self._source = files
        self._where = where
        self._excluded = frozenset(excluded)
        self._folders: dict[str, str] = {}  # by the path inside: the path in the base
        self._files: dict[str, str] = {}
        self._links: dict[str, str] = {}  # what they say
        self._empty: set[str] = set()

    def add_folder(self, path: str, key: str, inside: str | None = None) -> None:
        """Put a whole folder in.

        Args:
            path: in the base.
            key: of the project file that it comes from, for messages.
            inside: where to; None for the same path.

        Raises:
            InputError: it is not in the base, is no folder, or holds what belongs to a pod.
        """
        self._check(path, key, "dir")
        inside = path if inside is None else inside
        for folder in sorted({path, inside, self._source.resolve(path)}):
            for own, always in pod_paths_below(folder):
                if always or self._source.entry(own, follow=False) is not None:
                    raise self._of_a_pod(key, f"{path.rstrip('/')}/", own)
        self._folders[inside] = path

    def add_file(self, path: str, key: str, inside: str | None = None) -> None:
        """Put a file in; a link becomes a link to the file that it leads to.

        Programs look for their parts beside the file that they are, so a copy of one under the name
        of a link to it might not start.

        Args:
            path: in the base.
            key: of the project file that it comes from, for messages.
            inside: where to; None for the same path.

        Raises:
            InputError: it is not in the base, is no file, or belongs to a pod.
        """
        self._check(path, key, "file")
        entry = self._source.entry(path, follow=False)
        if inside is None and entry is not None and entry.kind == "symlink":
            real = self._source.resolve(path)
            self._check(real, key, "file")
            self._links[path] = posixpath.relpath(real, posixpath.dirname(path))
            path = real
        self._files[path if inside is None else inside] = path

    def add_empty(self, path: str) -> None:
        """Put an empty folder in, for something to be mounted there."""
        self._empty.add(path)

    def add_link_targets(self) -> None:
        """Put in what links in the folders lead to, as far as it is outside of them.

        Left alone are links to nothing and links to a folder that something was put below: the tree
        has that folder, with no more than was put there.

        Raises:
            InputError: a link leads to what belongs to a pod.
        """
        pending = [
            link
            for inside in sorted(self._pruned_folders())
            for link in self._links_below(inside, self._folders[inside])
        ]
        while pending:
            pending += self._add_target(*pending.pop())

    def _add_target(self, link: str, path: str, target: str) -> list[tuple[str, str, str]]:
        """Put in what a link leads to; give the links that came in with it.

        Args:
            link: its path inside.
            path: its path in the base.
            target: what it says.
        """
        kind = self._source.kind(path)
        if kind is None:
            return []
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(link), target))
        goal = f"/{goal.lstrip('/')}"  # two slashes at the start are one to Linux, not to normpath
        key = f"the link {path}"
        if (own := pod_path_at(goal)) is not None:
            raise self._of_a_pod(key, goal, own)
        if goal in OF_INIT or self._covers(goal) or self._is_above_something(goal):
            return []
        real = self._source.resolve(path)
        same = self._source.kind(goal) is not None and self._source.resolve(goal) == real
        entry = self._source.entry(goal, follow=False) if same else None
        if entry is not None and entry.kind == "symlink" and _is_plain(goal, entry):
            self._links[goal] = entry.target
            return [(goal, goal, entry.target)]
        if kind == "file":
            self.add_file(real, key, goal)
            return []
        self.add_folder(real, key, goal)
        return list(self._links_below(goal, real))

    def document(self) -> dict[str, Any]:
        """Give the list that ``copy_bom`` takes, sorted, without what another item brings."""
        targets: dict[str, dict[str, list[Any]]] = {}

        def at(target: str, kind: str) -> list[Any]:
            return targets.setdefault(target, {}).setdefault(kind, [])

        folders = self._pruned_folders()
        for inside in sorted(folders):
            at(inside, "dirs").append(f"{self._folders[inside]}/")
        for inside, path in sorted(self._files.items()):
            if not self._brought(inside, path):
                folder, _, name = inside.rpartition("/")
                same = posixpath.basename(path) == name
                at(folder or "/", "files").append(path if same else {"name": path, "rename": name})
        for inside, target in sorted(self._links.items()):
            if not self._brought(inside, inside) and inside not in self._files:
                folder, _, name = inside.rpartition("/")
                at(folder or "/", "createlinks").append({"src": target, "linkname": name})
        for inside in sorted(self._empty):
            targets.setdefault(inside, {})
        return {
            "excludes": sorted(self._excluded),
            "targets": [_target(path, items) for path, items in sorted(targets.items())],
        }

    def _check(self, path: str, key: str, wanted: str) -> None:
        where = f"{self._where}: {key}: {path}"
        if not is_normal(path) or not _is_taken_literally(path):
            raise InputError(
                f"{self._where}: {key}: {path!r} is no path that copy_bom takes as it is",
                "give an absolute path without $ and control characters",
            )
        kind = self._source.kind(path)
        names = {path} if kind is None else {path, self._source.resolve(path)}
        own = next((own for name in sorted(names) if (own := pod_path_at(name))), None)
        if own is not None:
            raise self._of_a_pod(key, path, own)
        if kind is None:
            raise InputError(
                f"{where} is not in the base",
                "give a path inside the image, or add it to the base",
            )
        if kind != wanted:
            is_folder = kind == "dir"
            raise InputError(
                f"{where} is a {'folder' if is_folder else 'file'}",
                "a folder ends with a slash, a file does not",
            )

    def _of_a_pod(self, key: str, path: str, own: str) -> InputError:
        if path.rstrip("/") == own:
            what = "belongs to one pod or machine"
        elif pod_path_at(path) is None:
            what = f"holds {own}, which belongs to one pod or machine"
        else:
            what = f"lies in {own}, which belongs to one pod or machine"
        return InputError(
            f"{self._where}: {key}: {path} {what}",
            "leave it out: with it in the enclave, each pod would have a measurement of its own",
        )

    def _links_below(self, inside: str, top: str) -> Iterator[tuple[str, str, str]]:
        """Give the links below a folder: path inside, path in the base, target."""
        pending = [""]
        while pending:  # no recursion: an image may nest folders as deeply as it likes
            below = pending.pop()
            for name in self._source.children(f"{top}{below}"):
                if name in self._excluded:
                    continue
                path = f"{top}{below}/{name}"
                entry = self._source.entry(path, follow=False)
                if entry is not None and entry.kind == "dir":
                    pending.append(f"{below}/{name}")
                elif entry is not None and entry.kind == "symlink":
                    yield f"{inside}{below}/{name}", path, entry.target

    def _pruned_folders(self) -> list[str]:
        return [inside for inside, path in self._folders.items() if not self._brought(inside, path)]

    def _brought(self, inside: str, path: str) -> bool:
        """Tell whether a folder above brings the same from the same place."""
        rest = ""
        while inside != "/":
            inside, _, name = inside.rpartition("/")
            inside, rest = inside or "/", f"/{name}{rest}"
            if name in self._excluded:
                return False
            if inside in self._folders and f"{self._folders[inside]}{rest}" == path:
                return True
        return False

    def _covers(self, goal: str) -> bool:
        """Tell whether something at this path is in the tree."""
        if goal in self._files or goal in self._links or goal in self._folders:
            return True
        while goal != "/":
            goal, _, name = goal.rpartition("/")
            goal = goal or "/"
            if name in self._excluded:
                return False
            if goal in self._folders:
                return True
        return False

    def _is_above_something(self, goal: str) -> bool:
        top = goal if goal == "/" else f"{goal}/"
        places = (*self._folders, *self._files, *self._links)
        return any(inside.startswith(top) for inside in places)


def _is_taken_literally(text: str) -> bool:
    """Tell whether copy_bom takes a text as it is: it expands variables."""
    return text.isprintable() and "$" not in text


def _is_plain(path: str, link: Entry) -> bool:
    """Tell whether a link means the same in the tree, made there by copy_bom."""
    return link.path == path and _is_taken_literally(path) and _is_taken_literally(link.target)


def _target(path: str, items: dict[str, list[Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"target": path}
    if "createlinks" in items:
        found["createlinks"] = items["createlinks"]
    copy = {kind: items[kind] for kind in ("dirs", "files") if kind in items}
    return found | ({"copy": [copy]} if copy else {})
