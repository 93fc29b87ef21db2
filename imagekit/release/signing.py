"""From a finished manifest to a signed enclave: check, measure, sign.

The one place where a manifest becomes a SIGSTRUCT, for images and for the drop-in tools alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from imagekit.enclave.elf import Elf
from imagekit.enclave.findings import Finding
from imagekit.enclave.gramine import Measurement, measure, measured_bytes, plan_layout
from imagekit.enclave.manifest_rules import signing_findings
from imagekit.enclave.parameters import EnclaveParameters, enclave_parameters
from imagekit.enclave.releases import Release
from imagekit.enclave.sigstruct import SigStruct, SigStructBody, encode_date
from imagekit.errors import ImagekitError, SigningError
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.signing.signer import Signer, sign_body

Tolerance = Literal["nothing", "loads", "stock"]
"""Errors of a manifest that only get a warning: none; those that a loader takes; all those that the
stock signer signs."""


@dataclass(frozen=True)
class SignedEnclave:
    """A measured and signed enclave.

    Attributes:
        manifest: bytes of the ``.manifest.sgx`` file.
        parameters: what it says about the enclave.
        measurement: what was measured.
        sigstruct: what was signed.
        warnings: what is unwise in the manifest.
    """

    manifest: bytes
    parameters: EnclaveParameters
    measurement: Measurement
    sigstruct: SigStruct
    warnings: tuple[Finding, ...]

    @property
    def mr_enclave(self) -> str:
        """64 lower-case hex digits."""
        return self.measurement.mr_enclave.hex()

    @property
    def mr_signer(self) -> str:
        """64 lower-case hex digits."""
        return self.sigstruct.mr_signer.hex()


def refuse(
    findings: Sequence[Finding], what: str, error: type[ImagekitError] = SigningError
) -> None:
    """Raise for the first finding that is an error; its line counts the others.

    Args:
        findings: errors first.
        what: the file or cell that they are about.
        error: what to raise.

    Raises:
        SigningError: or whatever `error` is.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise error(f"{what}: {errors[0].line}{more}", errors[0].hint)


def _never(finding: Finding) -> bool:
    return False


def _loads(finding: Finding) -> bool:
    return finding.loads


def _not_stock(finding: Finding) -> bool:
    return not finding.stock


def check_before_signing(
    manifest: Mapping[str, Any], release: Release, what: str, tolerance: Tolerance = "nothing"
) -> tuple[Finding, ...]:
    """Refuse what must not be signed; give the rest as warnings.

    Args:
        manifest: with defaults and trusted files filled in.
        release: whose rules.
        what: the file or cell, for error messages.
        tolerance: which errors pass as warnings.

    Raises:
        SigningError: the manifest must not be signed.
    """
    findings = signing_findings(manifest, release.name)
    passes = {"nothing": _never, "loads": _loads, "stock": _not_stock}[tolerance]
    refuse([finding for finding in findings if not passes(finding)], what)
    return findings


def measure_and_sign(
    text: bytes,
    manifest: Mapping[str, Any],
    pal: Elf,
    signer: Signer,
    *,
    release: Release,
    date: str,
    what: str,
    warnings: tuple[Finding, ...],
    progress: Progress = NO_PROGRESS,
) -> SignedEnclave:
    """Measure and sign a manifest that was checked already.

    Args:
        text: bytes of the ``.manifest.sgx`` file.
        manifest: the same, parsed.
        pal: the release's ``libpal.so``.
        signer: whose key.
        release: whose rules.
        date: ``YYYY-MM-DD`` for the SIGSTRUCT.
        what: the file or cell, for error messages.
        warnings: what the check found.
        progress: told the bytes hashed.

    Raises:
        SigningError: the manifest cannot be signed, or the signer failed.
    """
    parameters = enclave_parameters(manifest, release)
    measurement = measure_shown(text, pal, parameters, f"measuring {what}", progress)
    body = SigStructBody(
        mr_enclave=measurement.mr_enclave,
        flags=parameters.flags,
        xfrm=parameters.xfrm,
        xfrm_mask=parameters.xfrm_mask,
        misc_select=parameters.misc_select,
        isv_prod_id=parameters.isv_prod_id,
        isv_svn=parameters.isv_svn,
        date=encode_date(date, bcd=release.bcd_date),
    )
    return SignedEnclave(text, parameters, measurement, sign_body(body, signer), warnings)


def measure_shown(
    text: bytes, pal: Elf, parameters: EnclaveParameters, label: str, progress: Progress
) -> Measurement:
    """Measure, and tell `progress` under `label` how many bytes are hashed.

    Raises:
        SigningError: the enclave is too small for its threads and PAL.
    """
    total = measured_bytes(plan_layout(text, pal, parameters))
    with progress.task(label, total) as advance:
        return measure(text, pal, parameters, in_steps(advance))


def in_steps(advance: Callable[[int], None], step: int = 32 << 20) -> Callable[[int], None]:
    """Pass progress on in steps; the hashing loop reports every quarter of a megabyte.

    Args:
        advance: told of each step.
        step: bytes.
    """
    waiting = 0

    def collect(done: int) -> None:
        nonlocal waiting
        waiting += done
        if waiting >= step:
            advance(waiting)
            waiting = 0

    return collect
