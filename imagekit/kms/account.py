"""Accounts of key management services: who asks, kept in a file that only its owner can read."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.errors import InputError
from imagekit.files import check_private, write_new
from imagekit.runtime.ehsm import Credentials

SCHEMA = 1
EHSM = "ehsm"
BIGDL = "bigdl"
SERVICES = (EHSM, BIGDL)
DEFAULT_PORTS = {EHSM: "9000", BIGDL: "9875"}
"""Ports by the services' own documents."""

_KEY = re.compile(r"[\x21-\x7e]{1,256}")
_APP_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class Account:
    """An account, and the service that it is with.

    Attributes:
        service: one of :data:`SERVICES`.
        url: ``host:port``.
        credentials: app id and API key.
        pin: SHA-256 of the service's certificate, hexadecimal; "" if it is known otherwise.
        server_name: name in its certificate; "" for the host.
    """

    service: str
    url: str
    credentials: Credentials
    pin: str = ""
    server_name: str = ""


def check_credentials(app_id: str, api_key: str, where: str) -> Credentials:
    """Make credentials of two texts; neither is repeated in an error.

    Raises:
        InputError: one has characters that no service gives out.
    """
    if not _APP_ID.fullmatch(app_id):
        raise InputError(f"{where}: the app id is not one", "copy it from where it was enrolled")
    if not _KEY.fullmatch(api_key):
        raise InputError(f"{where}: the API key is not one", "copy it from where it was enrolled")
    return Credentials(app_id, api_key)


def read_account(path: Path) -> Account:
    """Read an account file.

    Raises:
        InputError: missing, readable by others, or not such a file.
    """
    hint = "name the file that imagekit kms enroll wrote"
    try:
        with path.open("rb") as file:
            check_private(path, file.fileno())
            data = file.read(1 << 16)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint) from None
    try:
        raw: Any = json.loads(data)
    except (ValueError, RecursionError):
        raw = None
    keys = {"schema", "service", "url", "app_id", "api_key", "pin_sha256", "server_name"}
    if not isinstance(raw, dict) or set(raw) != keys or raw["schema"] != SCHEMA:
        raise InputError(f"{path}: not an account file of schema {SCHEMA}", hint)
    texts = {key: raw[key] for key in keys - {"schema"}}
    if not all(isinstance(text, str) for text in texts.values()) or raw["service"] not in SERVICES:
        raise InputError(f"{path}: not an account file of schema {SCHEMA}", hint)
    who = check_credentials(raw["app_id"], raw["api_key"], str(path))
    return Account(raw["service"], raw["url"], who, raw["pin_sha256"], raw["server_name"])


def check_writable(path: Path) -> None:
    """Make sure that an account can be written to a file, before one is made.

    Raises:
        InputError: the name is taken, or the folder cannot be written to.
    """
    if os.path.lexists(path):
        raise _taken(path)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}", "name a folder that can be written to")


def write_account(path: Path, account: Account) -> None:
    """Write a new account file, mode 0600, whole or not at all.

    Raises:
        InputError: the name is taken, or the folder cannot be written to.
    """
    document = {
        "schema": SCHEMA,
        "service": account.service,
        "url": account.url,
        "app_id": account.credentials.app_id,
        "api_key": account.credentials.api_key,
        "pin_sha256": account.pin,
        "server_name": account.server_name,
    }
    try:
        write_new(path, (json.dumps(document, indent=2) + "\n").encode(), 0o600)
    except FileExistsError:
        raise _taken(path) from None


def _taken(path: Path) -> InputError:
    return InputError(f"{path} exists already", "an account is never overwritten: name a new file")
