"""A quote of an enclave of Occlum: two requests to its device ``/dev/sgx``.

Occlum's ``/dev/sgx`` is its own, inside the enclave; it has nothing of the host's devices of that
name. It takes, on any file descriptor of it:

| request | number | argument |
|---|---|---|
| size of a quote | ``_IOR('s', 7, uint32_t)``, 0x80047307 | u32, written |
| a quote | ``_IOWR('s', 8, …)`` of 24 bytes, 0xc0187308 | three addresses of 8 bytes: 64 bytes of |
| | | report data; a u32, which is the buffer's size before and the quote's after; the buffer |

How sure this is: numbers and layout are those of the header of Occlum's remote attestation demo,
and independent programs that run in it (MarbleRun's premain, the crate ``occlum-sgx``) have the
same. It has not been run on hardware by this project: if it is wrong, a start that attests fails,
since nothing of the answer is believed before :func:`.quote.checked_quote` has found our report
data in it.

Addresses come from :mod:`array`, so that no Python with ``ctypes`` is needed in the enclave.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import fcntl
import os
import struct
from array import array

from .quote import LONGEST_QUOTE
from .stop import FAILED, UNUSABLE, Stop

GET_SIZE = 0x80047307
GENERATE = 0xC0187308

_WHY = "Occlum gives no quote: aesmd, the provisioning device or the PCCS may be missing"


def get_quote(report_data: bytes, device: str) -> bytes:
    """Get a quote over report data.

    Args:
        report_data: 64 bytes that it has to carry.
        device: ``/dev/sgx``.

    Raises:
        Stop: there is no way to one.
    """
    try:
        number = os.open(device, os.O_RDONLY)
        try:
            return _ask(number, report_data, device)
        finally:
            os.close(number)
    except OSError as error:
        raise Stop(UNUSABLE, f"{_WHY} ({device}: {error.strerror})") from None


def _ask(number: int, report_data: bytes, device: str) -> bytes:
    answer = bytearray(4)
    fcntl.ioctl(number, GET_SIZE, answer)
    size = int.from_bytes(answer, "little")
    if not 0 < size <= LONGEST_QUOTE:
        raise Stop(FAILED, f"{device}: the size of a quote is absurd")
    # Kept by these names until the request is over: it holds nothing but their addresses.
    data, length, quote = array("B", report_data), array("B", answer), array("B", bytes(size))
    addresses = struct.pack("<QQQ", *(part.buffer_info()[0] for part in (data, length, quote)))
    fcntl.ioctl(number, GENERATE, bytearray(addresses))
    given = int.from_bytes(length, "little")
    if not 0 < given <= size:
        raise Stop(FAILED, f"{device}: the quote is of no length that was asked for")
    return quote.tobytes()[:given]
