"""What to do where memory runs out: go on with half of what was taken at once."""

import gc
import re
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SHORT = re.compile(r"can't allocate memory|\bCUDA(?: error:)? out of memory|_ALLOC_FAILED\b")


def out_of_memory(error: BaseException) -> bool:
    """torch's own (of CUDA and its libraries, and of the host), or Python's."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or SHORT.search(str(error)) is not None
    )


def free() -> None:
    """Give back what a failed run held; to be called when no traceback of it is alive."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_batches(
    count: int, size: int, run: Callable[[int, int], T], smaller: Callable[[int], None] = lambda _: None
) -> list[T]:
    """`run(start, end)` over all of `count`, `size` at a time; half as many from then on where memory runs
    out, down to one.

    `smaller` is told each new size. Raises the error of memory where one alone does not fit.
    """
    done, start = list[T](), 0
    while start < count:
        end = min(start + size, count)
        try:
            done.append(run(start, end))
        except Exception as error:
            if not out_of_memory(error) or size == 1:
                raise
        else:
            start = end
            continue
        # out of the except clause nothing holds the error, whose traceback holds the tensors
        size = max(1, min(size, end - start) // 2)
        smaller(size)
        free()
    return done
