"""What verification finds, and the checks that do not depend on the library OS."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagekit.enclave.known_signers import known_signer
from imagekit.enclave.parameters import FLAG_DEBUG
from imagekit.enclave.sigstruct import SigStruct
from imagekit.errors import CheckError, ImagekitError, InputError, UsageError
from imagekit.images.keyscan import KeyFinding
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
from imagekit.release.cells import LABEL
from imagekit.release.lock import LockEntry, read_lock
from imagekit.runtime.paths import ENTRYPOINT, FLINK_ENTRYPOINT
from imagekit.spec.matrix import Cell
from imagekit.spec.names import parse_image_name
from imagekit.spec.sizes import epc_name

TEMPLATES = "/opt/occlum/etc/template/"
"""Where Occlum's own images have the sample key that they sign with by default."""


@dataclass(frozen=True)
class Expected:
    """What somebody wants the image to be.

    Attributes:
        name: its name, if it has one that says something; with or without tag.
        mr_enclave, mr_signer: 64 lower-case hex digits.
        lock: lock file.
        allow_standin: accept a stand-in for the library OS.
        allow_debug: accept an enclave that the host can debug.
    """

    name: str | None = None
    mr_enclave: str | None = None
    mr_signer: str | None = None
    lock: Path | None = None
    allow_standin: bool = False
    allow_debug: bool = False


@dataclass
class Verdict:
    """What was checked and what was found.

    Attributes:
        passed: one line per check that held.
        failed: one line per finding.
        notes: what could not be checked, and what is worth knowing.
        mr_enclave, mr_signer: as signed, once known.
    """

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mr_enclave: str = ""
    mr_signer: str = ""

    def check(self, name: str, holds: bool, failure: str) -> None:
        """Note one check."""
        if holds:
            self.passed.append(name)
        else:
            self.failed.append(failure)


def require(verdict: Verdict, image: str) -> None:
    """Refuse an image in which something was found.

    Args:
        verdict: what was found.
        image: its reference, for the message.

    Raises:
        CheckError: there is a finding.
    """
    if verdict.failed:
        more = f" (and {len(verdict.failed) - 1} more)" if len(verdict.failed) > 1 else ""
        raise CheckError(f"{image}: {verdict.failed[0]}{more}", "do not use or register this image")


def guard(verdict: Verdict, check: Callable[[], None]) -> None:
    """Run one check; an error of it is a finding."""
    try:
        check()
    except ImagekitError as error:
        verdict.failed.append(error.problem)


def check_debug(verdict: Verdict, sigstruct: SigStruct, expected: Expected) -> None:
    """The enclave must not be one that the host reads, unless that is accepted."""
    verdict.check(
        "no debug",
        expected.allow_debug or not sigstruct.body.flags & FLAG_DEBUG,
        "the enclave can be debugged, that is read, by the host (--allow-debug accepts that)",
    )


def check_standin(
    verdict: Verdict, standin: bool, path: str, libos: str, expected: Expected
) -> None:
    """The library OS must be the real one, unless the stand-in is accepted.

    Args:
        verdict: takes the finding.
        standin: whether it is the stand-in.
        path: the file that says so.
        libos: what it stands in for: Gramine or Occlum.
        expected: what is accepted.
    """
    if not standin:
        verdict.passed.append("no stand-in")
    elif expected.allow_standin:
        verdict.notes.append(f"STAND-IN: this image's {libos} is a stand-in; it protects nothing")
    else:
        verdict.failed.append(
            f"{path} is a stand-in, not {libos}: nothing of this image runs in an enclave "
            "(--allow-standin accepts that)"
        )


def check_doors(verdict: Verdict, image: Image, rootfs: Rootfs, measured: str) -> None:
    """What starts the enclave is not measured; it should at least be what the build put there.

    Args:
        verdict: takes the findings.
        image: the image.
        rootfs: its merged view.
        measured: path of the file that the build writes last.
    """
    last = rootfs.entry(measured)
    for path in (ENTRYPOINT, FLINK_ENTRYPOINT):
        door = rootfs.entry(path)
        if last is None or door is None:
            continue
        # A build that copies file by file puts each into a layer of its own, this one last.
        if door.layer > last.layer:
            verdict.failed.append(f"{path} was put there by a later layer than {measured}")
    if image.entrypoint != (ENTRYPOINT,):
        started = " ".join(image.entrypoint) or "nothing"
        verdict.notes.append(f"the image starts {started} and not {ENTRYPOINT}")


def check_claims(
    verdict: Verdict,
    image: Image,
    cell: Cell,
    standin: bool,
    own: Mapping[str, str],
    wrong: Sequence[str] = (),
) -> None:
    """Labels against the content.

    Args:
        verdict: takes the findings; its measurements are known already.
        image: whose labels.
        cell: what the content is.
        standin: whether its library OS is the stand-in.
        own: further facts, by label without its prefix.
        wrong: findings about labels that were made already.
    """
    facts = {
        "libos": cell.libos,
        "epc": _size_name(cell.epc),
        "log": cell.log,
        "attestation": cell.attestation,
        "mr_enclave": verdict.mr_enclave,
        "mr_signer": verdict.mr_signer,
        "standin": str(standin).lower(),
        **own,
    }
    found = [
        f"label {LABEL}{name} says {image.labels[LABEL + name]!r}, the content says {fact!r}"
        for name, fact in facts.items()
        if image.labels.get(LABEL + name, fact) != fact
    ]
    found += wrong
    verdict.failed += found
    if not found:
        verdict.passed.append("labels")


def check_name(verdict: Verdict, cell: Cell, expected: Expected, source: str) -> None:
    """The name against the content.

    Args:
        verdict: takes the finding.
        cell: what the content is.
        expected: has the name.
        source: what says so, for the finding.
    """
    if expected.name is None:
        verdict.notes.append("the image has no name to check")
        return
    try:
        # …-reference:latest is whatever its project has for default, but always attests.
        _, named, _ = parse_image_name(expected.name, replace(cell, attestation="dcap"))
    except UsageError:
        verdict.notes.append(f"the name {expected.name} does not say what is in the image")
        return
    verdict.check(
        "name",
        named == cell,
        f"the name {expected.name} says {named.id}, {source} says {cell.id}",
    )


def _size_name(size: int) -> str:
    try:
        return epc_name(size)
    except ValueError:
        return str(size)


def check_expected(verdict: Verdict, image: Image, expected: Expected) -> LockEntry | None:
    """The measurements that somebody wants, and the lock file's word.

    Returns:
        The image's entry in the lock file, if one was given and has it.

    Raises:
        InputError: the lock file is missing or damaged.
    """
    for name, wanted in (
        ("mr_enclave", expected.mr_enclave),
        ("mr_signer", expected.mr_signer),
    ):
        if wanted is not None:
            found = getattr(verdict, name)
            verdict.check(
                f"{name} as expected", found == wanted, f"{name} is {found}, not {wanted}"
            )
    if expected.lock is None:
        return None
    if not expected.lock.exists():
        raise InputError(f"{expected.lock}: no such lock file", "check --lock")
    entries = read_lock(expected.lock)
    entry = next((e for e in entries.values() if e.digest == image.digest), None)
    if entry is None:
        verdict.failed.append(f"{expected.lock} has no image with digest {image.digest}")
        return None
    same = (entry.mr_enclave, entry.mr_signer) == (verdict.mr_enclave, verdict.mr_signer)
    verdict.check(
        "lock file", same, f"{expected.lock} says mr_enclave {entry.mr_enclave} for this digest"
    )
    return entry


def check_keys(verdict: Verdict, image: Image, rootfs: Rootfs, signer: str) -> None:
    """Look for private keys. One inside a program is its own, unless it can be the enclave's.

    TLS libraries have published keys for their self-tests compiled in.

    Args:
        verdict: takes the findings.
        image: the image.
        rootfs: its merged view.
        signer: mr_signer of its enclave; "" if it is not known: then any key of an enclave's size
            may be the signer's.
    """
    from imagekit.images.keyscan import find_keys

    found: list[str] = []
    programs: dict[tuple[int, str], int] = {}
    for finding in rootfs.key_findings:
        enclave = finding.sgx or (finding.signer and signer in ("", finding.signer))
        if _is_templates(finding, signer):
            verdict.notes.append(
                f"layer {finding.layer + 1}, {finding.path}: {known_signer(finding.signer)}; "
                "everybody has it"
            )
        elif finding.program and not enclave:
            place = finding.layer, finding.path
            programs[place] = programs.get(place, 0) + 1
        else:
            found.append(f"private key in {finding}")
    for what, data in (("config and history", image.config), ("manifest", image.manifest)):
        for finding in find_keys(data):
            found.append(f"private key in the image's {what}: {finding}")
    for (layer, path), count in sorted(programs.items()):
        keys = "a private key" if count == 1 else f"{count} private keys"
        verdict.notes.append(
            f"layer {layer + 1}, {path}: {keys} compiled into this program; no enclave's"
        )
    verdict.failed += found
    if not found:
        outside = " outside of programs" if programs else ""
        verdict.passed.append(f"no private key{outside} in layers, history and config")


def _is_templates(finding: KeyFinding, signer: str) -> bool:
    """Whether a key is the published one in Occlum's toolchain, and not this enclave's signer."""
    return (
        finding.path.startswith(TEMPLATES)
        and known_signer(finding.signer) is not None
        and finding.signer != signer
    )
