"""OCI image layouts: images in a folder (OCI image-layout.md 1.0.0)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagekit.errors import InputError, UsageError
from imagekit.files import disk_error, locked, make_folder, remove_stale, write_atomically
from imagekit.images.oci import (
    DOCUMENT_LIMIT,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    Descriptor,
    Image,
    compact_json,
    json_object,
    read_document,
    read_image,
)
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.store import BlobStore

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation of index.json that carries a tag (OCI annotations.md)."""

CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation containerd and Docker take an image's full name from on import."""

_MARKER = b'{"imageLayoutVersion":"1.0.0"}'
_VERSION = "1.0.0"
_NESTING = 4
_TAG = re.compile(
    r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*)*",
    re.ASCII,
)


class OciLayout:
    """A folder with images. Made by :meth:`open` or :meth:`create`.

    Attributes:
        path: the folder.
        blobs: its blobs.
    """

    def __init__(
        self, path: Path, blobs: BlobStore | None = None, index: bytes | None = None
    ) -> None:
        self.path = path
        self.blobs = blobs or BlobStore(path / "blobs" / "sha256")
        self._archived = index

    @classmethod
    def from_archive(cls, path: Path, index: bytes, blobs: BlobStore) -> "OciLayout":
        """A layout for reading whose blobs were unpacked from an archive.

        Args:
            path: the archive, for errors.
            index: the content of its index.json.
            blobs: where its blobs are now.

        Raises:
            InputError: the index is damaged.
        """
        layout = cls(path, blobs, index)
        layout._manifests(layout._index())
        return layout

    @classmethod
    def open(cls, path: Path) -> "OciLayout":
        """Open a layout that is there.

        Raises:
            InputError: there is none, or it is damaged or of another version.
        """
        if not path.is_dir():
            raise InputError(f"no such folder: {path}", "name a folder with an OCI image layout")
        try:
            marker = (path / "oci-layout").read_bytes()[:DOCUMENT_LIMIT]
        except FileNotFoundError as error:
            raise InputError(
                f"{path} is no OCI image layout: the file oci-layout is missing",
                "name the folder an image was written to with oci:DIR",
            ) from error
        except OSError as error:
            raise disk_error(error, path / "oci-layout", "read") from error
        version = json_object(marker, str(path / "oci-layout")).get("imageLayoutVersion")
        if version != _VERSION:
            raise InputError(
                f"{path} is an OCI image layout of version {version!r}, not {_VERSION}",
                "copy the image to a new folder, for instance with skopeo",
            )
        layout = cls(path)
        layout._manifests(layout._index())
        return layout

    @classmethod
    def create(cls, path: Path) -> "OciLayout":
        """Open a layout, and make it first where there is nothing.

        Raises:
            InputError: the folder has other content or cannot be written to.
        """
        make_folder(path)
        try:
            # Names with a dot are temporaries of a process that makes the same layout right now.
            names = {item.name for item in path.iterdir() if not item.name.startswith(".")}
        except OSError as error:
            raise disk_error(error, path, "read the folder") from error
        if names and "oci-layout" not in names:
            raise InputError(
                f"{path} has other content and is no OCI image layout",
                "choose a new or empty folder",
            )
        remove_stale(path)
        if "oci-layout" not in names:
            write_atomically(path / "oci-layout", _MARKER)
        layout = cls(path)
        make_folder(layout.blobs.folder)
        with locked(path / "oci-layout"):
            if not (path / "index.json").exists():
                layout._write_index({}, [])
        return cls.open(path)

    def clean(self) -> None:
        """Remove what writers that were killed left behind; live writers' files are kept."""
        remove_stale(self.path)
        self.blobs.clean()

    def tags(self) -> tuple[str, ...]:
        """The tags of all images, sorted, each once.

        Raises:
            InputError: the index is damaged.
        """
        found = (item.annotations.get(REF_NAME) for _, item in self._manifests(self._index()))
        return tuple(sorted({tag for tag in found if tag is not None}))

    def image(self, ref: str | None = None) -> Image:
        """One image, for linux/amd64 where there are several platforms.

        Args:
            ref: a tag or a manifest digest; None takes the only image there is.

        Raises:
            InputError: there is no such image, several fit, or it is damaged or incomplete.
        """
        everything = self._manifests(self._index())
        found = [
            (raw, item)
            for raw, item in everything
            if ref is None or ref in (item.annotations.get(REF_NAME), item.digest)
        ]
        wanted = f"{self.path}:{ref}" if ref else str(self.path)
        if not found:
            tags = ", ".join(self.tags()) or "none"
            raise InputError(f"no image {wanted}", f"tags that are there: {tags}")
        if ref is None and len({item.digest for _, item in found}) > 1:
            found = [(raw, item) for raw, item in found if _is_ours(raw)]
            names = {item.annotations.get(REF_NAME) for _, item in found}
            if len(found) != 1 and len(names) != 1:
                raise InputError(
                    f"{wanted} holds several images",
                    f"name one as oci:DIR:TAG; tags: {', '.join(self.tags()) or 'none'}",
                )
        return self._read(self._choose(found, wanted), wanted)

    def put(
        self,
        image: Image,
        tag: str,
        annotations: Mapping[str, str] | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        """Add an image under a tag; an image that had the tag loses it.

        Blobs come first and the index last, under a lock between processes: a reader sees the old
        index or the new one, and an image in the index is complete.

        Args:
            image: any image whose blobs can be opened.
            tag: the value of ``org.opencontainers.image.ref.name``.
            annotations: more annotations for the index entry, for instance CONTAINERD_NAME.
            progress: told the bytes of the blobs.

        Raises:
            UsageError: not a tag.
            InputError: a blob is missing or damaged, or the disk refuses.
        """
        if not _TAG.fullmatch(tag):
            raise UsageError(f"not a tag: {tag!r}", "use letters, digits and single - . _ : @ + /")
        total = sum(layer.size for layer in image.layers)
        with progress.task(f"writing {tag}", total) as advance:
            for layer in image.layers:
                self.blobs.add_from(layer, image.blobs, advance)
        self.blobs.add_bytes(image.config)
        self.blobs.add_bytes(image.manifest)
        entry = Descriptor(
            image.descriptor.media_type,
            image.descriptor.digest,
            image.descriptor.size,
            {**(annotations or {}), REF_NAME: tag},
        ).to_json()
        with locked(self.path / "oci-layout"):
            remove_stale(self.path)
            index = self._index()
            others = [
                raw for raw, item in self._manifests(index) if item.annotations.get(REF_NAME) != tag
            ]
            self._write_index(index, [*others, entry])

    def _index(self) -> dict[str, Any]:
        path = self.path / "index.json"
        if self._archived is not None:
            return json_object(self._archived, str(path))
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(
                f"{self.path} is no OCI image layout: index.json is missing",
                "copy or build the image anew",
            ) from error
        except OSError as error:
            raise disk_error(error, path, "read") from error
        return json_object(data, str(path))

    def _manifests(
        self, index: dict[str, Any], where: str | None = None
    ) -> list[tuple[dict[str, Any], Descriptor]]:
        where = where or str(self.path / "index.json")
        listed = index.get("manifests")
        if not isinstance(listed, list):
            raise InputError(
                f"{where}: the list of manifests is missing", "copy or build the image anew"
            )
        return [(item, Descriptor.from_json(item, where)) for item in listed]

    def _write_index(self, index: dict[str, Any], manifests: list[dict[str, Any]]) -> None:
        # Sorted, so that the index does not depend on which of several builds came first.
        def key(item: dict[str, Any]) -> tuple[str, bytes]:
            annotations = item.get("annotations") or {}
            return str(annotations.get(REF_NAME, "")), compact_json(item)

        value = {
            **index,
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": sorted(manifests, key=key),
        }
        write_atomically(self.path / "index.json", compact_json(value))

    def _choose(self, found: list[tuple[dict[str, Any], Descriptor]], wanted: str) -> Descriptor:
        """The one descriptor for linux/amd64, through nested indexes."""
        for _ in range(_NESTING):
            ours = [item for raw, item in found if len(found) == 1 or _is_ours(raw)]
            if not ours:
                raise InputError(
                    f"{wanted} has no image for linux/amd64", "name an image for linux/amd64"
                )
            if len({descriptor.digest for descriptor in ours}) > 1:
                raise InputError(
                    f"{wanted} stands for several different images", "name the one by its digest"
                )
            if ours[0].media_type not in INDEX_TYPES:
                return ours[0]
            where = f"index {ours[0].digest}"
            data = read_document(ours[0], self.blobs, "index")
            found = [
                pair
                for pair in self._manifests(json_object(data, where), where)
                if pair[1].media_type in INDEX_TYPES | MANIFEST_TYPES
            ]
        raise InputError(f"{wanted}: indexes within indexes", "name the image by its digest")

    def _read(self, descriptor: Descriptor, wanted: str) -> Image:
        image = read_image(descriptor, self.blobs)
        for layer in image.layers:
            if not self.blobs.has(layer.digest, layer.size):
                raise InputError(
                    f"{wanted}: layer {layer.digest} is missing or cut short",
                    "the image was copied in part: copy or build it anew",
                )
        return image


def _is_ours(raw: dict[str, Any]) -> bool:
    """Whether an index entry is for linux/amd64, or says nothing of a platform."""
    platform = raw.get("platform")
    if not isinstance(platform, dict):
        return True
    return (platform.get("os"), platform.get("architecture")) == ("linux", "amd64")
