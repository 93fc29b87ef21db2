"""What ``tool sgx-sign`` does: Intel SGX SDK enclaves measured, signed, signed elsewhere, shown.

Same inputs, same bytes as ``sgx_sign`` of the Intel SGX SDK 2.26. From bytes to bytes: files are
the business of :mod:`imagekit.release.sgx_files`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from imagekit.enclave.known_signers import INTEL_SAMPLE, known_signer
from imagekit.enclave.sdk.body import DEBUG, signed_body
from imagekit.enclave.sdk.config import EnclaveConfig, parse_config
from imagekit.enclave.sdk.measure import Measurement
from imagekit.enclave.sdk.resign import body_with, with_settings
from imagekit.enclave.sdk.signed import SdkEnclave, read_enclave, with_sigstruct
from imagekit.enclave.sdk.unsigned import read_unsigned, sdk_version
from imagekit.enclave.sdk.writer import SDK, prepare
from imagekit.enclave.sigstruct import (
    KEY_BYTES,
    SigStruct,
    SigStructBody,
    encode_date,
    mr_signer_of,
    parse_sigstruct,
    signature_fits,
)
from imagekit.errors import CheckError, InputError, SigningError
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.release.sdk_enclave import measure_enclave
from imagekit.signing.signer import Signer, sign_body

TBS_BYTES = 256
"""Bytes of what ``gendata`` writes: SIGSTRUCT's bytes 0-127 and 900-1027."""

_DATE = slice(20, 24)  # of SIGSTRUCT, and so of the to-be-signed block


@dataclass(frozen=True)
class Tolerance:
    """What is let pass with a warning.

    Attributes:
        signed: an enclave that is signed already.
        relocations: relocations in code.
        init: an ``.init`` section.
    """

    signed: bool = False
    relocations: bool = False
    init: bool = False


STRICT = Tolerance()
"""Nothing is let pass."""


@dataclass(frozen=True)
class ReadyEnclave:
    """An enclave that lacks nothing but its signature.

    Attributes:
        enclave: the file; what SIGSTRUCT it has does not count.
        measurement: of the file.
        body: what is to be signed, without a date.
        warnings: what is unwise about it.
    """

    enclave: SdkEnclave
    measurement: Measurement
    body: SigStructBody
    warnings: tuple[str, ...]

    def dated(self, date: bytes) -> SigStructBody:
        """Give what is to be signed, with the DATE field of 4 bytes."""
        return replace(self.body, date=date)


@dataclass(frozen=True)
class SignedLibrary:
    """A signed enclave library.

    Attributes:
        data: the whole file.
        sigstruct: what was signed.
        warnings: what is unwise about the key.
    """

    data: bytes
    sigstruct: SigStruct
    warnings: tuple[str, ...]


def make_ready(
    data: bytes,
    name: str,
    config: bytes | None = None,
    config_name: str = "the configuration",
    *,
    tolerance: Tolerance = STRICT,
    progress: Progress = NO_PROGRESS,
) -> ReadyEnclave:
    """Lay an enclave out, or take the layout it has, and measure it.

    An unsigned library is laid out by its configuration, or by the SDK's defaults. One that is
    signed already is laid out anew if it is of the SDK whose rules are known and a configuration
    is given; else it keeps its layout.

    Args:
        data: the library.
        name: how it is called in messages.
        config: the XML; None for defaults, or for what the enclave was signed with before.
        config_name: how that is called.
        tolerance: what is let pass.
        progress: told the bytes hashed.

    Raises:
        InputError: library or configuration cannot be used.
        SigningError: signed already, and `tolerance` does not let that pass.
        CheckError: the library's metadata contradict each other.
    """
    settings, warnings = None, list[str]()
    if config is not None:
        settings, warnings = parse_config(config, config_name)
    enclave = read_enclave(data, name)
    if enclave.is_signed and not tolerance.signed:
        raise SigningError(f"{name}: the enclave is signed already", "give -resign to sign it anew")
    signed_as = None
    if enclave.is_signed and (settings is None or sdk_version(enclave.image) != SDK):
        body = enclave.enclave_sigstruct().body
        signed_as = body.mr_enclave
        if settings is not None:
            enclave = with_settings(enclave, settings, config_name)
            body = body_with(body, settings)
        warnings.append(f"{name}: keeps the layout that it was signed with")
    else:
        enclave, body, found = _laid_out(data, name, settings, tolerance)
        warnings += found
    measurement = measure_enclave(enclave, progress)
    if signed_as not in (None, measurement.mr_enclave):
        warnings.append(f"{name}: the file was changed after it was signed")
    if not body.flags_mask & DEBUG:
        warnings.append(f"{name}: DisableDebug is 0, so the host may start it as a debug enclave")
    body = replace(body, mr_enclave=measurement.mr_enclave, date=bytes(4))
    return ReadyEnclave(enclave, measurement, body, tuple(warnings))


def _laid_out(
    data: bytes, name: str, settings: EnclaveConfig | None, tolerance: Tolerance
) -> tuple[SdkEnclave, SigStructBody, list[str]]:
    """Lay a library out; the body has no measurement yet."""
    library = read_unsigned(
        data, name, ignore_relocations=tolerance.relocations, ignore_init=tolerance.init
    )
    warnings = list(library.warnings)
    if settings is None:
        settings = EnclaveConfig()
        warnings.append(f"{name}: no -config, so the SDK's defaults count")
    enclave = prepare(library, settings).enclave
    return enclave, signed_body(settings, bytes(32), bytes(4)), warnings


def check_signer(modulus: int, body: SigStructBody) -> tuple[str, ...]:
    """Refuse a key that says nothing of who signed; give warnings about others of that kind.

    Args:
        modulus: of the key.
        body: what it is to sign.

    Raises:
        SigningError: Intel's sample key for an enclave that is not for debugging.
    """
    mr_signer = mr_signer_of(modulus).hex()
    public = known_signer(mr_signer)
    if public is None:
        return ()
    line = f"mr_signer {mr_signer[:16]}… is {public}: anybody can sign with it"
    if mr_signer == INTEL_SAMPLE and body.flags_mask & DEBUG:
        raise SigningError(
            line, "make a key with: imagekit key generate; occlum build takes it as --sign-key"
        )
    return (line,)


def sign_ready(ready: ReadyEnclave, signer: Signer, date: str) -> SignedLibrary:
    """Sign.

    Args:
        ready: the enclave.
        signer: whose key.
        date: ``YYYY-MM-DD``.

    Raises:
        SigningError: the key must not or cannot be used.
    """
    warnings = check_signer(signer.modulus, ready.body)
    sigstruct = sign_body(ready.dated(encode_date(date)), signer)
    return _finished(ready, sigstruct, warnings)


def _finished(
    ready: ReadyEnclave, sigstruct: SigStruct, warnings: tuple[str, ...]
) -> SignedLibrary:
    enclave = ready.enclave
    data = with_sigstruct(enclave.image.data, sigstruct.to_bytes(), enclave.name)
    return SignedLibrary(data, sigstruct, warnings)


def join_signature(
    ready: ReadyEnclave, modulus: int, signature: bytes, tbs: bytes, names: Mapping[str, str]
) -> SignedLibrary:
    """Put a signature that was made elsewhere into an enclave.

    Args:
        ready: the enclave, measured again.
        modulus: of the public key.
        signature: 384 bytes, big-endian, as OpenSSL writes it.
        tbs: what was signed, as ``gendata`` wrote it; only its date is taken over.
        names: how `signature` and `tbs` are called in messages, by these two words.

    Raises:
        InputError: `signature` or `tbs` has another size.
        CheckError: `tbs` is of another enclave or configuration.
        SigningError: the signature is not that key's, or the key must not be used.
    """
    if len(signature) != KEY_BYTES:
        raise InputError(
            f"{names['signature']}: a signature has {KEY_BYTES} bytes, this has {len(signature)}",
            "make it with: openssl dgst -sha256 -sign KEY -out FILE",
        )
    if len(tbs) != TBS_BYTES:
        raise InputError(
            f"{names['tbs']}: signing material has {TBS_BYTES} bytes, this has {len(tbs)}",
            "give the file that gendata wrote",
        )
    body = ready.dated(tbs[_DATE])
    _check_material(body.to_be_signed(), tbs, names["tbs"])
    number = int.from_bytes(signature, "big")
    if not signature_fits(tbs, modulus, number):
        raise SigningError(
            f"{names['signature']}: is no signature of {names['tbs']} by this key",
            "give the public key of the key that signed, and RSA PKCS#1 v1.5 with SHA-256",
        )
    warnings = check_signer(modulus, body)
    sigstruct = SigStruct(body, modulus, number)
    parse_sigstruct(sigstruct.to_bytes(), names["signature"])
    return _finished(ready, sigstruct, warnings)


# Ranges of the to-be-signed block for people; what is in none of them is a header.
_PARTS = (
    (188, 220, "measurement"),
    (156, 188, "attributes"),
    (128, 136, "MISCSELECT"),
    (252, 256, "ProdID or ISVSVN"),
    (140, 156, "ISVFAMILYID"),
    (236, 252, "ISVEXTPRODID"),
)


def _check_material(wanted: bytes, tbs: bytes, name: str) -> None:
    if wanted == tbs:
        return
    found = [what for low, high, what in _PARTS if wanted[low:high] != tbs[low:high]]
    parts = " and ".join(found) or "header"
    raise CheckError(
        f"{name}: is not of this enclave and configuration: it has another {parts}",
        "give catsig the same -enclave and -config as gendata",
    )
