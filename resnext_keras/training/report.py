"""The report of an evaluation: an HTML page, plots and CSV files."""

import base64
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from resnext_keras.extras import optional
from resnext_keras.images.listing import readable
from resnext_keras.io import write_csv
from resnext_keras.training.metrics import calibration, confusion_matrix
from resnext_keras.training.plots import plot_confusion, plot_curves, plot_reliability
from resnext_keras.weights.run_folder import relative_names

if TYPE_CHECKING:
    from resnext_keras.training.evaluation import Evaluation

REPORT, CLASSES, PREDICTIONS = "report.html", "classes.csv", "predictions.csv"

CURVES, CONFUSION, RELIABILITY = "curves.png", "confusion.png", "reliability.png"

FILES = (REPORT, CLASSES, PREDICTIONS, CURVES, CONFUSION, RELIABILITY)

WORST, WORST_OF_CLASS = 24, 3  # number of images on the page

LISTED = 100  # number of skipped files on the page


def check_packages() -> None:
    """Checks that the packages of a report are installed.

    Raises:
        ImportError: One is missing; the message names the extra.
    """
    for package in ("jinja2", "matplotlib"):
        optional(package, "train")


def report_title(name: str, data: str | os.PathLike) -> str:
    """The title of the report of a network on a data set."""
    return f"{readable(name)} on {readable(os.path.basename(os.path.abspath(data)))}"


def in_words(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """The names and values of an evaluation's metrics as text."""
    formats = {
        "top_1": ("top-1", ".2%"),
        "top_5": ("top-5", ".2%"),
        "cross_entropy": ("cross-entropy", ".4f"),
        "calibration_error": ("calibration error", ".2%"),
        "mean_average_precision": ("mean average precision", ".2%"),
        "macro_f1": ("macro F1", ".2%"),
        "micro_f1": ("micro F1", ".2%"),
        "binary_cross_entropy": ("binary cross-entropy", ".4f"),
    }
    return [
        (formats[name][0], format(value, formats[name][1]))
        for name, value in metrics.items()
    ]


def write_report(
    folder: Path,
    evaluation: "Evaluation",
    *,
    title: str,
    data: str | os.PathLike,
    history: list[dict] | None = None,
    end: dict[str, int] | None = None,
    settings: Sequence[dict] = (),
) -> None:
    """Writes a report into an existing folder.

    Args:
        folder: The folder. It gets `report.html`, which needs no other file, the plots
            as PNG, `classes.csv` and `predictions.csv`.
        evaluation: The evaluation.
        title: Title of the page.
        data: The data set; in `predictions.csv` the images have their paths within it.
        history: A row for each epoch, for the learning curves; None for no curves.
        end: The `epochs` of the run, its `planned_epochs` and its `best_epoch`; given
            with `history`.
        settings: The settings of the run, from `settings_tables`.
    """
    from resnext_keras.html import render  # imports jinja2

    predictions, rows = evaluation.predictions, evaluation.classes
    names = evaluation.dataset.class_names
    is_multi_label = evaluation.dataset.is_multi_label
    if history:
        plot_curves(history, folder / CURVES)
    if not is_multi_label:
        confusion = confusion_matrix(predictions, len(names))
        plot_confusion(confusion, names, folder / CONFUSION)
        plot_reliability(calibration(predictions), folder / RELIABILITY)
    write_csv(folder / CLASSES, rows[0], (row.values() for row in rows))
    images = ["image", *map(relative_names(data), evaluation.dataset.names)]
    pairs = zip(images, predictions.rows(names), strict=True)
    lines = ((image, *cells) for image, cells in pairs)
    write_csv(folder / PREDICTIONS, next(lines), lines)
    page = render(
        "report.html",
        title=title,
        weights=readable(evaluation.weights),
        images=len(predictions),
        metrics=in_words(evaluation.metrics),
        worst=_worst(evaluation),
        worst_of_class=WORST_OF_CLASS,
        is_multi_label=is_multi_label,
        columns=list(rows[0])[2:],
        classes=rows,
        skipped=evaluation.skipped[:LISTED],
        skipped_count=len(evaluation.skipped),
        end=end,
        settings=settings,
        curves=_png_uri(folder / CURVES) if history else None,
        confusion=None if is_multi_label else _png_uri(folder / CONFUSION),
        reliability=None if is_multi_label else _png_uri(folder / RELIABILITY),
    )
    (folder / REPORT).write_text(page, encoding="utf-8")


def _worst(evaluation) -> list[dict]:
    """The images with the highest losses, each with its caption."""
    from resnext_keras.html import data_uri

    predictions, dataset = evaluation.predictions, evaluation.dataset
    numbers = _worst_numbers(predictions)
    return [
        {
            "image": data_uri(Image.fromarray(pixels)),
            "name": os.path.basename(dataset.names[int(number)]),
            **predictions.caption(number, dataset.class_names),
        }
        for number, pixels in zip(numbers, evaluation.images(numbers), strict=True)
    ]


def _worst_numbers(predictions) -> np.ndarray:
    """Numbers of the worst images, few of each class, or one class could be all."""
    numbers, shown = [], Counter()
    for number in np.argsort(-predictions.losses, kind="stable"):
        label = predictions.labels[number].tobytes()  # or several classes
        shown[label] += 1
        if shown[label] <= WORST_OF_CLASS:
            numbers.append(number)
        if len(numbers) == WORST:
            break
    return np.array(numbers)


def _png_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
