"""Documents of Occlum for tests: what its own template has, in each version."""

import copy
from typing import Any

from imagekit.enclave.occlum.versions import OcclumVersion, occlum_version

VERSIONS = tuple(
    occlum_version(name)
    for name in (
        *("0.26.3", "0.27.0", "0.28.0", "0.28.1", "0.29.0", "0.29.4", "0.29.5", "0.29.6"),
        *("0.29.7", "0.30.0", "0.30.1", "0.31.0"),
    )
)
"""One version at least of each kind."""

_TEMPLATE: dict[str, Any] = {
    "resource_limits": {
        "user_space_size": "300MB",
        "kernel_space_heap_size": "32MB",
        "kernel_space_stack_size": "1MB",
        "max_num_of_threads": 32,
    },
    "process": {
        "default_stack_size": "4MB",
        "default_heap_size": "32MB",
        "default_mmap_size": "100MB",
    },
    "entry_points": ["/opt/app/start"],
    "env": {"default": ["OCCLUM=yes"], "untrusted": ["EXAMPLE"]},
    "metadata": {
        "product_id": 0,
        "version_number": 0,
        "debuggable": False,
        "enable_kss": False,
        "family_id": {"high": "0x0", "low": "0x0"},
        "ext_prod_id": {"high": "0x0", "low": "0x0"},
    },
    "mount": [
        {
            "target": "/",
            "type": "unionfs",
            "options": {
                "layers": [
                    {
                        "target": "/",
                        "type": "sefs",
                        "source": "./build/mount/__ROOT",
                        "options": {"MAC": ""},
                    },
                    {"target": "/", "type": "sefs", "source": "./run/mount/__ROOT"},
                ]
            },
        }
    ],
}


def document(version: OcclumVersion, **changed: Any) -> dict[str, Any]:
    """A document without findings for a version.

    Args:
        version: whose it is.
        changed: values by path, with ``__`` for a dot; None removes the key.
    """
    found = copy.deepcopy(_TEMPLATE)
    if version.number >= (0, 30, 1):
        found["feature"] = {"amx": 0, "pkru": 0, "enable_edmm": False, "enable_posix_shm": False}
    elif version.number >= (0, 28, 0):
        found["metadata"]["pkru"] = 0
    for path, value in changed.items():
        place = found
        *above, last = path.split("__")
        for name in above:
            place = place[name]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return found
