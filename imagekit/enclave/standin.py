"""The stand-in for Gramine: how it is recognised.

Machines that cannot get Gramine build examples with a stand-in package. Its PAL carries a mark, so
that the content itself says what it is, whatever labels claim.
"""

MARK = b"imagekit stand-in PAL"
"""Bytes that the stand-in's ``libpal.so`` holds and Gramine's does not."""


def is_standin(pal: bytes) -> bool:
    """Say whether the bytes of a ``libpal.so`` are the stand-in's."""
    return MARK in pal
