"""The configuration of Intel's quote provider library: which PCCS it asks.

Written outside the enclave, for the quoting parts of the host; collateral from a PCCS is signed by
Intel, so nothing that security rests on is decided here.

Format: lines of ``KEY=value``, as sgx_default_qcnl.conf has them; API version 4.

Python 3.8, standard library, nothing else of this package.
"""

# ruff: noqa: PTH118, PTH123
from __future__ import annotations

import os
import re
from typing import Mapping, MutableMapping  # noqa: UP035 - Python 3.8

from .stop import REFUSED, UNUSABLE, Stop
from .words import is_true

PATH_VARIABLE = "QCNL_CONF_PATH"
"""By this variable the library finds its configuration elsewhere."""

_API = "/sgx/certification/v4/"
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/-]*)?")


def qcnl_text(env: Mapping[str, str]) -> str | None:
    """Give the configuration for PCCS_URL, None if that is not set.

    PCCS_USE_SECURE_CERT says whether the PCCS has a certificate that this machine trusts; most have
    a self-made one, and the default is no.

    Raises:
        Stop: not an address, or not a truth value.
    """
    url = env.get("PCCS_URL", "")
    if not url:
        return None
    if not _URL.fullmatch(url):
        raise Stop(REFUSED, "PCCS_URL is not an address such as https://pccs.example:8081")
    url = url.rstrip("/")
    if not url.endswith(_API.rstrip("/")):
        url += _API.rstrip("/")
    secure = is_true("PCCS_USE_SECURE_CERT", env.get("PCCS_USE_SECURE_CERT", "false"))
    return f"PCCS_URL={url}/\nUSE_SECURE_CERT={'TRUE' if secure else 'FALSE'}\n"


def write_qcnl(env: MutableMapping[str, str], path: str, fallback: str) -> str | None:
    """Write the configuration.

    Args:
        env: of the container; gets :data:`PATH_VARIABLE` if the second place had to be taken.
        path: where the library looks.
        fallback: folder for users who may not write there.

    Returns:
        Where it was written, None if there is no PCCS_URL.

    Raises:
        Stop: it can be written in neither place, or PCCS_URL is wrong.
    """
    text = qcnl_text(env)
    if text is None:
        return None
    other = os.path.join(fallback, os.path.basename(path))  # noqa: PTH119
    for place in (path, other):
        try:
            with open(place, "w", encoding="ascii") as file:
                file.write(text)
        except OSError:
            continue
        if place != path:
            env[PATH_VARIABLE] = place
        return place
    raise Stop(UNUSABLE, f"neither {path} nor {other} can be written: PCCS_URL has no effect")
