"""What a PCK certificate says of its platform, in Intel's extension 1.2.840.113741.1.13.1.

Source: "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification", "SGX
Extensions". The extension is a SEQUENCE of SEQUENCEs of an object identifier and a value.
"""

from collections.abc import Iterator
from dataclasses import dataclass

SGX_EXTENSIONS = "1.2.840.113741.1.13.1"
"""Object identifier of the extension."""

SGX_TYPES = ("standard", "scalable", "scalable with integrity")
"""How memory is protected, by the number that stands in the extension."""

_BASE = bytes.fromhex("2a864886f84d010d01")  # its identifier as DER content; a child adds one byte
_INTEGER, _OCTETS, _OID, _ENUMERATED, _SEQUENCE = 0x02, 0x04, 0x06, 0x0A, 0x30
_TCB, _PCE_ID, _FMSPC, _SGX_TYPE = 2, 3, 4, 5
_COMPONENTS = 16
_PCE_SVN, _CPU_SVN = 17, 18


@dataclass(frozen=True)
class PckExtension:
    """The platform's kind and its security versions when the certificate was made.

    Attributes:
        fmspc: family, model, stepping, platform type and custom SKU: 12 lower-case hex digits.
        pce_id: which provisioning certification enclave: 4 hex digits.
        sgx_type: one of :data:`SGX_TYPES`, or ``type N`` of one that is not known.
        components: security versions of the 16 TCB components.
        pce_svn: security version of the provisioning certification enclave.
        cpu_svn: 32 hex digits.
    """

    fmspc: str
    pce_id: str
    sgx_type: str
    components: tuple[int, ...]
    pce_svn: int
    cpu_svn: str


def parse_extension(data: bytes) -> PckExtension:
    """Read the extension's value.

    Args:
        data: DER.

    Raises:
        ValueError: it is not of this form; the text says what is wrong, in one line.
    """
    values = _children(_whole(data, _SEQUENCE), _BASE)
    tcb = _children(_value(values, _TCB, _SEQUENCE), _BASE + bytes([_TCB]))
    kind = int.from_bytes(_value(values, _SGX_TYPE, _ENUMERATED), "big")
    return PckExtension(
        fmspc=_octets(values, _FMSPC, 6),
        pce_id=_octets(values, _PCE_ID, 2),
        sgx_type=SGX_TYPES[kind] if kind < len(SGX_TYPES) else f"type {kind}",
        components=tuple(_number(tcb, child, 0xFF) for child in range(1, _COMPONENTS + 1)),
        pce_svn=_number(tcb, _PCE_SVN, 0xFFFF),
        cpu_svn=_octets(tcb, _CPU_SVN, 16),
    )


_Children = dict[int, tuple[int, bytes]]  # last number of the identifier → tag, content


def _children(data: bytes, base: bytes) -> _Children:
    """Read pairs of identifier and value; identifiers below `base` count, by their last number."""
    found: _Children = {}
    for tag, pair in _values(data):
        if tag != _SEQUENCE:
            raise ValueError("the SGX extension is no list of sequences")
        parts = list(_values(pair))
        if len(parts) != 2 or parts[0][0] != _OID:
            raise ValueError("the SGX extension has something that is no named value")
        name = parts[0][1]
        if name[:-1] != base or name[-1] >= 0x80:
            continue
        if name[-1] in found:
            raise ValueError(f"the SGX extension has value {name[-1]} twice")
        found[name[-1]] = parts[1]
    return found


def _value(values: _Children, child: int, tag: int) -> bytes:
    if child not in values or values[child][0] != tag:
        raise ValueError(f"the SGX extension lacks value {child}")
    return values[child][1]


def _octets(values: _Children, child: int, size: int) -> str:
    content = _value(values, child, _OCTETS)
    if len(content) != size:
        raise ValueError(f"the SGX extension's value {child} is not {size} bytes long")
    return content.hex()


def _number(values: _Children, child: int, most: int) -> int:
    number = int.from_bytes(_value(values, child, _INTEGER), "big", signed=True)
    if not 0 <= number <= most:
        raise ValueError(f"the SGX extension's value {child} is not between 0 and {most}")
    return number


def _whole(data: bytes, tag: int) -> bytes:
    """Give the content of the one value that `data` is."""
    values = list(_values(data))
    if len(values) != 1 or values[0][0] != tag:
        raise ValueError("the SGX extension is not one sequence")
    return values[0][1]


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give tag and content of each DER value (X.690 section 8.1); tags have one byte here."""
    at = 0
    while at < len(data):
        head = data[at : at + 2]
        if len(head) < 2:
            raise ValueError("the SGX extension is cut off")
        tag, size = head
        at += 2
        if size >= 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            if not 1 <= count <= 2 or at + count > len(data):
                raise ValueError("the SGX extension has a length that cannot be")
            at += count
        if at + size > len(data):
            raise ValueError("the SGX extension is cut off")
        yield tag, data[at : at + size]
        at += size
