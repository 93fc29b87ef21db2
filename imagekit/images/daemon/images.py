"""Looking at the images an engine has, and giving them names."""

import difflib
from typing import Any

import docker
from docker.errors import ImageNotFound

from imagekit.errors import EngineError
from imagekit.images.daemon.connect import Daemon
from imagekit.images.oci import Image
from imagekit.spec.names import DEFAULT_TAG, parse_image_reference

_SUGGESTIONS = 5


def inspect_image(client: docker.APIClient, name: str) -> dict[str, Any] | None:
    """What the engine says of an image, or None if it has none of that name or id."""
    try:
        found: dict[str, Any] = client.inspect_image(name)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return None
    # Podman's API leaves the algorithm out where Docker's has it.
    if not str(found.get("Id", "")).startswith("sha256:"):
        found["Id"] = f"sha256:{found.get('Id')}"
    return found


def layers_of(found: dict[str, Any]) -> tuple[str, ...]:
    """The digests of an inspected image's uncompressed layers, lowest first."""
    return tuple((found.get("RootFS") or {}).get("Layers") or ())


def known_prefix(client: docker.APIClient, image: Image) -> int:
    """How many of the image's layers, from the lowest on, some image of the engine has too.

    Engines know layers by what lies below them (the chain id of OCI config.md): a layer that is
    there above others does not count.
    """
    wanted, best = image.diff_ids, 0
    for listed in client.images(all=True):
        found = inspect_image(client, listed["Id"])
        have = layers_of(found) if found else ()
        same = 0
        while same < min(len(wanted), len(have)) and wanted[same] == have[same]:
            same += 1
        best = max(best, same)
        if best == len(wanted):
            break
    return best


def expected_id(daemon: Daemon, image: Image) -> str:
    """The id the engine must give to an image: its config's digest, or its manifest's."""
    return image.digest if daemon.containerd_store else image.config_descriptor.digest


def tag_image(client: docker.APIClient, image_id: str, name: str) -> None:
    """Give an image a name; an image that had the name loses it."""
    reference = parse_image_reference(name)
    client.tag(image_id, reference.name, reference.tag or DEFAULT_TAG)


def unknown_image(client: docker.APIClient, daemon: Daemon, name: str) -> EngineError:
    """The error for an image that the engine does not have; names those that look like it."""
    names = {tag for listed in client.images() for tag in listed.get("RepoTags") or []}
    names.discard("<none>:<none>")
    close = difflib.get_close_matches(name, sorted(names), _SUGGESTIONS, 0.4)
    shown = close or sorted(names)[:_SUGGESTIONS]
    there = f"; it has {', '.join(shown)}" if shown else "; it has none at all"
    hint = "check the id" if name.startswith("sha256:") else f"fetch it: docker pull {name}"
    return EngineError(f"{daemon} has no image {name}", hint + there)
