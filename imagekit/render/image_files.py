"""What this package asks of the files of an image; their view is made in ``images/rootfs.py``."""

from collections.abc import Sequence
from typing import Protocol


class Entry(Protocol):
    """What stands at a path (:class:`imagekit.images.rootfs.Entry`)."""

    @property
    def path(self) -> str:
        """The path without links in its folders."""

    @property
    def kind(self) -> str:
        """``file``, ``dir``, ``symlink`` or something else."""

    @property
    def size(self) -> int:
        """Bytes of a file."""

    @property
    def target(self) -> str:
        """What a link says."""


class Files(Protocol):
    """The files of an image (:class:`imagekit.images.rootfs.Rootfs`)."""

    def kind(self, path: str) -> str | None:
        """Give ``file`` or ``dir``, links followed; None for anything else or nothing."""

    def entry(self, path: str, follow: bool = True) -> Entry | None:
        """Give what stands at a path, a link at its end followed or not."""

    def resolve(self, path: str) -> str:
        """Give the path without any link in it."""

    def children(self, path: str) -> Sequence[str]:
        """Give the names in a folder, sorted."""

    def read(self, path: str) -> bytes:
        """Give a file's content."""
