"""From finished images to registered policies: what is registered is what was verified.

A measurement comes from an image that was checked as ``imagekit verify`` does, or, if somebody
says so, from the lock file's word alone.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagekit.errors import CheckError, ImagekitError, InputError, UsageError
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.registry.access import RegistryAccess
from imagekit.kms.account import EHSM, Account
from imagekit.kms.policy import NEEDED, Policy, check_policy, policy_of
from imagekit.kms.policy_texts import Enclave
from imagekit.kms.record import Registration, exclusive, read_record
from imagekit.kms.registrar import Registered, Registrar, ensure_registered
from imagekit.release.inspect import fresh_view
from imagekit.release.lock import LockEntry, read_lock
from imagekit.release.matrix import told, worst_code
from imagekit.release.verdict import Expected, require
from imagekit.release.verify import read_sigstruct, verify_image

REGISTRY = "registry"
"""Images of a lock are looked for in registries, by their references."""
NOWHERE = "none"
"""Images of a lock are not looked at."""
WORKERS = 4


@dataclass(frozen=True)
class Accepted:
    """What is accepted although it protects nothing.

    Attributes:
        standin: a stand-in for the library OS.
        debug: an enclave that the host can look into.
    """

    standin: bool = False
    debug: bool = False


@dataclass(frozen=True)
class Subject:
    """An image whose measurement is known.

    Attributes:
        reference: its name.
        digest: of its manifest; "" if no image was looked at.
        enclave: what was measured and signed.
    """

    reference: str
    digest: str
    enclave: Enclave


@dataclass(frozen=True)
class Plan:
    """One policy, and the images that it is for.

    Attributes:
        policy: what is to be registered.
        images: reference → digest.
    """

    policy: Policy
    images: Mapping[str, str]

    @property
    def label(self) -> str:
        """The first image's name, or a few digits of the policy."""
        names = sorted(self.images)
        if not names:
            return self.policy.short
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


@dataclass(frozen=True)
class Outcome:
    """What became of a plan: what is registered, or why it is not."""

    plan: Plan
    registered: Registered | None = None
    error: ImagekitError | None = None


class RegistrationError(ImagekitError):
    """Some of several policies are not registered; the exit code is that of the worst."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        failed = [one for one in outcomes if one.error is not None]
        errors = [one.error for one in failed if one.error is not None]
        super().__init__(
            f"{len(failed)} of {len(outcomes)} policies are not registered: "
            f"{failed[0].plan.label}: {errors[0].problem}",
            f"{errors[0].hint}; then run the same command again, it does only what is missing",
        )
        self.exit_code = worst_code(errors)


def verified(
    reference: str,
    accepted: Accepted,
    access: RegistryAccess,
    progress: Progress = NO_PROGRESS,
    lock: Path | None = None,
    name: str | None = None,
) -> Subject:
    """Verify an image and give what it measures.

    Args:
        reference: where it is.
        accepted: what is let through.
        access: how registries are reached.
        progress: told how far it is.
        lock: lock file that it must be in; None for any.
        name: its name, if it is another than the reference.

    Raises:
        CheckError: something was found.
        InputError: it cannot be read.
    """
    image, rootfs, own_name = fresh_view(reference, access, progress)
    expected = Expected(
        own_name, lock=lock, allow_standin=accepted.standin, allow_debug=accepted.debug
    )
    require(verify_image(image, rootfs, expected), reference)
    sigstruct = read_sigstruct(rootfs)
    body = sigstruct.body
    enclave = Enclave(
        body.mr_enclave.hex(), sigstruct.mr_signer.hex(), body.isv_prod_id, body.isv_svn
    )
    return Subject(name or reference, image.digest, enclave)


def read_entries(lock: Path) -> dict[str, LockEntry]:
    """Read a lock file that has to be there.

    Raises:
        InputError: it is missing, empty or damaged.
    """
    entries = read_lock(lock)
    if not entries:
        what = "no images in it" if lock.exists() else "no such file"
        raise InputError(f"{lock}: {what}", "build the images first, or check --lock")
    return entries


def from_lock(
    lock: Path,
    where: str,
    accepted: Accepted,
    access: RegistryAccess,
    progress: Progress = NO_PROGRESS,
) -> list[Subject]:
    """Give the images of a lock file, verified unless somebody says otherwise.

    Args:
        lock: lock file.
        where: ``oci:DIR`` (the layout that they were built into), :data:`REGISTRY` or
            :data:`NOWHERE`.
        accepted: what is let through.
        access: how registries are reached.
        progress: told how far it is.

    Raises:
        UsageError: another `where`.
        InputError: an image is missing.
        CheckError: something was found, or an image is not the lock's.
    """
    entries = read_entries(lock)
    if where == NOWHERE:
        return [_by_word(name, entry, lock, accepted) for name, entry in entries.items()]
    if where != REGISTRY and not where.startswith("oci:"):
        raise UsageError(f"--images {where} is not known", f"take oci:DIR, {REGISTRY} or {NOWHERE}")
    subjects = []
    with progress.task(f"verifying {len(entries)} images", len(entries)) as advance:
        for name in entries:
            place = f"docker://{name}" if where == REGISTRY else f"{where}:{name.split('/')[-1]}"
            subjects.append(verified(place, accepted, access, lock=lock, name=name))
            if subjects[-1].digest != entries[name].digest:
                raise CheckError(
                    f"{place}: its digest is another than {lock} has for {name}",
                    "build it again, or take the lock file that belongs to it",
                )
            advance(1)
    return subjects


def _by_word(name: str, entry: LockEntry, lock: Path, accepted: Accepted) -> Subject:
    if entry.standin and not accepted.standin:
        raise CheckError(
            f"{lock}: {name}: made with a stand-in, which protects nothing",
            "build it on a base with the real one",
        )
    if entry.debug and not accepted.debug:
        raise CheckError(
            f"{lock}: {name}: its enclave can be debugged: the host can look into it",
            "build it without enclave.debug",
        )
    return Subject(name, entry.digest, _enclave(entry))


def plan(subjects: Sequence[Subject], kind: str) -> list[Plan]:
    """Give one plan per policy, in the order of the subjects; equal policies are one.

    Args:
        subjects: images.
        kind: type of policy, which has to be about an SGX enclave's measurement.

    Raises:
        UsageError: it is about something that images do not say.
    """
    merged: dict[Policy, dict[str, str]] = {}
    for subject in subjects:
        policy = policy_of(kind, subject.enclave._asdict())
        merged.setdefault(policy, {})[subject.reference] = subject.digest
    return [Plan(policy, images) for policy, images in merged.items()]


def plans_of_values(kind: str, values: Mapping[str, str | int | None]) -> list[Plan]:
    """Give the plan for measurements that somebody typed.

    Raises:
        UsageError: a value is missing, not of its form, or not one that the type is about.
    """
    extra = [name for name, value in values.items() if value is not None]
    extra = [name for name in extra if name not in NEEDED[kind]]
    if extra:
        raise UsageError(
            f"a {kind} is not about {extra[0].replace('_', '-')}", "leave that option out"
        )
    return [Plan(policy_of(kind, values), {})]


def enclaves_of_lock(lock: Path) -> dict[str, Enclave]:
    """Give what the images of a lock file measure, by its word.

    Raises:
        InputError: it is missing, empty or damaged.
    """
    return {name: _enclave(entry) for name, entry in read_entries(lock).items()}


def _enclave(entry: LockEntry) -> Enclave:
    return Enclave(entry.mr_enclave, entry.mr_signer, entry.isv_prod_id, entry.isv_svn)


def check_plans(plans: Sequence[Plan], force: bool) -> list[str]:
    """Refuse policies that match nothing or everybody; gives warnings.

    Raises:
        CheckError: as :func:`imagekit.kms.policy.check_policy`.
    """
    warnings: list[str] = []
    for one in plans:
        warnings += [line for line in check_policy(one.policy, force) if line not in warnings]
    signers = {one.policy.mr_signer for one in plans}
    swapped = next((one for one in plans if one.policy.mr_enclave in signers - {None}), None)
    if swapped is not None:
        raise CheckError(
            f"{swapped.label}: mr_enclave is the mr_signer of another image",
            "the two are swapped somewhere: correct that",
        )
    return warnings


def recorded_id(account: Account, record: Path, lock: Path, image: str | None) -> str:
    """Give the id of the policy that was registered for an image.

    Args:
        account: whose policies.
        record: file of registrations.
        lock: lock file.
        image: a reference of the lock file, its last part (``NAME:TAG``), or a reference with a
            transport that ends so; None if there is only one.

    Raises:
        InputError: no such image, or none registered for it.
        UsageError: several are possible.
    """
    entries = read_entries(lock)
    names = [name for name in sorted(entries) if image is None or _is_named(name, image)]
    if not names:
        raise InputError(f"{lock}: no image {image} in it", "name one of it, or check --lock")
    if len(names) > 1:
        raise UsageError(f"{lock}: which of {len(names)} images?", f"name one, such as {names[0]}")
    enclave = _enclave(entries[names[0]])
    own = _own(record, account.service, account.url, account.credentials.app_id)
    found = next((one for one in own if _is_of(one.policy, enclave)), None)
    if found is None:
        raise InputError(
            f"{record}: nothing is registered for {names[0]} with this account",
            "register it first: imagekit kms register",
        )
    if not found.confirmed and account.service == EHSM:
        raise InputError(
            f"{record}: policy {found.policy_id} of {names[0]} was never read back",
            "run imagekit kms register again: it does that",
        )
    return found.policy_id


def _own(record: Path, service: str, url: str, app_id: str) -> list[Registration]:
    """Give the registrations of one account."""
    place = (service, url, app_id)
    return [one for one in read_record(record) if (one.service, one.url, one.app_id) == place]


def _is_named(reference: str, image: str) -> bool:
    last = reference.rpartition("/")[2]
    return image in (reference, last) or image.endswith((f":{last}", f"/{last}"))


def register_plans(
    registrar: Registrar,
    record: Path,
    plans: Sequence[Plan],
    *,
    force: bool,
    done: Callable[[Outcome], None],
    talk: Callable[[str], None],
    waiting: Callable[[], None],
) -> list[Outcome]:
    """Register policies, several at once; one that fails does not lose the others.

    Args:
        registrar: with whom.
        record: file of registrations; each is recorded as soon as it is known.
        plans: what.
        force: register anew what is there.
        done: told every outcome, from several threads.
        talk: told remarks.
        waiting: called if another run holds the record.

    Returns:
        One outcome per plan, in their order.
    """

    def work(one: Plan) -> Outcome:
        try:
            registered = ensure_registered(
                registrar, record, one.policy, dict(one.images), force, talk
            )
            outcome = Outcome(one, registered)
        except Exception as error:
            outcome = Outcome(one, error=told(error))
        done(outcome)
        return outcome

    with (
        exclusive(record, waiting),
        ThreadPoolExecutor(WORKERS, thread_name_prefix="policy") as pool,
    ):
        try:
            return list(pool.map(work, plans))
        except BaseException:  # interrupted: what is known by now is recorded
            registrar.abort()
            pool.shutdown(cancel_futures=True)
            raise


FITS, MISSING, GONE, DIFFERS, UNCONFIRMED = "fits", "missing", "gone", "differs", "unconfirmed"


@dataclass(frozen=True)
class Fit:
    """Whether an image's policy still fits.

    Attributes:
        reference: the image.
        state: ``fits``; ``missing`` (none is recorded for its measurement); ``gone`` (the service
            does not know it any more); ``differs`` (the service says something else);
            ``unconfirmed`` (recorded, and the service tells nothing).
        policy_id: the recorded one, "" for none.
    """

    reference: str
    state: str
    policy_id: str = ""

    @property
    def good(self) -> bool:
        """Whether a pod of this image can attest, as far as can be known."""
        return self.state in (FITS, UNCONFIRMED)


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        fits: one per image.
        leftover: registrations whose measurement no image has any more; with an empty policy id
            those of which only former ids are left over.
    """

    fits: list[Fit] = field(default_factory=list)
    leftover: list[Registration] = field(default_factory=list)


def check_registrations(
    registrar: Registrar, record: Path, enclaves: Mapping[str, Enclave]
) -> Report:
    """Compare images with what is registered for them.

    Args:
        registrar: whose policies.
        record: file of registrations.
        enclaves: reference → what the image measures.

    Raises:
        ImagekitError: the record is damaged, or the service does not answer.
    """
    own = _own(record, registrar.service, registrar.url, registrar.app_id)
    report = Report()
    asked: dict[str, str] = {}
    used: set[str] = set()
    for reference, enclave in sorted(enclaves.items()):
        found = next((one for one in own if _is_of(one.policy, enclave)), None)
        if found is None:
            report.fits.append(Fit(reference, MISSING))
            continue
        used.add(found.policy_id)
        if found.policy_id not in asked:
            asked[found.policy_id] = _state(registrar, found.policy_id, found.policy)
        report.fits.append(Fit(reference, asked[found.policy_id], found.policy_id))
    for one in own:
        if one.policy_id not in used:
            report.leftover.append(one)
        elif one.former:
            report.leftover.append(replace(one, policy_id="", images={}))
    return report


def check_one(registrar: Registrar, policy_id: str, subject: Subject) -> Fit:
    """Compare an image with the policy of an id, such as the one in a pod's Secret.

    Raises:
        ImagekitError: the service does not answer.
    """
    wanted = policy_of(registrar.types[0], subject.enclave._asdict())
    return Fit(subject.reference, _state(registrar, policy_id, wanted), policy_id)


def _state(registrar: Registrar, policy_id: str, wanted: Policy) -> str:
    if not registrar.can_read_back:
        return UNCONFIRMED
    try:
        found = registrar.read_back(policy_id)
    except CheckError:  # it says something that no enclave of ours has
        return DIFFERS
    if found is None:
        return GONE
    return FITS if found == wanted else DIFFERS


def _is_of(policy: Policy, enclave: Enclave) -> bool:
    """Whether a policy is about an enclave and lets it through."""
    values = enclave._asdict()
    names = set(policy.values)
    return names <= set(values) and all(values[name] == policy.values[name] for name in names)
