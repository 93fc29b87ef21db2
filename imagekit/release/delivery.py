"""Where finished images go besides the output layout: registries and a container engine."""

from collections.abc import Iterator, Sequence
from threading import Event, Lock
from typing import NamedTuple

from imagekit.errors import EngineError, UsageError
from imagekit.images.delivered import Delivered
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress, Talk
from imagekit.images.references import (
    RegistryReference,
    parse_registry_reference,
    split_registry,
)
from imagekit.images.registry.access import RegistryAccess
from imagekit.spec.names import check_stem

_TRANSPORT = "docker://"


class PushTarget(NamedTuple):
    """What ``--push`` says.

    Attributes:
        host: the registry.
        path: what stands between registry and name, without outer slashes; may be empty.
        exact: the one reference to push to, or None for names of the images' own.
    """

    host: str
    path: str
    exact: RegistryReference | None = None

    def reference(self, own: str) -> RegistryReference:
        """Give where an image goes.

        Args:
            own: the image's own reference, ``[registry/][path/]name:tag``.
        """
        if self.exact is not None:
            return self.exact
        name, _, tag = own.rpartition("/")[2].rpartition(":")
        repository = f"{self.path}/{name}" if self.path else name
        return RegistryReference(self.host, repository, tag)


def parse_push(text: str, images: int) -> PushTarget:
    """Read ``--push``: ``HOST[/PATH]`` for all images, ``HOST/PATH/NAME:TAG`` for a single one.

    Args:
        text: the option's value, with or without ``docker://``.
        images: how many images are built.

    Raises:
        UsageError: neither, or one name for several images.
    """
    rest = text.removeprefix(_TRANSPORT).rstrip("/")
    hint = "write HOST/PATH for the images' own names, or HOST/PATH/NAME:TAG for a single image"
    host, slash, path = rest.partition("/")
    if not ("." in host or ":" in host or host == "localhost"):
        raise UsageError(f"--push {text}: no registry is named", hint)
    if "@" in rest:
        raise UsageError(f"--push {text}: a digest is nothing to push to", hint)
    if slash and ":" in path:
        if images != 1:
            raise UsageError(f"--push {text}: one name for {images} images", hint)
        exact = parse_registry_reference(rest)
        return PushTarget(exact.host, exact.repository, exact)
    # A name stands in for that of the image, since a registry alone is no image name.
    check_stem(f"{rest}/name", f"--push {text}:")
    return PushTarget(split_registry(f"{host}/x/x")[0], path)


class Delivery:
    """Brings images to registries and an engine; may be used from several threads.

    Args:
        targets: what ``--push`` says, in that order.
        load: whether images go to the engine, too.
        access: how registries are reached.
        known: where the base is or may be: what is there need not be sent to that registry again.
        talk: told remarks.
        progress: told the bytes.

    Raises:
        EngineError: no engine to load images into.
    """

    def __init__(
        self,
        targets: Sequence[PushTarget],
        *,
        load: bool,
        access: RegistryAccess,
        known: Sequence[RegistryReference] = (),
        talk: Talk,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self._targets, self._talk, self._progress = tuple(targets), talk, progress
        self._daemon, self._pusher = None, None
        self._loading, self._aborted = Lock(), Event()
        if load:
            from imagekit.images.daemon.connect import connect

            self._daemon = connect()
        if targets:
            from imagekit.images.registry.push import Pusher

            self._pusher = Pusher(access, progress, known)

    @property
    def places(self) -> int:
        """How many places an image goes to."""
        return len(self._targets) + (self._daemon is not None)

    def abort(self) -> None:
        """Give up what is under way, from another thread: no tag moves any more."""
        self._aborted.set()
        if self._pusher is not None:
            self._pusher.abort()

    def deliver(self, image: Image, references: Sequence[str], target: int) -> Iterator[Delivered]:
        """Bring an image to one place under each of its names, one after the other.

        Args:
            image: the image.
            references: its own names, the most telling one first.
            target: the number of the place, from 0.

        Raises:
            EngineError, CheckError: it did not arrive.
        """
        if self._aborted.is_set():
            raise EngineError("interrupted", "run the same command again")
        if target == len(self._targets):
            yield from self._load(image, references)
            return
        assert self._pusher is not None
        where = self._targets[target]
        for reference in dict.fromkeys(where.reference(own) for own in references):
            yield self._pusher.push(image, reference)

    def _load(self, image: Image, references: Sequence[str]) -> list[Delivered]:
        from imagekit.images.daemon.load import load_image

        assert self._daemon is not None
        with self._loading:  # the base's layers go in with the first image, the others find them
            loaded = load_image(self._daemon, image, references, self._progress)
        if loaded.note:
            self._talk(loaded.note)
        return [
            Delivered(
                f"docker-daemon:{name}",
                loaded.image_id,
                loaded.sent if name == references[0] else 0,
                0,
                loaded.present,
                loaded.already,
            )
            for name in references
        ]
