"""The JSON Schema of ``imagekit.yaml``, made from the table of keys.

Editors check and complete a project file with it. It is a little wider than the parser, which also
knows how keys depend on each other; what the parser takes, the schema takes.

``python -m imagekit.spec.schema > docs/imagekit.schema.json`` writes it anew.
"""

import json
from typing import Any

from imagekit.spec.keys import KEYS, Key, names, required

_SIZE = r"^[ \t]*[0-9]+[ \t]*([gG]|[mM])([iI]?[bB]|[iI])?[ \t]*$"
# Text may be written like a number (`tag: 2.5`): it is taken as it is written.
_TEXT = ["string", "number"]
_VARIABLE = "^[A-Za-z_][A-Za-z0-9_]*$"
_PROPERTY = "^[A-Za-z$][A-Za-z0-9._$/-]*$"

# What the table cannot say: keys that exclude each other.
_EXTRA: dict[str, dict[str, Any]] = {
    "base": {
        "oneOf": [
            {"required": ["image"], "maxProperties": 1},
            {
                "required": ["distribution"],
                "not": {"anyOf": [{"required": ["image"]}, {"required": ["from"]}]},
            },
            {
                "required": ["from"],
                "not": {
                    "anyOf": [
                        {"required": [name]}
                        for name in ("image", "distribution", "sources", "exclude")
                    ]
                },
            },
        ]
    },
    "base.artifacts[]": {
        "oneOf": [{"required": ["pypi"]}, {"required": ["url"]}, {"required": ["path"]}]
    },
    "base.files[]": {"oneOf": [{"required": ["text"]}, {"required": ["source"]}]},
    "matrix.exclude[]": {"minProperties": 1},
}


def project_schema() -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) as JSON values."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "imagekit.yaml",
        "description": "The project file of imagekit: one base, a matrix of enclave images.",
        **_mapping(""),
    }


def schema_text() -> str:
    """Return the schema as the text of ``docs/imagekit.schema.json``."""
    return json.dumps(project_schema(), indent=2, ensure_ascii=False) + "\n"


def _mapping(path: str) -> dict[str, Any]:
    dot = f"{path}." if path else ""
    found: dict[str, Any] = {
        "type": "object",
        "properties": {name: _value(dot + name) for name in names(path)},
        "additionalProperties": False,
    }
    if required(path):
        found["required"] = list(required(path))
    return found | _EXTRA.get(path, {})


def _value(path: str) -> dict[str, Any]:
    key = KEYS[path]
    found: dict[str, Any] = {"description": key.text}
    if key.default is not None:
        found["default"] = key.default
    if key.kind == "mapping":
        found |= _mapping(path)
        if path == "base.sources[].signed_by":
            found["type"] = ["object", "string"]  # a text alone is its path
    elif key.kind in {"map", "properties"}:
        found |= {
            "type": "object",
            "propertyNames": {"pattern": _VARIABLE if key.kind == "map" else _PROPERTY},
            "additionalProperties": {"type": _TEXT},
        }
    elif key.kind in {"texts", "sizes", "mappings"}:
        found |= {"type": "array", "items": _item(path, key)}
        if key.least:
            found["minItems"] = key.least
    else:
        found |= _scalar(key, key.kind)
    return found


def _item(path: str, key: Key) -> dict[str, Any]:
    if key.kind == "mappings":
        return _mapping(f"{path}[]")
    return _scalar(key, key.kind.removesuffix("s"))


def _scalar(key: Key, kind: str) -> dict[str, Any]:
    if kind == "boolean":
        return {"type": "boolean"}
    if kind == "size":
        return {"type": "string", "pattern": _SIZE}
    if kind == "integer":
        limits = {"minimum": key.least, "maximum": key.most}
        return {"type": "integer"} | {k: v for k, v in limits.items() if v is not None}
    if key.options:
        # A word that reads as a number, such as a release, is taken with and without quotes.
        numbers = [float(word) for word in key.options if word.replace(".", "", 1).isdigit()]
        return {"enum": [*key.options, *numbers]}
    return {"type": _TEXT} | ({"pattern": key.pattern} if key.pattern else {})


if __name__ == "__main__":
    print(schema_text(), end="")
