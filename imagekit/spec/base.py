"""The base of an image: a reference to one, or a specification that says how to make one.

The keys under ``base:`` of ``imagekit.yaml``, either ``image`` alone (an image reference) or::

    base:
      distribution:
        suite: bookworm            # name of the suite in the archive
        variant: minbase           # package set to start from, default minbase
        mirrors: []                # URLs or one-line "deb …" entries; none = mmdebstrap's default
        snapshot: 20260101T000000Z # replaces {snapshot} in mirrors and source URIs
        builder: debian:12@sha256:… # image in which a container engine makes the base
      packages: [openjdk-17-jre-headless]
      sources:                     # further apt archives; each needs the key that signs it
        - {name: gramine, uri: https://…, suites: [bookworm], components: [main],
           signed_by: {url: https://…, sha256: …}}
      artifacts:                   # each becomes a layer; the hash stands here or in the base lock
        - {pypi: pyspark==3.5.9, sha256: …, take: pyspark-3.5.9/deps, to: /opt/spark}
        - {url: https://…/x.tgz, sha256: …, to: /opt/x, strip: 1}
        - {path: ./x.deb, sha256: …}       # a .deb is installed with the packages, so no "to"
      files:
        - {path: /etc/foo, text: "…", mode: "0644"}    # or source: ./file instead of text
      env: {JAVA_HOME: /usr/lib/jvm/default}
      user: "1000"                 # default: root
      workdir: /ppml
      entrypoint: [/usr/bin/tini, --]
      exclude: ["/usr/share/doc/*"]  # globs (* also matches "/") left out of the distribution layer
      date: 2026-01-01             # the time stamps in the image, unless SOURCE_DATE_EPOCH is set
      ca_bundle: ./company-ca.pem  # certificates trusted while the base is made, not part of it

or, on top of an image, ``from`` in place of ``distribution``, ``sources`` and ``exclude``::

    base:
      from: docker://docker.io/occlum/occlum:0.29.7-ubuntu20.04@sha256:…
      packages: [openjdk-11-jre-headless]   # installed in a container engine

This module makes values and reads nothing but YAML nodes; :mod:`imagekit.images.bases` builds.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict, TypeVar

from imagekit.errors import UsageError
from imagekit.spec.base_values import (
    ARCHIVE_SUFFIXES,
    DEFAULT_EPOCH,
    VARIANTS,
    AptSource,
    Artifact,
    ArtifactKind,
    BaseFile,
    BaseReference,
    BaseSpec,
    DerivedSpec,
    Distribution,
    SourceKey,
)
from imagekit.spec.fields import Node, shown
from imagekit.spec.names import parse_image_reference

__all__ = [
    "ARCHIVE_SUFFIXES",
    "DEFAULT_EPOCH",
    "VARIANTS",
    "AptSource",
    "Artifact",
    "ArtifactKind",
    "BaseFile",
    "BaseReference",
    "BaseSpec",
    "DerivedSpec",
    "Distribution",
    "SourceKey",
    "parse_base",
]

# Compiled where they are used: most runs meet a base that is an image already.
_SUITE = r"[A-Za-z0-9][A-Za-z0-9.+~_-]*(/[A-Za-z0-9.+~_-]+)*/?"
_SOURCE_SUITE = rf"\./|/|{_SUITE}"  # a flat archive has a path for a suite
_WORD = r"[A-Za-z0-9][A-Za-z0-9.+_-]*"
_PACKAGE = r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9][A-Za-z0-9.+:~-]*|/[A-Za-z0-9.+~_-]+)?"
_SNAPSHOT = r"[0-9]{8}T[0-9]{6}Z"
_SHA256 = r"[0-9a-fA-F]{64}"
_REQUIREMENT = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9.!+_-]*"
_ENV_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_MODE = r"0[0-7]{3}"
_USER = r"([a-z_][a-z0-9_-]*|[0-9]{1,10})(:([a-z_][a-z0-9_-]*|[0-9]{1,10}))?"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_UNSIGNED = r"(?i)\b(trusted|allow-insecure|allow-weak)\s*=\s*(yes|true|1|on)"

_BASE_KEYS = (
    "image",
    "from",
    "distribution",
    "packages",
    "sources",
    "artifacts",
    "files",
    "env",
    "user",
    "workdir",
    "entrypoint",
    "exclude",
    "date",
    "ca_bundle",
)
_DISTRIBUTION_KEYS = ("distribution", "sources", "exclude")
_REFERENCE = r"[a-z][a-z-]*:\S+"
_REFERENCE_HINT = "write the transport too: oci:DIR:TAG, docker-archive:FILE, docker://NAME"
_ARTIFACT_KEYS = ("pypi", "url", "path", "sha256", "take", "strip", "to", "mode")

_T = TypeVar("_T")


def parse_base(node: Node) -> BaseSpec | DerivedSpec | BaseReference:
    """Read the value of ``base:``.

    Raises:
        UsageError: anything that is not allowed there, with file, line and key.

    """
    keys = node.mapping(_BASE_KEYS)
    if "image" in keys:
        for name, child in keys.items():
            if name != "image":
                raise child.error(
                    "a base is either an image or a specification",
                    f'remove "image" or "{name}"'
                    + ("" if name in _DISTRIBUTION_KEYS else ', or write "from" for "image"'),
                )
        return BaseReference(_reference(keys["image"]))
    if "from" in keys:
        return _derived(keys)
    if "distribution" not in keys:
        raise node.error(
            'the key "distribution" is missing',
            'name an image, a distribution, or with "from" an image to start from',
        )
    distribution = _distribution(keys["distribution"])
    spec = BaseSpec(
        distribution=distribution,
        sources=_unique(_items(keys.get("sources"), lambda n: _source(n, distribution)), "name"),
        exclude=tuple(value for _, value in _items(keys.get("exclude"), _glob)),
        **_parts(keys),
    )
    _check_snapshot(keys["distribution"], spec)
    return spec


def _derived(keys: Mapping[str, Node]) -> DerivedSpec:
    for name in _DISTRIBUTION_KEYS:
        if name in keys:
            raise keys[name].error(
                "a base on top of an image has that image's distribution",
                f'remove "from" or "{name}"',
            )
    return DerivedSpec(image=_reference(keys["from"]), **_parts(keys))


def _reference(node: Node) -> str:
    return node.string(what="an image reference", pattern=_REFERENCE, hint=_REFERENCE_HINT)


class _Parts(TypedDict):
    packages: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    files: tuple[BaseFile, ...]
    env: tuple[tuple[str, str], ...]
    user: str | None
    workdir: str | None
    entrypoint: tuple[str, ...]
    date: str | None
    ca_bundle: str | None


def _parts(keys: Mapping[str, Node]) -> _Parts:
    """Give what both kinds of specification have."""
    get = keys.get
    return _Parts(
        packages=_packages(get("packages")),
        artifacts=_unique(_items(get("artifacts"), _artifact), "identity"),
        files=_unique(_items(get("files"), _file), "path"),
        env=_env(get("env")),
        user=_optional(get("user"), _USER, "a user such as 1000, 1000:1000 or spark"),
        workdir=_absolute(keys["workdir"]) if "workdir" in keys else None,
        entrypoint=keys["entrypoint"].strings(minimum=1) if "entrypoint" in keys else (),
        date=_date(get("date")),
        ca_bundle=keys["ca_bundle"].string() if "ca_bundle" in keys else None,
    )


def _items(node: Node | None, parse: Callable[[Node], _T]) -> list[tuple[Node, _T]]:
    return [] if node is None else [(item, parse(item)) for item in node.sequence()]


def _unique(items: Sequence[tuple[Node, _T]], attribute: str) -> tuple[_T, ...]:
    lines: dict[str, int] = {}
    for node, value in items:
        name = str(getattr(value, attribute))
        if name in lines:
            raise node.error(
                f"{shown(name)} given twice", f"it stands on line {lines[name]} already"
            )
        lines[name] = node.line
    return tuple(value for _, value in items)


def _distribution(node: Node) -> Distribution:
    names = ("suite", "variant", "mirrors", "snapshot", "builder")
    keys = node.mapping(names, required=("suite",))
    snapshot = _optional(
        keys.get("snapshot"), _SNAPSHOT, "a snapshot time such as 20260101T000000Z"
    )
    return Distribution(
        suite=keys["suite"].string(pattern=_SUITE, what="a suite name such as bookworm"),
        variant=keys["variant"].choice(VARIANTS) if "variant" in keys else "minbase",
        mirrors=tuple(v for _, v in _items(keys.get("mirrors"), lambda n: _mirror(n, snapshot))),
        snapshot=snapshot,
        builder=_builder(keys["builder"]) if "builder" in keys else None,
    )


def _builder(node: Node) -> str:
    text = node.string(what="the name of an image")
    try:
        reference = parse_image_reference(text)
    except UsageError as error:
        raise node.error(f"{shown(text)} is no name of an image", error.hint) from None
    if not (reference.digest or "").startswith("sha256:"):
        raise node.error(
            f"{shown(text)} is not pinned: the same name can mean another image tomorrow",
            "add the image's digest: NAME:TAG@sha256:…",
        )
    return text


def _mirror(node: Node, snapshot: str | None) -> str:
    text = node.string(what="a mirror: a URL or a line that begins with deb")
    if any(not c.isprintable() for c in text):
        raise node.error("a mirror is one line of text", "write one list item per mirror")
    if re.search(_UNSIGNED, text):
        raise node.error(
            "unsigned archives are not taken", "remove the option; name its key with signed-by="
        )
    if text.startswith("deb "):
        for word in text.split():
            if "://" in word and not word.startswith("["):
                _check_url(node, word, ("http", "https", "file"))
    else:
        _check_url(node, text, ("http", "https", "file"))
    return _with_snapshot(node, text, snapshot)


def _with_snapshot(node: Node, text: str, snapshot: str | None) -> str:
    if "{snapshot}" not in text:
        return text
    if snapshot is None:
        raise node.error(
            "{snapshot} is used but none is given", "add distribution.snapshot: 20260101T000000Z"
        )
    return text.replace("{snapshot}", snapshot)


def _check_snapshot(node: Node, spec: BaseSpec) -> None:
    used = (*spec.distribution.mirrors, *(source.uri for source in spec.sources))
    stamp = spec.distribution.snapshot
    if stamp is not None and not any(stamp in text for text in used):
        raise node.error(
            "the snapshot is used by no mirror",
            "add mirrors with {snapshot} where the archive's address has the time",
        )


def _check_url(node: Node, text: str, schemes: Sequence[str]) -> str:
    from urllib.parse import urlsplit  # here: it costs start-up time, and few bases need it

    try:
        parts = urlsplit(text)
        valid = parts.scheme in schemes and bool(parts.netloc or parts.scheme == "file")
        _ = parts.port
    except ValueError:
        valid = False
        parts = None
    if not valid or parts is None or not text.isascii() or any(c <= " " for c in text):
        raise node.error(f"{shown(text)} is not a usable URL", f"begin it with {schemes[-1]}://")
    if parts.username is not None or parts.password is not None:
        # the URL itself must not be shown: messages and logs never hold a password
        raise node.error(
            "a URL with a user name or password is refused",
            "the project file is public: fetch the file yourself and name it with path:",
        )
    return text


def _packages(node: Node | None) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    for item in node.sequence() if node is not None else ():
        name = item.string(pattern=_PACKAGE, what="a package name, optionally with =version")
        if name in seen:
            raise item.error(
                f"{shown(name)} given twice", f"it stands on line {seen[name]} already"
            )
        seen[name] = item.line
    return tuple(seen)


def _source(node: Node, distribution: Distribution) -> AptSource:
    names = ("name", "uri", "suites", "components", "signed_by")
    keys = node.mapping(names, required=("name", "uri", "suites", "signed_by"))
    uri = _with_snapshot(keys["uri"], keys["uri"].string(), distribution.snapshot)
    components = keys["components"].sequence() if "components" in keys else ()
    suites = tuple(
        item.string(pattern=_SOURCE_SUITE, what="a suite name")
        for item in keys["suites"].sequence(minimum=1)
    )
    if not components and not all(suite.endswith("/") for suite in suites):
        raise node.error('the key "components" is missing', "add components: [main]")
    return AptSource(
        name=keys["name"].string(
            pattern=r"[a-z0-9][a-z0-9_-]*", what="a short name of a-z, 0-9, - and _"
        ),
        uri=_check_url(keys["uri"], uri, ("http", "file", "https")),
        suites=suites,
        components=tuple(
            item.string(pattern=_WORD, what="a component name") for item in components
        ),
        signed_by=_source_key(keys["signed_by"]),
    )


def _source_key(node: Node) -> SourceKey:
    if node.kind == "scalar":
        return SourceKey(path=node.string())
    keys = node.mapping(("path", "url", "sha256"))
    if ("path" in keys) == ("url" in keys):
        raise node.error("give either path or url", "the file that holds the archive's public key")
    if "url" in keys and "sha256" not in keys:
        raise node.error('the key "sha256" is missing', "nothing is fetched without its hash")
    return SourceKey(
        path=keys["path"].string() if "path" in keys else None,
        url=_check_url(keys["url"], keys["url"].string(), ("http", "https"))
        if "url" in keys
        else None,
        sha256=_sha256(keys.get("sha256")),
    )


def _sha256(node: Node | None) -> str | None:
    found = _optional(node, _SHA256, "a SHA-256 of 64 hex digits")
    return found.lower() if found else None


def _artifact(node: Node) -> Artifact:
    keys = node.mapping(_ARTIFACT_KEYS)
    kinds: list[ArtifactKind] = [k for k in ("pypi", "url", "path") if k in keys]
    if len(kinds) != 1:
        raise node.error(
            "an artifact has exactly one of pypi, url, path", "say where it comes from, once"
        )
    kind = kinds[0]
    found = Artifact(
        kind=kind,
        source=_artifact_source(keys[kind], kind),
        sha256=_sha256(keys.get("sha256")),
        take=_inner_path(keys["take"]) if "take" in keys else None,
        strip=keys["strip"].integer(minimum=0, maximum=64) if "strip" in keys else 0,
        mode=_mode(keys["mode"]) if "mode" in keys else 0o644,
        where=node.where,
    )
    if found.is_deb:
        for name in ("to", "take", "strip", "mode"):
            if name in keys:
                raise keys[name].error(
                    "a .deb is installed, not unpacked", f'remove "{name}" from this artifact'
                )
        return found
    if "to" not in keys:
        raise node.error('the key "to" is missing', "say where in the image it goes: to: /opt/x")
    _check_archive_keys(keys, found)
    return _replace_to(found, keys["to"])


def _check_archive_keys(keys: Mapping[str, Node], found: Artifact) -> None:
    if found.is_archive and "mode" in keys:
        raise keys["mode"].error("an archive has its own modes", 'remove "mode"')
    if not found.is_archive:
        for name in ("take", "strip"):
            if name in keys:
                raise keys[name].error(
                    f"{shown(found.filename)} is stored as it is, not unpacked",
                    f'remove "{name}", or give the archive a name such as x.tar.gz',
                )
    if "take" in keys and "strip" in keys:
        raise keys["strip"].error("take and strip exclude each other", "take strips its own path")


def _replace_to(found: Artifact, node: Node) -> Artifact:
    text = node.string()
    folder = text.endswith("/") and text != "/"
    to = _absolute(node, text.rstrip("/") if folder else text)
    if folder and not found.is_archive:
        to = f"{to}/{found.filename}"
    return replace(found, to=to)


def _artifact_source(node: Node, kind: ArtifactKind) -> str:
    if kind == "pypi":
        return node.string(
            pattern=_REQUIREMENT,
            what="a package with its version, such as pyspark==3.5.9",
            hint="write name==version, without extras, markers or ranges",
        )
    if kind == "url":
        text = _check_url(node, node.string(), ("http", "https"))
        if not re.fullmatch(r"[a-z]+://[^/?#]+/(?:[^?#]*/)?[^/?#]+(?:[?#].*)?", text):
            raise node.error("the URL names no file", "give the whole URL of one file")
        return text
    text = node.string()
    if text.endswith("/"):
        raise node.error("a file is needed, not a folder", "pack it into a .tar first")
    return text


def _inner_path(node: Node) -> str:
    text = node.string().strip("/")
    if not text or any(part in {"", ".", ".."} for part in text.split("/")):
        raise node.error(
            f"{shown(node.raw)} is not a path inside the archive", "write it without . and .."
        )
    return text


def _absolute(node: Node, text: str | None = None) -> str:
    path = node.string() if text is None else text
    parts = path.split("/")
    plain = all(c.isprintable() for c in path)
    if parts[0] or len(parts) < 2 or any(p in {"", ".", ".."} for p in parts[1:]) or not plain:
        raise node.error(
            f"{shown(path)} is not an absolute path",
            "begin with / and leave out . and .. and double slashes",
        )
    return path


def _mode(node: Node) -> int:
    return int(
        node.string(pattern=_MODE, what="a file mode", hint='write it like "0644" or "0755"'), 8
    )


def _file(node: Node) -> BaseFile:
    keys = node.mapping(("path", "text", "source", "mode"), required=("path",))
    if ("text" in keys) == ("source" in keys):
        raise node.error("give either text or source", "the content itself, or the file to copy")
    return BaseFile(
        path=_absolute(keys["path"]),
        text=keys["text"].string(empty=True) if "text" in keys else None,
        source=keys["source"].string() if "source" in keys else None,
        mode=_mode(keys["mode"]) if "mode" in keys else 0o644,
    )


def _env(node: Node | None) -> tuple[tuple[str, str], ...]:
    found = {}
    for name, value in node.mapping().items() if node is not None else ():
        if not re.fullmatch(_ENV_NAME, name):
            raise value.error(
                f"{shown(name)} is not a variable name", "use letters, digits and _ only"
            )
        found[name] = value.string(empty=True)
    return tuple(sorted(found.items()))


def _glob(node: Node) -> str:
    text = node.string()
    if not text.startswith("/") or ".." in text.split("/"):
        raise node.error(f"{shown(text)} is not an absolute pattern", "begin it with /")
    if not text.strip("/*?"):
        raise node.error(f"{shown(text)} would exclude everything", "name a folder")
    return text


def _optional(node: Node | None, pattern: str, what: str) -> str | None:
    return None if node is None else node.string(pattern=pattern, what=what)


def _date(node: Node | None) -> str | None:
    text = _optional(node, _DATE, "a date such as 2026-01-31")
    if node is None or text is None:
        return None
    try:
        year = datetime.date.fromisoformat(text).year
    except ValueError:
        year = 0
    if not 1980 <= year <= 2107:
        raise node.error(f"{shown(text)} is no date", "write a day from 1980 to 2107 as 2026-01-31")
    return text
