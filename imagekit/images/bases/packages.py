"""The packages of a distribution, as its own tools list them while it is made.

The scripts beside this module leave two lists below :data:`WORK` in the new root, where the
normaliser takes them out again: what dpkg says is installed, and what apt knows of the archives.
"""

import re
from dataclasses import dataclass

from imagekit.errors import EngineError
from imagekit.images.bases.repack import Tree, read_content

WORK = "tmp/imagekit"
"""Folder inside the new root, for what the build needs and the image does not."""

INSTALLED = f"{WORK}/installed"
AVAILABLE = f"{WORK}/available"

_FIELD = re.compile(r"(Package|Version|Architecture|SHA256): (\S+)")


@dataclass(frozen=True, order=True)
class Package:
    """An installed package; ``sha256`` is that of the .deb where apt knows it."""

    name: str
    version: str
    architecture: str
    sha256: str | None = None


def packages_of(
    tree: Tree, installed: str = INSTALLED, available: str = AVAILABLE
) -> tuple[Package, ...]:
    """Give the packages of a root that was just made, sorted.

    Args:
        tree: holds the two lists.
        installed: path in it of what dpkg says is installed.
        available: path of what apt knows of the archives.

    Raises:
        EngineError: the lists are not in it.
    """
    texts = []
    for path in (installed, available):
        node = tree.nodes.get(path)
        if node is None or node.offset < 0:
            raise EngineError(
                "the new distribution holds no list of its packages",
                "check the version of mmdebstrap: 1.3 or later is needed",
            )
        texts.append(read_content(tree, node).decode("utf-8", "replace"))
    hashes = _hashes(texts[1])
    rows = [line.split("\t") for line in texts[0].splitlines()]
    return tuple(
        sorted(
            Package(row[0], row[1], row[2], hashes.get((row[0], row[1], row[2])))
            for row in rows
            if len(row) == 3
        )
    )


def _hashes(available: str) -> dict[tuple[str, str, str], str]:
    found: dict[tuple[str, str, str], str] = {}
    fields: dict[str, str] = {}
    for line in available.splitlines():
        match = _FIELD.fullmatch(line)
        if match is None:
            continue
        if match[1] == "Package":
            fields = {}
        fields[match[1]] = match[2]
        if len(fields) == 4:
            found[(fields["Package"], fields["Version"], fields["Architecture"])] = fields["SHA256"]
    return found
