"""``occlum build`` in a throw-away container, and what of it goes into an image.

The container is the base's, without a network. It gets the cell's configuration, the list of what
is copied into the enclave's tree, the launcher's files, and a key that is made for this one run
and leaves with the container: Occlum signs as it builds, and the user's key is never there.
"""

import hashlib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.enclave.occlum.rootfs_manifest import ListedFile, listed_link
from imagekit.errors import EngineError, InputError
from imagekit.files import disk_error
from imagekit.images.daemon.containers import ThrowAway
from imagekit.images.layers import LayerFile
from imagekit.images.progress import NO_PROGRESS, Advance, Progress
from imagekit.images.tarread import Member, TarReader
from imagekit.release.cell import generated
from imagekit.release.occlum_configuration import OcclumRendered
from imagekit.release.occlum_image import LIBRARY
from imagekit.runtime.paths import OCCLUM_INSTANCE
from imagekit.signing.keyfile import throw_away_key

_WORK = "/imagekit"
_SCRIPT, _CONFIG, _BOM, _KEY = (
    f"{_WORK}/{name}" for name in ("build-instance.sh", "Occlum.json", "bom.yaml", "key.pem")
)
_PARENT = posixpath.dirname(OCCLUM_INSTANCE)
_ENCLAVE_XML = "build/Enclave.xml"
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID")
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
            for folder in ("build/bin", "build/initfs", "build/mount", "initfs", "run")
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
    rendered: OcclumRendered,
    epoch: int,
    folder: Path,
    progress: Progress = NO_PROGRESS,
) -> Instance:
    """Build an instance and take it out.

    Args:
        container: a running container of the base.
        rendered: the cell's configuration.
        epoch: SOURCE_DATE_EPOCH.
        folder: for what is taken out; it must outlive the result.
        progress: told how far it is.

    Raises:
        EngineError: the engine or ``occlum build`` failed; with its last lines.
        InputError: the base lacks the tools, or what came out is not an instance.
    """
    what = rendered.cell.id
    container.put(
        {
            **{file.path: (generated(file), file.mode) for file in rendered.files},
            _SCRIPT: (rendered.script.encode(), 0o755),
            _CONFIG: (rendered.json.text, 0o644),
            _BOM: (rendered.bom, 0o644),
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
            f"{what}: the base has no Occlum that runs: {done.last_lines}",
            "take a base made from Occlum's own image (docs/occlum.md)",
        )
    if done.code != 0:
        raise EngineError(
            f"{what}: occlum build failed ({done.code}): {done.last_lines}", _SEARCH_HINT
        )
    with progress.task(f"taking the instance of {what}", None) as advance:
        return container.take(OCCLUM_INSTANCE, lambda tar: _take(tar, folder, advance))


def _take(tar: TarReader, folder: Path, advance: Advance) -> Instance:
    taken = _Taken(folder, advance)
    for member in tar:
        path = f"{_PARENT}/{member.path}"
        name = path.removeprefix(OCCLUM_INSTANCE).lstrip("/")
        if name and (_is_packaged(name) or path in taken.wanted):
            taken.add(path, member, tar.content())
    return taken.instance()


class _Taken:
    """What has been taken of an instance so far."""

    def __init__(self, folder: Path, advance: Advance) -> None:
        self._folder, self._advance = folder, advance
        self._files: dict[str, LayerFile] = {}
        self._hashes: dict[str, ListedFile] = {}
        self.wanted: dict[str, bytes | None] = {
            LIBRARY: None,
            f"{OCCLUM_INSTANCE}/{_ENCLAVE_XML}": None,
        }

    def add(self, path: str, member: Member, content: Iterator[memoryview]) -> None:
        if path in self.wanted and member.kind == "0":
            self.wanted[path] = b"".join(content)
        elif member.kind == "5":
            self._files[path] = LayerFile(path, mode=member.mode, directory=True)
        elif member.kind == "2":
            self._files[path] = LayerFile(path, link=member.link)
            self._hashes[path] = listed_link(path, member.link)
        elif member.kind == "0":
            self._file(path, member, content)
        elif member.kind == "1":
            self._second_name(path, f"{_PARENT}/{member.link}")
        else:
            raise InputError(
                f"{path}: neither a file, a folder nor a link", "occlum build made no instance"
            )

    def _file(self, path: str, member: Member, content: Iterator[memoryview]) -> None:
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
        self._hashes[path] = ListedFile(path, digest.hexdigest())

    def _second_name(self, path: str, first: str) -> None:
        """A hard link: in the image it is a file of its own."""
        if first not in self._hashes:
            raise InputError(
                f"{path}: a second name of {first}, which is not taken", "report this as a defect"
            )
        self._files[path] = replace(self._files[first], path=path)
        self._hashes[path] = ListedFile(path, self._hashes[first].sha256)

    def instance(self) -> Instance:
        library, xml = self.wanted.values()
        if not library or not xml:
            missing = LIBRARY if not library else f"{OCCLUM_INSTANCE}/{_ENCLAVE_XML}"
            raise InputError(f"occlum build left no {missing}", _SEARCH_HINT)
        return Instance(
            tuple(self._files[path] for path in sorted(self._files)),
            tuple(self._hashes.values()),
            library,
            xml,
        )
