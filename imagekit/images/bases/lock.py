"""``imagekit.base.lock.json``: the hashes and package versions a base was made of.

The file is JSON (schema 1) with sorted keys and entries, one per line, fit for version control::

    {"schema": 1,
     "artifacts": [{"name": "pypi:pyspark==3.5.9", "sha256": "…"}],
     "packages": [{"name": "tini", "version": "…", "architecture": "amd64", "sha256": "…" or null}]}

A base on top of an image also has ``"from": {"image": "docker://…", "digest": "sha256:…"}``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from imagekit.errors import InputError
from imagekit.files import disk_error, write_atomically
from imagekit.images.bases.packages import Package

LOCK_NAME = "imagekit.base.lock.json"
"""The lock's file name, beside the project file."""

_HEX = re.compile(r"[0-9a-f]{64}")
_HINT = "restore it from version control, or run `imagekit base lock` anew"
_SHOWN = 5
_SHOWN_DIGEST = len("sha256:") + 12
_TAKE = "run `imagekit base lock` to take the new versions"


class ImageBelow(NamedTuple):
    """The image that a base is made on.

    Attributes:
        image: its reference as it stands in the project file.
        digest: what it is: ``sha256:<64 hex>``, of the manifest for linux/amd64.
    """

    image: str
    digest: str


@dataclass(frozen=True)
class BaseLock:
    """What was locked.

    Attributes:
        artifacts: artifact name (``Artifact.name``) to SHA-256, for those without one in the spec.
        packages: the base's packages, sorted; empty when none were locked.
        below: the image that the base is made on, if it is made on one.
    """

    artifacts: Mapping[str, str]
    packages: tuple[Package, ...] = ()
    below: ImageBelow | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the lock as the JSON value of the file."""
        return {
            "artifacts": [
                {"name": name, "sha256": self.artifacts[name]} for name in sorted(self.artifacts)
            ],
            "packages": [package_json(package) for package in sorted_packages(self.packages)],
            "schema": 1,
        } | ({} if self.below is None else {"from": self.below._asdict()})


@dataclass(frozen=True)
class PackageDrift:
    """The archive delivers other packages than the lock names (a warning, or an error).

    Attributes:
        differences: one line per package, sorted by name: ``tini 0.19.0-1 → 0.19.0-2``.
        hint: one line that says what to do.
    """

    differences: tuple[str, ...]
    hint: str = f"{_TAKE}, or set distribution.snapshot to the day of the lock"

    @property
    def problem(self) -> str:
        """One line for people that names the first packages."""
        first = ", ".join(self.differences[:_SHOWN])
        more = len(self.differences) - _SHOWN
        return f"what the base is made of is not what {LOCK_NAME} names: {first}" + (
            f" and {more} more" if more > 0 else ""
        )


def load_lock(path: Path) -> BaseLock | None:
    """Read a lock file; None when there is none.

    Raises:
        InputError: unreadable, or no lock of schema 1.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(error, path, "read") from None
    try:
        value = json.loads(text)
        if not isinstance(value, dict) or value.get("schema") != 1:
            raise InputError(f"{path}: not a base lock of schema 1", _HINT)
        return BaseLock(
            artifacts={str(item["name"]): _sha256(item) for item in value["artifacts"]},
            packages=sorted_packages([package_from_json(item) for item in value["packages"]]),
            below=_below(value["from"]) if "from" in value else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: the lock file is damaged", _HINT) from None


def write_lock(path: Path, lock: BaseLock) -> None:
    """Write a lock file atomically; equal locks give equal bytes.

    Raises:
        InputError: the disk refuses.
    """
    text = json.dumps(lock.to_json(), indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(path, text.encode() + b"\n")


def drift(lock: BaseLock, packages: Sequence[Package]) -> PackageDrift | None:
    """Compare the packages that were installed with the locked ones; None when they are the same.

    A hash counts where both sides know it.
    """
    if not lock.packages:
        return None
    locked = {(p.name, p.architecture): p for p in lock.packages}
    found = {(p.name, p.architecture): p for p in packages}
    lines = []
    for key in sorted(locked.keys() | found.keys()):
        before, now = locked.get(key), found.get(key)
        if before is None or now is None or before.version != now.version:
            old = before.version if before else "(none)"
            new = now.version if now else "(none)"
            lines.append(f"{key[0]} {old} → {new}")
        elif before.sha256 and now.sha256 and before.sha256 != now.sha256:
            lines.append(f"{key[0]} {before.version} with another content")
    return PackageDrift(tuple(lines)) if lines else None


def derived_drift(
    lock: BaseLock, below: ImageBelow, packages: Sequence[Package]
) -> PackageDrift | None:
    """Compare what a base on top of an image is made of with the lock; None when it is the same.

    Args:
        lock: what was locked.
        below: the image it is made on.
        packages: the packages in it after the installation; none if nothing was installed.
    """
    lines: list[str] = []
    if lock.below is not None and lock.below != below:
        names = [f"{one.image} ({one.digest[:_SHOWN_DIGEST]})" for one in (lock.below, below)]
        lines.append(" → ".join(names))
    found = drift(lock, packages) if packages else None
    lines += found.differences if found is not None else ()
    hint = f"{_TAKE}; the image stays the same if base.from names its digest"
    return PackageDrift(tuple(lines), hint) if lines else None


def sorted_packages(packages: Sequence[Package]) -> tuple[Package, ...]:
    """Sort packages by name, architecture and version."""
    return tuple(sorted(packages, key=lambda p: (p.name, p.architecture, p.version)))


def package_json(package: Package) -> dict[str, Any]:
    """Give a package as JSON value."""
    return {
        "architecture": package.architecture,
        "name": package.name,
        "sha256": package.sha256,
        "version": package.version,
    }


def package_from_json(item: Mapping[str, Any]) -> Package:
    """Read a package; ValueError, KeyError or TypeError when it is none."""
    words = [item["name"], item["version"], item["architecture"]]
    if not all(isinstance(word, str) and word.isprintable() for word in words):
        raise ValueError(item)
    sha256 = None if item["sha256"] is None else _sha256(item)
    return Package(words[0], words[1], words[2], sha256)


def _below(item: Mapping[str, Any]) -> ImageBelow:
    image, digest = item["image"], item["digest"]
    if not isinstance(image, str) or not isinstance(digest, str) or not image.isprintable():
        raise ValueError(item)
    if not digest.startswith("sha256:") or not _HEX.fullmatch(digest.removeprefix("sha256:")):
        raise ValueError(item)
    return ImageBelow(image, digest)


def _sha256(item: Mapping[str, Any]) -> str:
    text = item["sha256"]
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise ValueError(item)
    return text
