"""The report of an evaluation: an HTML page, plots and CSV files."""

import base64
import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from resnext_keras.extras import optional
from resnext_keras.images.listing import readable
from resnext_keras.training.metrics import calibration, confusion_matrix
from resnext_keras.training.plots import plot_confusion, plot_curves, plot_reliability
from resnext_keras.training.settings import SettingsTable
from resnext_keras.weights.checkpoint import relative_names

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


def in_words(figures: dict[str, float]) -> list[tuple[str, str]]:
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
        for name, value in figures.items()
    ]


def write_report(
    folder: Path,
    evaluation: "Evaluation",
    *,
    title: str,
    data: str | os.PathLike,
    history: list[dict] | None = None,
    end: dict[str, int] | None = None,
    settings: Sequence[SettingsTable] = (),
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
        settings: The settings of the run.
    """
    from resnext_keras.html import render  # imports jinja2

    predictions, rows = evaluation.predictions, evaluation.classes
    is_multi_label = evaluation.dataset.is_multi_label
    if history:
        plot_curves(history, folder / CURVES)
    if not is_multi_label:
        names = evaluation.dataset.class_names
        confusion = confusion_matrix(predictions, len(names))
        plot_confusion(confusion, names, folder / CONFUSION)
        plot_reliability(calibration(predictions), folder / RELIABILITY)
    _write_rows(folder / CLASSES, list(rows[0]), [row.values() for row in rows])
    lines = _multi_label_rows if is_multi_label else _prediction_rows
    _write_rows(folder / PREDICTIONS, *lines(evaluation, relative_names(data)))
    page = render(
        "report.html",
        title=title,
        weights=readable(evaluation.weights),
        images=len(predictions),
        figures=in_words(evaluation.figures),
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

    numbers = _worst_numbers(evaluation.predictions)
    caption = _labels_of if evaluation.dataset.is_multi_label else _label_of
    return [
        {
            "image": data_uri(Image.fromarray(pixels)),
            "name": os.path.basename(evaluation.dataset.names[int(number)]),
            **caption(evaluation, number),
        }
        for number, pixels in zip(numbers, evaluation.images(numbers), strict=True)
    ]


def _worst_numbers(predictions) -> np.ndarray:
    """Numbers of the worst images, few of each class, or one class could be all."""
    numbers, shown = [], Counter()
    for number in predictions.worst(len(predictions)):
        label = predictions.labels[number].tobytes()  # or several classes
        shown[label] += 1
        if shown[label] <= WORST_OF_CLASS:
            numbers.append(number)
        if len(numbers) == WORST:
            break
    return np.array(numbers)


def _label_of(evaluation, number) -> dict:
    predictions, names = evaluation.predictions, evaluation.dataset.class_names
    predicted = f"{names[predictions.predicted[number]]}: "
    predicted += f"{predictions.confidence[number]:.3f}"
    return {
        "label": names[predictions.labels[number]],
        "label_score": f"{np.exp(-predictions.losses[number]):.3f}",
        "verdict": f"predicted as {predicted}"
        if predictions.ranks[number]
        else "correct",
    }


def _labels_of(evaluation, number) -> dict:
    predictions, names = evaluation.predictions, evaluation.dataset.class_names
    labels, predicted = predictions.labels[number], predictions.predicted[number]
    missed, wrong = (
        ", ".join(f"{names[n]} {predictions.scores[number, n]:.3f}" for n in some)
        for some in (
            np.flatnonzero(labels & ~predicted),
            np.flatnonzero(predicted & ~labels),
        )
    )
    verdicts = [f"missed {missed}"] * bool(missed) + [f"wrong {wrong}"] * bool(wrong)
    return {
        "label": _joined(names, labels) or "none",
        "label_score": f"loss {predictions.losses[number]:.3f}",
        "verdict": "; ".join(verdicts) or "correct",
    }


def _joined(names, selected) -> str:
    return "|".join(names[number] for number in np.flatnonzero(selected))


def _prediction_rows(evaluation, relative) -> tuple:
    """The heads and the rows of the CSV file of all predictions."""
    predictions, names = evaluation.predictions, evaluation.dataset.class_names
    rows = (
        (relative(image), names[label], names[predicted], f"{confidence:.6f}", rank + 1)
        for image, label, predicted, confidence, rank in zip(
            evaluation.dataset.names,
            predictions.labels,
            predictions.predicted,
            predictions.confidence,
            predictions.ranks,
            strict=True,
        )
    )
    return ("image", "class", "predicted", "score", "rank_of_class"), rows


def _multi_label_rows(evaluation, relative) -> tuple:
    """The same with all classes of an image, and the score of each class."""
    predictions, names = evaluation.predictions, evaluation.dataset.class_names
    rows = (
        (
            relative(image),
            _joined(names, labels),
            _joined(names, predicted),
            *(f"{score:.6f}" for score in scores),
        )
        for image, labels, predicted, scores in zip(
            evaluation.dataset.names,
            predictions.labels,
            predictions.predicted,
            predictions.scores,
            strict=True,
        )
    )
    return ("image", "classes", "predicted", *names), rows


def _write_rows(path, heads, rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(heads)
        lines.writerows(rows)


def _png_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
