"""Quotes that have the structure and the measurements of real ones, and no valid signature.

For those whose signatures hold, see ``quote_maker``.
"""

import struct

MR_OF_EHSM, SIGNER_OF_EHSM = "e5" * 32, "51" * 32


def measurements(quote: bytes) -> tuple[str, str]:
    """MRENCLAVE and MRSIGNER of a version 3 quote."""
    return quote[112:144].hex(), quote[176:208].hex()


def sgx_quote(
    mr_enclave: str = MR_OF_EHSM,
    mr_signer: str = SIGNER_OF_EHSM,
    *,
    debug: bool = False,
    product: int = 0,
    svn: int = 0,
    data: bytes = b"",
) -> bytes:
    """A version 3 quote; report_data is zero unless given, as eHSM's own is."""
    body = bytearray(384)
    body[48:64] = struct.pack("<QQ", 0x5 | (0x2 if debug else 0), 3)  # INIT, MODE64BIT; x87 and SSE
    body[64:96] = bytes.fromhex(mr_enclave)
    body[128:160] = bytes.fromhex(mr_signer)
    body[256:260] = struct.pack("<HH", product, svn)
    body[320:384] = data.ljust(64, b"\0")
    # Signature, key, the quoting enclave's report and its signature; auth data; certificates.
    signature = bytes(64 + 64 + 384 + 64) + struct.pack("<H", 0) + struct.pack("<HI", 5, 0)
    quoted = struct.pack("<HH44x", 3, 2) + bytes(body)
    return quoted + struct.pack("<I", len(signature)) + signature


def td_quote(mr_td: str, rtmr: bytes = bytes(192), data: bytes = b"") -> bytes:
    """A version 4 quote of a TD."""
    body = bytearray(584)
    body[136:184] = bytes.fromhex(mr_td)
    body[328:520] = rtmr
    body[520:584] = data.ljust(64, b"\0")
    return struct.pack("<HHI40x", 4, 2, 0x81) + bytes(body) + struct.pack("<I", 100) + bytes(100)
