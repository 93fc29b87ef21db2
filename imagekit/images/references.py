"""Image references in the form other container tools use: ``transport:where[:tag]``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imagekit.errors import UsageError
from imagekit.spec.names import DEFAULT_TAG, parse_image_reference

Transport = Literal["oci", "oci-archive", "docker-archive"]
_LOCAL: dict[str, Transport] = {
    "oci": "oci",
    "oci-archive": "oci-archive",
    "docker-archive": "docker-archive",
}

DOCKER_HUB = "docker.io"
"""The registry that is meant when a name says none."""


@dataclass(frozen=True)
class Reference:
    """Where an image is on disk.

    Attributes:
        transport: "oci" (a folder), "oci-archive" or "docker-archive" (a file).
        path: the folder or file.
        tag: the tag or name inside it, or None for the only image.
    """

    transport: Transport
    path: Path
    tag: str | None

    @property
    def called(self) -> str | None:
        """The name the image goes by there, without registry and path."""
        return self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.transport}:{self.path}{tag}"


@dataclass(frozen=True)
class RegistryReference:
    """An image in a registry.

    Attributes:
        host: the registry, with its port if one is given; ``docker.io`` for Docker Hub.
        repository: path and name inside it, such as ``team/bigdata`` or ``library/debian``.
        tag: the tag; None if only a digest is given.
        digest: ``sha256:<64 hex>``, or None. It counts before the tag.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.host}/{self.repository}"

    @property
    def called(self) -> str | None:
        """The name the image goes by there, without registry and path; None without a tag."""
        return f"{self.repository.rpartition('/')[2]}:{self.tag}" if self.tag else None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"docker://{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True)
class DaemonReference:
    """An image in a container engine.

    Attributes:
        name: ``name:tag`` or an image id (``sha256:<64 hex>``).
    """

    name: str

    @property
    def called(self) -> str | None:
        """The name the image goes by there, without registry and path; None for an id."""
        if self.name.startswith("sha256:"):
            return None
        return self.name.partition("@")[0].rpartition("/")[2]

    def __str__(self) -> str:
        return f"docker-daemon:{self.name}"


AnyReference = Reference | RegistryReference | DaemonReference
"""Where an image may be."""

_FORMS = (
    "write docker://HOST/NAME[:TAG][@DIGEST], docker-daemon:NAME:TAG, oci:DIR[:TAG], "
    "oci-archive:FILE[:TAG] or docker-archive:FILE[:TAG]"
)


def parse_reference(text: str) -> AnyReference:
    """Read an image reference with its transport.

    As with skopeo the path of a local transport ends at the first colon behind the transport; the
    tag may have colons. ``docker://`` without tag and digest means the tag ``latest``.

    Raises:
        UsageError: anything else.
    """
    transport, colon, rest = text.partition(":")
    if transport == "docker" and rest.startswith("//"):
        return parse_registry_reference(rest[2:])
    if transport == "docker-daemon" and rest:
        return _daemon(text, rest)
    known = _LOCAL.get(transport)
    path, _, tag = rest.partition(":")
    if not colon or known is None:
        raise UsageError(f"{text!r} is no image reference", _FORMS)
    if not path or "\0" in path:
        raise UsageError(f"{text!r} names no path", f"write {transport}:PATH[:TAG]")
    return Reference(known, Path(path), tag or None)


def parse_registry_reference(text: str) -> RegistryReference:
    """Read ``[HOST/]NAME[:TAG][@DIGEST]``, without a transport.

    Raises:
        UsageError: a part that no registry takes, or a digest that is not SHA-256.
    """
    reference = parse_image_reference(text)
    host, repository = split_registry(reference.name)
    if not repository:
        raise UsageError(f"{text!r} names a registry, but no image", _FORMS)
    if reference.digest is not None and not reference.digest.startswith("sha256:"):
        raise UsageError(f"{text!r} has a digest that is not SHA-256", "name the image by SHA-256")
    tag = reference.tag
    if tag is None and reference.digest is None:
        tag = DEFAULT_TAG
    return RegistryReference(host, repository, tag, reference.digest)


def split_registry(name: str) -> tuple[str, str]:
    """Give registry and repository of a name as container engines take it.

    The first part is a registry if it holds a dot or a colon or is ``localhost``; otherwise Docker
    Hub is meant, where a name without a slash lives in ``library``.
    """
    host, slash, rest = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        if host == "index.docker.io":
            host = DOCKER_HUB
        if host == DOCKER_HUB and "/" not in rest:
            rest = f"library/{rest}"
        return host, rest
    return DOCKER_HUB, name if slash else f"library/{name}"


def _daemon(text: str, name: str) -> DaemonReference:
    if name.startswith("sha256:"):
        return DaemonReference(name)
    reference = parse_image_reference(name)
    if reference.tag is None and reference.digest is None:
        raise UsageError(f"{text!r} names no tag", f"write {text}:TAG")
    return DaemonReference(name)
