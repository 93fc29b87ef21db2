"""The one shape in which services that keep policies are used."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple, Protocol

from imagekit.errors import CheckError, ImagekitError
from imagekit.kms.policy import Policy
from imagekit.kms.record import Registration, find, read_record, update_record

State = Literal["registered", "reused", "kept"]


class Registrar(Protocol):
    """A service with an account, that policies can be registered with.

    Attributes:
        service: ``ehsm`` or ``bigdl``.
        url: ``host:port``.
        app_id: the account.
        types: types of policies that it takes; the first is the usual one.
        can_read_back: whether it tells what a policy says.
    """

    service: str
    url: str
    app_id: str
    types: tuple[str, ...]
    can_read_back: bool

    def register(self, policy: Policy) -> str:
        """Register a policy; gives its id.

        Raises:
            EngineError: the service was not reached; nothing is registered.
            KmsError: the service refused.
            OutcomeUnknownError: nobody knows, or the id is lost.
        """

    def abort(self) -> None:
        """Break off what is under way in other threads, and let nothing new begin."""

    def read_back(self, policy_id: str) -> Policy | None:
        """Ask what a policy says; None if the service does not know it for this account.

        Raises:
            EngineError: no answer.
            KmsError: the service refused.
            CheckError: the answer is about another policy, or no policy that can match.
        """


class Registered(NamedTuple):
    """What became of a policy.

    Attributes:
        registration: as recorded.
        state: ``registered`` now; ``reused`` after it was read back; ``kept`` as recorded, since
            the service tells nothing.
    """

    registration: Registration
    state: State


_writing = Lock()


def ensure_registered(
    registrar: Registrar,
    record: Path,
    policy: Policy,
    images: dict[str, str],
    force: bool,
    talk: Callable[[str], None],
) -> Registered:
    """Register a policy unless it is recorded and still there.

    To be called within :func:`imagekit.kms.record.exclusive`; from several threads for several
    policies.

    Args:
        registrar: with whom.
        record: file of registrations.
        policy: what is to be registered, checked.
        images: reference → digest, of the images that have it.
        force: register anew even if it is there.
        talk: told why a recorded policy is not reused.

    Raises:
        ImagekitError: as the registrar's methods do; what is known is recorded before.
    """
    wanted = _wanted(registrar, policy, images)
    known = find(read_record(record), wanted)
    if known is not None:
        wanted = replace(wanted, images={**known.images, **images}, former=known.former)
    if known is not None and not force:
        if not registrar.can_read_back:
            return _record(record, replace(wanted, policy_id=known.policy_id), "kept")
        reason = _unfit(registrar, known)
        if not reason:
            kept = replace(wanted, policy_id=known.policy_id, confirmed=True)
            return _record(record, kept, "reused")
        talk(f"recorded policy {known.policy_id} {reason}: registering a new one")
    if known is not None:
        wanted = replace(wanted, former=(*known.former, known.policy_id))
    new = replace(wanted, policy_id=registrar.register(policy))
    _record(record, new, "registered")  # before anything else can go wrong
    if not registrar.can_read_back:
        return Registered(new, "registered")
    try:
        found = registrar.read_back(new.policy_id)
    except ImagekitError:
        talk(f"policy {new.policy_id} was registered, and is not confirmed")
        raise
    if found != policy:
        raise CheckError(
            f"policy {new.policy_id} does not say what was registered: "
            f"{found.short if found else 'the service does not know it'}",
            "do not use this id; ask who runs the service, and register again",
        )
    return _record(record, replace(new, confirmed=True), "registered")


def recorded(registrar: Registrar, record: Path, policy: Policy) -> Registration | None:
    """Give what is recorded for a policy; None for nothing. Nobody is asked.

    Raises:
        InputError: the record is damaged.
    """
    return find(read_record(record), _wanted(registrar, policy, {}))


def _wanted(registrar: Registrar, policy: Policy, images: dict[str, str]) -> Registration:
    """Give a registration that has no id yet."""
    return Registration(
        registrar.service, registrar.url, registrar.app_id, policy, "", False, images
    )


def _unfit(registrar: Registrar, known: Registration) -> str:
    """Say why a recorded policy cannot be reused; "" if it can.

    Raises:
        CheckError: the service said something else of it before, and nothing that can be now.
    """
    try:
        found = registrar.read_back(known.policy_id)
    except CheckError:
        if known.confirmed:
            raise
        return "was never good"
    if found is None:
        return "is not known to the service any more"
    return "" if found == known.policy else f"says something else at the service ({found.short})"


def _record(path: Path, registration: Registration, state: State) -> Registered:
    with _writing:
        update_record(path, registration)
    return Registered(registration, state)
