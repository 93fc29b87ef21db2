"""Pulling an image from a registry into the cache (distribution-spec 1.1, "Pull")."""

from contextlib import suppress
from difflib import get_close_matches

from imagekit.errors import EngineError, InputError
from imagekit.images.cache import Cache
from imagekit.images.oci import (
    DOCUMENT_LIMIT,
    INDEX_TYPES,
    Descriptor,
    Image,
    check_digest,
    digest_of,
    json_object,
    read_image,
)
from imagekit.images.progress import Advance, Progress
from imagekit.images.references import RegistryReference
from imagekit.images.registry.access import RegistryAccess
from imagekit.images.registry.answer import Answer
from imagekit.images.registry.auth import pull_scope
from imagekit.images.registry.client import RegistryClient
from imagekit.images.registry.download import fetch_blob
from imagekit.images.registry.failures import printable
from imagekit.images.registry.manifests import check_usable, choose_platform, document_type
from imagekit.images.registry.parallel import in_parallel

_NESTING = 4
_MOST_TAGS = 1000
_LONGEST_TAG = 128
_ALTERED = "the registry's copy is damaged or altered: push the image anew"


def pull_image(
    reference: RegistryReference, cache: Cache, access: RegistryAccess, progress: Progress
) -> Image:
    """Pull an image; of an index the one for linux/amd64. What the cache has is not fetched.

    With a digest in the reference nothing else counts, and a registry is not asked for what the
    cache has whole.

    Args:
        reference: the image.
        cache: where its blobs go.
        access: how the registry is reached.
        progress: told the bytes of the layers.

    Raises:
        EngineError: the registry failed or has no such image.
        InputError: the image is damaged, of another architecture or an unusable kind; or the disk,
            Docker's configuration or a file with certificates is unusable.
    """
    client = RegistryClient(reference.host, access)
    pull = _Pull(reference, cache, client)
    image = pull.image()
    check_usable(image, str(reference))
    layers = {layer.digest: layer for layer in image.layers}  # an image may have one twice
    missing = [layer for layer in layers.values() if pull.lacks(layer)]
    if missing:
        total = sum(layer.size for layer in missing)
        with progress.task(f"pulling {reference.name}", total) as advance:
            in_parallel(missing, lambda layer: pull.fetch(layer, advance), client.abort)
    return image


class _Pull:
    """The pull of one image."""

    def __init__(self, reference: RegistryReference, cache: Cache, client: RegistryClient) -> None:
        self._reference = reference
        self._cache = cache
        self._client = client
        self._scopes = (pull_scope(reference.repository),)

    def image(self) -> Image:
        """The image for linux/amd64, its manifest and config in the cache."""
        where = str(self._reference)
        digest, data, kind = self._document(self._reference.digest)
        for _ in range(_NESTING):
            if kind not in INDEX_TYPES:
                break
            chosen = choose_platform(data, where)
            digest, data, kind = self._document(chosen.digest)
        else:
            raise InputError(f"{where}: indexes within indexes", "name the image by its digest")
        config = Descriptor.from_json(json_object(data, where).get("config"), where)
        if config.size > DOCUMENT_LIMIT:
            raise InputError(f"{where}: {config.size} bytes are too many for a config", _ALTERED)
        if self._cached(config.digest) is None:
            self.fetch(config, lambda _: None)
        return read_image(Descriptor(kind, digest, len(data)), self._cache.blobs)

    def lacks(self, layer: Descriptor) -> bool:
        """Whether the cache has not got that blob."""
        return not self._cache.blobs.has(layer.digest, layer.size)

    def fetch(self, blob: Descriptor, advance: Advance) -> None:
        """Bring a blob into the cache."""
        fetch_blob(self._client, self._reference.repository, blob, self._cache, advance)

    def _document(self, digest: str | None) -> tuple[str, bytes, str]:
        """Digest, content and media type of a manifest or index; of the tag's without a digest."""
        where = str(self._reference)
        tag = self._reference.tag or ""
        known = digest or self._digest_of_tag(tag)
        data = self._cached(known) if known else None
        if known and data is not None:
            return known, data, document_type("", data, where)
        answer = self._client.manifest(
            "GET", self._reference.repository, digest or tag, self._scopes
        )
        if answer.status != 200:
            raise self._failure(answer)
        data, found = answer.body, digest_of(answer.body)
        said = answer.headers.get("Docker-Content-Digest", found)
        for wanted in (digest, said if said.startswith("sha256:") else None):
            if wanted not in (None, found):
                raise InputError(
                    f"{where}: a manifest with the digest {printable(wanted)} was to come, one "
                    f"with {found} came",
                    _ALTERED,
                )
        kind = document_type(answer.headers.get("Content-Type", ""), data, where)
        self._cache.blobs.add_bytes(data)
        return found, data, kind

    def _digest_of_tag(self, tag: str) -> str | None:
        """What the tag points to, when the registry says so without sending it."""
        answer = self._client.manifest("HEAD", self._reference.repository, tag, self._scopes)
        if answer.status == 200:
            with suppress(InputError):
                return check_digest(answer.headers.get("Docker-Content-Digest"), "")
        return None

    def _cached(self, digest: str) -> bytes | None:
        """A document out of the cache; one that was damaged there is thrown away."""
        path = self._cache.blobs.path(digest)
        try:
            with path.open("rb") as stream:
                data = stream.read(DOCUMENT_LIMIT + 1)
            if digest_of(data) == digest:
                return data
            path.unlink()
        except OSError:
            pass
        return None

    def _failure(self, answer: Answer) -> EngineError:
        error = self._client.failure(answer, f"pull {self._reference}")
        if answer.status != 404:
            return error
        there = self._tags()
        hint = f"check the name; if it is not public, log in: docker login {self._reference.host}"
        if there:
            hint = f"tags that are there: {there}"
        return EngineError(f"no image {self._reference} in the registry", hint)

    def _tags(self) -> str:
        """The tags most like the one that is not there."""
        path = f"{self._reference.repository}/tags/list?n={_MOST_TAGS}"
        with suppress(EngineError, InputError):
            answer = self._client.call("GET", path, self._scopes)
            tags = listed_tags(answer.body)
            near = get_close_matches(self._reference.tag or "", tags, 5, 0) or tags[:5]
            return printable(", ".join(near) + (", …" if len(tags) > len(near) else ""))
        return ""


def listed_tags(body: bytes) -> list[str]:
    """The tags in the answer of a registry, sorted ("Listing Tags"); no more than we asked for.

    Raises:
        InputError: it is no JSON object.
    """
    listed = json_object(body, "the registry's tags").get("tags")
    if not isinstance(listed, list):
        return []
    tags = [tag for tag in listed if isinstance(tag, str) and 0 < len(tag) <= _LONGEST_TAG]
    return sorted(tags[:_MOST_TAGS])
