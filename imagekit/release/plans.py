"""A project's cells as documents for other tools: a bake file and matrices of CI services.

All three are made from the project file alone. No key, and no path of one, is ever in them.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from imagekit.errors import UsageError
from imagekit.spec.base_values import BaseReference
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project
from imagekit.spec.sizes import epc_name

BASE = "base"
"""Target and context folder of the base in a bake file."""
CELLS = "cells"
"""Group of all cells in a bake file."""
STEM_VARIABLE = "IMAGEKIT_IMAGE"
"""Variable of a bake file: the stem of the image names, to build for another registry."""
PLATFORM = "linux/amd64"
GITLAB_ENVIRONMENT = "release"
"""Environment of the jobs in a GitLab pipeline: a key with this scope reaches no other job."""
GITLAB_VARIABLES = {"--key": "IMAGEKIT_KEY", "--push": "IMAGEKIT_PUSH"}
"""Options of these jobs that variables of the pipeline give."""
GITHUB_LIMIT = 256
"""Jobs in one matrix (GitHub's documentation, "Running variations of jobs in a workflow")."""


def bake(project: Project, cells: Sequence[Cell], context: Path) -> str:
    """Give the bake file that builds what ``imagekit render`` wrote.

    Source: Docker's "Bake file reference", JSON. Strings there are templates: ``${`` begins an
    expression.

    Args:
        project: the project.
        cells: which.
        context: the folder that was rendered to.

    Returns:
        JSON with the target ``base`` unless the project's base is an image already, one target per
        cell, the group ``cells``, and as group ``default`` the base, else the cells.
    """
    has_base = not isinstance(project.base, BaseReference)
    targets = {}
    if has_base:
        targets[BASE] = _target(project, context / BASE, [project.base_name])
    for cell in cells:
        targets[cell.id] = _target(project, context / cell.id, project.references(cell))
    document = {
        "variable": {STEM_VARIABLE: {"default": project.image}},
        "group": {
            "default": {"targets": [BASE if has_base else CELLS]},
            CELLS: {"targets": [cell.id for cell in cells]},
        },
        "target": targets,
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def _target(project: Project, context: Path, tags: Sequence[str]) -> dict[str, Any]:
    return {
        "context": str(context).replace("${", "$${").replace("%{", "%%{"),
        "dockerfile": "Dockerfile",
        "platforms": [PLATFORM],
        "tags": [f"${{{STEM_VARIABLE}}}{tag.removeprefix(project.image)}" for tag in tags],
        # Its time stamps would give the same image another digest with every build.
        "attest": ["type=provenance,disabled=true"],
    }


def github(project: Project, cells: Sequence[Cell]) -> str:
    """Give the matrix of a GitHub workflow: one line, fit for ``$GITHUB_OUTPUT``.

    Args:
        project: the project.
        cells: which.

    Returns:
        JSON for ``strategy.matrix: ${{ fromJSON(…) }}``, one entry of ``include`` per cell.

    Raises:
        UsageError: more cells than a matrix takes.
    """
    if len(cells) > GITHUB_LIMIT:
        raise UsageError(
            f"{len(cells)} cells, and a matrix of GitHub takes {GITHUB_LIMIT}",
            "make several matrices with --select",
        )
    include = [
        {
            "cell": cell.id,
            "reference": project.reference(cell),
            "name": project.reference(cell).rpartition("/")[2],
            "libos": cell.libos,
            "epc": epc_name(cell.epc),
            "log": cell.log,
            "attestation": cell.attestation,
            "default": cell == project.default_cell,
        }
        for cell in cells
    ]
    return json.dumps({"include": include}, separators=(",", ":"))


def gitlab(project: Project, cells: Sequence[Cell]) -> str:
    """Give a GitLab pipeline with a job per cell, for ``trigger: include: artifact``.

    Source: GitLab's "CI/CD YAML syntax reference". What surrounds the jobs (image, tags,
    before_script, variables) is the pipeline's own matter: a file with ``default:`` put in front.

    Args:
        project: the project.
        cells: which.

    Returns:
        YAML without a newline at the end.
    """
    jobs = {
        cell.id: {
            "stage": "build",
            "environment": {"name": GITLAB_ENVIRONMENT, "action": "access"},
            "script": [_gitlab_command(project, cell)],
            # also of a job that failed: the file says which cell, and why
            "artifacts": {"when": "always", "paths": [_metadata(cell)]},
        }
        for cell in cells
    }
    text: str = yaml.safe_dump(jobs, sort_keys=False, width=float("inf"), allow_unicode=True)
    return text.rstrip("\n")


def _metadata(cell: Cell) -> str:
    return f"imagekit-{cell.id}.json"


def _gitlab_command(project: Project, cell: Cell) -> str:
    words = ["imagekit", "build", "--file", str(project.path), "--select", cell.id]
    words += ["--metadata-file", _metadata(cell)]
    # A variable that is not set leaves its option out: the key is then the project file's.
    optional = (f'${{{name}:+{option} "${name}"}}' for option, name in GITLAB_VARIABLES.items())
    return " ".join([*(shlex.quote(word) for word in words), *optional])
