"""What a release consists of, from the files that ``imagekit build --metadata-file`` wrote.

usage: python report.py [--references] FILE...

Prints a table in Markdown, or with --references one line for every name that was pushed, with its
digest, for ``imagekit verify``. Fails if a cell failed or was not pushed, or if there is none.
"""

import json
import sys
from pathlib import Path
from typing import Any


def load(paths: list[str]) -> list[dict[str, Any]]:
    """Give all images of all files, sorted by name; fails if a cell has failed."""
    documents = [json.loads(Path(path).read_text("utf-8")) for path in paths]
    failed = (
        ["a build did not come to its end"] if not all(d["complete"] for d in documents) else []
    )
    failed += [f"{one['cell']}: {one['error']}" for each in documents for one in each["failed"]]
    images = [image for document in documents for image in document["images"]]
    missing = [image["cell"] for image in images if not image["delivered"]]
    if failed or missing or not images:
        failed += [f"{cell}: not pushed" for cell in missing]
        raise SystemExit("\n".join(failed or ["no images"]))
    return sorted(images, key=lambda image: str(image["reference"]))


def references(images: list[dict[str, Any]]) -> list[str]:
    """Give where each image was pushed to: name, tag and the digest that the registry has."""
    delivered = [one for image in images for one in image["delivered"]]
    return [
        f"{one['reference']}@{one['digest']}"
        for one in delivered
        if one["reference"].startswith("docker://")
    ]


def table(images: list[dict[str, Any]]) -> list[str]:
    """Give what has to be registered for each image."""
    rows = [("image", "digest", "mr_enclave", "mr_signer"), ("---", "---", "---", "---")]
    for image in images:
        name = image["reference"].rpartition("/")[2]
        rows.append((name, image["digest"], image["mr_enclave"], image["mr_signer"]))
    return [f"| {' | '.join(row)} |" for row in rows]


def main(words: list[str]) -> None:
    """Print the table or the references."""
    wanted = references if "--references" in words else table
    print("\n".join(wanted(load([word for word in words if word != "--references"]))))


if __name__ == "__main__":
    main(sys.argv[1:])
