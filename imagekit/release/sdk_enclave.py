"""Enclaves of the Intel SGX SDK, Occlum's among them: what a file says, and what it measures to."""

from typing import Any

from imagekit.enclave.sdk.load_plan import Region
from imagekit.enclave.sdk.measure import Measurement, load_plan, measure, measured_bytes
from imagekit.enclave.sdk.signed import SdkEnclave, read_enclave
from imagekit.enclave.sigstruct import SigStruct
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.release.signing import in_steps

FILE_LIMIT = 1 << 30
"""Bytes of an enclave's file that are read; Occlum's have some tens of megabytes."""

ELF = b"\x7fELF"
"""How such a file begins."""


def measure_library(data: bytes, name: str, progress: Progress = NO_PROGRESS) -> Measurement:
    """Measure an enclave's file.

    Args:
        data: the file.
        name: how it is called in messages.
        progress: told the bytes hashed.

    Raises:
        InputError: it is no enclave of the SDK, or was never signed.
        CheckError: its metadata contradict each other.
    """
    return measure_enclave(read_enclave(data, name), progress)


def measure_enclave(enclave: SdkEnclave, progress: Progress = NO_PROGRESS) -> Measurement:
    """Measure an enclave; errors as :func:`measure_library`."""
    with progress.task(f"measuring {enclave.name}", measured_bytes(enclave)) as advance:
        return measure(enclave, in_steps(advance))


def describe_library(data: bytes, name: str) -> dict[str, Any]:
    """Describe an enclave's file: metadata, memory, regions; nothing is measured.

    Args:
        data: the file.
        name: how it is called in messages.

    Returns:
        Facts by name. Sizes are bytes; of equal regions in a row the first, and how many.

    Raises:
        InputError: it is no enclave of the SDK, or its metadata are broken.
        CheckError: its metadata contradict each other.
    """
    enclave = read_enclave(data, name)
    if not enclave.blocks:
        return {"signed": False}
    plan = load_plan(enclave)
    return {
        "signed": enclave.is_signed,
        "metadata": dict(enclave.dump_fields()),
        "memory": {
            "enclave_size": plan.enclave_size,
            "committed": plan.required_memory,
            "threads": plan.threads,
        },
        "regions": [_region(region) for region in plan.regions],
    }


def _region(region: Region) -> dict[str, Any]:
    return {
        "start": f"{region.start:#014x}",
        "name": region.name,
        "permissions": region.permissions,
        "pages": region.pages,
        "count": region.count,
        "loaded": "measured" if region.measured else "added" if region.added else "later or never",
    }


def library_sigstruct(data: bytes, name: str) -> SigStruct | None:
    """Give an enclave file's SIGSTRUCT, None if it is not signed.

    Raises:
        InputError: it is no enclave of the SDK.
        CheckError: the SIGSTRUCT is not intact.
    """
    enclave = read_enclave(data, name)
    return enclave.enclave_sigstruct() if enclave.is_signed else None
