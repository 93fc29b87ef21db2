"""What indexing a plain layer costs, as a ratio to plain SHA-256 of as many bytes.

Indexing hashes each byte twice, once for the layer's digest and once for the file's; the rest is
reading, the tar parser and the search for private keys. CPU seconds of all threads count, taken in
turn in one run, so that what else the machine does hits both sides; the best round counts. The
layers are made anew in a temporary folder, always the same.

usage: python benchmarks/index.py [--rounds N] [--small] [-o FOLDER]
"""

import argparse
import hashlib
import json
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from imagekit.images.oci import OCI_LAYER, Descriptor
from imagekit.images.tarindex import build_index

BLOCK = 1 << 20
POOL = 8 << 20
ENTRIES = 20_000
LAYERS = ("random", "text", "program", "zero", "mixed")


@dataclass
class Row:
    """One layer: CPU seconds, best of all rounds, and seconds on the clock."""

    layer: str
    entries: int
    megabytes: float
    index: float
    sha256: float
    clock: float

    @property
    def ratio(self) -> float:
        """Indexing against SHA-256 alone."""
        return self.index / self.sha256


class OneBlob:
    """A source that has a single blob."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open_blob(self, digest: str) -> BinaryIO:
        """Open the file, whatever digest is asked for."""
        return self.path.open("rb", buffering=0)


def pools() -> dict[str, bytes]:
    """Make the bytes that files are cut from: of each kind, and all in turn."""
    noise = hashlib.shake_128(b"layer").digest(POOL)
    words = [hashlib.md5(bytes([n]), usedforsecurity=False).hexdigest()[: 2 + n % 9] for n in noise]
    text = " ".join(words).encode()[:POOL].replace(b" ff", b"\n# --option KEY\n")
    # As in machine code and tables: small numbers, many zeros, some noise.
    program = b"".join(
        noise[at : at + 40] + b"\x01\x00\x00\x00" + noise[at : at + 2] + bytes(18)
        for at in range(0, POOL, 64)
    )
    found = {"random": noise, "text": text, "program": program, "zero": bytes(POOL)}
    part = POOL // 4
    return {**found, "mixed": b"".join(pool[:part] for pool in found.values())}


def make_layer(path: Path, pool: bytes, megabytes: int, entries: int) -> None:
    """Write a tar of as many files, of sizes as they are in an image: few large, most small."""
    weights = [1.0 / (1 + number * 7919 % entries) for number in range(entries)]
    scale = megabytes * 1e6 / sum(weights)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number, weight in enumerate(weights):
            info = tarfile.TarInfo(f"usr/share/folder{number % 97}/file{number:05}.so")
            info.size = int(scale * weight)
            start = number * 7919 % (POOL // 2)
            whole = pool[start:] + pool[:start]
            content = (whole * (info.size // POOL + 1))[: info.size]
            tar.addfile(info, BytesIO(content))


def plain_sha256(total: int) -> str:
    """Hash as many bytes in megabyte blocks."""
    digest, block = hashlib.sha256(), bytes(BLOCK)
    for _ in range(total // BLOCK):
        digest.update(block)
    digest.update(block[: total % BLOCK])
    return digest.hexdigest()


def cpu(work: Callable[[], object]) -> tuple[float, float]:
    """Run something and give the CPU seconds of all threads, and those on the clock."""
    start, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - start, time.perf_counter() - clock


def run_case(name: str, path: Path, rounds: int) -> Row:
    """Time one layer."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    size = path.stat().st_size
    descriptor = Descriptor(OCI_LAYER, f"sha256:{digest}", size)
    entries = len(build_index(descriptor, OneBlob(path), lambda _: None).entries)
    ours, plain = [], []
    for _ in range(rounds):
        ours.append(cpu(lambda: build_index(descriptor, OneBlob(path), lambda _: None)))
        plain.append(cpu(lambda: plain_sha256(size)))
    return Row(
        name,
        entries,
        size / 1e6,
        min(seconds for seconds, _ in ours),
        min(seconds for seconds, _ in plain),
        min(clock for _, clock in ours),
    )


def table(rows: list[Row]) -> str:
    """Lay the rows out as a Markdown table."""
    lines = [
        "| layer | entries | MB | index CPU s | SHA-256 CPU s | ratio | index clock s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.layer} | {row.entries} | {row.megabytes:.0f} | {row.index:.2f} "
        f"| {row.sha256:.2f} | {row.ratio:.2f} | {row.clock:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all cases, print the table, write table and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="layers of 100 MB, not 1000")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    megabytes, entries = (100, ENTRIES // 10) if options.small else (1000, ENTRIES)
    rows = []
    source = pools()
    for name in LAYERS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.tar"
            make_layer(path, source[name], megabytes, entries)
            rows.append(run_case(name, path, options.rounds))
        print(table(rows).splitlines()[-1], flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "index.md").write_text(table(rows))
    (options.output / "index.json").write_text(
        json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
