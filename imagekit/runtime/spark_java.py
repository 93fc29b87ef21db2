"""The JVM of Spark's roles: which Java, which heap, which flags, which class path.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH112
from __future__ import annotations

import os
import re
import sys
from typing import Sequence  # noqa: UP035 - Python 3.8

from .command import FOLDER
from .java import Javas, check_heap, enclave_flags, opens, pair, parse_size, program
from .launch import Java, Launch, Product
from .paths import LOG_FOLDER, NO_FORK_JAR
from .place import NATIVE, Place
from .stop import REFUSED, Stop
from .words import is_secret, shown

OPTIONS_FILE = f"{FOLDER}/java.options"
"""Java options that hold secrets; ``java`` reads them from there (Java 9 and later)."""

DEFAULT_HEAP = "1g"
"""Spark's own default for drivers and executors."""

_JAVAS = (
    Javas((4, 0), range(17, 10**6), "17 or later"),
    Javas((3, 5), range(8, 22), "8, 11, 17 or 21"),
    Javas((3, 3), range(8, 18), "8, 11 or 17"),
    Javas((3, 1), range(8, 12), "8 or 11"),
)
_NETTY_4_2 = (
    "-Dio.netty.allocator.type=pooled",
    "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",
)
"""Spark's own for the netty of Spark 4.1 and later: it verifies its peers by other means."""

_OPTION_SECRET = re.compile(r"-D([^=]+)=", re.DOTALL)


def say(line: str) -> None:
    """Print a note for the user."""
    print(f"imagekit: {line}", file=sys.stderr)


def parts(spec: Launch) -> tuple[Java, Product]:
    """Give the image's Java and Spark.

    Raises:
        Stop: one is missing, or they do not work together.
    """
    return pair(spec, "Spark", spec.spark, _JAVAS)


def heap(sources: Sequence[tuple[str, str | None, str]], place: Place) -> int:
    """Give the heap in bytes, from the first source that says one, and check that it fits.

    Args:
        sources: (name for messages, value or None, unit of a number alone), the first that counts
            first.
        place: where the JVM runs.

    Raises:
        Stop: it is no size, or too large for the enclave.
    """
    found = next((source for source in sources if source[1]), None)
    if found is None:
        names = ", ".join(source[0] for source in sources)
        say(f"the heap is {DEFAULT_HEAP}, Spark's default, as none of these is set: {names}")
        found = (sources[0][0], DEFAULT_HEAP, "")
    name, text, unit = found
    try:
        size = parse_size(text or "", unit)
    except ValueError as error:
        raise Stop(REFUSED, f"{name}: {error}") from None
    check_heap(name, size, place)
    return size


def class_path(spark: Product, conf_folder: str | None, before: str = "", after: str = "") -> str:
    """Give the class path: the file system that starts no process, then Spark's own.

    Java expands ``jars/*`` itself.

    Args:
        spark: Spark of the image.
        conf_folder: folder with configuration, left out if it is none.
        before: what stands before Spark's jars, ``spark.driver.extraClassPath`` and such.
        after: what stands after them.
    """
    folder = conf_folder if conf_folder and os.path.isdir(conf_folder) else ""
    return ":".join(filter(None, (NO_FORK_JAR, before, folder, f"{spark.home}/jars/*", after)))


def java_argv(
    spec: Launch, place: Place, options: Sequence[str], size: int, processors: int, threads: str
) -> list[str]:
    """Give the start of a command: ``java``, the flags that every role has, and the heap.

    Args:
        spec: the launch specification.
        place: where it runs.
        options: the role's own, without secrets; they win over flags, but not over the heap.
        size: of the heap in bytes.
        processors: how many the JVM may see in an enclave.
        threads: how many threads netty takes at most, "" for its own default.
    """
    java, spark = parts(spec)
    argv = [program(java), *opens(java), *enclave_flags(place, processors)]
    if spark.release >= (4, 1):
        argv += _NETTY_4_2
    if threads:
        argv.append(f"-Dio.netty.availableProcessors={threads}")
    if spark.release >= (3, 3):
        argv.append(f"-Dlog4j2.configurationFile=file:{LOG_FOLDER}/spark/log4j2.properties")
    else:
        argv.append(f"-Dlog4j.configuration=file:{LOG_FOLDER}/spark/log4j.properties")
    if place.kind != NATIVE:
        argv.append("-Duser.home=/tmp")
    if place.in_occlum:
        argv.append("-Divy.home=/tmp/.ivy")  # as BigDL's; the home of root cannot be relied on
    kib = size >> 10
    return [*argv, *options, f"-Xmx{kib}k" if kib % 1024 else f"-Xmx{kib >> 10}m"]


def without_secrets(options: Sequence[str], java: Java) -> tuple[list[str], dict[str, bytes]]:
    """Take options that hold secrets off the command line, into a file that Java reads.

    Returns:
        The options, and the file to write (path → content), if there is one.

    Raises:
        Stop: this Java cannot read options from a file.
    """
    plain: list[str] = []
    secret: list[str] = []
    for option in options:
        found = _OPTION_SECRET.match(option)
        (secret if found is not None and is_secret(found[1]) else plain).append(option)
    if not secret:
        return plain, {}
    if java.major < 9:
        found = _OPTION_SECRET.match(secret[0])
        name = shown(found[1] if found else "")
        raise Stop(
            REFUSED,
            f"{name}: a secret among the options of Java 8 would be seen in the list of processes;"
            " give it as a property, or take Java 11",
        )
    text = "".join(f"{_quoted(option)}\n" for option in secret)
    return [*plain, f"@{OPTIONS_FILE}"], {OPTIONS_FILE: text.encode()}


def _quoted(option: str) -> str:
    """Write an option as Java's argument files want it."""
    table = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}
    return '"' + "".join(table.get(char, char) for char in option) + '"'
