"""What came of an evaluation, as a page for a browser and as files."""

import base64
import csv
import os
from pathlib import Path

import numpy as np
from PIL import Image

from resnext_keras.classifier import Classifier
from resnext_keras.html import data_uri, render
from resnext_keras.images.listing import readable
from resnext_keras.training.checkpoint import read_progress
from resnext_keras.training.evaluation import Evaluation, evaluate
from resnext_keras.training.keeper import CHECKPOINT
from resnext_keras.training.metrics import calibration, class_table, confusion_matrix
from resnext_keras.training.plots import plot_confusion, plot_curves, plot_reliability
from resnext_keras.training.run import Run
from resnext_keras.weights.runs import RUN

REPORT, CLASSES, PREDICTIONS = "report.html", "classes.csv", "predictions.csv"

CURVES, CONFUSION, RELIABILITY = "curves.png", "confusion.png", "reliability.png"

FILES = (REPORT, CLASSES, PREDICTIONS, CURVES, CONFUSION, RELIABILITY)

WORST = 24  # images that are shown

LISTED = 100  # files that are left out, and named


def report_run(run: Run, classifier: Classifier) -> Evaluation:
    """Evaluates the network of a run on its validation images, and reports it.

    Args:
        run: That is finished.
        classifier: Its network, from `train`.

    Returns:
        What came of it, of which `report.html` in the folder of the run tells, with
        the learning curves and all settings.
    """
    rows = run.evaluation_rows
    evaluation = evaluate(classifier, run.validation, run.skipped, batch_size=rows)
    write_report(
        run.folder,
        evaluation,
        title=title_of(run.settings.spec.name, run.settings.data),
        weights=classifier.weights,
        history=read_progress(run.folder / CHECKPOINT)["history"],
        settings=(run.folder / RUN).read_text(encoding="utf-8"),
    )
    return evaluation


def title_of(name: str, data: str | os.PathLike) -> str:
    """The title of the report of a network, by its name, on a data set."""
    return f"{readable(name)} on {readable(os.path.basename(os.path.abspath(data)))}"


def figures(evaluation: Evaluation) -> dict[str, float]:
    """The figures of an evaluation by their names, shares from 0 to 1."""
    outcomes = evaluation.outcomes
    top5 = len(evaluation.dataset.class_names) > 5
    return {
        "top-1": outcomes.accuracy(),
        **({"top-5": outcomes.accuracy(5)} if top5 else {}),
        "cross-entropy": float(outcomes.losses.mean()),
        "calibration error": calibration(outcomes).error,
    }


def in_words(figures: dict[str, float]) -> list[tuple[str, str]]:
    """Figures to be read: shares in percent."""
    return [
        (name, f"{value:.4f}" if name == "cross-entropy" else f"{value:.2%}")
        for name, value in figures.items()
    ]


def class_rows(evaluation: Evaluation) -> list[dict]:
    """A row for each class with images, the worst recognised first.

    Returns:
        Of each class `"class"`, its name; `"images"`, their number; `"recall"` and
        `"precision"`, 0 to 1, which is None for a class that no image was taken for.
    """
    names = evaluation.dataset.class_names
    table = class_table(confusion_matrix(evaluation.outcomes, len(names)))
    order = np.argsort(np.nan_to_num(table.recall, nan=2.0), kind="stable")
    return [
        {
            "class": names[number],
            "images": int(table.counts[number]),
            "recall": float(table.recall[number]),
            "precision": None
            if np.isnan(table.precision[number])
            else float(table.precision[number]),
        }
        for number in order
        if table.counts[number]
    ]


def write_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    title: str,
    weights: str,
    history: list[dict] | None = None,
    settings: str | None = None,
) -> Path:
    """Writes a report into a folder.

    Args:
        folder: That exists; it gets `report.html`, which needs no other file, its
            plots as PNG, `classes.csv` and `predictions.csv`.
        evaluation: What is reported.
        title: Of the page.
        weights: What was evaluated.
        history: A row for each epoch of the training, if there was one.
        settings: What the page shows at its end.

    Returns:
        Path of the page.
    """
    names, outcomes = evaluation.dataset.class_names, evaluation.outcomes
    confusion, rows = confusion_matrix(outcomes, len(names)), class_rows(evaluation)
    if history:
        plot_curves(history, folder / CURVES)
    plot_confusion(confusion, names, folder / CONFUSION)
    plot_reliability(calibration(outcomes), folder / RELIABILITY)
    _write_rows(folder / CLASSES, list(rows[0]), [row.values() for row in rows])
    _write_predictions(folder / PREDICTIONS, evaluation)
    page = render(
        "report.html",
        title=title,
        weights=readable(weights),
        dataset=len(outcomes),
        figures=in_words(figures(evaluation)),
        worst=_worst(evaluation),
        classes=rows,
        skipped=evaluation.skipped[:LISTED],
        left_out=len(evaluation.skipped),
        settings=settings,
        curves=_png_uri(folder / CURVES) if history else None,
        confusion=_png_uri(folder / CONFUSION),
        reliability=_png_uri(folder / RELIABILITY),
    )
    (folder / REPORT).write_text(page, encoding="utf-8")
    return folder / REPORT


def _worst(evaluation) -> list[dict]:
    numbers = evaluation.outcomes.worst(WORST)
    outcomes, names = evaluation.outcomes, evaluation.dataset.class_names
    return [
        {
            "image": data_uri(Image.fromarray(pixels)),
            "name": os.path.basename(evaluation.dataset.names[int(number)]),
            "truth": names[outcomes.labels[number]],
            "truth_score": f"{np.exp(-outcomes.losses[number]):.3f}",
            "is_right": outcomes.ranks[number] == 0,
            "predicted": names[outcomes.predicted[number]],
            "score": f"{outcomes.confidence[number]:.3f}",
        }
        for number, pixels in zip(numbers, evaluation.images(numbers), strict=True)
    ]


def _write_predictions(path, evaluation) -> None:
    outcomes, names = evaluation.outcomes, evaluation.dataset.class_names
    rows = (
        (image, names[label], names[predicted], f"{confidence:.6f}", rank + 1)
        for image, label, predicted, confidence, rank in zip(
            evaluation.dataset.names,
            outcomes.labels,
            outcomes.predicted,
            outcomes.confidence,
            outcomes.ranks,
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
