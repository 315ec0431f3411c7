"""The report of an evaluation: an HTML page, plots and CSV files."""

import base64
import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from resnext_keras.extras import optional
from resnext_keras.images.listing import readable
from resnext_keras.training.metrics import calibration, confusion_matrix
from resnext_keras.training.plots import plot_confusion, plot_curves, plot_reliability

if TYPE_CHECKING:
    from resnext_keras.training.evaluation import Evaluation

REPORT, CLASSES, PREDICTIONS = "report.html", "classes.csv", "predictions.csv"

CURVES, CONFUSION, RELIABILITY = "curves.png", "confusion.png", "reliability.png"

FILES = (REPORT, CLASSES, PREDICTIONS, CURVES, CONFUSION, RELIABILITY)

WORST = 24  # number of images on the page

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


def in_words(figures: dict[str, float]) -> list[tuple[str, str]]:
    """The names and values of an evaluation's metrics as text."""
    formats = {
        "top_1": ("top-1", ".2%"),
        "top_5": ("top-5", ".2%"),
        "cross_entropy": ("cross-entropy", ".4f"),
        "calibration_error": ("calibration error", ".2%"),
    }
    return [
        (formats[name][0], format(value, formats[name][1]))
        for name, value in figures.items()
    ]


def write_report(
    folder: Path,
    evaluation: "Evaluation",
    *,
    title: str,
    history: list[dict] | None = None,
    settings: str | None = None,
) -> None:
    """Writes a report into an existing folder.

    Args:
        folder: The folder. It gets `report.html`, which needs no other file, the plots
            as PNG, `classes.csv` and `predictions.csv`.
        evaluation: The evaluation.
        title: Title of the page.
        history: A row for each epoch, for the learning curves; None for no curves.
        settings: Text for the end of the page.
    """
    from resnext_keras.html import render  # imports jinja2

    names, predictions = evaluation.dataset.class_names, evaluation.predictions
    confusion, rows = confusion_matrix(predictions, len(names)), evaluation.classes
    if history:
        plot_curves(history, folder / CURVES)
    plot_confusion(confusion, names, folder / CONFUSION)
    plot_reliability(calibration(predictions), folder / RELIABILITY)
    _write_rows(folder / CLASSES, list(rows[0]), [row.values() for row in rows])
    _write_predictions(folder / PREDICTIONS, evaluation)
    page = render(
        "report.html",
        title=title,
        weights=readable(evaluation.weights),
        images=len(predictions),
        figures=in_words(evaluation.figures),
        worst=_worst(evaluation),
        classes=rows,
        skipped=evaluation.skipped[:LISTED],
        skipped_count=len(evaluation.skipped),
        settings=settings,
        curves=_png_uri(folder / CURVES) if history else None,
        confusion=_png_uri(folder / CONFUSION),
        reliability=_png_uri(folder / RELIABILITY),
    )
    (folder / REPORT).write_text(page, encoding="utf-8")


def _worst(evaluation) -> list[dict]:
    from resnext_keras.html import data_uri

    predictions, names = evaluation.predictions, evaluation.dataset.class_names
    numbers = predictions.worst(WORST)
    return [
        {
            "image": data_uri(Image.fromarray(pixels)),
            "name": os.path.basename(evaluation.dataset.names[int(number)]),
            "label": names[predictions.labels[number]],
            "label_score": f"{np.exp(-predictions.losses[number]):.3f}",
            "is_correct": predictions.ranks[number] == 0,
            "predicted": names[predictions.predicted[number]],
            "score": f"{predictions.confidence[number]:.3f}",
        }
        for number, pixels in zip(numbers, evaluation.images(numbers), strict=True)
    ]


def _write_predictions(path, evaluation) -> None:
    predictions, names = evaluation.predictions, evaluation.dataset.class_names
    rows = (
        (image, names[label], names[predicted], f"{confidence:.6f}", rank + 1)
        for image, label, predicted, confidence, rank in zip(
            evaluation.dataset.names,
            predictions.labels,
            predictions.predicted,
            predictions.confidence,
            predictions.ranks,
            strict=True,
        )
    )
    heads = ("image", "class", "predicted", "score", "rank_of_class")
    _write_rows(path, heads, rows)


def _write_rows(path, heads, rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(heads)
        lines.writerows(rows)


def _png_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
