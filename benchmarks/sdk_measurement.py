"""How long measuring an enclave of the Intel SGX SDK takes, as a ratio to plain SHA-256.

Both hash as many bytes, timed in one run, alternating; the best of several rounds counts. The
enclaves are in Occlum's shape: user space and kernel heap that are only added, threads whose stacks
are measured. They are laid out by imagekit from a library that is made here.

usage: python benchmarks/sdk_measurement.py [--rounds N] [--small] [-o FOLDER]
"""

import argparse
import json
import sys
import tracemalloc
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import plain_sha256, timed

from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.enclave.sdk.measure import measure, measured_bytes
from imagekit.enclave.sdk.signed import SdkEnclave
from imagekit.enclave.sdk.unsigned import read_unsigned
from imagekit.enclave.sdk.writer import prepare

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from sdk_enclaves import Recipe, make_enclave

MIB, GIB = 1 << 20, 1 << 30
CODE = 8 * MIB  # what a library OS has


@dataclass(frozen=True)
class Case:
    """An enclave: sizes in bytes."""

    name: str
    user_space: int
    heap: int
    threads: int
    stack: int


CASES = (
    Case("300 MiB user space, 32 threads", 300 * MIB, 32 * MIB, 32, MIB),
    Case("8 GiB user space, 256 threads", 8 * GIB, GIB, 256, MIB),
    Case("20 GiB user space, 1 thread", 20 * GIB, GIB, 1, MIB),
    Case("20 GiB user space, 1 GiB of measured stacks in 1024 threads", 20 * GIB, GIB, 1024, MIB),
    Case("20 GiB user space, 1 GiB of measured stacks in 16 threads", 20 * GIB, GIB, 16, 64 * MIB),
    Case("64 Ki threads with stacks of 16 KiB", 300 * MIB, 32 * MIB, 65536, 16 << 10),
)


@dataclass
class Row:
    """One enclave: seconds, best of all rounds, and the peak of Python's memory in MiB."""

    case: str
    megabytes: float
    imagekit: float
    sha256: float
    peak: float

    @property
    def ratio(self) -> float:
        """Measuring against SHA-256 alone."""
        return self.imagekit / self.sha256


def make_case(case: Case) -> SdkEnclave:
    """Lay the enclave out."""
    config = EnclaveConfig(
        stack_max=case.stack,
        stack_min=case.stack,
        heap_min=case.heap,
        heap_init=case.heap,
        heap_max=case.heap,
        tcs_num=case.threads,
        tcs_max_num=case.threads,
        tcs_min_pool=case.threads,
        reserved_min=case.user_space,
        reserved_init=case.user_space,
        reserved_max=case.user_space,
        reserved_executable=True,
    )
    library = make_enclave(Recipe(code_size=CODE))
    return prepare(read_unsigned(library, "enclave.so"), config).enclave


def run_case(case: Case, rounds: int) -> Row:
    """Time one enclave."""
    enclave = make_case(case)
    total = measured_bytes(enclave)
    tracemalloc.start()
    measure(enclave)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ours, plain = [], []
    for _ in range(rounds):
        ours.append(timed(lambda: measure(enclave)))
        plain.append(timed(lambda: plain_sha256(total)))
    return Row(case.name, total / 1e6, min(ours), min(plain), peak / MIB)


def table(rows: list[Row]) -> str:
    """Lay the rows out as a Markdown table."""
    lines = [
        "| enclave | MB hashed | imagekit s | SHA-256 s | ratio | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.case} | {row.megabytes:.0f} | {row.imagekit:.3f} | {row.sha256:.3f} "
        f"| {row.ratio:.2f} | {row.peak:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all cases, print the table, write table and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="only the first two")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    rows = []
    for case in CASES[: 2 if options.small else None]:
        rows.append(run_case(case, options.rounds))
        print(table(rows).splitlines()[-1], flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "sdk_measurement.md").write_text(table(rows))
    (options.output / "sdk_measurement.json").write_text(
        json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
