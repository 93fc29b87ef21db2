"""Image references in the form other container tools use: ``transport:where[:tag]``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagekit.errors import EngineError, UsageError

Transport = Literal["oci", "oci-archive", "docker-archive"]
_LOCAL: dict[str, Transport] = {
    "oci": "oci",
    "oci-archive": "oci-archive",
    "docker-archive": "docker-archive",
}


@dataclass(frozen=True)
class Reference:
    """Where an image is.

    Attributes:
        transport: "oci" (a folder), "oci-archive" or "docker-archive" (a file).
        path: the folder or file.
        tag: the tag or name inside it, or None for the only image.
    """

    transport: Transport
    path: Path
    tag: str | None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.transport}:{self.path}{tag}"


def parse_reference(text: str) -> Reference:
    """Read ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]`` or ``docker-archive:FILE[:TAG]``.

    As with skopeo the path ends at the first colon behind the transport; the tag may have colons.

    Raises:
        EngineError: a registry or a daemon, which this version does not read.
        UsageError: anything else.
    """
    transport, colon, rest = text.partition(":")
    if transport in ("docker", "docker-daemon"):
        what = "registries" if transport == "docker" else "Docker daemons"
        raise EngineError(
            f"{text}: this version reads no {what} yet",
            f"copy the image to a folder and name that: skopeo copy {text} oci:DIR:TAG",
        )
    known = _LOCAL.get(transport)
    path, _, tag = rest.partition(":")
    if not colon or known is None:
        raise UsageError(
            f"{text!r} is no image reference",
            "write oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:TAG]",
        )
    if not path or "\0" in path:
        raise UsageError(f"{text!r} names no path", f"write {transport}:PATH[:TAG]")
    return Reference(known, Path(path), tag or None)
