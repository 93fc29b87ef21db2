"""SIGSTRUCT: the 1808 bytes that say which enclave may start and who signed it.

Source: Intel SDM vol. 3D, "SIGSTRUCT". All integers are little-endian, the four 384-byte numbers
too. The signature is RSA-3072 with e = 3 and PKCS#1 v1.5 with SHA-256 over bytes 0-127 and
900-1027, so it is deterministic: the same body and key give the same bytes.
"""

import hashlib
import re
import struct
from dataclasses import dataclass

from imagekit.errors import CheckError, UsageError

SIZE = 1808
KEY_BYTES = 384
EXPONENT = 3

DEBUG_KEY = 1 << 31
"""Bit of HEADER's last word by which the Intel SGX SDK marks a release of the ReleaseType 1."""

_HEADER = bytes.fromhex("06000000e100000000000100")
_HEADER2 = bytes.fromhex("01010000600000006000000001000000")
# DER prefix of DigestInfo for SHA-256, RFC 8017 section 9.2.
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_BODY = struct.Struct("<IIBB2x16sQQQQ32s16x16sHH")  # bytes 900 to 1027
_RESERVED = ((44, 128), (910, 912), (992, 1008), (1028, 1040))


def encode_date(text: str, *, bcd: bool = True) -> bytes:
    """Encode ``YYYY-MM-DD`` as the four bytes of the DATE field.

    Args:
        text: the date; it need not exist (``0000-00-00`` is a way to say "none").
        bcd: as the SDM says: day, month and year as BCD, year as a little-endian 16-bit value. Else
            the way of Gramine 1.3: year as a binary little-endian 16-bit number, month, day.

    Raises:
        UsageError: not of that form.
    """
    match = re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", text, re.ASCII)
    if match is None:
        raise UsageError(f"date {text!r} is not of the form YYYY-MM-DD", "for example 2026-11-22")
    year, month, day = match.groups()
    if bcd:
        return bytes.fromhex(day + month + year[2:] + year[:2])
    return struct.pack("<HBB", int(year), int(month), int(day))


def decode_date(raw: bytes) -> str:
    """Give the DATE field as ``YYYY-MM-DD``, whichever of the two encodings was used."""
    digits = raw.hex()
    # A binary year of our time has 7 as its high byte; as BCD that is July of some odd century.
    if digits.isdecimal() and not (raw[1] == 7 and raw[3] not in (0x19, 0x20)):
        return f"{digits[6:8]}{digits[4:6]}-{digits[2:4]}-{digits[0:2]}"
    year, month, day = struct.unpack("<HBB", raw)
    return f"{year:04}-{month:02}-{day:02}"


@dataclass(frozen=True)
class SigStructBody:
    """Everything that is signed.

    Attributes:
        mr_enclave: 32 bytes.
        date: the DATE field as stored, 4 bytes (:func:`encode_date`).
        header_type: last u32 of HEADER: 0, or :data:`DEBUG_KEY` (Intel SGX SDK only).
        vendor, swdefined: u32.
        misc_select, misc_mask: MISCSELECT and its mask, u32.
        cet, cet_mask: CET_ATTRIBUTES and mask, u8.
        isv_family_id, isv_ext_prod_id: 16 bytes each (KSS).
        flags, xfrm, flags_mask, xfrm_mask: ATTRIBUTES and ATTRIBUTEMASK, u64 each.
        isv_prod_id, isv_svn: u16.
    """

    mr_enclave: bytes
    flags: int
    xfrm: int
    xfrm_mask: int
    date: bytes = bytes(4)
    flags_mask: int = 0xFFFF_FFFF_FFFF_FFFF
    misc_select: int = 0
    misc_mask: int = 0xFFFF_FFFF
    isv_prod_id: int = 0
    isv_svn: int = 0
    vendor: int = 0
    swdefined: int = 0
    cet: int = 0
    cet_mask: int = 0
    isv_family_id: bytes = bytes(16)
    isv_ext_prod_id: bytes = bytes(16)
    header_type: int = 0

    def to_be_signed(self) -> bytes:
        """Give the 256 bytes that are signed: bytes 0-127 and 900-1027 of the SIGSTRUCT."""
        head = _HEADER + struct.pack("<II", self.header_type, self.vendor) + self.date + _HEADER2
        head += struct.pack("<I", self.swdefined)
        return head.ljust(128, b"\0") + _BODY.pack(
            self.misc_select,
            self.misc_mask,
            self.cet,
            self.cet_mask,
            self.isv_family_id,
            self.flags,
            self.xfrm,
            self.flags_mask,
            self.xfrm_mask,
            self.mr_enclave,
            self.isv_ext_prod_id,
            self.isv_prod_id,
            self.isv_svn,
        )


def _quotients(signature: int, modulus: int) -> tuple[int, int]:
    """q1 = ⌊s²/n⌋ and q2 = ⌊s·(s² mod n)/n⌋, by which the CPU checks s³ mod n without dividing."""
    q1, rest = divmod(signature * signature, modulus)
    return q1, signature * rest // modulus


def _padded(message: bytes) -> int:
    """EMSA-PKCS1-v1_5 encoding of the message's SHA-256 as a number (RFC 8017 section 9.2)."""
    info = _DIGEST_INFO + hashlib.sha256(message).digest()
    return int.from_bytes(b"\0\1" + b"\xff" * (KEY_BYTES - 3 - len(info)) + b"\0" + info, "big")


def mr_signer_of(modulus: int) -> bytes:
    """Give MRSIGNER: SHA-256 of the modulus as 384 little-endian bytes."""
    return hashlib.sha256(modulus.to_bytes(KEY_BYTES, "little")).digest()


def signature_fits(message: bytes, modulus: int, signature: int) -> bool:
    """Say whether `signature` cubed is the padded hash of `message` modulo `modulus`."""
    return 0 < signature < modulus and pow(signature, EXPONENT, modulus) == _padded(message)


@dataclass(frozen=True)
class SigStruct:
    """A signed enclave description.

    Attributes:
        body: what is signed.
        modulus, signature: numbers below 2**3072.
    """

    body: SigStructBody
    modulus: int
    signature: int

    @property
    def mr_signer(self) -> bytes:
        """32 bytes."""
        return mr_signer_of(self.modulus)

    def to_bytes(self) -> bytes:
        """Give the 1808 bytes, q1 and q2 computed."""
        message = self.body.to_be_signed()
        q1, q2 = _quotients(self.signature, self.modulus)
        numbers = [n.to_bytes(KEY_BYTES, "little") for n in (self.modulus, self.signature, q1, q2)]
        return b"".join(
            (
                message[:128],
                numbers[0],
                struct.pack("<I", EXPONENT),
                numbers[1],
                message[128:],
                bytes(12),
                numbers[2],
                numbers[3],
            )
        )


def parse_sigstruct(data: bytes, name: str = "bash.sig") -> SigStruct:
    """Read a SIGSTRUCT and check all that can be checked without the enclave.

    Args:
        data: 1808 bytes.
        name: how the file is called in error messages.

    Raises:
        CheckError: wrong length, header, exponent or reserved bytes; signature, q1 or q2 do not
            fit.
    """

    def bad(what: str) -> CheckError:
        return CheckError(f"{name}: {what}", "this is not what was signed: build and sign it again")

    if len(data) != SIZE:
        raise bad(f"a SIGSTRUCT has {SIZE} bytes, this has {len(data)}")
    header_type = int.from_bytes(data[12:16], "little")
    if data[:12] != _HEADER or header_type & ~DEBUG_KEY or data[24:40] != _HEADER2:
        raise bad("the header is not that of a SIGSTRUCT")
    if any(any(data[start:end]) for start, end in _RESERVED):
        raise bad("reserved bytes are not zero")
    if int.from_bytes(data[512:516], "little") != EXPONENT:
        raise bad("the public exponent is not 3")
    modulus, signature, q1, q2 = (
        int.from_bytes(data[start : start + KEY_BYTES], "little")
        for start in (128, 516, 1040, 1424)
    )
    vendor, date = struct.unpack_from("<I4s", data, 16)
    misc, misc_mask, cet, cet_mask, family, *rest = _BODY.unpack_from(data, 900)
    flags, xfrm, flags_mask, xfrm_mask, mr_enclave, ext, prod_id, svn = rest
    body = SigStructBody(
        mr_enclave=mr_enclave,
        flags=flags,
        xfrm=xfrm,
        xfrm_mask=xfrm_mask,
        date=date,
        flags_mask=flags_mask,
        misc_select=misc,
        misc_mask=misc_mask,
        isv_prod_id=prod_id,
        isv_svn=svn,
        vendor=vendor,
        swdefined=int.from_bytes(data[40:44], "little"),
        cet=cet,
        cet_mask=cet_mask,
        isv_family_id=family,
        isv_ext_prod_id=ext,
        header_type=header_type,
    )
    if modulus.bit_length() != 8 * KEY_BYTES:
        raise bad("the modulus is not a 3072-bit number")
    if not signature_fits(data[:128] + data[900:1028], modulus, signature):
        raise bad("the signature does not fit what it signs")
    if (q1, q2) != _quotients(signature, modulus):
        raise bad("q1 or q2 does not fit the signature (the CPU would refuse it)")
    return SigStruct(body, modulus, signature)
