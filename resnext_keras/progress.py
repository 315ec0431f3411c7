"""Progress of long work: a bar on a terminal, otherwise lines in the log.

The command prints the lines of this logger; in Python, `logging` shows them at the
level INFO.
"""

import logging
import time
from collections.abc import Collection, Iterator

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
    """

    def __init__(self, what: str, total: int, initial: int = 0, unit: str = "images"):
        self._what, self._unit = what, unit
        self._total, self._initial, self._done = total, initial, initial
        self._start = time.monotonic()
        self._last = self._start, initial
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
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """Counts items that are done."""
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        waited, share = now - self._last[0], (self._done - self._last[1]) / self._total
        is_due = waited >= SECONDS or (waited >= LEAST and share >= SHARE)
        if self._bar.disable and is_due:
            self._last = now, self._done
            rate = (self._done - self._initial) / (now - self._start)
            left = tqdm.format_interval((self._total - self._done) / rate)
            logger.info(
                f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, "
                f"{rate:.1f} a second, {left} left"
            )


def tracked(items: Collection, what: str, unit: str = "images") -> Iterator:
    """Yields the items, and shows how many are done."""
    with Progress(what, len(items), unit=unit) as progress:
        for item in items:
            yield item
            progress.update()
