"""``imagekit.registrations.json``: which policies were registered, where, for which images.

eHSM lists and deletes no policies, and takes the same measurement as often as it is sent: without
this file every run would leave another policy behind that nobody finds again. It holds no secret.
It is written whole and sorted, so that it can live in version control beside the lock file.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagekit.errors import InputError
from imagekit.files import locked, read_document, write_atomically
from imagekit.kms.policy import Policy, from_json, to_json

SCHEMA = 1
FILE_NAME = "imagekit.registrations.json"
_HINT = "restore it from version control, or remove it and register again"
_TEXTS = ("service", "url", "app_id", "policy_id")


@dataclass(frozen=True)
class Registration:
    """One registered policy.

    Attributes:
        service: ``ehsm`` or ``bigdl``.
        url: ``host:port``.
        app_id: account that it belongs to.
        policy: what it says.
        policy_id: the service's name for it.
        confirmed: whether it was read back and found equal.
        images: reference → digest of the images that it was registered for.
        former: ids of policies that say the same and were replaced by ``--force``.
    """

    service: str
    url: str
    app_id: str
    policy: Policy
    policy_id: str
    confirmed: bool
    images: Mapping[str, str]
    former: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids that the service gave for it, the current one first, if there is one."""
        return tuple(one for one in (self.policy_id, *self.former) if one)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What there is one registration for."""
        return self.service, self.url, self.app_id, json.dumps(to_json(self.policy), sort_keys=True)


def read_record(path: Path) -> list[Registration]:
    """Read the registrations of a file, in its order; none if there is no file.

    Raises:
        InputError: unreadable or not such a file.
    """
    document = read_document(path, "a record", SCHEMA, _HINT)
    if document is None:
        return []
    raw = document.get("registrations")
    if not isinstance(raw, list):
        raise InputError(f"{path}: registrations: not a list", _HINT)
    return [_registration(one, f"{path}: registration {n}") for n, one in enumerate(raw, 1)]


def _registration(raw: Any, where: str) -> Registration:
    keys = {*_TEXTS, "policy", "confirmed", "images", "former"}
    if not isinstance(raw, dict) or set(raw) != keys:
        raise InputError(f"{where}: not one of schema {SCHEMA}", _HINT)
    images, former = raw["images"], raw["former"]
    texts = [raw[name] for name in _TEXTS]
    if isinstance(images, dict) and isinstance(former, list):
        texts += [*images.values(), *former]
    else:
        texts.append(None)
    if not all(isinstance(text, str) for text in texts) or type(raw["confirmed"]) is not bool:
        raise InputError(f"{where}: a value is of the wrong type", _HINT)
    policy = from_json(raw["policy"], f"{where}: policy")
    return Registration(**{**raw, "policy": policy, "images": images, "former": tuple(former)})


def find(registrations: list[Registration], wanted: Registration) -> Registration | None:
    """Give the registration with the same service, account and policy."""
    return next((one for one in registrations if one.key == wanted.key), None)


def update_record(path: Path, new: Registration) -> None:
    """Add or replace a registration; an image belongs to the last that was registered for it.

    To be called within :func:`exclusive`.

    Raises:
        InputError: the file is damaged or cannot be written.
    """
    kept = [_without(one, new) for one in read_record(path) if one.key != new.key]
    write_record(path, [*kept, new])


def _without(one: Registration, new: Registration) -> Registration:
    """Take the images of a new registration out of another of the same account and type."""
    place = (new.service, new.url, new.app_id, new.policy.type)
    if (one.service, one.url, one.app_id, one.policy.type) != place:
        return one
    images = {name: digest for name, digest in one.images.items() if name not in new.images}
    return replace(one, images=images)


def write_record(path: Path, registrations: list[Registration]) -> None:
    """Write a record, sorted.

    Raises:
        InputError: it cannot be written.
    """
    document = {
        "schema": SCHEMA,
        "registrations": [
            {
                "service": one.service,
                "url": one.url,
                "app_id": one.app_id,
                "policy": to_json(one.policy),
                "policy_id": one.policy_id,
                "confirmed": one.confirmed,
                "images": dict(sorted(one.images.items())),
                "former": list(one.former),
            }
            for one in sorted(registrations, key=lambda one: one.key)
        ],
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


@contextmanager
def exclusive(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keep other runs from registering by the same record: two would register everything twice.

    The lock is a file beside it that stays, since the record itself is replaced at each change.

    Args:
        path: the record.
        waiting: called if another run has to be waited for.

    Raises:
        InputError: the folder cannot be written to.
    """
    with locked(path.with_name(f".{path.name}.lock"), waiting):
        yield
