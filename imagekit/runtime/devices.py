"""Files of a kernel or a library OS that take their value at once.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import os


def write_at_once(path: str, data: bytes) -> bool:
    """Write a value in one unbuffered write.

    Args:
        path: of a file that is there.
        data: the value.

    Returns:
        Whether it was taken whole.

    Raises:
        OSError: the file does not take it.
    """
    number = os.open(path, os.O_WRONLY)
    try:
        return os.write(number, data) == len(data)
    finally:
        os.close(number)
