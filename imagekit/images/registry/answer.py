"""What a server answered."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """The answer to one request, its redirects followed.

    Attributes:
        status: the HTTP status.
        headers: the headers; names in any case.
        url: the URL that answered.
        foreign: whether that is another host than the one that was asked.
        body: the body; empty for a download.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    foreign: bool
    body: bytes = b""
