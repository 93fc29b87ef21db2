"""What is said of an image that arrived in a registry or an engine."""

from typing import NamedTuple


class Delivered(NamedTuple):
    """An image that arrived somewhere.

    Attributes:
        reference: with its transport, ``docker://…`` or ``docker-daemon:…``.
        digest: of the manifest that was read back from a registry; the image's id in an engine.
        sent: bytes sent.
        mounted: bytes taken over from another repository of the same registry.
        present: bytes that were there already.
        already: whether the name stood for this image before, so that nothing was done.
    """

    reference: str
    digest: str
    sent: int
    mounted: int
    present: int
    already: bool

    @property
    def line(self) -> str:
        """It in one line for people."""
        how = "there already" if self.already else f"{self.sent} bytes sent"
        return f"{self.reference}: {how}"
