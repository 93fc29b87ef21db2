"""From ``Occlum.json`` to the enclave that ``occlum build`` asks the SDK's signer for.

Occlum writes the limits into an ``Enclave.xml``; how, depends on the version and on EDMM
(:class:`~imagekit.enclave.occlum.versions.Layout`).
"""

from dataclasses import replace

from imagekit.enclave.occlum.limits import LEAST_MAX_HEAP, LEAST_MAX_USER
from imagekit.enclave.occlum.model import OcclumConfig
from imagekit.enclave.occlum.versions import GIB, Layout, OcclumVersion
from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.errors import UsageError

LEAST_MAX_THREADS = 4096
"""Where threads can be added later, room is left for at least so many."""
START_THREADS = 16
"""With EDMM, so many threads are there at start if nothing is said, at most."""
_U32 = (1 << 32) - 1


def has_edmm(config: OcclumConfig, edmm: bool = False) -> bool:
    """Tell whether the enclave adds pages as they are used.

    Args:
        config: the document.
        edmm: whether ``occlum build`` is called with ``--enable-edmm Y``.

    Raises:
        UsageError: that version has no EDMM.
    """
    if edmm and not config.version.has_edmm:
        raise UsageError(
            f"Occlum {config.version.name} has no EDMM",
            "take Occlum 0.30.0 or later, or enclave.edmm: false",
        )
    return edmm or config.features.edmm


def enclave_config(config: OcclumConfig, *, edmm: bool = False) -> EnclaveConfig:
    """Give the enclave that a document makes: the values of ``Enclave.xml``.

    Args:
        config: the document.
        edmm: whether ``occlum build`` is called with ``--enable-edmm Y``.

    Raises:
        UsageError: EDMM with a version that has none.
    """
    grows = has_edmm(config, edmm)
    common = EnclaveConfig(
        prod_id=config.product_id,
        isv_svn=config.version_number,
        stack_min=config.kernel_stack,
        stack_max=config.kernel_stack,
        tcs_policy=0,
        disable_debug=not config.debuggable,
        reserved_executable=True,
        enable_kss=config.enable_kss,
        isv_family_id=config.family_id.to_bytes(16, "little"),
        isv_ext_prod_id=config.ext_prod_id.to_bytes(16, "little"),
        pkru=config.features.pkru,
        amx=config.features.amx,
    )
    if config.version.layout is Layout.FIXED:
        return _fixed(common, config)
    if config.version.layout is Layout.HEAP_MAX:
        return _heap_max(common, config)
    return _edmm(common, config) if grows else _whole(common, config)


def _memory(common: EnclaveConfig, user: int, heap: int, heap_max: int) -> EnclaveConfig:
    return replace(
        common,
        reserved_min=user,
        reserved_init=user,
        reserved_max=user,
        heap_min=heap,
        heap_init=heap,
        heap_max=heap_max,
    )


def _fixed(common: EnclaveConfig, config: OcclumConfig) -> EnclaveConfig:
    found = _memory(common, config.user_space, config.kernel_heap, config.kernel_heap)
    n = config.max_threads
    return replace(found, tcs_num=n, tcs_max_num=n, misc_select=0, misc_mask=_U32)


def _heap_max(common: EnclaveConfig, config: OcclumConfig) -> EnclaveConfig:
    most = config.kernel_heap_max or LEAST_MAX_HEAP
    found = _memory(common, config.user_space, config.kernel_heap, most)
    n = config.max_threads
    top = max(n, LEAST_MAX_THREADS)
    return replace(found, tcs_num=n, tcs_min_pool=n, tcs_max_num=top, misc_select=1, misc_mask=0)


def _whole(common: EnclaveConfig, config: OcclumConfig) -> EnclaveConfig:
    heap = config.kernel_heap_max or config.kernel_heap
    found = _memory(common, config.user_space_max or config.user_space, heap, heap)
    n = config.max_threads
    return replace(found, tcs_num=n, tcs_min_pool=n, tcs_max_num=n, misc_select=0, misc_mask=0)


def _edmm(common: EnclaveConfig, config: OcclumConfig) -> EnclaveConfig:
    heap_max = config.kernel_heap_max or max(config.kernel_heap, LEAST_MAX_HEAP)
    found = _memory(common, config.user_space, config.kernel_heap, heap_max)
    user = config.user_space_max or max(config.user_space, LEAST_MAX_USER)
    first = config.init_threads or min(START_THREADS, config.max_threads)
    return replace(
        found,
        tcs_num=first,
        tcs_min_pool=first,
        tcs_max_num=max(config.max_threads, LEAST_MAX_THREADS),
        misc_select=1,
        misc_mask=_U32,
        user_region_size=user + (GIB if user != config.user_space else 0),
    )


def enclave_xml(enclave: EnclaveConfig, version: OcclumVersion) -> str:
    """Write the ``Enclave.xml`` of a version, as ``sgx_sign -config`` reads it.

    Args:
        enclave: from :func:`enclave_config`.
        version: decides which elements there are.
    """
    family, product = (
        int.from_bytes(value, "little")
        for value in (enclave.isv_family_id, enclave.isv_ext_prod_id)
    )
    half = (1 << 64) - 1
    threads = {"TCSNum": enclave.tcs_num}
    if version.layout is not Layout.FIXED:
        threads |= {"TCSMaxNum": enclave.tcs_max_num, "TCSMinPool": enclave.tcs_min_pool}
    mask = f"{enclave.misc_mask:#X}".replace("X", "x") if enclave.misc_mask else 0
    region = {"UserRegionSize": enclave.user_region_size} if enclave.user_region_size else {}
    values: dict[str, int | str] = {
        "ProdID": enclave.prod_id,
        "ISVSVN": enclave.isv_svn,
        "StackMaxSize": enclave.stack_max,
        "StackMinSize": enclave.stack_min,
        "HeapInitSize": enclave.heap_init,
        "HeapMaxSize": enclave.heap_max,
        "HeapMinSize": enclave.heap_min,
        **threads,
        "TCSPolicy": enclave.tcs_policy,
        "DisableDebug": int(enclave.disable_debug),
        "MiscSelect": enclave.misc_select,
        "MiscMask": mask,
        "ReservedMemMaxSize": enclave.reserved_max,
        "ReservedMemMinSize": enclave.reserved_min,
        "ReservedMemInitSize": enclave.reserved_init,
        "ReservedMemExecutable": int(enclave.reserved_executable),
        **region,
        "EnableKSS": int(enclave.enable_kss),
        "ISVEXTPRODID_H": product >> 64,
        "ISVEXTPRODID_L": product & half,
        "ISVFAMILYID_H": family >> 64,
        "ISVFAMILYID_L": family & half,
    }
    if version.number >= (0, 28, 0):
        values["PKRU"] = enclave.pkru
    if version.has_edmm:
        values["AMX"] = enclave.amx
    lines = "".join(f"  <{name}>{value}</{name}>\n" for name, value in values.items())
    return f"<EnclaveConfiguration>\n{lines}</EnclaveConfiguration>\n"
