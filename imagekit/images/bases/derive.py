"""A base on top of an image: its own layers stay as they are, new ones are added.

The new layers are, lowest first: the installed packages (with local .deb files), one per artifact
in the order of the spec, and one for ``files``. Each is kept under a key made of everything it
depends on, the digest of what lies below included; the image under the key of the whole.
"""

from dataclasses import dataclass

from imagekit.errors import InputError
from imagekit.files import locked
from imagekit.images.bases.assemble import Assembled, base_labels, fetch_hashes
from imagekit.images.bases.below import add_parents_of, check_kinds, folders_of, parents_of
from imagekit.images.bases.cache import BaseCache, LayerRecord
from imagekit.images.bases.inputs import DerivedInputs, PartInputs, with_hashes
from imagekit.images.bases.install_on import APT, Installation, Installer, packages_layer
from imagekit.images.bases.lock import LOCK_NAME, BaseLock, ImageBelow, PackageDrift, derived_drift
from imagekit.images.bases.pack import pack_tree
from imagekit.images.bases.unpack import Unpacking, unpack
from imagekit.images.bases.workdir import work_folder
from imagekit.images.compose import check_platform, derive_image
from imagekit.images.layers import Layer, LayerFile, write_layer
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
from imagekit.spec.base_values import Artifact


@dataclass(frozen=True)
class Below:
    """An image that a base is made on, and how packages get into it.

    Attributes:
        image: the image.
        install: installs packages on it; called only if there are any, and they are not here yet.
    """

    image: Image
    install: Installer


def derive(
    given: DerivedInputs, below: Below, *, locked_only: bool = False, refresh: bool = False
) -> Assembled:
    """Make a base on top of an image, or take it from the cache.

    Args:
        given: what to make and with what; hashes that its spec lacks are taken from its lock.
        below: on what.
        locked_only: refuse another image or other packages than the locked ones.
        refresh: ask the package archives again although the packages' layer is in the cache.

    Raises:
        InputError: a missing or wrong hash, a missing file, an image for another platform or
            without apt, something in the image that would be replaced by another kind of thing, or
            (``locked_only``) what is not locked.
        EngineError: the engine, pip or the network failed.
    """
    inputs = _resolved(given, given.lock)
    check_platform(below.image, f"base.from {inputs.spec.image}")
    records = BaseCache(inputs.cache)
    key = records.key("derived", inputs.key_of_image(below.image.digest))
    with locked(records.lock_path(key)):
        image = None if refresh else records.image(key, below.image)
        was_cached = image is not None
        packages = _packages(inputs, records, below, refresh) if inputs.spec.installs else None
        found = _check_lock(inputs, below, packages, locked_only)
        if image is None:
            image = _build(inputs, records, below, packages)
            records.save_image(key, image)
    return Assembled(image, packages.packages if packages else (), found, was_cached)


def lock_derived(given: DerivedInputs, below: Below) -> BaseLock:
    """Find out the hashes, the image's digest and the package versions that a base is made of now.

    Artifacts without a hash in the spec keep the one in the lock given, others are fetched. The
    packages are installed anew and kept for the build that follows.

    Raises:
        InputError, EngineError: as for :func:`derive`.
    """
    spec = given.spec
    check_platform(below.image, f"base.from {spec.image}")
    hashes = fetch_hashes(given)
    source = ImageBelow(spec.image, below.image.digest)
    inputs = _resolved(given, BaseLock(hashes))
    if not spec.installs:
        return BaseLock(hashes, below=source)
    records = BaseCache(inputs.cache)
    made = _packages(inputs, records, below, refresh=True)
    lock = BaseLock(hashes, made.packages, source)
    later = _resolved(given, lock)
    records.save_layer(records.key("packages", later.key_of_packages(below.image.digest)), made)
    return lock


def _resolved(given: DerivedInputs, lock: BaseLock | None) -> DerivedInputs:
    """The inputs with every hash, and this lock."""
    return DerivedInputs(
        with_hashes(given.spec, lock),
        given.project_dir,
        given.cache,
        given.epoch,
        lock,
        given.progress,
    )


def _check_lock(
    inputs: DerivedInputs, below: Below, packages: LayerRecord | None, locked_only: bool
) -> PackageDrift | None:
    lock, spec = inputs.lock, inputs.spec
    if locked_only and (
        lock is None or lock.below is None or (packages is not None and not lock.packages)
    ):
        raise InputError(
            f"{LOCK_NAME} locks no image" + (" with packages" if packages else ""),
            "run `imagekit base lock`",
        )
    if lock is None:
        return None
    source = ImageBelow(spec.image, below.image.digest)
    found = derived_drift(lock, source, packages.packages if packages else ())
    if found is not None and locked_only:
        raise InputError(found.problem, found.hint)
    return found


def _packages(
    inputs: DerivedInputs, records: BaseCache, below: Below, refresh: bool
) -> LayerRecord:
    key = records.key("packages", inputs.key_of_packages(below.image.digest))
    found = None if refresh else records.layer(key)
    if found is not None:
        return found
    with locked(records.lock_path(key)):
        found = None if refresh else records.layer(key)
        if found is None:  # else another process has just made it
            found = _install(inputs, below)
            records.save_layer(key, found)
    return found


def _install(inputs: DerivedInputs, below: Below) -> LayerRecord:
    spec, progress = inputs.spec, inputs.progress
    rootfs = Rootfs.from_image(below.image, inputs.cache, progress)
    if rootfs.kind(APT) != "file":
        raise InputError(
            f"base.from {spec.image}: the image has no {APT}, so no packages can be installed in "
            "it",
            "remove base.packages and .deb artifacts, or name an image of Debian or Ubuntu",
        )
    order = Installation(
        below.image, tuple(sorted(spec.packages)), inputs.debs(), inputs.epoch, inputs.ca_bundle()
    )
    with work_folder(inputs.cache.folder("work")) as folder:
        answer = below.install(order, folder, progress)
        return packages_layer(answer, folder, rootfs, inputs.cache, inputs.epoch, progress)


def _build(
    inputs: DerivedInputs, records: BaseCache, below: Below, packages: LayerRecord | None
) -> Image:
    spec, blobs = inputs.spec, inputs.cache.blobs
    added: list[tuple[Layer, str]] = []
    image, standin = below.image, False
    if packages is not None:
        words = " ".join([*sorted(spec.packages), *(a.name for a in spec.artifacts if a.is_deb)])
        added.append((packages.layer, f"imagekit: installed {words}"))
        image = derive_image(below.image, added, blobs, created=inputs.epoch)
        standin = packages.standin
    artifacts = [artifact for artifact in spec.artifacts if not artifact.is_deb]
    if artifacts:
        rootfs = Rootfs.from_image(image, inputs.cache, inputs.progress)
        for artifact in artifacts:
            record = _artifact_layer(artifact, inputs, records, image.digest, rootfs)
            added.append((record.layer, f"imagekit: {artifact.name} in {artifact.to}"))
            standin = standin or record.standin
        image = derive_image(below.image, added, blobs, created=inputs.epoch)
    if spec.files:
        rootfs = Rootfs.from_image(image, inputs.cache, inputs.progress)
        added.append((_files_layer(inputs, rootfs), f"imagekit: {len(spec.files)} files"))
    return derive_image(
        below.image,
        added,
        blobs,
        created=inputs.epoch,
        labels=base_labels(inputs.epoch, standin),
        env=dict(spec.env),
        entrypoint=spec.entrypoint or None,
        user=spec.user,
        workdir=spec.workdir,
    )


def _artifact_layer(
    artifact: Artifact, inputs: PartInputs, records: BaseCache, below: str, rootfs: Rootfs
) -> LayerRecord:
    key = records.key("artifact", {**inputs.key_of_artifact(artifact), "below": below})
    found = records.layer(key)
    if found is not None:
        return found
    fetched = inputs.fetch(artifact)
    with work_folder(inputs.cache.folder("work")) as folder:
        tree = unpack(Unpacking.of(artifact), fetched.path, folder, inputs.progress)
        with tree.content:
            add_parents_of(tree.nodes, rootfs)
            check_kinds(folders_of(tree.nodes), rootfs, artifact.name)
            made = pack_tree(tree.nodes, tree, inputs.cache.blobs, inputs.epoch, artifact.name)
    records.save_layer(key, made)
    return made


def _files_layer(inputs: PartInputs, rootfs: Rootfs) -> Layer:
    for file in inputs.spec.files:
        check_kinds(parents_of([file.path]), rootfs, f"the file {file.path}")
    entries = [
        LayerFile(file.path, inputs.file_data(file.source, file.text), file.mode)
        for file in inputs.spec.files
    ]
    return write_layer(entries, inputs.cache.blobs, inputs.epoch, parents=rootfs.directory)
