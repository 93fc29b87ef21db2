"""Checking an image of Occlum from its own content alone.

The enclave is one file, the signed library OS, and measures to mr_enclave by itself. What it runs
lies beside it, and is tied to it by Occlum's own tags, which anybody can forge
(:mod:`imagekit.enclave.occlum.protected_file`). So these are checked, and every file of the
instance is held against imagekit's list of SHA-256 hashes as well.
"""

from dataclasses import dataclass

from imagekit.enclave.known_signers import known_signer
from imagekit.enclave.occlum.built import layout_findings, sigstruct_findings
from imagekit.enclave.occlum.config import config_findings, read_occlum_config
from imagekit.enclave.occlum.document import parse_document
from imagekit.enclave.occlum.enclave_xml import enclave_config
from imagekit.enclave.occlum.model import Mount, OcclumConfig
from imagekit.enclave.occlum.versions import OcclumVersion, occlum_version
from imagekit.enclave.sdk.body import DEBUG
from imagekit.enclave.sdk.signed import SdkEnclave, read_enclave
from imagekit.enclave.sigstruct import SigStruct
from imagekit.enclave.standin import is_standin
from imagekit.errors import ImagekitError
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
from imagekit.release.cells import LABEL
from imagekit.release.occlum_base import find_library
from imagekit.release.occlum_files import check_files, check_tags
from imagekit.release.occlum_image import (
    CONFIG,
    LIBRARY,
    LOG_VARIABLE,
    read_library,
    read_library_sigstruct,
)
from imagekit.release.sdk_enclave import measure_enclave
from imagekit.release.verdict import (
    Expected,
    Verdict,
    check_claims,
    check_debug,
    check_doors,
    check_expected,
    check_keys,
    check_name,
    check_standin,
    guard,
)
from imagekit.runtime.paths import OCCLUM_START
from imagekit.runtime.place import ATTESTATION_VARIABLE
from imagekit.spec.matrix import Cell

EXINFO = 1
"""Bit of MISCSELECT (Intel SDM volume 3D) that EDMM needs."""


@dataclass(frozen=True)
class OcclumEnclave:
    """What an image holds of its enclave.

    Attributes:
        library: the signed library OS, its bytes.
        enclave: the same, read.
        sigstruct: its signature.
        version: whose rules its configuration follows.
        document: ``Occlum.json``, parsed.
        config: the same, typed.
    """

    library: bytes
    enclave: SdkEnclave
    sigstruct: SigStruct
    version: OcclumVersion
    document: object
    config: OcclumConfig


def verify_occlum(image: Image, rootfs: Rootfs, expected: Expected) -> Verdict:
    """Check everything that can be checked about an image of Occlum.

    Args:
        image: the image.
        rootfs: its merged view, hashed anew (not from a cache).
        expected: what it should be.

    Raises:
        InputError: a lock file that cannot be read.
    """
    verdict = Verdict()
    guard(verdict, lambda: check_keys(verdict, image, rootfs, _signer(rootfs)))
    for problem in rootfs.problems:
        verdict.failed.append(problem)
    entry = None
    try:
        found = read_occlum(image, rootfs)
    except ImagekitError as error:
        verdict.failed.append(error.problem)
    else:
        body = found.sigstruct.body
        verdict.mr_enclave, verdict.mr_signer = (
            body.mr_enclave.hex(),
            found.sigstruct.mr_signer.hex(),
        )
        verdict.passed.append("signature, q1 and q2")
        guard(verdict, lambda: _check_measurement(verdict, found))
        guard(verdict, lambda: _check_config(verdict, found, expected))
        guard(verdict, lambda: check_tags(verdict, rootfs, found.enclave, found.config))
        guard(verdict, lambda: _check_claims(verdict, image, found, expected))
        entry = check_expected(verdict, image, expected)
        _check_signer(verdict, found, expected)
        check_standin(verdict, is_standin(found.library), LIBRARY, "Occlum", expected)
    guard(verdict, lambda: check_files(verdict, image, rootfs, entry))
    guard(verdict, lambda: check_doors(verdict, image, rootfs, LIBRARY))
    return verdict


def _signer(rootfs: Rootfs) -> str:
    try:
        return read_library_sigstruct(rootfs).mr_signer.hex()
    except ImagekitError:
        return ""


def version_of(image: Image, rootfs: Rootfs) -> OcclumVersion:
    """Tell which Occlum an image's instance was made with: its label says it, else its toolchain.

    Raises:
        UsageError: a version whose rules are not known.
        InputError: neither says it.
    """
    label = image.labels.get(f"{LABEL}occlum")
    return occlum_version(label if label is not None else find_library(rootfs)[1])


def read_occlum(image: Image, rootfs: Rootfs) -> OcclumEnclave:
    """Read configuration and enclave out of an image.

    Raises:
        InputError: one of them is missing or unreadable.
        UsageError: the configuration is not one that this version of Occlum takes.
        CheckError: the SIGSTRUCT is not intact.
    """
    library = read_library(rootfs)
    enclave = read_enclave(library, LIBRARY)
    sigstruct = enclave.enclave_sigstruct()
    version = version_of(image, rootfs)
    document = parse_document(rootfs.read(CONFIG), CONFIG)
    config = read_occlum_config(document, version, CONFIG)
    return OcclumEnclave(library, enclave, sigstruct, version, document, config)


def _check_measurement(verdict: Verdict, found: OcclumEnclave) -> None:
    signed, measured = found.sigstruct.body.mr_enclave, measure_enclave(found.enclave).mr_enclave
    verdict.check(
        f"mr_enclave recomputed from {LIBRARY.rpartition('/')[2]}",
        measured == signed,
        f"mr_enclave: the SIGSTRUCT in {LIBRARY} says {signed.hex()}, but the file measures to "
        f"{measured.hex()}",
    )


def _check_config(verdict: Verdict, found: OcclumEnclave, expected: Expected) -> None:
    """The configuration against the rules of its version, and the enclave against it."""
    release = not expected.allow_debug
    findings = config_findings(found.document, found.version, release=release)
    wrong = [f"{CONFIG}: {one.line}" for one in findings if one.severity == "error"]
    verdict.failed += wrong
    if not wrong:
        verdict.passed.append(f"Occlum.json fits Occlum {found.version.name}")
    # Before 0.30.1 an option of the build asks for EDMM; then the enclave alone says so.
    edmm = found.version.has_edmm and bool(found.sigstruct.body.misc_select & EXINFO)
    wanted = enclave_config(found.config, edmm=edmm)
    differing = [
        *sigstruct_findings(wanted, found.sigstruct.body),
        *layout_findings(wanted, found.enclave.metadata),
    ]
    verdict.failed += [f"{CONFIG}: {one.line}" for one in differing]
    if not differing:
        verdict.passed.append("the enclave has the sizes, threads and ids of Occlum.json")


def _check_signer(verdict: Verdict, found: OcclumEnclave, expected: Expected) -> None:
    published = known_signer(verdict.mr_signer)
    if published is not None and not is_standin(found.library):
        failure = f"mr_signer is {published}: anybody can sign so"
        verdict.check("signed with a key of its own", expected.allow_debug, failure)
    check_debug(verdict, found.sigstruct, expected)
    verdict.check(
        "attribute masks",
        expected.allow_debug or bool(found.sigstruct.body.flags_mask & DEBUG),
        f"{LIBRARY}: the attribute mask lets the host start the enclave in debug mode "
        "(--allow-debug accepts that)",
    )


def cell_of(image: Image, config: OcclumConfig) -> Cell:
    """Give the cell that a configuration describes; the log level is the image's own variable."""
    return Cell(
        "occlum",
        config.user_space,
        image.env.get(LOG_VARIABLE, "off"),
        dict(config.env_default).get(ATTESTATION_VARIABLE, "none"),
    )


def _check_claims(verdict: Verdict, image: Image, found: OcclumEnclave, expected: Expected) -> None:
    """Labels and name against the content."""
    cell, standin = cell_of(image, found.config), is_standin(found.library)
    wrong = _check_profile(verdict, image.labels.get(f"{LABEL}profile"), found.config)
    check_claims(verdict, image, cell, standin, {"occlum": found.version.name}, wrong)
    check_name(verdict, cell, expected, CONFIG)


def _check_profile(verdict: Verdict, label: str | None, config: OcclumConfig) -> list[str]:
    """What the host may do, said; a label "strict" over an open configuration is a finding."""
    sealed = OCCLUM_START.rpartition("/")[0]
    default = {name for name, _ in config.env_default}
    open_ways = [
        *(
            f"entry point {path}"
            for path in config.entry_points
            if not f"{path.rstrip('/')}/".startswith(f"{sealed}/")
        ),
        *(f"mount {mount.target} of the host's" for mount in config.mounts if _is_hosts(mount)),
        *(f"variable {name}" for name in config.env_untrusted if name in default),
    ]
    if open_ways and label == "strict":
        return [f"label {LABEL}profile says 'strict', but Occlum.json has {', '.join(open_ways)}"]
    if open_ways:
        verdict.notes.append(
            f"not strict: {', '.join(open_ways)} let the host choose programs, files or values"
        )
    return []


def _is_hosts(mount: Mount) -> bool:
    return mount.type == "hostfs" or any(_is_hosts(layer) for layer in mount.layers)
