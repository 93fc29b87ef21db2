"""How long ``imagekit --help`` and ``imagekit plan`` take to start, against importing typer alone.

The three are run in turn, many times; medians are compared. Compiled modules are written first, as
an installation does.

usage: python benchmarks/startup.py [--rounds N] [-o FOLDER]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
PROJECT = str(QUICKSTART / "imagekit.yaml")
IMAGEKIT = str(Path(sys.executable).with_name("imagekit"))
COMMANDS = {
    "python -c 'import typer'": [sys.executable, "-c", "import typer"],
    "imagekit --help": [IMAGEKIT, "--help"],
    "imagekit plan": [IMAGEKIT, "plan", "--file", PROJECT],
}


def run(argv: list[str]) -> float:
    """Run a command and give the seconds it took."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def main() -> None:
    """Run all commands in turn; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    for argv in COMMANDS.values():
        run(argv)
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds):
        for name, argv in COMMANDS.items():
            seconds[name].append(run(argv))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = next(iter(medians.values()))
    lines = ["| command | median ms | ratio |", "|---|---|---|"]
    lines += [f"| `{n}` | {1000 * s:.0f} | {s / base:.2f} |" for n, s in medians.items()]
    print("\n".join(lines))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "startup.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
