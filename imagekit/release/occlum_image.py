"""Where an image of Occlum has what, and reading it."""

from imagekit.enclave.sdk.signed import read_enclave
from imagekit.enclave.sigstruct import SigStruct
from imagekit.errors import InputError
from imagekit.images.rootfs import Rootfs
from imagekit.release.sdk_enclave import FILE_LIMIT
from imagekit.render.occlum_dockerfile import LIBRARY
from imagekit.runtime.occlum_settings import OWN_LOG_VARIABLE as LOG_VARIABLE
from imagekit.runtime.paths import OCCLUM_INSTANCE

__all__ = [
    "CONFIG",
    "FILES",
    "LIBRARY",
    "LOG_VARIABLE",
    "SYSTEM_CONFIG",
    "instance_files",
    "is_occlum",
    "read_library",
    "read_library_sigstruct",
]

CONFIG = f"{OCCLUM_INSTANCE}/Occlum.json"
SYSTEM_CONFIG = f"{OCCLUM_INSTANCE}/build/.Occlum_sys.json.protected"
"""What Occlum itself reads at the start, as a protected file."""
FILES = f"{OCCLUM_INSTANCE}/imagekit.files.sha256"
"""imagekit's own list of all other files of the instance, with their hashes."""


def is_occlum(rootfs: Rootfs) -> bool:
    """Say whether an image holds an instance of Occlum, whole or damaged."""
    return any(rootfs.kind(path) == "file" for path in (LIBRARY, CONFIG, SYSTEM_CONFIG))


def read_library(rootfs: Rootfs) -> bytes:
    """Read the enclave out of an image.

    Raises:
        InputError: it is not there.
    """
    if rootfs.kind(LIBRARY) != "file":
        raise InputError(f"the image has no {LIBRARY}", "build the image again")
    return rootfs.read(LIBRARY, FILE_LIMIT)


def read_library_sigstruct(rootfs: Rootfs) -> SigStruct:
    """Read the SIGSTRUCT of an image's enclave.

    Raises:
        InputError: there is no enclave, or it is not signed.
        CheckError: it is not intact.
    """
    return read_enclave(read_library(rootfs), LIBRARY).enclave_sigstruct()


def instance_files(rootfs: Rootfs, top: str = OCCLUM_INSTANCE) -> list[str]:
    """Give the paths of everything below the instance's folder but folders, sorted by bytes."""
    found, pending = [], [top]
    while pending:
        folder = pending.pop()
        for name in rootfs.children(folder):
            path = f"{folder}/{name}"
            entry = rootfs.entry(path, follow=False)
            if entry is not None and entry.kind == "dir":
                pending.append(path)
            else:
                found.append(path)
    return sorted(found, key=lambda path: path.encode("utf-8", "surrogateescape"))
