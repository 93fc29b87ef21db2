"""``--metadata-file``: one JSON document that tells a release pipeline what came out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imagekit.files import write_atomically
from imagekit.release.matrix import Outcome

SCHEMA = 1


def image_facts(outcome: Outcome, folder: Path) -> dict[str, Any]:
    """Describe one built image: names, digests, measurement, where it went."""
    built = outcome.built
    assert built is not None
    return {
        "cell": built.cell.id,
        "reference": built.reference,
        "output": [f"oci:{folder}:{tag}" for tag in built.tags],
        **asdict(built.entry),
        "built": built.fresh,
        "delivered": [delivered._asdict() for delivered in built.delivered],
    }


def failure_facts(outcome: Outcome) -> list[dict[str, Any]]:
    """Describe what went wrong with a cell."""
    return [
        {
            "cell": outcome.cell.id,
            "error": error.problem,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        for error in outcome.errors
    ]


def document(outcomes: Sequence[Outcome], folder: Path) -> dict[str, Any]:
    """Describe a whole run.

    Args:
        outcomes: one per cell.
        folder: the output layout.

    Returns:
        ``images`` (all that are there, built now or before) and ``failed`` (one entry per error).
    """
    return {
        "images": [image_facts(outcome, folder) for outcome in outcomes if outcome.built],
        "failed": [fact for outcome in outcomes for fact in failure_facts(outcome)],
    }


def begin_metadata(path: Path) -> None:
    """Write a document that says that the run is not complete.

    So nobody takes the document of an earlier run for this one's, and a file that cannot be written
    is noticed before the work.

    Raises:
        InputError: it cannot be written.
    """
    _write(path, {"complete": False, "images": [], "failed": []})


def write_metadata(path: Path, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write the document of a run that came to its end, with failures or without.

    Raises:
        InputError: it cannot be written.
    """
    _write(path, {"complete": True, **document(outcomes, folder)})


def _write(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps({"schema": SCHEMA, **value}, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())
