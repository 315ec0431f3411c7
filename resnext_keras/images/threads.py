"""Calls functions in threads, as for reading image files."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

AHEAD = 3  # batches that are ready or being read before they are needed


def in_threads(
    function: Callable, items: Iterable, ahead: int, threads: int | None = None
) -> Iterator:
    """Calls a function in threads (one per core), and yields the results in order.

    `ahead` is the number of results that are ready or being computed. The items do
    not have to fit into memory.
    """
    items = iter(items)
    pool = ThreadPoolExecutor(threads or os.cpu_count(), "reading")
    try:
        waiting = deque(
            pool.submit(function, item) for item in itertools.islice(items, ahead)
        )
        while waiting:
            result = waiting.popleft().result()
            waiting += (
                pool.submit(function, item) for item in itertools.islice(items, 1)
            )
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
