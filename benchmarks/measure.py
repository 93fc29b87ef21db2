"""How long measuring an enclave takes, as a ratio to plain SHA-256 of as many bytes.

Everything is timed in one run, alternating, so that what else the machine does hits both sides; the
best of several rounds counts. If ``gramine-sgx-sign`` is on PATH it is timed on the same manifests.

usage: python benchmarks/measure.py [--rounds N] [--small] [-o FOLDER]
"""

import argparse
import hashlib
import json
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from imagekit.enclave.elf import Elf, parse_elf
from imagekit.enclave.gramine import measure
from imagekit.enclave.parameters import EnclaveParameters
from imagekit.signing.keyfile import generate_key

CASES = (
    ("256m", 4, False),
    ("4g", 64, False),
    ("8g", 128, False),
    ("16g", 256, False),
    ("16g", 1024, False),
    ("32g", 512, False),
    ("32g", 256, True),
    ("64g", 512, False),
    ("64g", 1024, False),
)
UNITS = {"m": 1 << 20, "g": 1 << 30}
BLOCK = bytes(1 << 20)
PAL_PAGES = 96


@dataclass
class Row:
    """One enclave: seconds, best of all rounds."""

    case: str
    megabytes: float
    imagekit: float
    sha256: float
    stock: float | None

    @property
    def ratio(self) -> float:
        """Measuring against SHA-256 alone."""
        return self.imagekit / self.sha256


def make_pal() -> bytes:
    """Make an ELF file of a real PAL's size: two segments, 380 kB."""
    size = PAL_PAGES * 4096
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + bytes(9),
        *(3, 62, 1, 0x1000, 64, 0, 0, 64, 56, 2, 64, 0, 0),
    )
    text, data = 0x51000, size - 0x51000
    headers = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, text, text, 4096)
    headers += struct.pack("<IIQQQQQQ", 1, 6, text, text, text, data, data, 4096)
    body = hashlib.shake_128(b"pal").digest(size - 176)
    return head + headers + body


def manifest_text(size: str, threads: int, edmm: bool) -> str:
    """Make a manifest with 5,000 trusted files, as a Spark image has."""
    files = "\n".join(
        f'[[sgx.trusted_files]]\nuri = "file:/opt/spark/jars/{number:05}.jar"\n'
        f'sha256 = "{hashlib.sha256(str(number).encode()).hexdigest()}"\n'
        for number in range(5000)
    )
    return (
        'libos.entrypoint = "/bin/app"\n'
        'loader.entrypoint.uri = "file:/opt/gramine/libsysdb.so"\n'
        f'loader.entrypoint.sha256 = "{"0" * 64}"\n'
        'fs.mounts = [ { path = "/bin/app", uri = "file:/bin/app" } ]\n'
        f'sgx.enclave_size = "{size.upper()}"\nsgx.max_threads = {threads}\n'
        f"sgx.edmm_enable = {str(edmm).lower()}\n{files}"
    )


def timed(work: Callable[[], object]) -> float:
    """Run something and give the seconds it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plain_sha256(total: int) -> None:
    """Hash as many bytes in megabyte blocks."""
    digest = hashlib.sha256()
    for _ in range(total >> 20):
        digest.update(BLOCK)
    digest.update(BLOCK[: total & 0xFFFFF])


def stock_signer(folder: Path, text: str, pal: bytes) -> Callable[[], object] | None:
    """Give a call of gramine-sgx-sign on the same manifest, if it is on PATH."""
    signer = shutil.which("gramine-sgx-sign")
    if signer is None:
        return None
    (folder / "app.manifest").write_text(text)
    (folder / "libpal.so").write_bytes(pal)
    key = folder / "key.pem"
    if not key.exists():
        generate_key(key)
    argv = [signer, "-m", "app.manifest", "-o", "app.manifest.sgx", "-l", "libpal.so"]
    argv += ["-k", str(key), "-q"]
    return lambda: subprocess.run(argv, cwd=folder, check=True, capture_output=True)


def run_case(size: str, threads: int, edmm: bool, pal: Elf, rounds: int, folder: Path) -> Row:
    """Time one enclave."""
    parameters = EnclaveParameters(
        int(size[:-1]) * UNITS[size[-1]], threads, edmm, False, 4, 3, 0, 0, 0, 0
    )
    text = manifest_text(size, threads, edmm)
    manifest = text.encode()
    total = measure(manifest, pal, parameters).hashed_bytes
    stock = stock_signer(folder, text, pal.data)
    ours, plain, theirs = [], [], []
    for _ in range(rounds):
        ours.append(timed(lambda: measure(manifest, pal, parameters)))
        plain.append(timed(lambda: plain_sha256(total)))
        if stock is not None:
            theirs.append(timed(stock))
    name = f"{size} / {threads}{' EDMM' if edmm else ''}"
    return Row(name, total / 1e6, min(ours), min(plain), min(theirs, default=None))


def table(rows: list[Row]) -> str:
    """Lay the rows out as a Markdown table."""
    lines = [
        "| EPC / threads | MB hashed | imagekit s | SHA-256 s | ratio | gramine-sgx-sign s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        stock = "not on PATH" if row.stock is None else f"{row.stock:.2f}"
        lines.append(
            f"| {row.case} | {row.megabytes:.0f} | {row.imagekit:.3f} | {row.sha256:.3f} "
            f"| {row.ratio:.2f} | {stock} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[Row], path: Path) -> None:
    """Draw seconds against bytes, and the ratio."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    ordered = sorted(rows, key=lambda row: row.megabytes)
    size = [row.megabytes for row in ordered]
    left.plot(size, [row.sha256 for row in ordered], "o-", label="SHA-256 alone")
    left.plot(size, [row.imagekit for row in ordered], "s-", label="imagekit")
    if all(row.stock is not None for row in ordered):
        left.plot(size, [row.stock for row in ordered], "^-", label="gramine-sgx-sign")
    left.set_xlabel("MB hashed")
    left.set_ylabel("seconds")
    left.legend()
    right.barh([row.case for row in rows], [row.ratio for row in rows], color="tab:blue")
    right.axvline(1.15, color="tab:red", linestyle="--", label="target 1.15 (16g and more)")
    right.set_xlim(0.8)
    right.set_xlabel("time ÷ SHA-256 alone")
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def main() -> None:
    """Run all cases, print the table, write table, numbers and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="only enclaves of up to 8g")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    pal = parse_elf(make_pal())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, threads, edmm in CASES[: 3 if options.small else None]:
            rows.append(run_case(size, threads, edmm, pal, options.rounds, Path(folder)))
            print(table(rows).splitlines()[-1], flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "measure.md").write_text(table(rows))
    (options.output / "measure.json").write_text(
        json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=1) + "\n"
    )
    plot(rows, options.output / "measure.png")


if __name__ == "__main__":
    main()
