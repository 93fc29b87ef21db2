"""Encrypted storage: the data key for Gramine's encrypted mounts, and whether folders are on them.

The key is 16 bytes. It is written to ``/dev/attestation/keys/<key_name>`` in one write, before
anything touches a mount: an open for writing before that leaves an empty file behind that stays
unusable (Gramine 1.9, measured). Where it comes from:

- ``USING_LOCAL_DATA_KEY=true``: the file ``LOCAL_DATA_KEY``. Exactly 16 bytes are the key; of any
  other file the first 15 bytes and a newline are, as in BigDL. The host knows such a key, so it is
  for tests; a strict image refuses it unless it seals ``ALLOW_LOCAL_DATA_KEY``.
- otherwise eHSM: the files ``EHSM_PRIMARY_KEY`` (a key id) and ``EHSM_DATA_KEY`` (the data key,
  encrypted under it, as base64) go into Decrypt. Its answer is not signed: it is worth as much as
  the TLS connection.

The request brings the files' contents along in ``…_DATA`` variables, as base64; without these the
path is read inside.

Then each mount's canary is looked at (:mod:`.canary`), so that a wrong key is told at once.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH118, PTH123
from __future__ import annotations

import base64
import os
import re
import sys
from contextlib import suppress
from posixpath import isabs, normpath
from typing import Mapping  # noqa: UP035 - Python 3.8

from . import settings
from .canary import check_canary
from .command import TEMPORARY
from .devices import write_at_once
from .launch import Encrypted, Launch
from .place import DIRECT, NATIVE, Place
from .stop import FAILED, REFUSED, UNUSABLE, Stop
from .words import is_true

VARIABLES = settings.STORAGE
"""Variables that the host may set: name → pattern. :func:`unlock` checks them itself."""

KEY_SIZE = 16
"""Bytes."""

_LONGEST_FILE = 1 << 14
_FILES = {
    "EHSM_PRIMARY_KEY": "/ppml/encrypted_keys/encrypted_primary_key",
    "EHSM_DATA_KEY": "/ppml/encrypted_keys/encrypted_data_key",
}
"""Paths where BigDL has them, if the variable is not set."""
_LOCAL_KEY = re.compile(rb"[!-~]{15}")
_KEY_ID = re.compile(r"[0-9A-Za-z-]{8,64}")


def unlock(spec: Launch, env: Mapping[str, str], place: Place) -> None:
    """Set the keys of all encrypted mounts that get theirs at start, if ``ENCRYPTED_FSD`` says so.

    Args:
        spec: the launch specification; its ``encrypted`` says which mounts there are.
        env: variables of the request.
        place: where this runs.

    Raises:
        Stop: no key, or it is refused or wrong.
    """
    given = settings.merge(spec, env, VARIABLES)
    if not is_true("ENCRYPTED_FSD", given.get("ENCRYPTED_FSD", "false")):
        return
    if place.kind == NATIVE:
        name = spec.libos.capitalize()
        raise Stop(REFUSED, f"ENCRYPTED_FSD is refused: without {name} nothing would be encrypted")
    mounts = [mount for mount in spec.encrypted if needs_key(mount)]
    if not mounts:
        raise Stop(
            REFUSED, "ENCRYPTED_FSD is refused: no encrypted mount of this image takes a key"
        )
    if is_true("USING_LOCAL_DATA_KEY", given.get("USING_LOCAL_DATA_KEY", "false")):
        key = _local_key(spec, given)
    else:
        key = _ehsm_key(given, place)
    for name in sorted({mount.key_name for mount in mounts}):
        _set_key(place, name, key)
    for mount in mounts:
        check_canary(mount.path)


def needs_key(mount: Encrypted) -> bool:
    """Whether a mount's key is given at start, rather than the CPU's own."""
    return not mount.key_name.startswith("_sgx_")


def check(spec: Launch, storage: Mapping[str, str], place: Place) -> None:
    """Make sure that folders are encrypted: on an encrypted mount, or in the enclave's memory.

    Natively nothing is, and nothing is checked. Under compat ``/tmp`` is the host's, and a folder
    that is not encrypted is said on stderr rather than refused.

    Occlum keeps what is written in memory or in encrypted files, wherever it is; the exception are
    mounts of the host's folders, which ``launch.json`` names.

    Args:
        spec: the launch specification.
        storage: what a folder is for → the folder; ``..`` is resolved.
        place: where this runs.

    Raises:
        Stop: one is not, or is on a mount whose key is not set.
    """
    if place.kind == NATIVE:
        return
    if place.in_occlum:
        _check_exposed(spec, storage)
        return
    for purpose, folder in sorted(storage.items()):
        mount = _mount_of(spec, folder)
        if mount is not None:
            if needs_key(mount) and not _has_key(place, mount.key_name):
                raise Stop(
                    REFUSED,
                    f"{purpose}: its folder is on the encrypted mount {mount.path}, whose key is "
                    "not set: set ENCRYPTED_FSD to true",
                )
        elif spec.profile == "compat":
            _warn(f"{purpose}: its folder is not encrypted, the host can read it (profile compat)")
        elif not _is_below(folder, TEMPORARY):
            known = ", ".join([mount.path for mount in spec.encrypted] + [TEMPORARY])
            raise Stop(
                REFUSED, f"{purpose}: refused, its folder is not encrypted: take one below {known}"
            )


def _check_exposed(spec: Launch, storage: Mapping[str, str]) -> None:
    tops = [os.path.realpath(top) for top in spec.exposed]
    for purpose, folder in sorted(storage.items()):
        inside = isabs(folder) and not any(_is_below(os.path.realpath(folder), top) for top in tops)
        if inside:
            continue
        if spec.profile != "compat":
            raise Stop(
                REFUSED,
                f"{purpose}: refused, its folder is the host's, which could read it: take one "
                f"below {TEMPORARY}",
            )
        _warn(f"{purpose}: its folder is the host's, which can read it (profile compat)")


def _mount_of(spec: Launch, folder: str) -> Encrypted | None:
    """Give the innermost encrypted mount that holds a folder."""
    found = [mount for mount in spec.encrypted if _is_below(folder, mount.path)]
    return max(found, key=lambda mount: len(normpath(mount.path)), default=None)


def _is_below(folder: str, top: str) -> bool:
    """Whether an absolute path is a folder or below it; no symbolic link exists inside."""
    if not isabs(folder):
        return False
    path, root = (normpath(name).lstrip("/") for name in (folder, top))
    return path == root or path.startswith(f"{root}/")


def _local_key(spec: Launch, given: Mapping[str, str]) -> bytes:
    allowed = spec.attestation.settings.get("ALLOW_LOCAL_DATA_KEY", "false")
    if spec.profile == "strict" and not is_true("ALLOW_LOCAL_DATA_KEY", allowed):
        line = "USING_LOCAL_DATA_KEY is refused: the host knows that key (profile strict)"
        raise Stop(REFUSED, line)
    _warn("USING_LOCAL_DATA_KEY: the host knows the data key; this is for tests")
    content = _content(given, "LOCAL_DATA_KEY")
    if len(content) == KEY_SIZE:
        return content
    key = content[: KEY_SIZE - 1]
    if _LOCAL_KEY.fullmatch(key) is None:
        raise Stop(
            REFUSED,
            "LOCAL_DATA_KEY is unusable: it is neither a file of exactly 16 bytes nor one that "
            "begins with 15 printable characters without spaces",
        )
    return key + b"\n"


def _ehsm_key(given: Mapping[str, str], place: Place) -> bytes:
    """Have eHSM decrypt the data key."""
    from . import ehsm, https  # only here: most starts need neither
    from .service import service_of

    if place.kind == DIRECT:
        raise Stop(REFUSED, "gramine-direct has no enclave: no key is fetched from eHSM for it")
    for name in ("EHSM_URL", "APP_ID", "API_KEY"):
        if name not in given:
            raise Stop(REFUSED, f"ENCRYPTED_FSD is enabled, but {name} is empty")
    service = service_of(given, "EHSM", given["EHSM_URL"], given.get("EHSM_PORT", ""))
    who = ehsm.Credentials(given["APP_ID"], given["API_KEY"])
    key_id = _text(given, "EHSM_PRIMARY_KEY")
    if _KEY_ID.fullmatch(key_id) is None:
        raise Stop(REFUSED, "EHSM_PRIMARY_KEY does not hold a key id")
    ciphertext = _text(given, "EHSM_DATA_KEY")
    _decoded(ciphertext, Stop(REFUSED, "EHSM_DATA_KEY does not hold base64"))
    body = ehsm.signed_request(who, {"keyid": key_id, "ciphertext": ciphertext})
    result = ehsm.read_result("Decrypt", https.ask(service, ehsm.target("Decrypt"), body))
    text = result.get("plaintext")
    bad = Stop(FAILED, "Decrypt: the answer has no plaintext in base64")
    key = _decoded(text if isinstance(text, str) else "*", bad)
    if len(key) != KEY_SIZE:
        raise Stop(FAILED, f"Decrypt: the data key is not of {KEY_SIZE} bytes: make one that is")
    return key


def _text(given: Mapping[str, str], name: str) -> str:
    return _content(given, name).decode("ascii", "replace").strip()


def _content(given: Mapping[str, str], name: str) -> bytes:
    """Give a file's content: what the request brought along, else what the path has inside."""
    data = given.get(f"{name}_DATA")
    if data is not None:
        return _decoded(data, Stop(REFUSED, f"{name}_DATA is not base64"))
    path = given.get(name, _FILES.get(name))
    if path is None:
        raise Stop(REFUSED, f"ENCRYPTED_FSD is enabled, but {name} is empty")
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_LONGEST_FILE)
    except OSError as error:
        raise Stop(UNUSABLE, f"the file of {name} cannot be read: {error.strerror}") from None


def _decoded(text: str, error: Stop) -> bytes:
    with suppress(ValueError):
        return base64.b64decode(text.encode(), validate=True)
    raise error


def _key_file(place: Place, name: str) -> str:
    return os.path.join(place.attestation, "keys", name)


def _has_key(place: Place, name: str) -> bool:
    """Whether a key is set: its file is empty before."""
    try:
        with open(_key_file(place, name), "rb", buffering=0) as file:
            return bool(file.read(1))
    except OSError:
        return False


def _set_key(place: Place, name: str, key: bytes) -> None:
    path = _key_file(place, name)
    try:
        whole = write_at_once(path, key)
    except OSError as error:  # for a name that no mount has: EACCES or ENOENT
        line = f"{path}: Gramine takes no key there: {error.strerror}; is it a mount's key_name?"
        raise Stop(UNUSABLE, line) from None
    if not whole:
        raise Stop(UNUSABLE, f"{path}: Gramine does not take the key whole")


def _warn(line: str) -> None:
    with suppress(OSError):
        print(f"imagekit: warning: {line}", file=sys.stderr, flush=True)
