"""Progress of long work: a bar on a terminal, otherwise lines in the log.

The command prints the lines of this logger; in Python, `logging` shows them at the
level INFO.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS, SHARE = 10, 0.1
"""A line is due after this time, or this share of the work but at least `LEAST`."""

LEAST = 2  # seconds


class Progress:
    """Context manager: shows how much of some work is done.

    Args:
        what: What is done, such as `"reading"`.
        total: Number of items.
        initial: Number of items that were done before.
        unit: What the items are.
        log: Function that takes the lines.
    """

    def __init__(
        self,
        what: str,
        total: int,
        initial: int = 0,
        unit: str = "images",
        log: Callable[[str], object] = logger.info,
    ):
        self._what, self._unit, self._log = what, unit, log
        self._total, self._done = total, initial
        self._last = time.monotonic(), initial
        self._first: tuple[float, int] | None = None
        self._bar = tqdm(
            desc=what,
            total=total,
            initial=initial,
            unit=f" {unit}",
            disable=None,  # where stderr is no terminal
            leave=False,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """Counts items that are done, if any."""
        if not count:
            return
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._first is None:  # the rate is without the start, such as compiling
            self._first = now, self._done
            return
        begin, before = self._first
        waited, share = now - self._last[0], (self._done - self._last[1]) / self._total
        is_due = waited >= SECONDS or (waited >= LEAST and share >= SHARE)
        # The images of a batch are counted at once, in no time that gives a rate.
        if self._bar.disable and is_due and now - begin >= LEAST:
            self._last = now, self._done
            rate = (self._done - before) / (now - begin)
            left = tqdm.format_interval((self._total - self._done) / rate)
            self._log(
                f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, "
                f"{rate:.1f} a second, {left} left"
            )


def tracked(items: Iterable, what: str, total: int | None = None) -> Iterator:
    """Yields the items, and shows how many of `total`, by default all, are done."""
    with Progress(what, len(items) if total is None else total) as progress:
        for item in items:
            yield item
            progress.update()
