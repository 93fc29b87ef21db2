"""An image that is in a container engine for one run, under a name of that run alone."""

import secrets
from contextlib import AbstractContextManager, suppress
from types import TracebackType

from imagekit.errors import ImagekitError
from imagekit.images.daemon.connect import Daemon, connect
from imagekit.images.daemon.load import load_image
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress


class BorrowedEngine(AbstractContextManager["BorrowedEngine"]):
    """An engine with an image in it; leaving the context takes the name away again.

    Args:
        image: is loaded, unless the engine has it.
        purpose: first part of the name, as in ``imagekit-cross-check``.
        progress: told the bytes that are sent.

    Attributes:
        daemon: the engine.
        image_id: the id it has for the image.

    Raises:
        EngineError: no engine, or it does not take the image.
    """

    def __init__(self, image: Image, purpose: str, progress: Progress = NO_PROGRESS) -> None:
        self.daemon: Daemon = connect()
        # A name of this run alone: another run that ends must not take the image away.
        self._tag = f"{purpose}:{image.descriptor.hex[:16]}-{secrets.token_hex(8)}"
        self.image_id = load_image(self.daemon, image, [self._tag], progress).image_id

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the name away."""
        with suppress(ImagekitError):  # a name that stays is no reason to lose what was done
            self.daemon.untag(self._tag)
