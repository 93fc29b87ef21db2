"""Many cells at once: built in parallel, and one that fails does not lose the others."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from imagekit.errors import ImagekitError
from imagekit.images.delivered import Delivered
from imagekit.release.delivery import Delivery
from imagekit.release.pipeline import Built, CellBuilder
from imagekit.spec.matrix import Cell


@dataclass(frozen=True)
class Outcome:
    """What became of one cell.

    Attributes:
        cell: which.
        built: the image, or None if there is none.
        errors: what went wrong, in the order of the work; empty if all went well.
    """

    cell: Cell
    built: Built | None
    errors: tuple[ImagekitError, ...] = ()


class MatrixError(ImagekitError):
    """Some cells of several failed; the exit code is that of the worst."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        failed = [outcome for outcome in outcomes if outcome.errors]
        names = ", ".join(outcome.cell.id for outcome in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        super().__init__(
            f"{len(failed)} of {len(outcomes)} cells failed: {names}{more}",
            "the other cells are complete; mend this and run the same command again, it does only "
            "what is missing",
        )
        errors = [error for outcome in failed for error in outcome.errors]
        self.exit_code = worst_code(errors)
        self.__cause__ = next((error.__cause__ for error in errors if error.__cause__), None)


def worst_code(errors: Sequence[ImagekitError]) -> int:
    """Give the exit code of the worst error: a defect's, else the highest."""
    return max((error.exit_code for error in errors), key=lambda code: (code == 1, code))


def default_jobs() -> int:
    """Give the number of cells worked on at once: the processors this process may use."""
    return len(os.sched_getaffinity(0))


def build_matrix(
    builder: CellBuilder,
    cells: Sequence[Cell],
    delivery: Delivery,
    *,
    jobs: int,
    done: Callable[[Outcome], None],
) -> list[Outcome]:
    """Build cells and bring them where they go.

    Args:
        builder: builds one.
        cells: which.
        delivery: where the images go besides the output layout.
        jobs: how many at once.
        done: told every outcome as soon as it is known, from several threads.

    Returns:
        One outcome per cell, in the order of the cells. Errors are in the outcomes, defects too;
        only an interruption ends the whole.
    """

    def work(cell: Cell) -> Outcome:
        outcome = _build_and_deliver(builder, cell, delivery)
        done(outcome)
        return outcome

    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="cell") as pool:
        futures = [pool.submit(work, cell) for cell in cells]
        try:
            wait(futures)
        except BaseException:
            # Interrupted: what is being sent is given up, and no tag moves any more.
            delivery.abort()
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _build_and_deliver(builder: CellBuilder, cell: Cell, delivery: Delivery) -> Outcome:
    try:
        built = builder.build(cell)
    except Exception as error:
        return Outcome(cell, None, (told(error),))
    delivered: list[Delivered] = []
    errors: list[ImagekitError] = []
    for place in range(delivery.places):
        try:
            for one in delivery.deliver(built.image, built.references, place):
                delivered.append(one)
        except Exception as error:
            errors.append(told(error))
    return Outcome(cell, replace(built, delivered=tuple(delivered)), tuple(errors))


def told(error: Exception) -> ImagekitError:
    """Give an error as one with a message; a defect keeps its origin, for -v."""
    if isinstance(error, ImagekitError):
        return error
    told = ImagekitError(
        f"unexpected {type(error).__name__}: {error}",
        "this is a defect of imagekit; run again with -v and report what it prints",
    )
    told.__cause__ = error
    return told
