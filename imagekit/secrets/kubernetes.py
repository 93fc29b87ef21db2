"""Kubernetes objects as YAML: sorted, and read alike by YAML 1.1 and 1.2."""

import base64
import re
from collections.abc import Mapping
from typing import Any

from imagekit.errors import UsageError
from imagekit.render.yaml_text import to_yaml

DEFAULT_NAMESPACE = "default"

_LABEL = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_label(option: str, text: str) -> None:
    """Make sure that a text can be the name of a namespace or account (RFC 1123).

    Args:
        option: where it was given, for the message.
        text: the name.

    Raises:
        UsageError: it cannot.
    """
    if not _LABEL.fullmatch(text):
        raise UsageError(
            f"{option} {text} is not a name in Kubernetes",
            "take at most 63 lower-case letters, digits and dashes, no dash at either end",
        )


def metadata(name: str, namespace: str | None) -> dict[str, Any]:
    """Give an object's metadata; without a namespace it goes where kubectl's context says."""
    return {"name": name} if namespace is None else {"name": name, "namespace": namespace}


def secret(name: str, data: Mapping[str, bytes], namespace: str | None) -> bytes:
    """Write a Secret of type Opaque."""
    encoded = {key: base64.b64encode(data[key]).decode("ascii") for key in sorted(data)}
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(name, namespace),
        "type": "Opaque",
        "data": encoded,
    }
    return to_yaml([body])
