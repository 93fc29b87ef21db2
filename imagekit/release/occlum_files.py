"""The files beside Occlum's enclave: imagekit's list of hashes, and Occlum's own chain of tags."""

import hashlib

from imagekit.enclave.occlum.chain import WHAT_IS_PINNED, InstanceParts, check_chain
from imagekit.enclave.occlum.model import OcclumConfig
from imagekit.enclave.occlum.rootfs_manifest import (
    ListedFile,
    compare_lists,
    listed_link,
    parse_list,
)
from imagekit.enclave.sdk.signed import SdkEnclave
from imagekit.errors import InputError
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
from imagekit.release.cells import LABEL
from imagekit.release.lock import LockEntry
from imagekit.release.occlum_image import (
    FILES,
    LIBRARY,
    SYSTEM_CONFIG,
    instance_files,
)
from imagekit.release.verdict import Verdict
from imagekit.runtime.paths import OCCLUM_INSTANCE

_BUILD = f"{OCCLUM_INSTANCE}/build"
_FILE_LIMIT = 256 << 20
_SHOWN = 10
"""Differences that are named; a job's tree has thousands of files."""


def check_files(verdict: Verdict, image: Image, rootfs: Rootfs, entry: LockEntry | None) -> None:
    """Hold every file of the instance against the list, and the list against label and lock file.

    Args:
        verdict: takes the findings.
        image: whose labels.
        rootfs: its merged view, hashed anew.
        entry: what the lock file says, if one was given.

    Raises:
        InputError: the list is missing or no such list.
    """
    if rootfs.kind(FILES) != "file":
        raise InputError(f"the image has no {FILES}", "build the image again")
    text = rootfs.read(FILES, _FILE_LIMIT)
    listed = parse_list(text, FILES)
    differing = compare_lists(listed, found_files(rootfs))
    verdict.failed += [f"{FILES}: {line}" for line in differing[:_SHOWN]]
    if len(differing) > _SHOWN:
        verdict.failed.append(f"{FILES}: and {len(differing) - _SHOWN} more files differ")
    if not differing:
        verdict.passed.append(f"{len(listed)} files of the instance, by their SHA-256")
    sha256 = hashlib.sha256(text).hexdigest()
    label = image.labels.get(f"{LABEL}files_sha256")
    if label is not None and label != sha256:
        verdict.failed.append(
            f"label {LABEL}files_sha256 says {label}, the list's SHA-256 is {sha256}"
        )
    if entry is not None:
        verdict.check(
            "the lock file knows these files",
            entry.files_sha256 == sha256,
            f"{FILES}: its SHA-256 is {sha256}, the lock file says {entry.files_sha256 or 'none'}",
        )


def found_files(rootfs: Rootfs) -> list[ListedFile]:
    """Give what is in an image's instance, as the list has it: all but the enclave and the list."""
    found = []
    for path in instance_files(rootfs):
        entry = rootfs.entry(path, follow=False)
        if path in (LIBRARY, FILES) or entry is None:
            continue
        if entry.kind == "file":
            found.append(ListedFile(path, rootfs.sha256(path)))
        else:
            found.append(listed_link(path, entry.target))
    return found


def check_tags(verdict: Verdict, rootfs: Rootfs, enclave: SdkEnclave, config: OcclumConfig) -> None:
    """Follow Occlum's own tags from the measurement to the files, and say what that is worth.

    Args:
        verdict: takes the findings.
        rootfs: the image's merged view.
        enclave: its enclave.
        config: its ``Occlum.json``.

    Raises:
        InputError: what Occlum reads at the start is missing.
    """
    parts = InstanceParts(
        library=enclave,
        system_config=rootfs.read(SYSTEM_CONFIG),
        config=config,
        root_mac=_read(rootfs, f"{_BUILD}/mount/.ROOT_MAC"),
        initfs_mac=_read(rootfs, f"{_BUILD}/initfs/.ROOT_MAC"),
        root_metadata=_read(rootfs, f"{_BUILD}/mount/__ROOT/metadata"),
        initfs_metadata=_read(rootfs, f"{_BUILD}/initfs/__ROOT/metadata"),
    )
    for check in check_chain(parts):
        if check.state == "ok":
            verdict.passed.append(check.name)
        elif check.state == "failed":
            verdict.failed.append(check.line)
        else:
            verdict.notes.append(f"not checked: {check.line}")
    verdict.notes += WHAT_IS_PINNED


def _read(rootfs: Rootfs, path: str) -> bytes | None:
    return rootfs.read(path, _FILE_LIMIT) if rootfs.kind(path) == "file" else None
