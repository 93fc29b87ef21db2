"""One blob into a registry: mounted from another repository of it, or sent in a single request.

Source: distribution-spec 1.1, "Pushing blobs": "POST then PUT" and "Mounting a blob from another
repository". Chunked uploads are not used: some registries take them wrongly.
"""

import hashlib
import threading
from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote

from imagekit.errors import EngineError, InputError
from imagekit.images.oci import OCTET_STREAM, BlobSource, Descriptor
from imagekit.images.progress import Advance
from imagekit.images.registry.answer import Answer
from imagekit.images.registry.auth import pull_scope, push_scope
from imagekit.images.registry.client import RegistryClient
from imagekit.images.registry.failures import DeniedError, codes
from imagekit.images.registry.retry import PassingError, Retries, retrying
from imagekit.images.registry.transport import join
from imagekit.images.streams import read_blocks

_BLOCK = 1 << 17
"""Bytes handed to the connection at once; its time limit is for one block."""

_LOST = frozenset({"BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"})


class Upload:
    """One blob on its way into a repository.

    Args:
        client: the registry.
        repository: where the blob goes.
        descriptor: the blob.
        blobs: where it is read.
        stop: ends the work soon.
        advance: told the bytes, also of a blob that need not be sent.
    """

    def __init__(
        self,
        client: RegistryClient,
        repository: str,
        descriptor: Descriptor,
        blobs: BlobSource,
        stop: threading.Event,
        advance: Advance,
    ) -> None:
        self._client = client
        self._repository = repository
        self._descriptor = descriptor
        self._blobs = blobs
        self._stop = stop
        self._advance = advance
        self._told = 0
        self._scopes = (push_scope(repository),)

    def is_there(self) -> bool:
        """Whether the repository has the blob ("Checking if content exists in the registry").

        Raises:
            EngineError: the registry failed or refuses.
        """
        path = f"{self._repository}/blobs/{self._descriptor.digest}"
        answer = retrying(lambda: self._client.call("HEAD", path, self._scopes), self._stop)
        if answer.status == 200:
            self._tell(self._descriptor.size)
            return True
        # Behind a redirect a HEAD may be refused where a GET is not: then the blob is sent.
        if answer.foreign or answer.status in (404, 405):
            return False
        raise self._client.failure(answer, self._doing)

    def run(self, source: str | None) -> Literal["mounted", "sent"]:
        """Mount the blob or send it; begun anew when the connection is cut.

        Args:
            source: another repository of this registry that has the blob, or may have it.

        Raises:
            EngineError: the registry failed or refuses.
            InputError: the blob cannot be read or is damaged.
        """
        retries = Retries(self._stop)
        while True:
            try:
                return self._attempt(source)
            except PassingError as error:
                retries.wait(error)
                if self.is_there():  # the answer was lost, not the blob
                    return "sent"
                source = None  # some registries fail at mounting whenever they are asked

    @property
    def _doing(self) -> str:
        return f"push to {self._client.host}/{self._repository}"

    def _attempt(self, source: str | None) -> Literal["mounted", "sent"]:
        begun = self._mount(source) if source else None
        if begun is not None and begun.status == 201:
            self._tell(self._descriptor.size)
            return "mounted"
        if begun is None or begun.status != 202:  # no rights there, or no mounting here
            begun = self._post("", self._scopes)
        if begun.status != 202 or "Location" not in begun.headers:
            raise self._client.failure(begun, self._doing)
        self._put(join(begun.url, begun.headers["Location"]))
        return "sent"

    def _mount(self, source: str) -> Answer | None:
        scopes = tuple(sorted({*self._scopes, pull_scope(source)}))
        query = f"?mount={quote(self._descriptor.digest, safe='')}&from={quote(source, safe='')}"
        try:
            return self._post(query, scopes)
        except DeniedError:  # the server that gives out tokens knows no such right
            return None

    def _post(self, query: str, scopes: tuple[str, ...]) -> Answer:
        path = f"{self._repository}/blobs/uploads/{query}"
        return self._client.call("POST", path, scopes, {"Content-Length": "0"})

    def _put(self, location: str) -> None:
        separator = "&" if "?" in location else "?"
        answer = self._client.call(
            "PUT",
            f"{location}{separator}digest={quote(self._descriptor.digest, safe='')}",
            self._scopes,
            {"Content-Type": OCTET_STREAM, "Content-Length": str(self._descriptor.size)},
            self._read,
        )
        if answer.status == 201:
            return
        if answer.status in (200, 202, 204) and self.is_there():
            return
        error = self._client.failure(answer, self._doing)
        said = {code for code, _ in codes(answer)}
        if answer.status in (404, 416) or said & _LOST:
            raise PassingError(error.problem, error.hint)  # the upload's session is gone
        if answer.status == 400:
            self._check_source()
        raise error

    def _read(self) -> Iterator[bytes]:
        """The blob's bytes, exactly as many as were announced."""
        position, size = 0, self._descriptor.size
        with self._blobs.open_blob(self._descriptor.digest) as stream:
            while position < size:
                try:
                    block = stream.read(min(_BLOCK, size - position))
                except OSError as error:
                    raise self._damaged() from error
                if not block:
                    raise self._damaged()
                if self._stop.is_set():
                    raise EngineError(f"{self._doing}: the upload was given up", "try again")
                yield block
                position += len(block)
                self._tell(position)

    def _check_source(self) -> None:
        """After a refusal: whether it is our copy that is damaged.

        Raises:
            InputError: it is.
        """
        with self._blobs.open_blob(self._descriptor.digest) as stream:
            found = hashlib.sha256()
            for block in read_blocks(stream, f"blob {self._descriptor.digest}"):
                found.update(block)
        if found.hexdigest() != self._descriptor.hex:
            raise self._damaged()

    def _damaged(self) -> InputError:
        return InputError(
            f"blob {self._descriptor.digest} on this disk is cut short or damaged",
            "copy or build the image anew",
        )

    def _tell(self, position: int) -> None:
        """Report progress, each byte once, however often it is sent."""
        if position > self._told:
            self._advance(position - self._told)
            self._told = position
