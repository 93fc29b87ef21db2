"""The parts of a quote: what is signed, by which key, and what vouches for that key.

Sources: "Intel SGX DCAP: ECDSA Quote Library API", appendix "Quote Format" (version 3), and "Intel
TDX DCAP: Quote Generation Library and Quote Verification Library", appendix "Version 4 Quote
Format". All numbers are little-endian, except the points and signatures of P-256: two big-endian
numbers of 32 bytes each.

A quote of version 3 ends with::

    u32 length of all that follows
    64  signature over header and body, by the attestation key
    64  attestation key
    384 report of the quoting enclave
    64  signature over that report, by the platform's provisioning certification key (PCK)
    u16 length, then that many bytes of authentication data
    u16 type of certification data, u32 length, then that many bytes

In version 4 the last five come as certification data of type 6, behind the attestation key.
"""

from dataclasses import dataclass

from imagekit.errors import InputError
from imagekit.runtime.quote import LONGEST_QUOTE, Quote, parse_quote

SIGNATURE_SIZE = 64
"""Bytes of a signature, and of a public key, of P-256."""
REPORT_SIZE = 384
"""Bytes of a report of an enclave."""
PCK_CHAIN = 5
"""Type of certification data: the chain of certificates from the PCK's to the root, as PEM."""

_HEADER_SIZE = 48
_TD_BODY_SIZE = 584
_ECDSA_P256 = 2
_QE_REPORT_DATA = 6
_HINT = "a quote of SGX (version 3 or 4) or TDX (version 4), as it was given, not as text"


@dataclass(frozen=True)
class Report:
    """A report of an enclave (Intel SDM vol. 3D, "REPORT").

    Attributes:
        data: its 384 bytes, which are what is signed.
    """

    data: bytes

    @property
    def debug(self) -> bool:
        """Whether the host may look into the enclave: bit 1 of ATTRIBUTES."""
        return bool(self.data[48] & 2)

    @property
    def mr_signer(self) -> str:
        """64 lower-case hexadecimal digits."""
        return self.data[128:160].hex()

    @property
    def isv_prod_id(self) -> int:
        """Product id that the signer gave it."""
        return int.from_bytes(self.data[256:258], "little")

    @property
    def isv_svn(self) -> int:
        """Security version that the signer gave it."""
        return int.from_bytes(self.data[258:260], "little")

    @property
    def report_data(self) -> bytes:
        """64 bytes of the enclave's own choice."""
        return self.data[320:384]


@dataclass(frozen=True)
class QuoteParts:
    """A quote, taken apart; nothing of it is checked.

    Attributes:
        quote: what it says.
        report: the enclave's report; None of a TD.
        signed: header and body, the bytes that are signed.
        qe_vendor: who made the quoting enclave, 16 bytes.
        seam_signer: MRSIGNERSEAM and SEAMATTRIBUTES of a TD: 56 bytes; none of an enclave.
        signature: over `signed`, 64 bytes.
        attestation_key: public key of that signature, 64 bytes.
        qe_report: the quoting enclave's report, which vouches for the key.
        qe_signature: over the report, by the PCK, 64 bytes.
        qe_auth: authentication data of the quoting enclave.
        certification_type: what `certification` is; :data:`PCK_CHAIN` alone can be checked here.
        certification: what leads to the PCK.
    """

    quote: Quote
    report: Report | None
    signed: bytes
    qe_vendor: bytes
    seam_signer: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: Report
    qe_signature: bytes
    qe_auth: bytes
    certification_type: int
    certification: bytes


class _Reader:
    """Takes bytes from the front of a part of the quote, never beyond its end."""

    def __init__(self, data: bytes, part: str) -> None:
        self._rest = data
        self._part = part

    def take(self, size: int) -> bytes:
        if size > len(self._rest):
            raise ValueError(f"its {self._part} is cut off")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def end(self) -> None:
        if self._rest:
            raise ValueError(f"there are {len(self._rest)} bytes too many in its {self._part}")


def parse_parts(data: bytes) -> QuoteParts:
    """Take a quote apart.

    Zeros may follow it, since some sources of quotes give their whole buffer.

    Args:
        data: a quote of version 3 (SGX) or 4 (SGX, or TDX 1.0).

    Raises:
        InputError: it is none.
    """
    try:
        return _parse(data)
    except ValueError as error:
        raise InputError(f"the quote is unusable: {error}", _HINT) from None


def _parse(data: bytes) -> QuoteParts:
    if len(data) > LONGEST_QUOTE:
        raise ValueError(f"it is longer than {LONGEST_QUOTE} bytes")
    quote = parse_quote(data)
    if quote.version not in (3, 4):
        raise ValueError(f"quotes of version {quote.version} cannot be checked here")
    if int.from_bytes(data[2:4], "little") != _ECDSA_P256:
        raise ValueError("its attestation key is not of ECDSA with P-256")
    reader = _Reader(data, "signature data")
    signed = reader.take(_HEADER_SIZE + (_TD_BODY_SIZE if quote.tdx else REPORT_SIZE))
    signature_data = reader.take(reader.number(4))
    if any(data[len(signed) + 4 + len(signature_data) :]):
        raise ValueError("something follows its end")
    body = signed[_HEADER_SIZE:]
    reader = _Reader(signature_data, "signature data")
    signature, key = reader.take(SIGNATURE_SIZE), reader.take(SIGNATURE_SIZE)
    if quote.version == 4:
        reader = _inner(reader)
    report, qe_signature = Report(reader.take(REPORT_SIZE)), reader.take(SIGNATURE_SIZE)
    auth = reader.take(reader.number(2))
    certification_type = reader.number(2)
    certification = reader.take(reader.number(4))
    reader.end()
    return QuoteParts(
        quote=quote,
        report=None if quote.tdx else Report(body),
        signed=signed,
        qe_vendor=signed[12:28],
        seam_signer=body[64:120] if quote.tdx else b"",
        signature=signature,
        attestation_key=key,
        qe_report=report,
        qe_signature=qe_signature,
        qe_auth=auth,
        certification_type=certification_type,
        certification=certification,
    )


def _inner(outer: _Reader) -> _Reader:
    """Open certification data of type 6, which holds the rest in version 4."""
    kind = outer.number(2)
    if kind != _QE_REPORT_DATA:
        raise ValueError(f"its certification data is of type {kind}, not {_QE_REPORT_DATA}")
    inner = outer.take(outer.number(4))
    outer.end()
    return _Reader(inner, "certification data")
