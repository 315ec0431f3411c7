"""Plots of a report, as PNG files."""

import itertools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnext_keras.training.metrics import Calibration

TRAINING, VALIDATION = "#e08214", "#2166ac"

MAX_NAMES = 30  # with more classes the axes have no names
MAX_CELLS = 1000  # per side, so that each has two pixels or more
MAX_LETTERS = 24  # longer names would leave no room for the matrix


def plot_curves(history: list[dict], path: Path) -> None:
    """Draws loss and accuracy, or what takes its place, over the rows of a history."""
    figure, (left, right) = _figure(10, 3.6, 2)
    epochs = [row["epoch"] for row in history]
    metric = "pr_auc" if "pr_auc" in history[0] else "accuracy"
    for axes, name in ((left, "loss"), (right, metric)):
        for prefix, colour, label in (
            ("", TRAINING, "training"),
            ("val_", VALIDATION, "validation"),
        ):
            values = [row[prefix + name] for row in history]
            axes.plot(epochs, values, color=colour, label=label, marker=".")
        axes.set(xlabel="epoch", title=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        for before, after in itertools.pairwise(history):
            if before["phase"] != after["phase"]:
                axes.axvline(after["epoch"] - 0.5, color="grey", linestyle=":")
        axes.legend(frameon=False)
    _save(figure, path)


def plot_confusion(confusion: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draws how often each class was predicted as each, as shares of a row.

    Args:
        confusion: (classes, classes), from `confusion_matrix`.
        names: Name of each class.
        path: The PNG file.
    """
    named = len(names) <= MAX_NAMES
    counts = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(counts, 1)
    cells = _largest(shares, math.ceil(len(names) / MAX_CELLS))
    side = 2.5 + 0.35 * len(names) if named else max(8, 1 + 0.02 * len(cells))
    figure, axes = _figure(side, side)
    axes.imshow(
        cells,
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(-0.5, len(names) - 0.5, len(names) - 0.5, -0.5),
    )
    axes.set(xlabel="predicted", ylabel="true")
    if named:
        short = [_short(name) for name in names]
        # A dollar in a name would start a formula.
        axes.set_xticks(range(len(names)), short, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), short, parse_math=False)
        for row, column in zip(*confusion.nonzero(), strict=True):
            axes.text(
                column,
                row,
                confusion[row, column],
                ha="center",
                va="center",
                fontsize=7,
                color="white" if shares[row, column] > 0.5 else "black",
            )
    _save(figure, path)


def plot_reliability(calibration: Calibration, path: Path) -> None:
    """Draws accuracy over confidence."""
    figure, axes = _figure(4.5, 4.2)
    heights = np.nan_to_num(calibration.accuracy)
    starts = np.linspace(0, 1, len(heights), endpoint=False)
    bars = axes.bar(starts, heights, 1 / len(heights), align="edge", color=VALIDATION)
    axes.bar_label(bars, [count or "" for count in calibration.counts], fontsize=6)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    _save(figure, path)


def _largest(values: np.ndarray, step: int) -> np.ndarray:
    """The largest of each `step` x `step` cells, so that no confusion is hidden."""
    missing = -len(values) % step
    values = np.pad(values, ((0, missing), (0, missing)))
    count = len(values) // step
    return values.reshape(count, step, count, step).max(axis=(1, 3))


def _figure(width: float, height: float, columns: int = 1):
    import matplotlib.figure  # here, since it takes a third of a second

    figure = matplotlib.figure.Figure((width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= MAX_LETTERS else f"{line[: MAX_LETTERS - 1]}…"


def _save(figure, path: Path) -> None:
    with warnings.catch_warnings():
        # The font may lack letters of a name; the page and the CSV files have them.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(path, dpi=100)
