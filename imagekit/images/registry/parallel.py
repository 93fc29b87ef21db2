"""A few pieces of work at once."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

WORKERS = 4
"""Transfers of one image at once: enough to fill a line, few enough for a registry's limits."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def in_parallel(
    items: Iterable[_T], work: Callable[[_T], _R], abort: Callable[[], None]
) -> list[_R]:
    """Do ``work`` for each item in threads; gives the results in the items' order.

    Args:
        items: what to work on.
        work: called in a thread.
        abort: makes the work that is under way end soon; called when one piece failed, or on
            Ctrl-C. Nothing new is begun then, and the first failure is raised.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            abort()
            for future in futures:
                future.cancel()
            raise
    return [future.result() for future in futures]
