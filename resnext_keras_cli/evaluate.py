"""`resnext-keras evaluate`: the accuracy of a network, and its worst predictions."""

import json

import click

from resnext_keras_cli.options import (
    batch_option,
    calibration_option,
    examples,
    max_pixels_option,
    model_option,
    precision_option,
    weights_option,
)
from resnext_keras_cli.start import quiet_start
from resnext_keras_cli.tables import counted, print_table, table

WORST_CLASSES = 10  # number of classes to print; the report has all

SKIPPED_FILES = 5  # number of skipped files to print; the report has more


@click.command(
    epilog=examples(
        "evaluate flowers/ --weights flowers-run/",
        "evaluate imagenet/val/ --weights resnext50_32x4d.tv2_in1k --json",
    )
)
@click.argument("data", type=click.Path(exists=True))
@model_option
@weights_option
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False),
    help="CSV file for images in one folder: each line has the name of an image and "
    "its class.",
)
@click.option(
    "-o",
    "--output",
    metavar="REPORT",
    type=click.Path(file_okay=False),
    help="The folder to create for the report. Default: named after the weights, in "
    "the current folder.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier report.")
@batch_option
@click.option(
    "--engine",
    type=click.Choice(["auto", "tensorflow", "onnxruntime", "openvino"]),
    default="auto",
    show_default=True,
    help="Engine that runs the network; auto: the fastest that is installed.",
)
@precision_option
@calibration_option
@click.option(
    "--include-training",
    is_flag=True,
    help="Also evaluate on images that the run was trained on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not tables.")
@max_pixels_option
def evaluate(as_json, **options):
    """Measure how well a network classifies the images in DATA.

    DATA is a data set, see `resnext-keras train --help`; its validation split is used,
    or all images if it has none. It may also be ImageNet's validation set, as an image
    folder or in one folder with the original file names. Images are resized and cropped
    as the weights expect it.

    Prints top-1 and top-5 accuracy, calibration error and the classes with the lowest
    recall, and writes a folder with report.html, the confusion matrix, the worst
    predictions, and CSV files of all classes and predictions. For multi-label data it
    prints mean average precision and F1. Files that cannot be read are skipped; the
    first are named, and the exit code is then 1.
    """
    with quiet_start():
        from resnext_keras import evaluate

    evaluation = evaluate(**options)
    if as_json:
        content = {
            "weights": evaluation.weights,
            "images": len(evaluation.dataset),
            "skipped": len(evaluation.skipped),
            "trained_on": evaluation.trained_on,
            "precision": evaluation.precision,
            **evaluation.metrics,
            "classes": evaluation.classes,
        }
        click.echo(json.dumps(content, indent=2))
    else:
        count = len(evaluation.dataset) + len(evaluation.skipped)
        click.echo(
            f"{counted(count, 'image')}, classes matched {evaluation.label_mapping}."
        )
        if count := evaluation.trained_on:
            click.echo(
                f"{counted(count, 'image')} left out, since the run was trained on "
                "them; --include-training takes them."
            )
        print_evaluation(evaluation)
        click.echo(f"Report: {click.format_filename(evaluation.report)}")
    for file, reason in evaluation.skipped[:SKIPPED_FILES]:
        click.echo(f"Skipped: {file}: {reason}", err=True)
    if count := len(evaluation.skipped):
        click.echo(
            f"{counted(count, 'file')} {'is' if count == 1 else 'are'} skipped; the "
            "report names up to 100.",
            err=True,
        )
        raise click.exceptions.Exit(1)


def print_evaluation(evaluation):
    """Prints the metrics of an evaluation, and the worst classes."""
    from resnext_keras.training.report import in_words

    rows = table("metric", "value", right=("value",))
    for metric in in_words(evaluation.metrics):
        rows.add_row(*metric)
    print_table(rows)
    classes = evaluation.classes
    name, *numbers = classes[0]
    heads = [column.replace("_", " ") for column in numbers]
    rows = table(name, *heads, right=heads)
    for row in classes[:WORST_CLASSES]:
        shares = [row[column] for column in numbers[1:]]
        cells = ["-" if share is None else f"{share:.1%}" for share in shares]
        rows.add_row(row["class"], str(row["images"]), *cells)
    print_table(rows)
    if (more := len(classes) - WORST_CLASSES) > 0:
        click.echo(f"... {more} more classes; the report has all.")
