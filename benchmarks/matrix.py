"""A whole matrix, built and pushed: ``build --all --push`` against one ``docker build`` per cell.

The other side is how images of this kind are classically made: for each cell a two-stage Dockerfile
that copies the signing key into its first stage, runs ``gramine-manifest`` and ``gramine-sgx-sign``
there, and copies the results into the second; then ``docker push``. Both start from the same base
(Debian with Java and Spark, about 1 GB), sign with the same key and push to registries of their
own, fresh and on this machine. In the base the tools are whatever ``gramine-sgx-sign`` it has; the
base made here has imagekit's drop-in tools under these names, so that the difference is not that of
the signers. The measurements of both sides are compared: they must be equal.

Needs root, a container engine that answers, and the commands docker and docker-registry.

usage: python benchmarks/matrix.py [--cells N] [--base oci:DIR:TAG] [-o FOLDER]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from imagekit.images.cache import Cache
from imagekit.images.daemon.connect import connect
from imagekit.images.daemon.load import load_image
from imagekit.images.layers import LayerFile
from imagekit.images.open import open_image
from imagekit.images.progress import NO_PROGRESS
from imagekit.images.references import RegistryReference
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.push import Pusher
from imagekit.release.bases import BaseOptions
from imagekit.release.cell import generated
from imagekit.release.configuration import Rendered, Renderer
from imagekit.release.gramine_base import GramineBase
from imagekit.release.pipeline import open_base
from imagekit.signing.keyfile import generate_key
from imagekit.spec.project import Project, load_project

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # which has real registries and a base with tools, too

import python_base  # noqa: E402
from registry_parts import start_registry  # noqa: E402

BASE_NAME = "x/benchmark-gramine-base"
ENGINE_BASE = "imagekit-benchmark-base:1.0"

FILLER = 330 << 20
"""Bytes of filler that bring the base to about 1 GB; half of it cannot be compressed."""

PROJECT = """\
schema: 1
image: localhost/benchmark
tag: "1.0"
libos: gramine
profile: strict
base: {{image: "{base}"}}
gramine: {{version: "1.9"}}
matrix:
  epc: [4g, 8g, 16g]
  log: [error, debug, all]
  attestation: [dcap, none]
signing: {{key: ./key.pem}}
launch: {{command: [{java}/bin/java, -cp, "/opt/spark/jars/*", org.example.Main]}}
"""

DOCKERFILE = """\
FROM {base} AS temp
COPY enclave-key.pem /root/.config/gramine/enclave-key.pem
COPY layer/ /
COPY bash.manifest.template /ppml/bash.manifest.template
WORKDIR /ppml
# byte code that the tools left behind would be among the trusted files
RUN export PYTHONDONTWRITEBYTECODE=1 \\
 && gramine-manifest bash.manifest.template bash.manifest \\
 && gramine-sgx-sign --manifest bash.manifest --output bash.manifest.sgx \\
    --key /root/.config/gramine/enclave-key.pem
FROM {base}
COPY layer/ /
COPY --from=temp /ppml/bash.manifest /ppml/bash.manifest.sgx /ppml/bash.sig /ppml/
ENTRYPOINT ["/opt/entrypoint.sh"]
"""


@dataclass
class Side:
    """One way of making the matrix.

    Attributes:
        name: which.
        base_seconds: wall time to push the base.
        base_bytes: what the registry holds then.
        cells_seconds: wall time to build, sign and push all cells.
        cells_bytes: what the registry holds more then.
    """

    name: str
    base_seconds: float
    base_bytes: int
    cells_seconds: float
    cells_bytes: int


def held(data: Path) -> int:
    """Bytes of all blobs in a registry's folder."""
    return sum(path.stat().st_size for path in data.rglob("data") if path.is_file())


def run(argv: Sequence[str], folder: Path, **variables: str) -> str:
    """Run a command; its output, or the end of this benchmark."""
    done = subprocess.run(
        argv, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv[:4])} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout


def make_base(folder: Path) -> str:
    """The quickstart's Java and Spark, the tools and filler; gives its reference."""
    from imagekit.images.compose import append
    from imagekit.images.layers import write_layer
    from imagekit.images.layout import OciLayout
    from imagekit.images.rootfs import Rootfs
    from imagekit.release.bases import assemble_base

    quickstart = ROOT / "examples" / "quickstart"
    run([sys.executable, str(quickstart / "make_standin.py")], ROOT)
    cache = Cache()
    project = load_project(quickstart / "imagekit.yaml")
    image = assemble_base(
        project, cache, BaseOptions("assemble"), talk=print, progress=NO_PROGRESS
    ).image
    noise = Random(1)
    parts = [noise.randbytes(1 << 19) + bytes(1 << 19) for _ in range(FILLER >> 20)]
    filler = [LayerFile(f"/opt/filler/{number}", part) for number, part in enumerate(parts)]
    files = [*python_base.tool_files(), *python_base.gramine_files(), *filler]
    parents = Rootfs.from_image(image, cache).directory
    layer = write_layer(files, cache.blobs, 0, parents=parents)
    image = append(image, layer, cache.blobs, created=0, history="benchmark")
    OciLayout.create(folder).put(image, "base")
    return f"oci:{folder}:base"


def push_base(reference: str, host: str) -> None:
    """Push the base as ``base build --push`` does."""
    pusher = Pusher(RegistryAccess(insecure=True))
    image = open_image(reference, Cache())
    pusher.push(image, RegistryReference(host, BASE_NAME, "1.0"))


def with_imagekit(folder: Path, base: str, cells: Sequence[str], *, seen: bool) -> Side:
    """Build and push with imagekit.

    Args:
        folder: the project's.
        base: the base's reference.
        cells: which.
        seen: whether an earlier run has left the indexes of the base's layers in the cache.
    """
    select = [word for cell in cells for word in ("--select", cell)]
    name = "imagekit, base read before" if seen else "imagekit, base never seen"
    shutil.rmtree(folder / "out", ignore_errors=True)
    with start_registry(folder / f"registry-{int(seen)}") as registry:
        host, data = registry.host, registry.root
        start = time.perf_counter()
        push_base(base, host)
        between, base_bytes = time.perf_counter(), held(data)
        command = [sys.executable, "-m", "imagekit", "--quiet", "build", *select, "--rebuild"]
        options = ["--insecure", "--push", f"{host}/x", "--metadata-file", "meta.json"]
        run([*command, *options], folder, IMAGEKIT_CACHE=str(folder / "cache"))
        end = time.perf_counter()
        return Side(name, between - start, base_bytes, end - between, held(data) - base_bytes)


def contexts(
    folder: Path, base: GramineBase, project: Project, cells: Sequence[str]
) -> dict[str, Path]:
    """Write the build context of every cell for the classic side; not timed."""
    renderer, found = Renderer(base, project), {}
    for cell in project.cells:
        if cell.id not in cells:
            continue
        rendered: Rendered = renderer.render(cell)
        context = folder / "contexts" / cell.id
        for file in rendered.files:
            target = context / "layer" / file.path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(generated(file))
            target.chmod(file.mode)
        (context / "bash.manifest.template").write_bytes(rendered.source)
        (context / "Dockerfile").write_text(DOCKERFILE.format(base=ENGINE_BASE))
        shutil.copy(folder / "key.pem", context / "enclave-key.pem")
        found[cell.id] = context
    return found


def classically(folder: Path, made: dict[str, Path], docker: str) -> tuple[Side, dict[str, str]]:
    """Build, sign inside and push, cell by cell; gives the SIGSTRUCTs' mr_enclave by cell, too."""
    measured = {}
    with start_registry(folder / "registry-docker") as registry:
        host, data = registry.host, registry.root
        start = time.perf_counter()
        run([docker, "tag", ENGINE_BASE, f"{host}/{BASE_NAME}:1.0"], folder)
        run([docker, "push", "--quiet", f"{host}/{BASE_NAME}:1.0"], folder)
        between, base_bytes = time.perf_counter(), held(data)
        for cell, context in made.items():
            tag = f"{host}/x/benchmark-{cell}:1.0"
            # as the release workflow of the field does: nothing of another cell is taken over
            run([docker, "build", "--quiet", "--no-cache", "--tag", tag, str(context)], folder)
            run([docker, "push", "--quiet", tag], folder)
        end = time.perf_counter()
        for cell in made:
            tag = f"{host}/x/benchmark-{cell}:1.0"
            command = [docker, "run", "--rm", "--entrypoint", "cat", tag, "/ppml/bash.sig"]
            sigstruct = subprocess.run(command, capture_output=True, check=True).stdout
            measured[cell] = sigstruct[960:992].hex()
            run([docker, "rmi", "--force", tag], folder)
        run([docker, "rmi", "--force", f"{host}/{BASE_NAME}:1.0"], folder)
    name = "docker build and push, signing inside"
    return (
        Side(name, between - start, base_bytes, end - between, held(data) - base_bytes),
        measured,
    )


def compare(folder: Path, base_reference: str | None, count: int) -> list[Side]:
    """Run all sides; ends if their measurements differ."""
    docker = next(
        path for path in ("/usr/bin/docker", shutil.which("docker")) if path and Path(path).exists()
    )
    base_reference = base_reference or make_base(folder / "base")
    generate_key(folder / "key.pem")
    java = "/usr/lib/jvm/java-17-openjdk-amd64"
    (folder / "imagekit.yaml").write_text(PROJECT.format(base=base_reference, java=java))
    project = load_project(folder / "imagekit.yaml")
    cells = [cell.id for cell in project.cells][:count]
    base = open_base(project, Cache(), BaseOptions("assemble"), talk=print)
    assert isinstance(base, GramineBase)
    made = contexts(folder, base, project, cells)
    load_image(connect(), base.image, [ENGINE_BASE], NO_PROGRESS)
    try:
        sides = [
            with_imagekit(folder, base_reference, cells, seen=False),
            with_imagekit(folder, base_reference, cells, seen=True),
        ]
        side, measured = classically(folder, made, docker)
    finally:
        connect().untag(ENGINE_BASE)
    images = json.loads((folder / "meta.json").read_text())["images"]
    if measured != {image["cell"]: image["mr_enclave"] for image in images}:
        sys.exit("the two sides measure differently")
    return [*sides, side]


def report(sides: Sequence[Side], count: int) -> str:
    """A table in Markdown; times are ratios to the classic side."""
    classic = sides[-1]
    lines = [
        "# A matrix of images, built and pushed",
        "",
        f"{count} cells on one base. The base is pushed first, then every cell is built, signed",
        "and pushed. All sides gave the same mr_enclave for every cell. Times are ratios to the",
        "classic way; megabytes are what the registry holds afterwards.",
        "",
        "| | base | cells | MB for the base | MB for the cells |",
        "|---|---|---|---|---|",
    ]
    for side in sides:
        lines.append(
            f"| {side.name} | {side.base_seconds / classic.base_seconds:.2f} "
            f"| {side.cells_seconds / classic.cells_seconds:.3f} "
            f"| {side.base_bytes / 1e6:.1f} | {side.cells_bytes / 1e6:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, run, write the table and the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--cells", type=int, default=18, help="how many cells of the matrix")
    parser.add_argument("--base", help="a base with gramine-sgx-sign in it, as oci:DIR:TAG")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagekit-benchmark-") as folder:
        sides = compare(Path(folder), arguments.base, arguments.cells)
    text = report(sides, arguments.cells)
    print(text)
    (arguments.output / "matrix.md").write_text(text)
    numbers = json.dumps([asdict(side) for side in sides], indent=2) + "\n"
    (arguments.output / "matrix.json").write_text(numbers)


if __name__ == "__main__":
    main()
