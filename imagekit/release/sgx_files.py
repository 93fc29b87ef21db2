"""The files that ``tool sgx-sign`` reads and writes: all outputs together, or none."""

from collections.abc import Mapping
from pathlib import Path

from imagekit.enclave.sdk.config_xml import MAX_BYTES as MAX_CONFIG
from imagekit.enclave.sdk.dump import dump_text
from imagekit.enclave.sdk.signed import read_enclave
from imagekit.enclave.sigstruct import SIZE as SIGSTRUCT_BYTES
from imagekit.errors import CheckError, InputError, UsageError
from imagekit.files import write_together
from imagekit.release.gramine_tools import read_input
from imagekit.release.sdk_enclave import FILE_LIMIT
from imagekit.release.sgx_sign import SignedLibrary


def read_enclave_file(path: Path) -> bytes:
    """Read an enclave library.

    Raises:
        InputError: missing, unreadable or larger than any.
    """
    return read_input(path, "enclave", FILE_LIMIT)


def read_config_file(path: Path) -> bytes:
    """Read the file of ``-config``; errors as :func:`read_enclave_file`."""
    return read_input(path, "enclave configuration", MAX_CONFIG)


def check_paths(paths: Mapping[str, Path | None]) -> None:
    """Refuse two options that name one file: an output would replace an input or another output.

    Args:
        paths: by option; None for an option that is not given.

    Raises:
        UsageError: two are the same file, by whatever names.
    """
    seen: dict[Path, str] = {}
    for option, path in paths.items():
        if path is None:
            continue
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: cannot be found: {error}", "check the path") from None
        if real in seen:
            raise UsageError(f"{seen[real]} and {option} are both {path}", "give two files")
        seen[real] = option


def write_signed(
    signed: SignedLibrary, *, out: Path, cssfile: Path | None, dumpfile: Path | None
) -> None:
    """Write the library and, if asked for, its SIGSTRUCT and text; all or none.

    Raises:
        InputError: a file cannot be written; all are left as they were.
    """
    files = {out: signed.data}
    if cssfile is not None:
        files[cssfile] = signed.sigstruct.to_bytes()
    if dumpfile is not None:
        files[dumpfile] = dump_text(read_enclave(signed.data, str(out))).encode()
    write_together(files)


def dump_file(
    path: Path, dumpfile: Path | None, cssfile: Path | None
) -> tuple[str, tuple[str, ...]]:
    """Give an enclave's metadata as text and write what is asked for.

    Returns:
        The text, and warnings: a SIGSTRUCT that the CPU would refuse is shown all the same.

    Raises:
        InputError: the file is no enclave, or one cannot be written.
        CheckError: the file's metadata contradict each other.
    """
    enclave = read_enclave(read_enclave_file(path), str(path))
    text = dump_text(enclave)
    files: dict[Path, bytes] = {}
    if dumpfile is not None:
        files[dumpfile] = text.encode()
    if cssfile is not None:
        signed = enclave.is_signed
        files[cssfile] = enclave.sigstruct_bytes if signed else bytes(SIGSTRUCT_BYTES)
    write_together(files)
    try:
        if enclave.is_signed:
            enclave.enclave_sigstruct()
    except CheckError as error:
        return text, (error.problem,)
    return text, () if enclave.is_signed else (f"{path}: the enclave is not signed",)
