"""Which service attestation or storage asks, and how it is known, from their settings.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

from typing import Mapping  # noqa: UP035 - Python 3.8

from . import tls
from .stop import REFUSED, Stop


def service_of(given: Mapping[str, str], prefix: str, address: str, port: str = "") -> tls.Service:
    """Make the description of a service from settings.

    Args:
        given: settings, as :func:`.settings.merge` gives them.
        prefix: ``ATTESTATION`` or ``EHSM``. If eHSM has none of the settings ``…_CA``,
            ``…_PIN_SHA256`` and ``…_SERVER_NAME`` of its own, it is known as the attestation
            service is.
        address: as :func:`.tls.parse_address` takes it.
        port: the port where the address may be without one.

    Raises:
        Stop: one of them is unusable.
    """
    label = f"{prefix}_URL"
    host, number = tls.parse_address(label, address, port)
    if not any(f"{prefix}_{name}" in given for name in ("CA", "PIN_SHA256", "SERVER_NAME")):
        prefix = "ATTESTATION"
    pin = given.get(f"{prefix}_PIN_SHA256", "")
    limit = int(given.get("ATTESTATION_TIMEOUT", tls.LIMIT))
    if limit < 1:
        raise Stop(REFUSED, "ATTESTATION_TIMEOUT is not a number of seconds from 1 to 999")
    return tls.Service(
        label=label,
        host=host,
        port=number,
        server_name=given.get(f"{prefix}_SERVER_NAME", ""),
        ca=given.get(f"{prefix}_CA", ""),
        pin=tls.parse_pin(f"{prefix}_PIN_SHA256", pin) if pin else b"",
        limit=float(limit),
    )
