"""Connecting to a container engine."""


class Daemon:
    """A container engine that answers."""


def connect() -> Daemon:
    """Connect to the engine."""
    raise NotImplementedError
