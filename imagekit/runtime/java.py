"""What every JVM of the runtime is started with, and how large its heap may be.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Container, NamedTuple, Sequence  # noqa: UP035 - Python 3.8

from .launch import Java, Launch, Product
from .place import NATIVE, Place
from .stop import REFUSED, UNUSABLE, Stop

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


class Javas(NamedTuple):
    """On which Java releases of a product run.

    Attributes:
        first: the first of these releases.
        majors: feature releases of Java.
        words: the same for a message.
    """

    first: tuple[int, ...]
    majors: Container[int]
    words: str


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
    many threads it starts, and an enclave has a fixed number of those. For Occlum these come
    besides, as its demos and BigDL's image have them:

    - ``-UseCompressedOops``: compressed pointers want the heap at low addresses, which programs in
      an enclave are not given;
    - ``os.name``: ``uname`` there names another system, and libraries would not find their code;
    - ``launchMechanism``: Occlum has ``vfork`` and no ``fork``;
    - ``availableProcessors``: the same for netty, which has its own idea.

    Args:
        place: where it runs.
        processors: how many it may see.
    """
    if place.kind == NATIVE:
        return ()
    flags = ("-XX:-UsePerfData", f"-XX:ActiveProcessorCount={processors}")
    if not place.in_occlum:
        return flags
    return (
        *flags,
        "-XX:-UseCompressedOops",
        "-Dos.name=Linux",
        "-Djdk.lang.Process.launchMechanism=vfork",
        f"-Dio.netty.availableProcessors={processors}",
    )


def pair(
    spec: Launch, name: str, product: Product | None, javas: Sequence[Javas]
) -> tuple[Java, Product]:
    """Give the image's Java, and a product that runs on it.

    Args:
        spec: the launch specification.
        name: of the product, for messages.
        product: the image's, None if it has none.
        javas: what runs on what, the newest release first.

    Raises:
        Stop: one is missing, or they do not work together; the line says which Java does.
    """
    if spec.java is None or product is None:
        missing = name if product is None else "Java"
        raise Stop(UNUSABLE, f"this image has no {missing}: launch.json names none")
    found = next((row for row in javas if product.release >= row.first), None)
    if found is None:
        oldest = ".".join(map(str, javas[-1].first))
        raise Stop(UNUSABLE, f"{name} {product.version} is too old: take {oldest} or later")
    if spec.java.major not in found.majors:
        raise Stop(
            UNUSABLE,
            f"{name} {product.version} does not work with Java {spec.java.major}: take an image "
            f"with Java {found.words}",
        )
    return spec.java, product


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
    """Refuse a heap that does not fit: under Gramine it has to be smaller than half of the enclave.

    With Occlum the size is that of user space alone, without the library OS's own heap and stacks;
    of that at most three quarters, since a JVM needs room for code, classes and threads besides.

    Args:
        name: what sets it, for the message.
        heap: bytes.
        place: where the JVM runs.

    Raises:
        Stop: too large.
    """
    if place.kind == NATIVE or place.enclave_size is None:
        return
    if place.in_occlum:
        fits, part, whole = 4 * heap <= 3 * place.enclave_size, "at most 3/4 of the", "user space"
    else:
        fits, part, whole = 2 * heap < place.enclave_size, "less than half of the", "enclave"
    if not fits:
        raise Stop(
            REFUSED,
            f"{name}: a heap of {heap >> 20} MiB does not fit: take {part} {whole}'s "
            f"{place.enclave_size >> 20} MiB, or an image with a larger enclave",
        )
