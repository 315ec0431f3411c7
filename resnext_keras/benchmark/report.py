"""From the seconds of all calls to the rows of a table, and to JSON."""

import datetime
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from resnext_keras.benchmark.contenders import MATRIX_PRODUCT, MATRIX_PRODUCT_SIDE
from resnext_keras.benchmark.machine import describe_machine, versions
from resnext_keras.benchmark.rounds import Series, Settings
from resnext_keras.models.data_format import image_shape
from resnext_keras.models.flops import stage_costs
from resnext_keras.models.resnext import ResNeXt

BASE_PACKAGES = ("tensorflow", "keras", "numpy")

TRAIN_COST = 3
"""A training step by a prediction: each convolution has two gradients."""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: The contender.
        kind: `"ours"`, `"torch"`, `"other"` or `"floor"`.
        median: Median seconds of a call; None where there was none.
        low: Lower quartile of the seconds.
        high: Upper quartile of the seconds.
        ratio: The median by that of the best of torch's; None without one.
        images: Images in a second.
        memory: Bytes of memory that its process held at most.
        first: Seconds that building and the first call took, the longest of all
            rounds: later ones may find compiled code.
        reason: Why there are no numbers; empty if there are.
    """

    label: str
    kind: str
    median: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    images: float | None = None
    memory: int | None = None
    first: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Panel:
    """One table: the rows of a task, `"predict"` or `"train"`, and a batch."""

    task: str
    batch: int
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """What stands above it."""
        what = "Prediction" if self.task == "predict" else "Training step"
        return f"{what}, batch of {self.batch}"


@dataclass(frozen=True)
class Report:
    """All that was measured, with what it depends on.

    Attributes:
        facts: The network, the machine, versions, date and command; for JSON.
        series: What each contender gave, the matrix products too.
    """

    facts: dict
    series: tuple[Series, ...]

    @property
    def panels(self) -> list[Panel]:
        """The tables: the contenders in the order that they ran in, and the floor."""
        groups = {}
        for series in self.series:
            if series.run.contender is not MATRIX_PRODUCT:
                groups.setdefault((series.run.task, series.run.batch), []).append(
                    series
                )
        return [
            Panel(task, batch, (*_rows(group), *self._floor(task, batch, group)))
            for (task, batch), group in groups.items()
        ]

    @property
    def as_json(self) -> dict:
        """The facts, and every call of every process."""
        results = [
            {
                "contender": series.run.contender.name,
                "label": series.run.contender.label,
                "kind": series.run.contender.kind,
                "task": series.run.task,
                "batch": series.run.batch,
                "seconds": series.calls,
                "first_seconds": series.first,
                "peak_bytes": series.memory,
                "reason": series.reason,
            }
            for series in self.series
        ]
        return self.facts | {"results": results}

    def _floor(self, task, batch, group):
        """What the multiply-adds take at the rate of large matrix products."""
        rate = self.facts["gflops"]
        if rate is None:
            return ()
        operations = 2 * self.facts["multiply_adds"] * batch
        seconds = operations * (TRAIN_COST if task == "train" else 1) / rate / 1e9
        base = _best_of_torch(group)
        return (
            Row(
                f"floor, {rate:.0f} GFLOP/s",
                "floor",
                seconds,
                ratio=seconds / base if base else None,
                images=batch / seconds,
            ),
        )


def make_report(
    series: Iterable[Series], settings: Settings, rounds: int, command: str
) -> Report:
    """Puts together what was measured and what it depends on.

    Args:
        series: What `measure` gives.
        settings: What all the contenders were given.
        rounds: How many rounds there were.
        command: What the user typed.

    Returns:
        The `Report`.
    """
    series = tuple(series)
    packages = [p for s in series if s.calls for p in s.run.contender.packages]
    if "torch" in packages:
        packages.append("timm")  # It has the networks that torchvision has not.
    facts = {
        "model": settings.spec.name,
        "size": settings.size,
        "multiply_adds": _multiply_adds(settings),
        "gflops": _gflops(series),
        "device": settings.device,
        "threads": settings.threads,
        "rounds": rounds,
        "date": datetime.date.today().isoformat(),
        "command": command,
        "machine": describe_machine(),
        "versions": versions(dict.fromkeys([*BASE_PACKAGES, *packages])),
    }
    return Report(facts, series)


def in_seconds(*seconds: float) -> str:
    """A time to three digits, or several, in the unit that suits the longest."""
    unit, factor = ("s", 1) if max(seconds) >= 0.9995 else ("ms", 1000)
    numbers = (f"{factor * number:#.3g}".rstrip(".") for number in seconds)
    return f"{' to '.join(numbers)} {unit}"


def _gflops(series):
    """The best rate of the matrix products, None if they failed."""
    products = [s.calls for s in series if s.run.contender is MATRIX_PRODUCT]
    best = min((min(calls) for calls in products if calls), default=None)
    return best and 2 * MATRIX_PRODUCT_SIDE**3 / best / 1e9


def _multiply_adds(settings):
    """Multiply-adds for one image."""
    shape = image_shape(settings.size, settings.size)
    network = ResNeXt(
        settings.spec, weights=None, input_shape=shape, classes=settings.spec.classes
    )
    return sum(cost.multiply_adds for cost in stage_costs(network))


def _best_of_torch(group):
    torchs = (s for s in group if s.run.contender.kind == "torch" and s.calls)
    return min((series.median for series in torchs), default=None)


def _rows(group):
    base = _best_of_torch(group)
    for series in group:
        contender, calls = series.run.contender, series.calls
        if not calls:
            yield Row(contender.label, contender.kind, reason=series.reason)
            continue
        median = series.median
        low, _, high = (
            statistics.quantiles(calls, method="inclusive") if calls[1:] else calls * 3
        )
        yield Row(
            contender.label,
            contender.kind,
            median,
            low,
            high,
            median / base if base else None,
            series.run.batch / median,
            round(statistics.median(series.memory)) if series.memory else None,
            max(series.first),
            series.reason,
        )
