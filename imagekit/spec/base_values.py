"""The values of a base: a reference to an image, or a specification that says how to make one.

The keys and their parser are in :mod:`imagekit.spec.base`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

DEFAULT_EPOCH = 1704067200
"""2024-01-01T00:00:00Z: the time stamps of a base whose spec names no date.

Any constant would do: it must not depend on the clock, and it is later than 1980, before which zip
archives cannot express a time.
"""

VARIANTS = ("minbase", "apt", "essential", "required", "important", "standard", "buildd")
"""Package sets of mmdebstrap (its manual, VARIANTS) that leave a root with a working dpkg."""

ARCHIVE_SUFFIXES = (
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.xz",
    ".txz",
    ".tar.bz2",
    ".tbz2",
    ".zip",
    ".whl",
)
"""Names that are unpacked into ``to``; anything else is one file that is stored at ``to``."""

ArtifactKind = Literal["pypi", "url", "path"]


class BaseReference(NamedTuple):
    """A base that exists already: ``base: {image: REFERENCE}``.

    Attributes:
        image: the reference with its transport, such as ``oci:base`` or ``docker-archive:x.tar``.

    """

    image: str


class Distribution(NamedTuple):
    """Where the packages come from (``base.distribution``).

    Attributes:
        suite: the suite's name in the archive.
        variant: one of :data:`VARIANTS`.
        mirrors: URLs or one-line apt entries, with ``{snapshot}`` replaced already.
        snapshot: ``YYYYMMDDThhmmssZ`` or None.
        builder: the image, pinned by digest, in which a container engine makes the base; None for
            one that imagekit makes itself. It changes nothing in the base.

    """

    suite: str
    variant: str = "minbase"
    mirrors: tuple[str, ...] = ()
    snapshot: str | None = None
    builder: str | None = None


class SourceKey(NamedTuple):
    """The public key (OpenPGP, armored or not) that signs an apt archive.

    Exactly one of ``path`` (relative to the project file) and ``url`` is set; with ``url``,
    ``sha256`` (64 lower-case hex digits) is set too.
    """

    path: str | None = None
    url: str | None = None
    sha256: str | None = None


class AptSource(NamedTuple):
    """One more apt archive (``base.sources[]``), written as a deb822 entry with Signed-By."""

    name: str
    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: SourceKey


@dataclass(frozen=True)
class Artifact:
    """Something fetched that becomes a layer, or a .deb (``base.artifacts[]``).

    Attributes:
        kind: ``pypi``, ``url`` or ``path``.
        source: the requirement ``name==version``, the URL, or the path as written.
        sha256: 64 lower-case hex digits, or None when the base lock has to know it.
        to: where it goes in the image; None for a .deb. A trailing ``/`` was completed with the
            file's name when the artifact is a single file.
        take: the folder inside the archive that is taken, without outer slashes; None = all.
        strip: how many leading path components are cut from the names in the archive.
        mode: permissions of a single file.
        where: ``FILE:LINE: key`` for messages; not part of the value.

    """

    kind: ArtifactKind
    source: str
    sha256: str | None = None
    to: str | None = None
    take: str | None = None
    strip: int = 0
    mode: int = 0o644
    where: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The artifact's name in the lock and in messages: ``pypi:pyspark==3.5.9``."""
        return f"{self.kind}:{self.source}"

    @property
    def identity(self) -> str:
        """Name, part and target: two parts of one archive may go to two places."""
        return " ".join([self.name, *(part for part in (self.take, self.to) if part)])

    @property
    def filename(self) -> str:
        """Last component of the URL or path; the requirement for pypi."""
        from urllib.parse import urlsplit  # here: it costs start-up time, and few bases need it

        text = urlsplit(self.source).path if self.kind == "url" else self.source
        return text.rstrip("/").rpartition("/")[2]

    @property
    def is_deb(self) -> bool:
        """Whether it is installed with the packages instead of becoming a layer."""
        return self.kind != "pypi" and self.filename.endswith(".deb")

    @property
    def is_archive(self) -> bool:
        """Whether it is unpacked (else it is one file)."""
        return self.kind == "pypi" or self.filename.lower().endswith(ARCHIVE_SUFFIXES)


class BaseFile(NamedTuple):
    """A file of the image (``base.files[]``); exactly one of ``text`` and ``source`` is set."""

    path: str
    text: str | None = None
    source: str | None = None
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True)
class BaseParts:
    """What a base is made of besides what it starts from.

    ``env`` is sorted by name. ``ca_bundle`` is a path as written: certificates that are trusted
    while the base is made.
    """

    packages: tuple[str, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    files: tuple[BaseFile, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    workdir: str | None = None
    entrypoint: tuple[str, ...] = ()
    date: str | None = None
    ca_bundle: str | None = None

    @property
    def epoch(self) -> int:
        """Seconds since 1970 of ``date`` at midnight UTC, or :data:`DEFAULT_EPOCH`."""
        if self.date is None:
            return DEFAULT_EPOCH
        day = datetime.date.fromisoformat(self.date)
        return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())


@dataclass(frozen=True)
class DerivedSpec(BaseParts):
    """How a base is made on top of an image (``base.from``).

    What ``user``, ``workdir`` and ``entrypoint`` leave out stays as it is in the image.

    Attributes:
        image: the reference with its transport, such as ``docker://docker.io/occlum/occlum:…``.

    """

    image: str

    @property
    def installs(self) -> bool:
        """Whether packages are installed, for which the image has to be run."""
        return bool(self.packages) or any(artifact.is_deb for artifact in self.artifacts)


@dataclass(frozen=True)
class BaseSpec(BaseParts):
    """How a base is assembled; see the module's text for the keys."""

    distribution: Distribution
    sources: tuple[AptSource, ...] = ()
    exclude: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the spec as JSON values: what cannot change the image is not in them."""
        return {
            "artifacts": [_artifact_json(a) for a in self.artifacts],
            "distribution": {
                "mirrors": list(self.distribution.mirrors),
                "snapshot": self.distribution.snapshot,
                "suite": self.distribution.suite,
                "variant": self.distribution.variant,
            },
            "entrypoint": list(self.entrypoint),
            "env": dict(self.env),
            "epoch": self.epoch,
            "exclude": sorted(self.exclude),
            "files": [
                {"mode": f.mode, "path": f.path, "source": f.source, "text": f.text}
                for f in sorted(self.files, key=lambda f: f.path)
            ],
            "packages": sorted(self.packages),
            "sources": [_source_json(s) for s in sorted(self.sources, key=lambda s: s.name)],
            "user": self.user,
            "workdir": self.workdir,
        }


def _artifact_json(artifact: Artifact) -> dict[str, Any]:
    return {
        "kind": artifact.kind,
        "mode": artifact.mode,
        "sha256": artifact.sha256,
        "source": artifact.source,
        "strip": artifact.strip,
        "take": artifact.take,
        "to": artifact.to,
    }


def _source_json(source: AptSource) -> dict[str, Any]:
    key = source.signed_by
    return {
        "components": list(source.components),
        "name": source.name,
        "signed_by": {"path": key.path, "sha256": key.sha256, "url": key.url},
        "suites": list(source.suites),
        "uri": source.uri,
    }
