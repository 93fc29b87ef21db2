"""What an image's entry point adds to the start of a job, as time over executing the program alone.

The container is started as Spark on Kubernetes starts an executor, with the variables that were
recorded (tests/golden/kubernetes), but in place of java stands a program that ends at once. Three
ways, alternating in one run, best of all rounds: the program by itself; the entry point natively
(entry point and launcher in one process); both as two processes, as with Gramine, where the second
runs inside.

usage: python benchmarks/entrypoint.py [--rounds N] [-o FOLDER]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from imagekit.runtime.files import build_zipapp
from imagekit.runtime.launch import launch_spec

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "tests" / "golden" / "kubernetes" / "spark-3.5.9-executor.json"
LIMIT = 0.150
"""Seconds: what issue and design allow."""

# Stands for Gramine: hands the one variable on that a strict manifest lets through.
_SECOND = """\
#!/bin/sh
exec env -i IMAGEKIT_REQUEST="$IMAGEKIT_REQUEST" @PYTHON@ -I -S @APP@/launcher.pyz
"""


def prepare(folder: Path, python: str) -> None:
    """Write an image's files: launcher, specification, a java that ends at once."""
    app, java, spark = folder / "app", folder / "java", folder / "spark"
    for made in (app, java / "bin", spark / "jars", folder / "bin", folder / "ppml"):
        made.mkdir(parents=True)
    shutil.copy(shutil.which("true") or "/bin/true", java / "bin" / "java")
    (app / "launcher.pyz").write_bytes(build_zipapp())
    facts: dict[str, Any] = {
        "roles": ["executor"],
        "java": {"home": str(java), "major": 17},
        "spark": {"home": str(spark), "version": "3.5.9"},
        "conf": {"spark.authenticate": "true"},
    }
    (app / "launch.json").write_bytes(launch_spec(**facts))
    second = folder / "bin" / "gramine-direct"
    second.write_text(_SECOND.replace("@PYTHON@", python).replace("@APP@", str(app)))
    second.chmod(0o755)
    (folder / "ppml" / "bash.manifest").touch()


def environment(folder: Path) -> dict[str, str]:
    """Give the variables of a recorded executor's pod."""
    recorded = json.loads(RECORDED.read_text())["env"]
    env = {
        name: value if isinstance(value, str) else "10.0.0.1" for name, value in recorded.items()
    }
    return {**env, "PATH": f"{folder}/bin:/usr/bin:/bin"}


def seconds(command: list[str], env: dict[str, str]) -> float:
    """Run a command once; gives its wall time."""
    begin = time.perf_counter()
    subprocess.run(command, env=env, check=True, capture_output=True)
    return time.perf_counter() - begin


def entry(folder: Path, python: str) -> list[str]:
    """Give the command of the entry point, with the manifest's place in this folder."""
    code = (
        "import gc, sys; gc.disable(); sys.path.insert(0, sys.argv[1])\n"
        "from imagekit_runtime import outside\n"
        "places = outside.Places(folder=sys.argv[2])\n"
        "outside.start(['executor'], sys.argv[3], places)\n"
    )
    app = folder / "app"
    paths = (str(app / "launcher.pyz"), str(folder / "ppml"), str(app / "launch.json"))
    return [python, "-I", "-S", "-c", code, *paths]


def main() -> int:
    """Measure and print; gives 1 if the limit is passed."""
    parser = argparse.ArgumentParser(description="what the entry point adds to a start")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, help="folder for entrypoint.md")
    asked = parser.parse_args()
    python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, python)
        env = environment(folder)
        direct = {"SGX_ENABLED": "true", "SGX_MODE": "direct"}
        ways = {
            "the program alone": ([str(folder / "java/bin/java")], env),
            "entry point, natively": (entry(folder, python), {**env, "SGX_ENABLED": "false"}),
            "entry point and launcher": (entry(folder, python), {**env, **direct}),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(asked.rounds):
            for way, (command, variables) in ways.items():
                best[way] = min(best[way], seconds(command, variables))
    base = best["the program alone"]
    lines = ["| way | added ms |", "|---|---|"]
    lines += [f"| {way} | {(took - base) * 1000:.0f} |" for way, took in best.items()]
    text = "\n".join(lines)
    print(text)
    if asked.output is not None:
        (asked.output / "entrypoint.md").write_text(text + "\n")
    return int(max(best.values()) - base > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
