"""Opening finished images for ``inspect``, ``measure`` and ``verify``, and what they say."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagekit.enclave.gramine import Measurement
from imagekit.enclave.parameters import FLAG_DEBUG, enclave_parameters
from imagekit.enclave.releases import NEWEST, release_named
from imagekit.enclave.sdk.measure import Measurement as SdkMeasurement
from imagekit.enclave.sigstruct import SigStruct, decode_date, parse_sigstruct
from imagekit.errors import UsageError
from imagekit.images.cache import Cache
from imagekit.images.oci import Image
from imagekit.images.open import open_image
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.references import parse_reference
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.rootfs import Rootfs
from imagekit.release.cell import SIGFILE
from imagekit.release.gramine_tools import read_input, read_pal, read_text
from imagekit.release.occlum_image import LIBRARY, is_occlum, read_library
from imagekit.release.sdk_enclave import (
    ELF,
    FILE_LIMIT,
    describe_library,
    library_sigstruct,
    measure_library,
)
from imagekit.release.signing import measure_shown
from imagekit.release.verify import read_manifest, read_named_pal, release_of
from imagekit.render.toml_text import parse_toml


def measurement_option(text: str | None, option: str) -> str | None:
    """Read an option that takes a measurement: 64 hex digits, case does not matter.

    Raises:
        UsageError: something else.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text, re.ASCII):
        raise UsageError(f"{option} {text!r} is not 64 hex digits", "copy it from a build's output")
    return text.lower()


def describe_sigstruct(sigstruct: SigStruct) -> dict[str, Any]:
    """Give the fields of a SIGSTRUCT; masks and attributes as hexadecimal text.

    ``debug`` says that it is a debug enclave, ``debuggable`` that a host may start it as one.
    """
    body = sigstruct.body
    return {
        "mr_enclave": body.mr_enclave.hex(),
        "mr_signer": sigstruct.mr_signer.hex(),
        "isv_prod_id": body.isv_prod_id,
        "isv_svn": body.isv_svn,
        "debug": bool(body.flags & FLAG_DEBUG),
        "debuggable": not body.flags_mask & FLAG_DEBUG or bool(body.flags & FLAG_DEBUG),
        "date": decode_date(body.date),
        "attributes": {
            "flags": f"{body.flags:#x}",
            "flags_mask": f"{body.flags_mask:#x}",
            "xfrm": f"{body.xfrm:#x}",
            "xfrm_mask": f"{body.xfrm_mask:#x}",
            "misc_select": f"{body.misc_select:#x}",
            "misc_mask": f"{body.misc_mask:#x}",
        },
    }


def inspect_file(path: Path) -> dict[str, Any]:
    """Describe a SIGSTRUCT file, or an enclave's file of the Intel SGX SDK.

    Raises:
        InputError: it cannot be read, or is neither.
        CheckError: its SIGSTRUCT is not intact.
    """
    data = read_input(path, "SIGSTRUCT or enclave", FILE_LIMIT)
    if not data.startswith(ELF):
        sigstruct = parse_sigstruct(data, str(path))
        return {"file": str(path), "sigstruct": describe_sigstruct(sigstruct)}
    return {"file": str(path), **_enclave_facts(data, str(path))}


def _enclave_facts(data: bytes, name: str) -> dict[str, Any]:
    facts = describe_library(data, name)
    signed = library_sigstruct(data, name)
    return facts if signed is None else {**facts, "sigstruct": describe_sigstruct(signed)}


def inspect_image(
    reference: str, access: RegistryAccess, progress: Progress = NO_PROGRESS
) -> dict[str, Any]:
    """Describe an image: labels, entry point, layers, and its SIGSTRUCT if it has one.

    Raises:
        InputError: it cannot be read.
        CheckError: its SIGSTRUCT is not intact.
    """
    cache = Cache()
    image = open_image(reference, cache, access, progress)
    rootfs = Rootfs.from_image(image, cache, progress)
    facts: dict[str, Any] = {
        "image": reference,
        "digest": image.digest,
        "created": image.created,
        "layers": [{"digest": layer.digest, "size": layer.size} for layer in image.layers],
        "entrypoint": list(image.entrypoint),
        "labels": dict(sorted(image.labels.items())),
    }
    if is_occlum(rootfs):
        return facts | _enclave_facts(read_library(rootfs), LIBRARY)
    if rootfs.kind(SIGFILE) == "file":
        facts["sigstruct"] = describe_sigstruct(parse_sigstruct(rootfs.read(SIGFILE), SIGFILE))
    return facts


def as_lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """Lay nested facts out as lines."""
    width = max((len(key) for key in facts), default=0)
    lines = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *as_lines(value, indent + "  ")]
        elif isinstance(value, list):
            rows = [[str(v) for v in _cells(item)] for item in value]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            shown = (" ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
            lines += [f"{indent}{key}:", *(f"{indent}  {line}" for line in shown)]
        else:
            shown_value = str(value).lower() if isinstance(value, bool) else value
            lines.append(f"{indent}{key:<{width}} : {shown_value}")
    return lines


def _cells(item: object) -> list[object]:
    return list(item.values()) if isinstance(item, Mapping) else [item]


def fresh_view(
    reference: str, access: RegistryAccess, progress: Progress = NO_PROGRESS
) -> tuple[Image, Rootfs, str | None]:
    """Open an image for verification: every blob is hashed again, nothing is taken from the cache.

    Returns:
        The image, its merged view, and the name it goes by (label, else tag), if any.

    Raises:
        InputError: it cannot be read at all. Damaged layers are in the view's ``problems``.
    """
    image = open_image(reference, Cache(), access, progress)
    rootfs = Rootfs.from_image(image, None, progress, lenient=True)
    name = parse_reference(reference).called or image.labels.get("org.opencontainers.image.title")
    return image, rootfs, name


def measure_files(
    manifest_file: Path, libpal: Path, version: str | None, progress: Progress = NO_PROGRESS
) -> Measurement:
    """Measure a ``.manifest.sgx`` file with a PAL.

    Raises:
        InputError: a file is missing or not what it should be.
        SigningError: the manifest describes no enclave.
    """
    text = read_text(manifest_file, "manifest")
    release = release_named(version) if version else None
    manifest = parse_toml(text, release or NEWEST, str(manifest_file))
    parameters = enclave_parameters(manifest, release or release_of(manifest))
    return measure_shown(text.encode(), read_pal(libpal), parameters, "measuring", progress)


def measure_file(path: Path, progress: Progress = NO_PROGRESS) -> SdkMeasurement:
    """Measure an enclave's file of the Intel SGX SDK, such as Occlum's.

    Raises:
        InputError: it is missing, no such enclave, or was never signed.
        CheckError: its metadata contradict each other.
    """
    return measure_library(read_input(path, "enclave", FILE_LIMIT), str(path), progress)


def measure_image(
    reference: str,
    version: str | None,
    access: RegistryAccess,
    progress: Progress = NO_PROGRESS,
) -> Measurement | SdkMeasurement:
    """Measure an image: its manifest with its own PAL, or the enclave that Occlum made.

    Labels, signature and lock are not looked at.

    Raises:
        InputError: it cannot be read or is no enclave image.
        SigningError: the manifest describes no enclave.
    """
    cache = Cache()
    image = open_image(reference, cache, access, progress)
    rootfs = Rootfs.from_image(image, cache, progress)
    if is_occlum(rootfs):
        return measure_library(read_library(rootfs), LIBRARY, progress)
    text, manifest = read_manifest(rootfs)
    _, pal = read_named_pal(rootfs, manifest)
    release = release_named(version) if version else release_of(manifest)
    return measure_shown(text, pal, enclave_parameters(manifest, release), "measuring", progress)
