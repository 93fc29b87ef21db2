"""Quotes: getting one that carries 64 bytes of ours, and reading what it says.

Where a quote comes from:

| kind | way |
|---|---|
| ``gramine`` | ``/dev/attestation/user_report_data`` is written, ``quote`` beside it is read |
| ``tdx`` | configfs-tsm (Linux 6.7 and newer): a report entry's ``inblob`` and ``outblob``; |
| | where that is not there, or not to be written to, ``/dev/tdx_guest`` (:mod:`.tdx`) |
| ``occlum`` | in an enclave of Occlum its device ``/dev/sgx`` (:mod:`.occlum_quote`); |
| | elsewhere the file ``/etc/occlum_attestation/quote``, written by a program in the image |

All but the file are tied to this start, since the report data is ours. A quote from a file carries
the report data that its writer chose. It can be checked to hold that text (``REPORT_DATA``; BigDL's
writer takes ``ppml`` by default), not to be fresh: whoever can put the file there can put an old
one.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH102, PTH106, PTH110, PTH112, PTH118, PTH123
from __future__ import annotations

import hmac
import os
from contextlib import suppress
from typing import NamedTuple

from .devices import write_at_once
from .launch import GRAMINE, OCCLUM
from .stop import FAILED, UNUSABLE, Stop

TDX = "tdx"
OCCLUM_FILE = "occlum file"
"""What ``occlum`` is outside of an enclave of Occlum: BigDL's way."""
KINDS = (GRAMINE, OCCLUM, TDX)
"""Words that ``QUOTE_TYPE`` may have, in lower case."""

LONGEST_QUOTE = 1 << 16
REPORT_DATA_SIZE = 64
"""Bytes."""

_SGX_DEBUG = 0x2  # of the enclave's attributes
_TD_DEBUG = 0x1  # of the TD's attributes
_TEE_SGX, _TEE_TDX = 0, 0x81
_HEADER = 48
_SGX_BODY = 384
_TD_BODY = 584


class Devices(NamedTuple):
    """Where quotes come from besides Gramine's folder.

    Attributes:
        occlum: file with a quote.
        tsm: folder of configfs-tsm's reports.
        tdx_guest: TDX's own device.
        tdx_attest: Intel's file with the port of the host's quote generation service.
        sgx: device of Occlum, inside its enclave.
    """

    occlum: str = "/etc/occlum_attestation/quote"
    tsm: str = "/sys/kernel/config/tsm/report"
    tdx_guest: str = "/dev/tdx_guest"
    tdx_attest: str = "/etc/tdx-attest.conf"
    sgx: str = "/dev/sgx"


class Quote(NamedTuple):
    """What a quote says, as far as it is read here; its signature is the verifier's matter.

    Attributes:
        version: of the format: 3 or 4.
        tdx: whether it is of a TD, else of an SGX enclave.
        mr_enclave: 64 lower-case hexadecimal digits; "" of a TD.
        mr_signer: the same.
        mr_td: MRTD, 96 digits; "" of an enclave.
        debug: whether the host may look into its memory.
        report_data: 64 bytes.
    """

    version: int
    tdx: bool
    mr_enclave: str
    mr_signer: str
    mr_td: str
    debug: bool
    report_data: bytes


def parse_quote(data: bytes) -> Quote:
    """Read a quote of version 3 (SGX) or 4 (SGX, or TDX 1.0).

    Layout, little-endian: version u16 at 0, attestation key type u16 at 2, TEE type u32 at 4
    (version 4), the report body at 48, then the length u32 of the signature and the signature.

    Raises:
        ValueError: it is none; the text says why, in one line.
    """
    if len(data) < _HEADER:
        raise ValueError("it is shorter than a quote's header")
    version = _number(data, 0, 2)
    if version not in (3, 4):
        raise ValueError("its version is neither 3 nor 4")
    tee = _number(data, 4, 4) if version == 4 else _TEE_SGX
    if tee not in (_TEE_SGX, _TEE_TDX):
        raise ValueError("it is neither of SGX nor of TDX")
    if _number(data, 2, 2) not in (2, 3):
        raise ValueError("it is not signed with ECDSA")
    end = _HEADER + (_TD_BODY if tee == _TEE_TDX else _SGX_BODY)
    if len(data) < end + 4 or len(data) < end + 4 + _number(data, end, 4):
        raise ValueError("it is cut off")
    body = data[_HEADER:end]
    return _td(body, version) if tee == _TEE_TDX else _enclave(body, version)


def _enclave(body: bytes, version: int) -> Quote:
    return Quote(
        version=version,
        tdx=False,
        mr_enclave=body[64:96].hex(),
        mr_signer=body[128:160].hex(),
        mr_td="",
        debug=bool(_number(body, 48, 8) & _SGX_DEBUG),
        report_data=body[320:384],
    )


def _td(body: bytes, version: int) -> Quote:
    return Quote(
        version=version,
        tdx=True,
        mr_enclave="",
        mr_signer="",
        mr_td=body[136:184].hex(),
        debug=bool(_number(body, 120, 8) & _TD_DEBUG),
        report_data=body[520:584],
    )


def _number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


def get_quote(kind: str, report_data: bytes, attestation: str, devices: Devices) -> bytes:
    """Get a quote.

    Args:
        kind: one of :data:`KINDS`, or :data:`OCCLUM_FILE`.
        report_data: 64 bytes that it has to carry; a quote from a file carries its own.
        attestation: Gramine's folder, ``/dev/attestation``.
        devices: the others.

    Raises:
        Stop: there is no way to one.
    """
    assert len(report_data) == REPORT_DATA_SIZE
    if kind == GRAMINE:
        return _of_gramine(report_data, attestation)
    if kind == OCCLUM:
        from . import occlum_quote  # only here: other kinds do without

        return occlum_quote.get_quote(report_data, devices.sgx)
    if kind == OCCLUM_FILE:
        return _read(devices.occlum, "no quote of Occlum: write one first, as BigDL's image does")
    return _of_tdx(report_data, devices)


def checked_quote(data: bytes, report_data: bytes, kind: str) -> Quote:
    """Read a quote and make sure that it carries what was written, and is of no debug enclave.

    Args:
        data: the quote.
        report_data: 64 bytes.
        kind: as of :func:`get_quote`.

    Raises:
        Stop: it does not.
    """
    try:
        quote = parse_quote(data)
    except ValueError as error:
        raise Stop(FAILED, f"the quote is unusable: {error}") from None
    if quote.tdx != (kind == TDX):
        raise Stop(FAILED, "the quote is of another kind than it was asked for")
    if not hmac.compare_digest(quote.report_data, report_data):
        raise Stop(FAILED, "the quote does not carry the report data that it was asked for")
    if quote.debug:
        raise Stop(FAILED, "the quote is of a debug enclave, into which the host can look")
    return quote


def _of_gramine(report_data: bytes, folder: str) -> bytes:
    why = "Gramine gives no quote: aesmd, the provisioning device or the PCCS may be missing"
    _write(os.path.join(folder, "user_report_data"), report_data, "Gramine takes no report data")
    return _read(os.path.join(folder, "quote"), why)


def _of_tdx(report_data: bytes, devices: Devices) -> bytes:
    entry = _new_entry(devices)
    if entry is None:
        from . import tdx  # only here: newer guests do without

        return tdx.get_quote(report_data, devices.tdx_guest, devices.tdx_attest)
    try:
        return _of_entry(report_data, entry)
    finally:
        with suppress(OSError):
            os.rmdir(entry)


def _new_entry(devices: Devices) -> str | None:
    """Make a report entry; none where the device has to do, as in many containers."""
    device = os.path.exists(devices.tdx_guest)
    if not os.path.isdir(devices.tsm):
        if device:
            return None
        raise Stop(UNUSABLE, f"no TDX: neither {devices.tsm} nor {devices.tdx_guest} is there")
    entry = os.path.join(devices.tsm, f"imagekit-{os.urandom(8).hex()}")
    try:
        os.mkdir(entry, 0o700)
    except OSError as error:
        if device:
            return None
        raise Stop(UNUSABLE, f"{devices.tsm}: no report entry: {error.strerror}") from None
    return entry


def _of_entry(report_data: bytes, entry: str) -> bytes:
    """Use one report entry: its generation says whether somebody else has written to it."""
    why = "TDX gives no quote: the quote generation service of the host may be missing"
    if _read(os.path.join(entry, "provider"), why).strip() != b"tdx_guest":
        raise Stop(UNUSABLE, "configfs-tsm is not of TDX here: its provider is not tdx_guest")
    before = _generation(entry, why)
    _write(os.path.join(entry, "inblob"), report_data, why)
    data = _read(os.path.join(entry, "outblob"), why)
    if _generation(entry, why) != before + 1:
        raise Stop(FAILED, "somebody else has written to the report entry of this quote")
    return data


def _generation(entry: str, why: str) -> int:
    text = _read(os.path.join(entry, "generation"), why).strip()
    if not text.isdigit():
        raise Stop(UNUSABLE, why)
    return int(text)


def _read(path: str, why: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST_QUOTE + 1)
    except OSError as error:
        raise Stop(UNUSABLE, f"{why} ({path}: {error.strerror})") from None
    if not data or len(data) > LONGEST_QUOTE:
        raise Stop(UNUSABLE, f"{why} ({path}: empty or too large)")
    return data


def _write(path: str, data: bytes, why: str) -> None:
    try:
        whole = write_at_once(path, data)
    except OSError as error:
        raise Stop(UNUSABLE, f"{why} ({path}: {error.strerror})") from None
    if not whole:
        raise Stop(UNUSABLE, f"{why} ({path}: not taken whole)")
