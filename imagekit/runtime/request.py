"""The launch request: what the container was asked for, on its way into the enclave.

The entry point outside packs role, arguments, the variables that matter and the job's properties
into one variable, :data:`VARIABLE`; a strict manifest lets that one through and nothing else. It
comes from the host, so inside nothing in it is believed before it is checked.

The value is canonical JSON (sorted keys, no spaces, ASCII)::

    {"args": ["--class", "…"], "conf": {"spark.app.name": "…"}, "env": {"SGX_DRIVER_JVM_MEM_SIZE":
     "1g"}, "role": "driver", "schema": 1}

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import json
from typing import Any, Mapping, NamedTuple, Sequence  # noqa: UP035 - Python 3.8

from .documents import is_text

VARIABLE = "IMAGEKIT_REQUEST"
SCHEMA = 1
LONGEST = 96 * 1024
"""Bytes. Linux takes at most 128 KiB in one variable."""

INJECTIONS = (
    *("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "LD_AUDIT", "LD_PRELOAD"),
    *("SPARK_SUBMIT_OPTS", "sgx_command"),
)
"""Variables by which code gets into a program. A strict manifest keeps them out anyhow; that they
are refused, rather than dropped, tells who sets them that they have no effect."""

_SERVICES = (
    *("APP_ID", "API_KEY", "QUOTE_TYPE", "CHALLENGE", "REPORT_DATA", "ENCRYPTED_FSD"),
    "USING_LOCAL_DATA_KEY",
)
_SERVICE_PREFIXES = ("ATTESTATION", "EHSM_", "LOCAL_DATA_KEY")

_KEYS = {"schema", "role", "args", "env", "conf"}


class Request(NamedTuple):
    """What the container was asked for; nothing of it is checked beyond its form.

    Attributes:
        role: the word the container was started with, such as ``driver``.
        args: the words after it.
        env: variables of the container that the role may care for.
        conf: properties of the job as the container's files give them: Spark's properties file,
            Flink's configuration, flattened to dotted keys.
    """

    role: str
    args: tuple[str, ...]
    env: dict[str, str]
    conf: dict[str, str]

    def __repr__(self) -> str:
        """The role alone: the rest may hold secrets."""
        return f"Request(role={self.role!r}, …)"


def is_service(name: str) -> bool:
    """Say whether a variable may be one of attestation or storage (:mod:`.settings`)."""
    return name in _SERVICES or name.startswith(_SERVICE_PREFIXES)


def write_request(
    role: str, args: Sequence[str], env: Mapping[str, str], conf: Mapping[str, str]
) -> str:
    """Write the value of the variable.

    Raises:
        ValueError: it would be longer than :data:`LONGEST`; the text says so in one line.
    """
    document = {
        "schema": SCHEMA,
        "role": role,
        "args": list(args),
        "env": dict(env),
        "conf": dict(conf),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    if len(text) > LONGEST:
        raise ValueError(
            f"arguments, variables and properties together are longer than {LONGEST} bytes"
        )
    return text


def parse_request(text: str) -> Request:
    """Read the variable's value, strictly.

    Raises:
        ValueError: it is no request of this schema; the text says why, in one line and without
            anything of the value.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST} bytes")
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(document, dict) or set(document) != _KEYS:
        raise ValueError(f"it is not an object with exactly the keys {', '.join(sorted(_KEYS))}")
    if document["schema"] is True or document["schema"] != SCHEMA:
        raise ValueError(f"schema is not {SCHEMA}: it was made by another entry point")
    args = document["args"]
    if not is_text(document["role"]):
        raise ValueError("role is not text")
    if not isinstance(args, list) or not all(is_text(word) for word in args):
        raise ValueError("args is not a list of texts")
    return Request(document["role"], tuple(args), _table(document, "env"), _table(document, "conf"))


def _table(document: Mapping[str, Any], key: str) -> dict[str, str]:
    table = document[key]
    if not isinstance(table, dict):
        raise ValueError(f"{key} is not an object")
    if not all(is_text(name) and name and is_text(value) for name, value in table.items()):
        raise ValueError(f"{key} does not map names to texts")
    return table
