"""Checking a finished image from its own content alone.

Labels, names and the lock file are claims; manifest, PAL, trusted files and SIGSTRUCT are looked
at, every blob is hashed again, and the measurement is computed anew. All findings are collected: a
check that stops at the first one hides the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagekit.enclave.elf import Elf, parse_elf
from imagekit.enclave.gramine import measure
from imagekit.enclave.parameters import FLAG_DEBUG, enclave_parameters, parse_gramine_size
from imagekit.enclave.releases import GRAMINE_1_3, NEWEST, Release
from imagekit.enclave.sigstruct import SigStruct, parse_sigstruct
from imagekit.enclave.standin import is_standin
from imagekit.errors import CheckError, ImagekitError, InputError
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
from imagekit.release.cell import MANIFEST, MANIFEST_SGX, SIGFILE
from imagekit.release.cells import LABEL
from imagekit.release.configuration import ImageTree
from imagekit.release.occlum_image import is_occlum, read_library_sigstruct
from imagekit.release.signing import check_before_signing
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
from imagekit.render.manifest import complete_manifest, trusted_hashes
from imagekit.render.toml_text import parse_toml
from imagekit.spec.matrix import Cell

_ENTRY_SUFFIX = "libsysdb.so"


@dataclass(frozen=True)
class Enclave:
    """What an image holds of its enclave.

    Attributes:
        text: bytes of ``bash.manifest.sgx``.
        manifest: the same, parsed.
        sigstruct: the signature.
        pal_path: where the PAL is in the image.
        pal: Gramine's PAL.
        release: whose rules the manifest follows.
    """

    text: bytes
    manifest: Mapping[str, Any]
    sigstruct: SigStruct
    pal_path: str
    pal: Elf
    release: Release


def release_of(manifest: Mapping[str, Any]) -> Release:
    """Tell from a finished manifest which release's tools wrote it."""
    sgx = manifest.get("sgx", {})
    return GRAMINE_1_3 if "thread_num" in sgx and "max_threads" not in sgx else NEWEST


def pal_path_of(manifest: Mapping[str, Any]) -> str:
    """Give where the PAL of a manifest's Gramine is: beside its entry point.

    Raises:
        InputError: the entry point is not Gramine's.
    """
    entry = manifest.get("loader", {}).get("entrypoint")
    uri = entry.get("uri") if isinstance(entry, Mapping) else entry
    if not isinstance(uri, str) or not uri.endswith(f"/{_ENTRY_SUFFIX}"):
        raise InputError(
            f"{MANIFEST_SGX}: loader.entrypoint: {uri!r} is not Gramine's {_ENTRY_SUFFIX}",
            "the manifest was not made for Gramine",
        )
    return uri.removeprefix("file:").removesuffix(_ENTRY_SUFFIX) + "sgx/libpal.so"


def read_named_pal(rootfs: Rootfs, manifest: Mapping[str, Any]) -> tuple[str, Elf]:
    """Read the PAL that a manifest's entry point belongs to; give its path and content.

    Raises:
        InputError: it is not in the image, or not an ELF file.
    """
    path = pal_path_of(manifest)
    if rootfs.kind(path) != "file":
        raise InputError(
            f"{MANIFEST_SGX}: loader.entrypoint: there is no {path} in the image",
            "its manifest names another Gramine",
        )
    return path, parse_elf(rootfs.read(path), path)


def _no_enclave() -> InputError:
    return InputError(
        f"the image has no {MANIFEST_SGX}: it is not an enclave image",
        "give the custom image, not its base",
    )


def read_manifest(rootfs: Rootfs) -> tuple[bytes, dict[str, Any]]:
    """Read ``bash.manifest.sgx`` out of an image.

    Raises:
        InputError: not there, or not readable.
        CheckError: it is TOML, but no finished manifest.
    """
    if rootfs.kind(MANIFEST_SGX) != "file":
        raise _no_enclave()
    text = rootfs.read(MANIFEST_SGX)
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        raise InputError(f"{MANIFEST_SGX}: not UTF-8 text", "build the image again") from None
    try:
        manifest = parse_toml(decoded, NEWEST, MANIFEST_SGX)
    except InputError:
        # 1.3 writes TOML that newer parsers may refuse.
        manifest = parse_toml(decoded, GRAMINE_1_3, MANIFEST_SGX)
    _check_shape(manifest)
    return text, manifest


def _check_shape(manifest: Mapping[str, Any]) -> None:
    """Refuse what no signing tool ever wrote, before anything relies on it.

    Raises:
        CheckError: a table or the list of trusted files is not of the right kind.
    """

    def bad(what: str) -> CheckError:
        return CheckError(f"{MANIFEST_SGX}: {what}", "this is not what was signed: build it again")

    for name in ("sgx", "loader"):
        if not isinstance(manifest.get(name), Mapping):
            raise bad(f"{name} is missing or no table")
    files = manifest["sgx"].get("trusted_files", [])
    if not isinstance(files, list):
        raise bad("sgx.trusted_files is no array")
    entry = manifest["loader"].get("entrypoint")
    listed = [(f"sgx.trusted_files[{number}]", item) for number, item in enumerate(files)]
    if isinstance(entry, Mapping):
        listed.append(("loader.entrypoint", entry))
    elif not isinstance(entry, str):
        raise bad("loader.entrypoint is missing")
    for key, item in listed:
        uri, sha256 = (
            (item.get("uri"), item.get("sha256")) if isinstance(item, Mapping) else (None, None)
        )
        if not (isinstance(uri, str) and uri.startswith("file:") and isinstance(sha256, str)):
            raise bad(f"{key} is no file: URI with a sha256")


def read_enclave(rootfs: Rootfs) -> Enclave:
    """Read manifest, signature and PAL out of an image.

    Raises:
        InputError: one of them is missing or unreadable.
        CheckError: the SIGSTRUCT is not intact.
    """
    text, manifest = read_manifest(rootfs)
    if rootfs.kind(SIGFILE) != "file":
        raise InputError(f"the image has no {SIGFILE}", "build the image again")
    sigstruct = parse_sigstruct(rootfs.read(SIGFILE), SIGFILE)
    pal_path, pal = read_named_pal(rootfs, manifest)
    return Enclave(text, manifest, sigstruct, pal_path, pal, release_of(manifest))


def verify_image(image: Image, rootfs: Rootfs, expected: Expected) -> Verdict:
    """Check everything that can be checked about an image.

    Args:
        image: the image.
        rootfs: its merged view, hashed anew (not from a cache).
        expected: what it should be.

    Raises:
        InputError: no enclave image at all, or a lock file that cannot be read.
    """
    if is_occlum(rootfs):
        from imagekit.release.verify_occlum import verify_occlum  # here: most images are Gramine's

        return verify_occlum(image, rootfs, expected)
    if rootfs.kind(MANIFEST_SGX) is None and not rootfs.problems:
        raise _no_enclave()
    verdict = Verdict()
    guard(verdict, lambda: check_keys(verdict, image, rootfs, _signer(rootfs)))
    for problem in rootfs.problems:
        verdict.failed.append(problem)
    try:
        enclave = read_enclave(rootfs)
    except ImagekitError as error:
        verdict.failed.append(error.problem)
        guard(verdict, lambda: _check_trusted(verdict, rootfs, read_manifest(rootfs)[1]))
        return verdict
    body, pal = enclave.sigstruct.body, enclave.pal
    verdict.mr_enclave, verdict.mr_signer = body.mr_enclave.hex(), enclave.sigstruct.mr_signer.hex()
    verdict.passed.append("signature, q1 and q2")
    guard(verdict, lambda: _check_measurement(verdict, enclave))
    guard(verdict, lambda: _check_trusted(verdict, rootfs, enclave.manifest))
    guard(verdict, lambda: _check_early_manifest(verdict, rootfs, enclave))
    guard(verdict, lambda: _check_claims(verdict, image, enclave, expected))
    check_expected(verdict, image, expected)
    check_debug(verdict, enclave.sigstruct, expected)
    check_standin(verdict, is_standin(pal.data), enclave.pal_path, "Gramine", expected)
    guard(verdict, lambda: check_doors(verdict, image, rootfs, MANIFEST_SGX))
    return verdict


def _signer(rootfs: Rootfs) -> str:
    try:
        return read_sigstruct(rootfs).mr_signer.hex()
    except ImagekitError:
        return ""


def read_sigstruct(rootfs: Rootfs) -> SigStruct:
    """Read the SIGSTRUCT of an enclave image, whatever its library OS.

    Raises:
        InputError: there is none.
        CheckError: it is not intact.
    """
    if is_occlum(rootfs):
        return read_library_sigstruct(rootfs)
    return parse_sigstruct(rootfs.read(SIGFILE), SIGFILE)


def _check_measurement(verdict: Verdict, enclave: Enclave) -> None:
    body = enclave.sigstruct.body
    parameters = enclave_parameters(enclave.manifest, enclave.release)
    measured = measure(enclave.text, enclave.pal, parameters)
    verdict.check(
        "mr_enclave recomputed from manifest and PAL",
        measured.mr_enclave == body.mr_enclave,
        f"mr_enclave: {SIGFILE} says {body.mr_enclave.hex()}, but {MANIFEST_SGX} and "
        f"{enclave.pal_path} measure to {measured.mr_enclave.hex()}",
    )
    for name in ("flags", "xfrm", "xfrm_mask", "misc_select", "isv_prod_id", "isv_svn"):
        signed, wanted = getattr(body, name), getattr(parameters, name)
        if signed != wanted:
            verdict.failed.append(
                f"{name}: {SIGFILE} says {signed:#x}, {MANIFEST_SGX} says {wanted:#x}"
            )
    verdict.check(
        "attribute masks",
        bool(body.flags_mask & FLAG_DEBUG) and body.misc_mask == 0xFFFFFFFF,
        f"{SIGFILE}: the attribute mask lets the host start the enclave in debug mode",
    )
    check_before_signing(enclave.manifest, enclave.release, MANIFEST_SGX, "loads")
    verdict.passed.append("manifest values")


def _check_trusted(verdict: Verdict, rootfs: Rootfs, manifest: Mapping[str, Any]) -> None:
    hashes = trusted_hashes(manifest)
    wrong = 0
    for path, wanted in hashes.items():
        if rootfs.kind(path) != "file":
            verdict.failed.append(f"trusted file {path} is not in the image")
        elif rootfs.sha256(path) != wanted:
            verdict.failed.append(
                f"trusted file {path}: its SHA-256 is {rootfs.sha256(path)}, not {wanted}"
            )
        else:
            continue
        wrong += 1
    if not wrong:
        verdict.passed.append(f"{len(hashes)} trusted files")


def _check_early_manifest(verdict: Verdict, rootfs: Rootfs, enclave: Enclave) -> None:
    """``bash.manifest`` must be what the signed manifest was made from."""
    if rootfs.kind(MANIFEST) != "file":
        verdict.notes.append(f"{MANIFEST} is not in the image")
        return
    early = rootfs.read(MANIFEST)
    same = early == enclave.text
    if not same:
        libos = pal_path_of(enclave.manifest).removesuffix("sgx/libpal.so") + _ENTRY_SUFFIX
        _, made = complete_manifest(
            early.decode("utf-8", "replace"),
            enclave.release,
            name=MANIFEST,
            libos=libos,
            tree=ImageTree(rootfs),
        )
        same = made == enclave.text
    verdict.check(
        "bash.manifest leads to bash.manifest.sgx",
        same,
        f"{MANIFEST} is not what {MANIFEST_SGX} was made from",
    )


def cell_of(manifest: Mapping[str, Any]) -> Cell:
    """Give the cell that a manifest describes.

    Raises:
        SigningError: its size is not readable.
    """
    sgx, loader = manifest.get("sgx", {}), manifest.get("loader", {})
    return Cell(
        "gramine",
        parse_gramine_size(sgx.get("enclave_size")),
        str(loader.get("log_level", "error")),
        str(sgx.get("remote_attestation", "none")),
    )


def _check_claims(verdict: Verdict, image: Image, enclave: Enclave, expected: Expected) -> None:
    """Labels and name against the content."""
    facts = {"gramine": enclave.release.name}
    cell, standin = cell_of(enclave.manifest), is_standin(enclave.pal.data)
    wrong = _check_profile(verdict, image.labels.get(f"{LABEL}profile"), enclave.manifest)
    check_claims(verdict, image, cell, standin, facts, wrong)
    check_name(verdict, cell, expected, "the manifest")


def _check_profile(verdict: Verdict, label: str | None, manifest: Mapping[str, Any]) -> list[str]:
    """What the host may do, said; a label "strict" over an open manifest is a finding."""
    sgx, loader = manifest["sgx"], manifest["loader"]
    open_ways = [
        key
        for key, is_open in (
            ("sgx.file_check_policy", sgx.get("file_check_policy", "strict") != "strict"),
            ("sgx.allowed_files", bool(sgx.get("allowed_files"))),
            ("loader.insecure__use_host_env", bool(loader.get("insecure__use_host_env"))),
            ("loader.insecure__use_cmdline_argv", bool(loader.get("insecure__use_cmdline_argv"))),
        )
        if is_open
    ]
    if open_ways and label == "strict":
        return [f"label {LABEL}profile says 'strict', but the manifest has {', '.join(open_ways)}"]
    if open_ways:
        verdict.notes.append(
            f"not strict: {', '.join(open_ways)} let the host choose files, environment or command"
        )
    return []
