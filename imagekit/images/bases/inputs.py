"""What a base depends on: the spec with all hashes, the files it names, the lock, the epoch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from imagekit.errors import InputError
from imagekit.files import disk_error
from imagekit.images.bases.artifacts import Fetched, fetch, fetch_url
from imagekit.images.bases.debian import Bootstrap, bootstrap
from imagekit.images.bases.lock import BaseLock, package_json
from imagekit.images.bases.recipe import Ingredients
from imagekit.images.bases.trust import read_ca_bundle
from imagekit.images.cache import Cache
from imagekit.images.gzipped import COMPRESSION
from imagekit.images.progress import Progress
from imagekit.spec.base_values import Artifact, BaseParts, BaseSpec, DerivedSpec

_SpecT = TypeVar("_SpecT", bound=BaseParts)

BUILDER = 3
"""Version of the rules by which the modules of this package make layers; in every cache key."""


def with_hashes(spec: _SpecT, lock: BaseLock | None) -> _SpecT:
    """Give the spec with every artifact's hash, from the spec itself or from the lock.

    Raises:
        InputError: neither has it.
    """
    known = lock.artifacts if lock is not None else {}

    def fill(artifact: Artifact) -> Artifact:
        if artifact.sha256 is not None:
            return artifact
        if artifact.name not in known:
            raise InputError(f"no sha256 for {artifact.source}", "run `imagekit base lock`")
        return replace(artifact, sha256=known[artifact.name])

    return replace(spec, artifacts=tuple(fill(artifact) for artifact in spec.artifacts))


@dataclass(frozen=True)
class PartInputs:
    """What a base depends on besides what it starts from; ``spec`` has all hashes."""

    spec: BaseParts
    project_dir: Path
    cache: Cache
    epoch: int
    lock: BaseLock | None
    progress: Progress

    def key_of_artifact(self, artifact: Artifact) -> dict[str, object]:
        """Give what an artifact's layer depends on, as JSON value."""
        return {
            "builder": [BUILDER, COMPRESSION],
            "epoch": self.epoch,
            "mode": artifact.mode,
            "name": artifact.filename,
            "sha256": artifact.sha256,
            "strip": artifact.strip,
            "take": artifact.take,
            "to": artifact.to,
        }

    def key_of_parts(self) -> dict[str, object]:
        """Give what is put on the distribution, as JSON value."""
        spec = self.spec
        return {
            "artifacts": [self.key_of_artifact(a) for a in spec.artifacts if not a.is_deb],
            "entrypoint": list(spec.entrypoint),
            "env": dict(spec.env),
            "files": [[f.path, f.mode, self.file_data(f.source, f.text).hex()] for f in spec.files],
            "names": [a.name for a in spec.artifacts],
            "user": spec.user,
            "workdir": spec.workdir,
        }

    def file_data(self, source: str | None, text: str | None) -> bytes:
        """Give the content of an entry of ``files``."""
        if source is None:
            return (text or "").encode("utf-8")
        return _read(self.project_dir / source)

    def ca_bundle(self) -> bytes | None:
        """Give the certificates of ``base.ca_bundle``; they change nothing in the image."""
        path = self.spec.ca_bundle
        return None if path is None else read_ca_bundle(self.project_dir / path)

    def fetch(self, artifact: Artifact) -> Fetched:
        """Bring an artifact here and check it, as the function ``fetch`` of ``artifacts`` does."""
        return fetch(
            artifact, self.project_dir, self.cache, artifact.sha256, self.progress, self.ca_bundle()
        )

    def debs(self) -> tuple[Path, ...]:
        """Bring the local packages here, in the spec's order.

        Raises:
            InputError, EngineError: as :func:`imagekit.images.bases.artifacts.fetch`.
        """
        return tuple(self.fetch(a).path for a in self.spec.artifacts if a.is_deb)


@dataclass(frozen=True)
class BaseInputs(PartInputs):
    """Everything an assembled base depends on; ``spec`` has all hashes.

    ``bootstrap`` makes the distribution's root; whichever way, the layer is the same.
    """

    spec: BaseSpec
    bootstrap: Bootstrap = bootstrap

    def key_of_distribution(self) -> dict[str, object]:
        """Give what the distribution layer depends on, as JSON value."""
        spec = self.spec.to_json()
        packages = self.lock.packages if self.lock is not None else ()
        return {
            "builder": [BUILDER, COMPRESSION],
            "debs": [a.sha256 for a in self.spec.artifacts if a.is_deb],
            "distribution": spec["distribution"],
            "epoch": self.epoch,
            "exclude": spec["exclude"],
            # with other locked packages the archive is asked again
            "lock": [package_json(package) for package in packages],
            "packages": spec["packages"],
            "source_keys": {
                source.name: source.signed_by.sha256 or self.local_key(source.signed_by.path).hex()
                for source in self.spec.sources
            },
            "sources": spec["sources"],
        }

    def key_of_all(self) -> dict[str, object]:
        """Give what the whole image depends on, as JSON value."""
        return {**self.key_of_parts(), "distribution": self.key_of_distribution()}

    def local_key(self, path: str | None) -> bytes:
        """Give the content of a key file beside the project file."""
        file = self.project_dir / (path or "")
        if not file.exists():
            raise InputError(
                f"{file}: the key that signs an apt source is not there",
                "fetch it from the source's publisher, check it, and keep it there",
            )
        return _read(file)

    def ingredients(self) -> Ingredients:
        """Give what the distribution is made from; local packages and keys are fetched.

        Raises:
            InputError, EngineError: as :func:`imagekit.images.bases.artifacts.fetch`.
        """
        return Ingredients(self.spec, self.debs(), self.source_keys(), self.epoch, self.ca_bundle())

    def source_keys(self) -> dict[str, bytes]:
        """Give the public key of every extra apt source, by the source's name."""
        keys = {}
        for source in self.spec.sources:
            key = source.signed_by
            if key.url is not None and key.sha256 is not None:
                name, ca = f"key of source {source.name}", self.ca_bundle()
                found = fetch_url(name, key.url, key.sha256, self.cache, self.progress, ca)
                keys[source.name] = _read(found.path)
            else:
                keys[source.name] = self.local_key(key.path)
        return keys


@dataclass(frozen=True)
class DerivedInputs(PartInputs):
    """Everything a base on top of an image depends on; ``spec`` has all hashes."""

    spec: DerivedSpec

    def key_of_packages(self, below: str) -> dict[str, object]:
        """Give what the layer of installed packages depends on, as JSON value.

        Args:
            below: digest of the image below.
        """
        packages = self.lock.packages if self.lock is not None else ()
        return {
            "below": below,
            "builder": [BUILDER, COMPRESSION],
            "debs": [a.sha256 for a in self.spec.artifacts if a.is_deb],
            "epoch": self.epoch,
            # with other locked packages the archive is asked again
            "lock": [package_json(package) for package in packages],
            "packages": sorted(self.spec.packages),
        }

    def key_of_image(self, below: str) -> dict[str, object]:
        """Give what the whole image depends on, as JSON value; ``below`` as above."""
        return {**self.key_of_parts(), "below": self.key_of_packages(below)}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise disk_error(error, path, "read") from None
