"""What every JVM of the runtime is started with, and how large its heap may be.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re

from .launch import Java
from .place import NATIVE, Place
from .stop import REFUSED, Stop

ADD_OPENS = (
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.invoke=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.reflect=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.atomic=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.cs=ALL-UNNAMED",
    "--add-opens=java.base/sun.security.action=ALL-UNNAMED",
    "--add-opens=java.base/sun.util.calendar=ALL-UNNAMED",
    "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "-Djdk.reflect.useDirectMethodHandle=false",
    "-Dio.netty.tryReflectionSetAccessible=true",
)
"""What Spark's own scripts give a Java with modules closed (17 and later)."""

_SIZE = re.compile(r"([0-9]{1,15})([kKmMgGtT]?)[bB]?")
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def program(java: Java) -> str:
    """Give the path of ``java``."""
    return f"{java.home}/bin/java"


def opens(java: Java) -> tuple[str, ...]:
    """Give the flags that open the modules that Spark and Flink reach into."""
    return ADD_OPENS if java.major >= 17 else ()


def enclave_flags(place: Place, processors: int) -> tuple[str, ...]:
    """Give the flags that a JVM needs under a library OS; none natively.

    Without ``-UsePerfData`` the JVM complains of ``flock``; the number of processors decides how
    many threads it starts, and an enclave has a fixed number of those.

    Args:
        place: where it runs.
        processors: how many it may see.
    """
    if place.kind == NATIVE:
        return ()
    return ("-XX:-UsePerfData", f"-XX:ActiveProcessorCount={processors}")


def parse_size(text: str, unit: str = "") -> int:
    """Give the bytes of a size as JVM, Spark and Flink write it, such as ``1g`` or ``512m``.

    Args:
        text: the size; k, m, g and t are powers of 1024.
        unit: the unit of a number alone: "" (bytes), "k", "m", "g".

    Raises:
        ValueError: it is no such size, or zero.
    """
    found = _SIZE.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise ValueError("not a size such as 1g or 512m")
    return int(found[1]) << _UNITS[(found[2] or unit).lower()]


def split_options(name: str, text: str) -> list[str]:
    """Split options of a JVM at spaces outside of quotes; nothing is expanded.

    Args:
        name: what sets them, for the message.
        text: the options.

    Raises:
        Stop: a quote or backslash without its end.
    """
    import shlex  # only here: few commands need it

    try:
        return shlex.split(text)
    except ValueError:
        raise Stop(REFUSED, f"{name}: a quote or backslash without its end") from None


def check_heap(name: str, heap: int, place: Place) -> None:
    """Refuse a heap that does not fit: it has to be smaller than half of the enclave.

    Args:
        name: what sets it, for the message.
        heap: bytes.
        place: where the JVM runs.

    Raises:
        Stop: too large.
    """
    if place.kind != NATIVE and place.enclave_size is not None and 2 * heap >= place.enclave_size:
        raise Stop(
            REFUSED,
            f"{name}: a heap of {heap >> 20} MiB does not fit: take less than half of the "
            f"enclave's {place.enclave_size >> 20} MiB, or an image with a larger enclave",
        )
