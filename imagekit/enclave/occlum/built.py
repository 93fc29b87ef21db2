"""Whether an enclave that was built is the one that its ``Occlum.json`` asks for."""

from collections.abc import Iterator

from imagekit.enclave.elf import PAGE_SIZE
from imagekit.enclave.findings import Finding, ordered
from imagekit.enclave.sdk.body import DEBUG, signed_body
from imagekit.enclave.sdk.config import EnclaveConfig, parse_config
from imagekit.enclave.sdk.metadata import Metadata
from imagekit.enclave.sdk.tables import LayoutAttribute, LayoutEntry, LayoutGroup, LayoutId
from imagekit.enclave.sigstruct import SigStructBody

_HINT = "build it again from this Occlum.json, with the toolchain of this version"
_XFRM = {"amx": 0x60000, "pkru": 0x200}  # the bits that Occlum.json decides

# What a value of the enclave comes from.
_KEYS = {
    "prod_id": "metadata.product_id",
    "isv_svn": "metadata.version_number",
    "disable_debug": "metadata.debuggable",
    "enable_kss": "metadata.enable_kss",
    "isv_family_id": "metadata.family_id",
    "isv_ext_prod_id": "metadata.ext_prod_id",
    "tcs_num": "resource_limits.max_num_of_threads",
    "tcs_max_num": "resource_limits.max_num_of_threads",
    "tcs_min_pool": "resource_limits.max_num_of_threads",
    "stack_min": "resource_limits.kernel_space_stack_size",
    "stack_max": "resource_limits.kernel_space_stack_size",
    "heap_min": "resource_limits.kernel_space_heap_size",
    "heap_init": "resource_limits.kernel_space_heap_size",
    "heap_max": "resource_limits.kernel_space_heap_max_size",
    "reserved_min": "resource_limits.user_space_size",
    "reserved_init": "resource_limits.user_space_size",
    "reserved_max": "resource_limits.user_space_size",
    "user_region_size": "resource_limits.user_space_max_size",
    "pkru": "feature.pkru",
    "amx": "feature.amx",
}


def xml_findings(
    expected: EnclaveConfig, xml: bytes, name: str = "Enclave.xml"
) -> tuple[Finding, ...]:
    """Compare the ``Enclave.xml`` of a build with what ``Occlum.json`` makes.

    Args:
        expected: from :func:`imagekit.enclave.occlum.enclave_xml.enclave_config`.
        xml: the file.
        name: how it is called in error messages.

    Raises:
        InputError: it is no such file.
    """
    found, _ = parse_config(xml, name)
    return ordered(
        [
            _differs(key, getattr(expected, key), getattr(found, key), name)
            for key in expected.__dataclass_fields__
            if getattr(expected, key) != getattr(found, key)
        ]
    )


def sigstruct_findings(expected: EnclaveConfig, body: SigStructBody) -> tuple[Finding, ...]:
    """Compare what is signed with what ``Occlum.json`` makes.

    Measurement, date and vendor have no part in it, nor have the bits that the releases of the SDK
    treat differently.

    Args:
        expected: from :func:`imagekit.enclave.occlum.enclave_xml.enclave_config`.
        body: what the SIGSTRUCT says.
    """
    wanted = signed_body(expected, body.mr_enclave, body.date)
    name = "SIGSTRUCT"
    found = [
        _differs(key, getattr(wanted, field), getattr(body, field), name)
        for key, field in (
            ("prod_id", "isv_prod_id"),
            ("isv_svn", "isv_svn"),
            ("isv_family_id", "isv_family_id"),
            ("isv_ext_prod_id", "isv_ext_prod_id"),
            ("misc_select", "misc_select"),
            ("misc_mask", "misc_mask"),
            ("enable_kss", "flags"),
        )
        if getattr(wanted, field) != getattr(body, field)
    ]
    if (wanted.flags_mask ^ body.flags_mask) & DEBUG:
        on = not expected.disable_debug
        found.append(_differs("disable_debug", on, not on, name))
    for key, bits in _XFRM.items():
        ours, theirs = ((b.xfrm & bits, b.xfrm_mask & bits) for b in (wanted, body))
        if ours != theirs:
            wanted_bits, found_bits = (f"{xfrm:#x} with mask {m:#x}" for xfrm, m in (ours, theirs))
            found.append(_differs(key, wanted_bits, found_bits, f"{name}'s XFRM"))
    return ordered(found)


def layout_findings(expected: EnclaveConfig, metadata: Metadata) -> tuple[Finding, ...]:
    """Compare the enclave's pages with what ``Occlum.json`` makes.

    Args:
        expected: from :func:`imagekit.enclave.occlum.enclave_xml.enclave_config`.
        metadata: the block that is measured.
    """
    pages = _pages_at_start(metadata)
    threads = pages.get(LayoutId.TCS, 0)
    stack = pages.get(LayoutId.STACK_MIN, 0) * PAGE_SIZE // (threads or 1)
    user = sum(pages.get(id, 0) for id in (LayoutId.RSRV_MIN, LayoutId.RSRV_INIT)) * PAGE_SIZE
    heap = sum(pages.get(id, 0) for id in (LayoutId.HEAP_MIN, LayoutId.HEAP_INIT)) * PAGE_SIZE
    name = "the enclave's layout"
    return ordered(
        [
            _differs(key, wanted, found, name)
            for key, wanted, found in (
                ("tcs_num", expected.tcs_num, threads),
                ("stack_min", expected.stack_min, stack),
                ("heap_init", expected.heap_init, heap),
                ("reserved_init", expected.reserved_init, user),
            )
            if wanted != found
        ]
    )


def _pages_at_start(metadata: Metadata) -> dict[int, int]:
    """Count the pages that are added before the enclave starts, by what they are for."""
    found: dict[int, int] = {}
    for entry, times in _entries(metadata.layout):
        if entry.attributes & LayoutAttribute.EADD:
            found[entry.id] = found.get(entry.id, 0) + entry.pages * times
    return found


def _entries(layout: tuple[LayoutEntry | LayoutGroup, ...]) -> Iterator[tuple[LayoutEntry, int]]:
    for at, item in enumerate(layout):
        if isinstance(item, LayoutEntry):
            yield item, 1
        else:
            for entry in layout[max(at - item.entries, 0) : at]:
                if isinstance(entry, LayoutEntry):
                    yield entry, item.times


def _differs(key: str, wanted: object, found: object, name: str) -> Finding:
    ours, theirs = (v.hex() if isinstance(v, bytes) else v for v in (wanted, found))
    problem = f"{name} says {theirs}, Occlum.json makes {ours}"
    return Finding(_KEYS.get(key, key), problem, _HINT)
