"""Assembling a base from its BaseSpec, without a daemon: layers in the cache, then an image.

The layers are, lowest first: distribution (with local .deb files), one per artifact in the order
of the spec, and one for ``files``. Each layer is kept under a key made of everything it depends on,
so a changed artifact does not make the distribution anew; the image is kept under the key of the
whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imagekit.errors import InputError
from imagekit.files import locked
from imagekit.images.bases.cache import BaseCache, LayerRecord
from imagekit.images.bases.debian import Bootstrap, bootstrap
from imagekit.images.bases.inputs import BaseInputs, PartInputs, with_hashes
from imagekit.images.bases.lock import LOCK_NAME, BaseLock, PackageDrift, drift
from imagekit.images.bases.normalise import Normaliser
from imagekit.images.bases.pack import pack_tree
from imagekit.images.bases.packages import AVAILABLE, INSTALLED, Package, packages_of
from imagekit.images.bases.repack import add_parents, read_content, read_tree
from imagekit.images.bases.unpack import Unpacking, unpack
from imagekit.images.bases.workdir import work_folder
from imagekit.images.cache import Cache
from imagekit.images.compose import new_image, rfc3339
from imagekit.images.layers import Layer, LayerFile, write_layer
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.images.tarwrite import REGULAR
from imagekit.spec.base import Artifact, BaseSpec

STANDIN_LABEL = "io.imagekit.standin"


@dataclass(frozen=True)
class Assembled:
    """The assembled base.

    Attributes:
        image: the image; its blobs are in the cache.
        packages: its packages, sorted; none for a base on top of an image that installs none.
        drift: how they differ from the lock, or None; to be printed as a warning.
        cached: whether the image was there already.
    """

    image: Image
    packages: tuple[Package, ...]
    drift: PackageDrift | None
    cached: bool


def assemble(
    spec: BaseSpec,
    project_dir: Path,
    cache: Cache,
    epoch: int,
    lock: BaseLock | None = None,
    progress: Progress = NO_PROGRESS,
    *,
    locked_only: bool = False,
    refresh: bool = False,
    make_root: Bootstrap = bootstrap,
) -> Assembled:
    """Make the base, or take it from the cache.

    Args:
        spec: what to make.
        project_dir: folder that local paths in the spec are relative to.
        cache: where artifacts, layers and the image are kept.
        epoch: time stamps of everything in the base, seconds since 1970.
        lock: hashes the spec does not give, and the packages to expect.
        progress: told the steps and bytes.
        locked_only: refuse packages that are not the locked ones (instead of reporting them).
        refresh: ask the archive again although the distribution layer is in the cache.
        make_root: what makes the distribution's root; the layer made of it is the same.

    Raises:
        InputError: a missing or wrong hash, a missing file, or (``locked_only``) other packages.
        EngineError: mmdebstrap, pip or the network failed.
    """
    resolved = with_hashes(spec, lock)
    inputs = BaseInputs(resolved, project_dir, cache, epoch, lock, progress, make_root)
    records = BaseCache(cache)
    key = records.key("base", inputs.key_of_all())
    with locked(records.lock_path(key)):
        image = None if refresh else records.image(key)
        was_cached = image is not None
        distribution = _distribution(inputs, records, refresh)
        found = drift(lock, distribution.packages) if lock is not None else None
        if locked_only and (lock is None or not lock.packages):
            raise InputError(f"no packages are locked in {LOCK_NAME}", "run `imagekit base lock`")
        if found is not None and locked_only:
            raise InputError(found.problem, found.hint)
        if image is None:
            image = _build(inputs, records, distribution)
            records.save_image(key, image)
    return Assembled(image, distribution.packages, found, was_cached)


def lock_base(
    spec: BaseSpec,
    project_dir: Path,
    cache: Cache,
    epoch: int,
    progress: Progress = NO_PROGRESS,
    previous: BaseLock | None = None,
    make_root: Bootstrap = bootstrap,
) -> BaseLock:
    """Find out the hashes and package versions that a base is made of now.

    Artifacts without a hash in the spec keep the one in ``previous``, others are fetched. The
    distribution is made anew from the archive and kept for the build that follows.

    Raises:
        InputError, EngineError: as for :func:`assemble`.
    """
    hashes = fetch_hashes(BaseInputs(spec, project_dir, cache, epoch, previous, progress))
    hashes_only = BaseLock(hashes)
    resolved = with_hashes(spec, hashes_only)
    records = BaseCache(cache)
    inputs = BaseInputs(resolved, project_dir, cache, epoch, hashes_only, progress, make_root)
    distribution = _distribution(inputs, records, refresh=True)
    lock = BaseLock(hashes, distribution.packages)
    later = BaseInputs(resolved, project_dir, cache, epoch, lock, progress)
    records.save_layer(records.key("distribution", later.key_of_distribution()), distribution)
    return lock


def fetch_hashes(inputs: PartInputs) -> dict[str, str]:
    """Give the hash of each artifact that has none in the spec, by its name: for the lock.

    One that the inputs' lock knows stays as it is; others are fetched.

    Raises:
        InputError, EngineError: as for :func:`assemble`.
    """
    known = inputs.lock.artifacts if inputs.lock is not None else {}
    hashes: dict[str, str] = {}
    for artifact in inputs.spec.artifacts:
        if artifact.sha256 is None:
            locked_one = replace(artifact, sha256=known.get(artifact.name))
            hashes[artifact.name] = inputs.fetch(locked_one).sha256
    return hashes


def _distribution(inputs: BaseInputs, records: BaseCache, refresh: bool) -> LayerRecord:
    key = records.key("distribution", inputs.key_of_distribution())
    found = None if refresh else records.layer(key)
    if found is not None:
        return found
    with locked(records.lock_path(key)):
        found = None if refresh else records.layer(key)
        if found is None:  # else another process has just made it
            found = _make_distribution(inputs)
            records.save_layer(key, found)
    return found


def _make_distribution(inputs: BaseInputs) -> LayerRecord:
    spec, cache, progress = inputs.spec, inputs.cache, inputs.progress
    ingredients = inputs.ingredients()
    normaliser = Normaliser(inputs.epoch, spec.exclude)
    with work_folder(cache.folder("work")) as folder:
        root = inputs.bootstrap(ingredients, folder, progress)
        where = f"distribution {spec.distribution.suite}"
        lists = (INSTALLED, AVAILABLE)
        tree = read_tree(
            root, folder, where, progress, lambda path: path in lists or normaliser.keep("/" + path)
        )
        with tree.content:
            packages = packages_of(tree)
            nodes = {p: n for p, n in tree.nodes.items() if normaliser.keep("/" + p)}
            for path, node in nodes.items():
                if node.kind == REGULAR and normaliser.rewrites("/" + path):
                    node.data = normaliser.rewrite("/" + path, read_content(tree, node))
            return pack_tree(nodes, tree, cache.blobs, inputs.epoch, where, packages)


def _artifact_layer(
    artifact: Artifact, inputs: BaseInputs, records: BaseCache, below: LayerRecord
) -> LayerRecord:
    key = records.key("artifact", inputs.key_of_artifact(artifact))
    found = records.layer(key)
    if found is not None:
        return found
    fetched = inputs.fetch(artifact)
    with work_folder(inputs.cache.folder("work")) as folder:
        tree = unpack(Unpacking.of(artifact), fetched.path, folder, inputs.progress)
        with tree.content:
            add_parents(tree.nodes, below.special)
            made = pack_tree(tree.nodes, tree, inputs.cache.blobs, inputs.epoch, artifact.name)
    records.save_layer(key, made)
    return made


def _build(inputs: BaseInputs, records: BaseCache, distribution: LayerRecord) -> Image:
    spec = inputs.spec
    _check_targets(spec, distribution)
    suite = spec.distribution.suite
    parts: list[tuple[LayerRecord, str]] = [
        (distribution, f"imagekit: {suite}, {len(distribution.packages)} packages")
    ]
    for artifact in spec.artifacts:
        if not artifact.is_deb:
            record = _artifact_layer(artifact, inputs, records, distribution)
            parts.append((record, f"imagekit: {artifact.name} in {artifact.to}"))
    layers = [record.layer for record, _ in parts]
    history = [line for _, line in parts]
    if spec.files:
        layers.append(_files_layer(inputs, distribution))
        history.append(f"imagekit: {len(spec.files)} files")
    return new_image(
        layers,
        inputs.cache.blobs,
        created=inputs.epoch,
        history=history,
        labels=base_labels(inputs.epoch, any(record.standin for record, _ in parts)),
        env=base_environment(spec),
        entrypoint=spec.entrypoint or None,
        user=spec.user,
        workdir=spec.workdir,
    )


def base_labels(epoch: int, standin: bool) -> dict[str, str]:
    """Give the labels of a base; ``standin``: a stand-in for Gramine is in it."""
    labels = {"org.opencontainers.image.created": rfc3339(epoch)}
    return labels | ({STANDIN_LABEL: "true"} if standin else {})


def base_environment(spec: BaseSpec) -> dict[str, str]:
    """Give the environment of a base."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"} | dict(spec.env)


def _files_layer(inputs: BaseInputs, below: LayerRecord) -> Layer:
    def parents(path: str) -> LayerFile | None:
        node = below.special.get(path.strip("/"))
        if node is None:
            return None
        return LayerFile(path, mode=node.mode, directory=True, uid=node.uid, gid=node.gid)

    entries = [
        LayerFile(file.path, inputs.file_data(file.source, file.text), file.mode)
        for file in inputs.spec.files
    ]
    return write_layer(entries, inputs.cache.blobs, inputs.epoch, parents=parents)


def _check_targets(spec: BaseSpec, distribution: LayerRecord) -> None:
    """Refuse paths through a symbolic link of the distribution.

    A layer that has /lib/x as a file makes /lib a directory: the link to usr/lib, and with it every
    program of the image, would be gone.
    """
    targets: Sequence[str] = [a.to for a in spec.artifacts if a.to] + [f.path for f in spec.files]
    for target in targets:
        parts = target.strip("/").split("/")
        for end in range(1, len(parts)):
            path = "/".join(parts[:end])
            link = distribution.links.get(path)
            if link is not None:
                raise InputError(
                    f"base: {target} leads through /{path}, a symbolic link to {link}",
                    "name the place the link leads to",
                )
