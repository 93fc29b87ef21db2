"""The launch specification: what the launcher may become, and with which environment.

``launch.json`` stands beside the launcher and, in the strict profile, is a trusted file, so it is
part of the measurement::

    {"schema": 2, "libos": "gramine", "profile": "strict",
     "argv": ["/usr/bin/java", "…"], "env": {"NAME": "value"},
     "passthrough": {"NAME": "regular expression"},
     "roles": ["driver", "executor"], "classes": ["org.example.Job"], "jars": ["/opt/job.jar"],
     "arguments": "regular expression", "conf": {"spark.x": "value"},
     "conf_allowed": {"spark.y": "regular expression"},
     "java": {"home": "/usr/lib/jvm/x", "major": 17},
     "spark": {"home": "/opt/spark", "version": "3.5.9"}, "flink": null,
     "encrypted": [{"path": "/data", "host": "/data", "key_name": "warehouse"}], "exposed": [],
     "attestation": {"required": false, "settings": {}}}

``libos`` is what runs the enclave: ``gramine``, which is also meant where the key is not there, or
``occlum``.

``argv`` is the sealed command, executed as it is, without a shell; empty if there is none. ``env``
is the whole environment but for the variables of ``passthrough``, whose values come from the host
and must match their pattern as a whole. The rest is the closed grammar of the roles: what a launch
request (:mod:`.request`) may choose. In the compat profile nothing is checked against it.

This module runs inside the image too: Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import json
import re
from typing import Any, Mapping, NamedTuple, Sequence  # noqa: UP035 - Python 3.8

from .documents import is_text, without_repetition

SCHEMA = 2
DEFAULT_PASSTHROUGH: Mapping[str, str] = {}
"""Variables that the host may set by default: none. What a role needs comes in the request."""

SPARK_ROLES = ("driver", "executor", "submit", "thrift")
FLINK_ROLES = ("jobmanager", "standalone-job", "taskmanager")
ROLES = (*SPARK_ROLES, *FLINK_ROLES)
"""Roles that the launcher knows; what each is stands in :mod:`.spark` and :mod:`.flink`."""
PROFILES = ("strict", "compat")
GRAMINE = "gramine"
OCCLUM = "occlum"
LIBOSES = (GRAMINE, OCCLUM)

LONGEST_VALUE = 1 << 13
"""Bytes of a value from outside: a regular expression is not run on more than that."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)+")
_KEYS = {
    *("schema", "libos", "profile", "argv", "env", "passthrough", "roles", "classes", "jars"),
    *("arguments", "conf", "conf_allowed", "java", "spark", "flink", "encrypted", "exposed"),
    "attestation",
}


class Java(NamedTuple):
    """The Java of the image.

    Attributes:
        home: its folder, with ``bin/java``.
        major: its feature release: 8, 11, 17 …
    """

    home: str
    major: int


class Product(NamedTuple):
    """Spark or Flink of the image.

    Attributes:
        home: its folder.
        version: as in ``3.5.9``.
    """

    home: str
    version: str

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers."""
        return tuple(int(part) for part in self.version.split("."))


class Encrypted(NamedTuple):
    """An encrypted mount of the manifest.

    Attributes:
        path: where it is seen inside.
        host: folder of the container with the encrypted files.
        key_name: the key's name below ``/dev/attestation/keys``; ``_sgx_…`` is the CPU's own.
    """

    path: str
    host: str
    key_name: str


class Attestation(NamedTuple):
    """What is sealed about attestation.

    Attributes:
        required: whether a start without it is refused, whatever the host says.
        settings: variable (``ATTESTATION_URL`` …) → sealed value; the host cannot choose these.
    """

    required: bool
    settings: dict[str, str]


class Launch(NamedTuple):
    """A checked launch specification.

    Attributes:
        profile: ``strict`` or ``compat``.
        argv: the sealed command: program (absolute path) and arguments; empty if there is none.
        env: variables with fixed values.
        passthrough: variable → compiled pattern that the host's value must match as a whole.
        roles: words of :data:`ROLES` that a request may name.
        classes: main classes it may name.
        jars: files inside the image it may name as the job's own.
        arguments: pattern that each argument of the job must match as a whole; None if the job
            takes none.
        conf: sealed properties of the job; they win over the request's.
        conf_allowed: further properties that the request may set: name → pattern.
        java, spark, flink: what the image has, None where it is not there.
        encrypted: encrypted mounts.
        attestation: what is sealed about it.
        libos: one of :data:`LIBOSES`.
        exposed: folders in an enclave of Occlum that are the host's own, which can read and change
            what is there; none where the key is missing.
    """

    profile: str
    argv: tuple[str, ...]
    env: dict[str, str]
    passthrough: dict[str, re.Pattern[str]]
    roles: tuple[str, ...]
    classes: tuple[str, ...]
    jars: tuple[str, ...]
    arguments: re.Pattern[str] | None
    conf: dict[str, str]
    conf_allowed: dict[str, re.Pattern[str]]
    java: Java | None
    spark: Product | None
    flink: Product | None
    encrypted: tuple[Encrypted, ...]
    attestation: Attestation
    libos: str
    exposed: tuple[str, ...]


def launch_spec(
    argv: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    passthrough: Mapping[str, str] | None = None,
    **more: Any,
) -> bytes:
    """Write ``launch.json``: canonical JSON (sorted keys, no spaces, ASCII), one line.

    Args:
        argv: the sealed command: program, as an absolute path, and its arguments.
        env: fixed environment.
        passthrough: variable → regular expression (Python's, ASCII classes) for the host's value.
        more: other keys of the document, as JSON values; see the module.

    Raises:
        ValueError: one of these could not be used; the text says which, in one line.
    """
    document = {
        "schema": SCHEMA,
        "libos": GRAMINE,
        "profile": "strict",
        "argv": list(argv),
        "env": dict(env or {}),
        "passthrough": dict(passthrough or {}),
        "roles": [],
        "classes": [],
        "jars": [],
        "arguments": None,
        "conf": {},
        "conf_allowed": {},
        "java": None,
        "spark": None,
        "flink": None,
        "encrypted": [],
        "exposed": [],
        "attestation": {"required": False, "settings": {}},
        **more,
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True) + "\n"
    data = text.encode("ascii")
    parse_launch(data)
    return data


def parse_launch(data: bytes) -> Launch:
    """Read ``launch.json``, strictly.

    Raises:
        ValueError: it is not a launch specification of this schema; the text says why, in one line.
    """
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=without_repetition)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict) or "schema" not in document:
        raise ValueError("it is not an object with a schema")
    if document["schema"] is True or document["schema"] != SCHEMA:
        raise ValueError(f"schema is not {SCHEMA}: it was made for another launcher")
    document = {"libos": GRAMINE, "exposed": [], **document}
    if set(document) != _KEYS:
        raise ValueError(f"it is not an object with exactly the keys {', '.join(sorted(_KEYS))}")
    if document["profile"] not in PROFILES:
        raise ValueError(f"profile is neither {' nor '.join(PROFILES)}")
    if document["libos"] not in LIBOSES:
        raise ValueError(f"libos is neither {' nor '.join(LIBOSES)}")
    env = _variables(document["env"], "env")
    patterns = _variables(document["passthrough"], "passthrough")
    both = sorted(set(env) & set(patterns))
    if both:
        raise ValueError(f"{both[0]} has a fixed value and is passed through: keep one of the two")
    roles = _texts(document["roles"], "roles")
    if not set(roles) <= set(ROLES):
        raise ValueError(f"roles names other than {', '.join(ROLES)}")
    arguments = document["arguments"]
    spec = Launch(
        profile=document["profile"],
        argv=_command(document["argv"]),
        env=env,
        passthrough=_patterns(patterns, "passthrough"),
        roles=roles,
        classes=_texts(document["classes"], "classes"),
        jars=_texts(document["jars"], "jars"),
        arguments=None if arguments is None else _compiled("arguments", arguments),
        conf=_table(document["conf"], "conf"),
        conf_allowed=_patterns(_table(document["conf_allowed"], "conf_allowed"), "conf_allowed"),
        java=_java(document["java"]),
        spark=_product(document["spark"], "spark"),
        flink=_product(document["flink"], "flink"),
        encrypted=_encrypted(document["encrypted"]),
        attestation=_attestation(document["attestation"]),
        libos=document["libos"],
        exposed=_texts(document["exposed"], "exposed"),
    )
    if spec.libos == OCCLUM:
        _check_occlum(spec)
    return spec


def _check_occlum(spec: Launch) -> None:
    if spec.encrypted:
        raise ValueError("encrypted: Occlum has no encrypted mounts of this kind")
    if spec.profile == "strict":
        from .occlum_rules import check_occlum  # only here: images of Gramine do without

        homes = [part.home for part in (spec.java, spec.spark, spec.flink) if part is not None]
        check_occlum(spec.passthrough, spec.exposed, [*spec.argv[:1], *spec.jars, *homes])


def _texts(words: object, key: str) -> tuple[str, ...]:
    if not isinstance(words, list) or not all(is_text(word) for word in words):
        raise ValueError(f"{key} is not a list of strings without NUL")
    return tuple(words)


def _command(argv: object) -> tuple[str, ...]:
    words = _texts(argv, "argv")
    if words and not words[0].startswith("/"):
        raise ValueError("argv[0] is not an absolute path")
    return words


def _table(table: object, key: str) -> dict[str, str]:
    if not isinstance(table, dict):
        raise ValueError(f"{key} is not an object")
    for name, value in table.items():
        if not is_text(value):
            raise ValueError(f"{key}.{name} is not a string without NUL")
    return table


def _variables(table: object, key: str) -> dict[str, str]:
    found = _table(table, key)
    for name in found:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{key}: {json.dumps(name)} is not a name of an environment variable")
    return found


def _patterns(table: Mapping[str, str], key: str) -> dict[str, re.Pattern[str]]:
    return {name: _compiled(f"{key}.{name}", text) for name, text in table.items()}


def _compiled(what: str, pattern: object) -> re.Pattern[str]:
    try:
        if isinstance(pattern, str):
            return re.compile(pattern, re.ASCII)
    except (re.error, RecursionError, OverflowError):
        pass
    raise ValueError(f"{what} is not a regular expression")


def _has(value: object, *keys: str) -> bool:
    return isinstance(value, dict) and set(value) == set(keys)


def _java(value: Any) -> Java | None:
    if value is None:
        return None
    if not _has(value, "home", "major") or not is_text(value["home"]):
        raise ValueError("java is not an object with home and major")
    if type(value["major"]) is not int:
        raise ValueError("java.major is not a number")
    return Java(value["home"], value["major"])


def _product(value: Any, key: str) -> Product | None:
    if value is None:
        return None
    if not _has(value, "home", "version") or not is_text(value["home"]):
        raise ValueError(f"{key} is not an object with home and version")
    if not isinstance(value["version"], str) or not _VERSION.fullmatch(value["version"]):
        raise ValueError(f"{key}.version is not a version such as 3.5.9")
    return Product(value["home"], value["version"])


def _encrypted(value: object) -> tuple[Encrypted, ...]:
    if not isinstance(value, list):
        raise ValueError("encrypted is not a list")
    for mount in value:
        if not _has(mount, *Encrypted._fields) or not all(map(is_text, mount.values())):
            raise ValueError("encrypted holds something else than path, host and key_name")
    return tuple(Encrypted(**mount) for mount in value)


def _attestation(value: Any) -> Attestation:
    if not _has(value, "required", "settings") or type(value["required"]) is not bool:
        raise ValueError("attestation is not an object with required and settings")
    return Attestation(value["required"], _variables(value["settings"], "attestation.settings"))
