"""Plots of a report, as PNG files."""

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnext_keras.training.metrics import Calibration

TRAINING, VALIDATION = "#e08214", "#2166ac"

MOST_NAMES = 30  # classes that are named on the axes
MOST_CELLS = 1000  # per side, of two pixels or more
MOST_LETTERS = 24  # of a name; longer ones would leave no room for the matrix


def plot_curves(history: list[dict], path: Path) -> None:
    """Draws loss and accuracy over the epochs.

    Args:
        history: A row for each epoch, as `history.csv` has it.
        path: The PNG file to write.
    """
    figure, (left, right) = _figure(10, 3.6, 2)
    epochs = [row["epoch"] for row in history]
    for axes, name in ((left, "loss"), (right, "accuracy")):
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
        names: Of the classes.
        path: The PNG file to write.
    """
    named = len(names) <= MOST_NAMES
    counts = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(counts, 1)
    cells = _largest(shares, -(-len(names) // MOST_CELLS))
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


def plot_reliability(found: Calibration, path: Path) -> None:
    """Draws accuracy over confidence.

    Args:
        found: From `calibration`.
        path: The PNG file to write.
    """
    figure, axes = _figure(4.5, 4.2)
    edges = np.linspace(0, 1, len(found.counts) + 1)
    heights = np.nan_to_num(found.accuracy)
    bars = axes.bar(
        edges[:-1], heights, 1 / len(heights), align="edge", color=VALIDATION
    )
    axes.bar_label(bars, [count or "" for count in found.counts], fontsize=6)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    _save(figure, path)


def _largest(values: np.ndarray, step: int) -> np.ndarray:
    """The largest of `step` x `step` neighbours, so that no confusion is lost."""
    missing = -len(values) % step
    values = np.pad(values, ((0, missing), (0, missing)))
    count = len(values) // step
    return values.reshape(count, step, count, step).max(axis=(1, 3))


def _figure(width: float, height: float, columns: int = 1):
    import matplotlib.figure  # takes a third of a second

    figure = matplotlib.figure.Figure((width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS - 1]}…"


def _save(figure, path: Path) -> None:
    with warnings.catch_warnings():
        # The page and the table show names that the font cannot.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(path, dpi=100)
