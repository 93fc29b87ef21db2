"""Pushing images to registries (distribution-spec 1.1, "Push").

A tag moves when all else is there: first the blobs, then the manifest, in one request that also
sets the tag. What the tag points to then is read back.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import Literal

from imagekit.errors import CheckError, EngineError, ImagekitError, UsageError
from imagekit.images.delivered import Delivered
from imagekit.images.oci import Descriptor, Image, digest_of
from imagekit.images.progress import NO_PROGRESS, Advance, Progress
from imagekit.images.references import RegistryReference
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.answer import Answer
from imagekit.images.registry.auth import push_scope
from imagekit.images.registry.client import RegistryClient
from imagekit.images.registry.failures import printable, tag_is_immutable
from imagekit.images.registry.parallel import in_parallel
from imagekit.images.registry.retry import PassingError, retrying
from imagekit.images.registry.upload import Upload

Outcome = Literal["sent", "mounted", "present"]


class Pusher:
    """Pushes images, each blob over the wire once per registry; for several threads at once.

    Args:
        access: how registries are reached.
        progress: told the bytes of each image's blobs.
        known: images whose blobs may be part of those to push, such as the base: in the same
            registry they are taken over from there.
    """

    def __init__(
        self,
        access: RegistryAccess,
        progress: Progress = NO_PROGRESS,
        known: Iterable[RegistryReference] = (),
    ) -> None:
        self._access = access
        self._progress = progress
        self._known = tuple(known)
        self._lock = threading.Lock()
        self._aborted = False
        self._stops: set[threading.Event] = set()
        self._clients: dict[str, RegistryClient] = {}
        self._holders: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._sending: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)

    def push(self, image: Image, reference: RegistryReference) -> Delivered:
        """Push an image, as it is, under a tag; without a tag under its digest.

        Raises:
            UsageError: the reference has the digest of another image.
            EngineError: the registry failed or refuses, or :meth:`abort` was called; the tag is
                as it was.
            InputError: a blob of the image is missing or damaged; the tag is as it was.
            CheckError: the tag points to another image afterwards.
        """
        if reference.digest not in (None, image.digest):
            raise UsageError(
                f"{reference} is to be pushed, but the image has the digest {image.digest}",
                "leave the digest out of the name",
            )
        stop = threading.Event()
        try:
            with self._lock:
                self._stops.add(stop)
            return self._push(image, reference, stop)
        except ImagekitError:
            if self._aborted:  # a connection that we cut tells of no network trouble
                raise _interrupted(reference) from None
            raise
        finally:
            with self._lock:
                self._stops.discard(stop)

    def abort(self) -> None:
        """Give up everything under way, from another thread.

        A tag that has not moved does not move any more, and no further push begins.
        """
        with self._lock:
            self._aborted = True
            stops, clients = list(self._stops), list(self._clients.values())
        for stop in stops:
            stop.set()
        for client in clients:
            client.abort()

    def _push(self, image: Image, reference: RegistryReference, stop: threading.Event) -> Delivered:
        client = self._client(reference)
        name = f"docker://{reference.name}" + (f":{reference.tag}" if reference.tag else "")
        which = reference.tag or image.digest
        if self._points_to(client, reference, which) == image.digest:
            present = sum(blob.size for blob in _blobs(image))
            return Delivered(name, image.digest, 0, 0, present, True)
        bytes_by_outcome = {"sent": len(image.manifest), "mounted": 0, "present": 0}
        blobs = _blobs(image)
        with self._progress.task(
            f"pushing {reference.name}", sum(blob.size for blob in blobs)
        ) as advance:
            outcomes = in_parallel(
                blobs,
                lambda blob: self._push_blob(client, reference, image, blob, stop, advance),
                stop.set,
            )
        for blob, outcome in zip(blobs, outcomes, strict=True):
            bytes_by_outcome[outcome] += blob.size
        self._put_manifest(client, reference, image, which)
        self._read_back(client, reference, image, which)
        return Delivered(name, image.digest, **bytes_by_outcome, already=False)

    def _client(self, reference: RegistryReference) -> RegistryClient:
        host = reference.host
        with self._lock:
            if self._aborted:
                raise _interrupted(reference)
            if host not in self._clients:
                self._clients[host] = RegistryClient(host, self._access)
            return self._clients[host]

    def _push_blob(
        self,
        client: RegistryClient,
        reference: RegistryReference,
        image: Image,
        blob: Descriptor,
        stop: threading.Event,
        advance: Advance,
    ) -> Outcome:
        upload = Upload(client, reference.repository, blob, image.blobs, stop, advance)
        key = (reference.host, blob.digest)
        with self._lock:
            sending, holders = self._sending[key], self._holders[key]
        # While no repository has the blob, one push sends it and the others wait to mount it.
        with sending:
            if not holders:
                return self._bring(upload, holders, reference.repository, self._source(reference))
        return self._bring(upload, holders, reference.repository, holders[0])

    def _bring(
        self, upload: Upload, holders: list[str], repository: str, source: str | None
    ) -> Outcome:
        """Have the blob in the repository, and remember that it is there."""
        outcome: Outcome = "present" if upload.is_there() else upload.run(source)
        if repository not in holders:
            holders.append(repository)
        return outcome

    def _source(self, reference: RegistryReference) -> str | None:
        """The repository that may have a blob which nobody pushed yet."""
        return next(
            (
                image.repository
                for image in self._known
                if image.host == reference.host and image.repository != reference.repository
            ),
            None,
        )

    def _points_to(
        self, client: RegistryClient, reference: RegistryReference, which: str
    ) -> str | None:
        """The digest of what a tag or digest stands for now, None if it stands for nothing."""
        answer = client.manifest(
            "GET", reference.repository, which, (push_scope(reference.repository),)
        )
        if answer.status == 200:
            return digest_of(answer.body)
        if answer.status == 404:
            return None
        raise client.failure(answer, f"push {reference}")

    def _put_manifest(
        self, client: RegistryClient, reference: RegistryReference, image: Image, which: str
    ) -> None:
        """PUT the manifest ("Pushing manifests"), which moves the tag."""
        scopes = (push_scope(reference.repository),)
        headers = {"Content-Type": image.descriptor.media_type}
        path = f"{reference.repository}/manifests/{which}"
        answer = retrying(
            lambda: client.call("PUT", path, scopes, headers, image.manifest), client.stop
        )
        if answer.status in (200, 201, 202, 204):
            return
        # The answer to an earlier try may have been lost: then our own tag is what is in the way.
        with suppress(EngineError):
            if self._points_to(client, reference, which) == image.digest:
                return
        raise _refused(client, reference, answer)

    def _read_back(
        self, client: RegistryClient, reference: RegistryReference, image: Image, which: str
    ) -> None:
        separator = ":" if reference.tag else "@"
        name = f"docker://{reference.name}{separator}{which}"

        def look() -> str:
            found = self._points_to(client, reference, which)
            if found is None:  # some registries show a new tag only after a while
                raise PassingError(
                    f"{name}: the registry took the image but does not show it",
                    "look whether it is there later, or ask who runs the registry",
                )
            return found

        found = retrying(look, client.stop)
        if found != image.digest:
            raise CheckError(
                f"{name} stands for {printable(found)} after the push, not for {image.digest}",
                "somebody pushed the same tag at the same time: give every build its own tag",
            )


def _blobs(image: Image) -> list[Descriptor]:
    """Layers and config, each blob once."""
    return list({blob.digest: blob for blob in (*image.layers, image.config_descriptor)}.values())


def _interrupted(reference: RegistryReference) -> EngineError:
    return EngineError(
        f"interrupted: the push of {reference} was given up",
        "push again; what is in the registry already is not sent again",
    )


def _refused(client: RegistryClient, reference: RegistryReference, answer: Answer) -> EngineError:
    error = client.failure(answer, f"push {reference}")
    if reference.tag and tag_is_immutable(answer):
        return EngineError(
            f"{reference.name}: the tag {reference.tag} stands for another image and is immutable: "
            f"{error.problem.partition(': ')[2]}",
            "choose another tag; the registry is set up to never move one",
        )
    return error
