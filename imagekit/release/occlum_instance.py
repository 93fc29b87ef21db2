"""``occlum build`` in a throw-away container, and what of it goes into an image.

The container is the base's, without a network. It gets the cell's configuration, the list of what
is copied into the enclave's tree, the launcher's files, and a key that is made for this one run
and leaves with the container: Occlum signs as it builds, and the user's key is never there.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagekit.enclave.occlum.rootfs_manifest import ListedFile
from imagekit.errors import EngineError, InputError
from imagekit.files import disk_error
from imagekit.images.daemon.containers import ThrowAway
from imagekit.images.layers import LayerFile
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.tarread import Member, TarReader
from imagekit.release.occlum_image import LIBRARY
from imagekit.render.occlum import build_script
from imagekit.runtime.paths import OCCLUM_INSTANCE
from imagekit.signing.keyfile import throw_away_key

_WORK = "/imagekit"
_SCRIPT, _CONFIG, _BOM, _KEY = (
    f"{_WORK}/{name}" for name in ("build-instance.sh", "Occlum.json", "bom.yaml", "key.pem")
)
_ENCLAVE_XML = "build/Enclave.xml"
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID")
"""What rsync needs to copy files of other users with their modes."""

_SEARCH_HINT = "try it by hand: imagekit render writes a Dockerfile that does the same"


def _is_packaged(name: str) -> bool:
    """Say whether ``occlum package`` takes a path of an instance (Occlum 0.26 to 0.31)."""
    return (
        name
        in (
            *(".__occlum_status", ".sgx_mode", "Occlum.json", "build"),
            *("build/.Occlum_sys.json.protected", "build/lib"),
        )
        or name.startswith("build/lib/libocclum-pal.so")
        or any(
            f"{name}/".startswith(f"{folder}/")
            for folder in ("build/bin", "build/initfs", "build/mount", "run")
        )
    )


@dataclass(frozen=True)
class Instance:
    """An instance as it was built.

    Attributes:
        files: what goes into the image, but the enclave itself; content on disk.
        listed: the same files for the list of hashes.
        library: the enclave, signed with the throw-away key.
        enclave_xml: what Occlum gave its signing tool.
    """

    files: tuple[LayerFile, ...]
    listed: tuple[ListedFile, ...]
    library: bytes
    enclave_xml: bytes


def build_instance(
    container: ThrowAway,
    what: str,
    config: bytes,
    bom: bytes,
    files: Mapping[str, tuple[bytes, int]],
    epoch: int,
    folder: Path,
    progress: Progress = NO_PROGRESS,
) -> Instance:
    """Build an instance and take it out.

    Args:
        container: a running container of the base.
        what: the cell, for messages.
        config: ``Occlum.json``.
        bom: what ``copy_bom`` copies.
        files: the launcher's files, by path.
        epoch: SOURCE_DATE_EPOCH.
        folder: for what is taken out; it must outlive the result.
        progress: told how far it is.

    Raises:
        EngineError: the engine or ``occlum build`` failed; with its last lines.
        InputError: the base lacks the tools, or what came out is not an instance.
    """
    container.put(
        {
            **files,
            _SCRIPT: (build_script().encode(), 0o755),
            _CONFIG: (config, 0o644),
            _BOM: (bom, 0o644),
            _KEY: (throw_away_key(), 0o600),
        }
    )
    with progress.task(f"occlum build {what}", None):
        done = container.run(
            ["/bin/sh", _SCRIPT, _CONFIG, _BOM, _KEY, OCCLUM_INSTANCE],
            env={"SOURCE_DATE_EPOCH": str(epoch)},
        )
    if done.code in (126, 127):
        raise InputError(
            f"{what}: the base has no Occlum tools that run: {done.last_lines}",
            "take a base made from Occlum's own image (docs/occlum.md)",
        )
    if done.code != 0:
        raise EngineError(
            f"{what}: occlum build failed ({done.code}): {done.last_lines}", _SEARCH_HINT
        )
    with progress.task(f"taking the instance of {what}", None) as advance:
        return container.take(OCCLUM_INSTANCE, lambda tar: _take(tar, folder, advance))


def _take(tar: TarReader, folder: Path, advance: Callable[[int], None]) -> Instance:
    top = OCCLUM_INSTANCE.rpartition("/")[2]
    taken = _Taken(folder, advance)
    for member in tar:
        name = member.path.removeprefix(top).lstrip("/")
        if name and (_is_packaged(name) or f"{OCCLUM_INSTANCE}/{name}" in taken.wanted):
            taken.add(name, member, tar.content())
    return taken.instance()


class _Taken:
    """What has been taken of an instance so far."""

    def __init__(self, folder: Path, advance: Callable[[int], None]) -> None:
        self._folder, self._advance = folder, advance
        self._files: dict[str, LayerFile] = {}
        self._listed: dict[str, ListedFile] = {}
        self.wanted: dict[str, bytes | None] = {
            LIBRARY: None,
            f"{OCCLUM_INSTANCE}/{_ENCLAVE_XML}": None,
        }

    def add(self, name: str, member: Member, content: Iterator[memoryview]) -> None:
        path = f"{OCCLUM_INSTANCE}/{name}"
        if path in self.wanted and member.kind == "0":
            self.wanted[path] = b"".join(content)
        elif member.kind == "5":
            self._files[path] = LayerFile(path, mode=member.mode, directory=True)
        elif member.kind == "2":
            self._files[path] = LayerFile(path, link=member.link)
        elif member.kind in "01":
            self._file(path, member, content)
        else:
            raise InputError(
                f"{path}: neither a file, a folder nor a link", "occlum build made no instance"
            )

    def _file(self, path: str, member: Member, content: Iterator[memoryview]) -> None:
        if member.kind == "1":  # a second name of a file that has come already
            first = "/" + OCCLUM_INSTANCE.strip("/").rpartition("/")[0] + "/" + member.link
            if first not in self._listed:
                raise InputError(
                    f"{path}: a link to {first}, which is not there", "the engine lost a file"
                )
            known = self._files[first]
            self._files[path] = LayerFile(path, known.data, known.mode)
            self._listed[path] = ListedFile(path, self._listed[first].sha256)
            return
        target = self._folder / str(len(self._files))
        digest = hashlib.sha256()
        try:
            with target.open("wb") as out:
                for piece in content:
                    out.write(piece)
                    digest.update(piece)
                    self._advance(len(piece))
        except OSError as error:
            raise disk_error(error, target, "write") from None
        self._files[path] = LayerFile(path, target, member.mode)
        self._listed[path] = ListedFile(path, digest.hexdigest())

    def instance(self) -> Instance:
        library, xml = self.wanted.values()
        if not library or not xml:
            missing = LIBRARY if not library else f"{OCCLUM_INSTANCE}/{_ENCLAVE_XML}"
            raise InputError(f"occlum build left no {missing}", _SEARCH_HINT)
        return Instance(
            tuple(self._files[path] for path in sorted(self._files)),
            tuple(self._listed[path] for path in sorted(self._listed)),
            library,
            xml,
        )
