"""``imagekit.lock.json``: what was built, from what, with which measurement.

One entry per image reference. The file is written whole and sorted, so that it can live in version
control and a difference in it is a difference in an image.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from imagekit.errors import InputError
from imagekit.files import locked, read_document, write_atomically

SCHEMA = 1
FILE_NAME = "imagekit.lock.json"


@dataclass(frozen=True, kw_only=True)
class LockEntry:
    """One built image.

    Attributes:
        digest: of the image's manifest.
        base: digest of the base image's manifest.
        libos, profile, log, attestation: the cell, in words.
        epc: enclave size, as in the image's name.
        gramine, occlum: release whose rules were followed; "" for the other library OS.
        mr_enclave, mr_signer: 64 lower-case hex digits.
        isv_prod_id, isv_svn: as signed.
        debug: whether the enclave can be debugged.
        date: the SIGSTRUCT's date.
        epoch: seconds since 1970 that the layer bears.
        layer: digest of the cell's own layer.
        manifest_sha256: of ``bash.manifest.sgx`` (Gramine).
        libpal_sha256: of Gramine's PAL.
        config_sha256: of ``Occlum.json`` (Occlum).
        files_sha256: of the list of the instance's files with their hashes (Occlum).
        standin: whether the library OS is the stand-in.
        inputs: hash of everything the image was made from; a build with the same inputs need not be
            done again. Empty in files of versions that did not record it.
    """

    digest: str
    base: str
    libos: str
    profile: str
    epc: str
    log: str
    attestation: str
    gramine: str = ""
    occlum: str = ""
    mr_enclave: str
    mr_signer: str
    isv_prod_id: int
    isv_svn: int
    debug: bool
    date: str
    epoch: int
    layer: str
    manifest_sha256: str = ""
    libpal_sha256: str = ""
    config_sha256: str = ""
    files_sha256: str = ""
    standin: bool
    inputs: str = ""


_OF_ONE_LIBOS = (
    *("gramine", "manifest_sha256", "libpal_sha256"),
    *("occlum", "config_sha256", "files_sha256"),
)
"""Fields that stand in the file only where they say something."""


def _entry(raw: object, where: str) -> LockEntry:
    names = {field.name: field.type for field in fields(LockEntry)}
    if isinstance(raw, dict):
        raw = {**dict.fromkeys((*_OF_ONE_LIBOS, "inputs"), ""), **raw}
    if not isinstance(raw, dict) or set(raw) != set(names):
        raise InputError(f"{where}: not an entry of schema {SCHEMA}", "build the image again")
    for name, kind in names.items():
        if type(raw[name]) is not kind:
            raise InputError(f"{where}: {name} is of the wrong type", "build the image again")
    return LockEntry(**raw)


def _written(entry: LockEntry) -> dict[str, Any]:
    return {
        name: value for name, value in asdict(entry).items() if value or name not in _OF_ONE_LIBOS
    }


def read_lock(path: Path) -> dict[str, LockEntry]:
    """Read a lock file: image reference → entry; empty if there is no file.

    Raises:
        InputError: unreadable or not a lock file of this schema.
    """
    hint = "restore it from version control, or remove it and build again"
    document = read_document(path, "a lock file", SCHEMA, hint)
    if document is None:
        return {}
    images = document.get("images")
    if not isinstance(images, dict):
        raise InputError(f"{path}: images: not an object", hint)
    return {name: _entry(raw, f"{path}: {name}") for name, raw in images.items()}


def update_lock(path: Path, entries: Mapping[str, LockEntry]) -> None:
    """Add or replace entries; two runs at once both land.

    Raises:
        InputError: the file is damaged or cannot be written.
    """
    with locked(path.parent):
        images = {**read_lock(path), **entries}
        document = {
            "schema": SCHEMA,
            "images": {name: _written(images[name]) for name in sorted(images)},
        }
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode())
