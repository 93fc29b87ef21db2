"""The JVM that Flink runs in: which Java, its options, the class path, its environment.

What Flink's ``config.sh`` and ``flink-console.sh`` do, without the processes they start.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH118
from __future__ import annotations

import os
from typing import Mapping, Sequence  # noqa: UP035 - Python 3.8

from . import java
from .command import FOLDER
from .launch import Java, Launch, Product
from .paths import LOG_FOLDER
from .place import Place
from .stop import UNUSABLE, Stop

CONF_FOLDER = f"{FOLDER}/flink-conf"
"""Where the configuration is written."""

OPENS = (
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "--add-opens=java.base/java.text=ALL-UNNAMED",
    "--add-opens=java.base/java.time=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.locks=ALL-UNNAMED",
)
"""What Flink's own configuration opens besides :data:`.java.ADD_OPENS`. It also opens parts of the
compiler, which a runtime image need not have and a job does not use."""

_LOG_FILE = f"{FOLDER}/flink.log"  # the web interface reads it; nothing writes it
_LOG_CONF = f"{LOG_FOLDER}/flink/log4j-console.properties"
_CLASS_SPACE = "-XX:CompressedClassSpaceSize=64m"  # as BigDL's entry point; the default is 1 GiB

_JAVAS = (
    java.Javas((1, 19), (8, 11, 17, 21), "8, 11, 17, 21"),
    java.Javas((1, 18), (8, 11, 17), "8, 11, 17"),
    java.Javas((1, 15), (8, 11), "8, 11"),
)
"""The Javas that Flink's documentation names."""

_OWN_OPTIONS = ("env.java.default-opts.all", "env.java.opts", "env.java.opts.all")
_ROLE_OPTIONS = ("env.java.default-opts.{}", "env.java.opts.{}")


def parts(spec: Launch) -> tuple[Java, Product]:
    """Give the image's Java and Flink.

    Raises:
        Stop: one is missing, or they do not work together.
    """
    return java.pair(spec, "Flink", spec.flink, _JAVAS)


def class_path(home: str, more: Sequence[str] = ()) -> str:
    """Give the class path: the jars below ``lib``, sorted, Flink's own at the end.

    Args:
        home: Flink's folder.
        more: what comes after them.

    Raises:
        Stop: Flink's own jar is missing, or there are several.
    """
    found = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(f"{home}/lib")
        for name in names
        if name.endswith(".jar")
    ]
    own = [path for path in found if os.path.basename(path).startswith("flink-dist")]  # noqa: PTH119
    if len(own) != 1:
        state = "is missing" if not own else "is there more than once"
        raise Stop(UNUSABLE, f"{home}/lib: flink-dist-….jar {state}")
    return ":".join((*sorted(set(found) - set(own)), *own, *filter(None, more)))


def hadoop_path(spec: Launch) -> tuple[str, ...]:
    """Give what the image's own environment adds to the class path."""
    names = ("HADOOP_CLASSPATH", "HADOOP_CONF_DIR", "YARN_CONF_DIR", "HBASE_CONF_DIR")
    return tuple(spec.env.get(name, "") for name in names)


def option_words(conf: Mapping[str, str], role: str) -> tuple[str, ...]:
    """Give the JVM's options that a configuration sets.

    Args:
        conf: properties that may say so.
        role: ``jobmanager`` or ``taskmanager``.

    Raises:
        Stop: a quote does not end.
    """
    names = (*_OWN_OPTIONS, *(name.format(role) for name in _ROLE_OPTIONS))
    return tuple(word for name in names if name in conf for word in split_options(name, conf[name]))


def split_options(name: str, text: str) -> list[str]:
    """Part the JVM's options as :func:`.java.split_options` does.

    Args:
        name: what sets them, for the message.
        text: the options, in one pair of double quotes or none.

    Raises:
        Stop: a quote does not end.
    """
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        text = text[1:-1]
    return java.split_options(name, text)


def flags(java_: Java, place: Place, processors: int) -> tuple[str, ...]:
    """Give the options that every JVM of Flink gets, but for those of memory.

    Args:
        java_: the image's Java.
        place: where it runs.
        processors: how many it may see in an enclave.
    """
    manager = ("-Djava.security.manager=allow",) if java_.major > 17 else ()
    return (
        *java.enclave_flags(place, processors),
        _CLASS_SPACE,
        *java.opens(java_),
        *(OPENS if java_.major >= 17 else ()),
        *manager,
        *(f"-Dlog.file={_LOG_FILE}", f"-Dlog4j.configuration=file:{_LOG_CONF}"),
        f"-Dlog4j.configurationFile=file:{_LOG_CONF}",
    )


def environment(home: str) -> dict[str, str]:
    """Give the variables that Flink's classes read."""
    return {
        "FLINK_CONF_DIR": CONF_FOLDER,
        "FLINK_HOME": home,
        "FLINK_BIN_DIR": f"{home}/bin",
        "FLINK_LIB_DIR": f"{home}/lib",
        "FLINK_OPT_DIR": f"{home}/opt",
        "FLINK_PLUGINS_DIR": f"{home}/plugins",
    }
