"""`resnext-keras evaluate`: how often a network is right, and where it is wrong."""

import json
from pathlib import Path

import click

from resnext_keras_cli.names import find_choice
from resnext_keras_cli.options import model_option, weights_option
from resnext_keras_cli.start import quiet_start
from resnext_keras_cli.tables import print_table, table

WORST_CLASSES = 10  # that are printed; the report has all

WORST_FILES = 5  # that could not be read, and are named


@click.command()
@click.argument("data", type=click.Path(exists=True))
@model_option
@weights_option
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False),
    help="The class of each image, for a folder without class folders: a line a "
    "image in the order of their names, or CSV of name and class.",
)
@click.option(
    "-o",
    "--output",
    metavar="REPORT",
    type=click.Path(file_okay=False),
    help="The folder to be made for the report. Without it: named after the weights, "
    "here.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier report.")
@click.option(
    "--batch",
    "batch_size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Images that are run at once.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "tensorflow", "onnxruntime", "openvino"]),
    default="auto",
    show_default=True,
    help="What runs the network; auto takes the fastest that is installed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not tables.")
def evaluate(
    data, model, weights, labels, output, overwrite, batch_size, engine, as_json
):
    """Compare what a network says of the images in DATA with their classes.

    DATA is as of `resnext-keras finetune`, of which the validation split counts, or
    all where there is none; or ImageNet's validation set, in class folders or flat,
    with the names it came with. Images are read as the weights want it.

    Prints top-1 and top-5 accuracy, calibration and the classes that are recognised
    worst, and writes a folder with report.html, the confusion matrix, the worst
    classified images, and CSV files of all classes and predictions. A file that is
    no image is named and left out; the exit code is then 1.
    """
    with quiet_start():
        from resnext_keras.classifier import find_class_names, load_classifier
        from resnext_keras.io import atomic_directory, check_outside, output_directory
        from resnext_keras.training.evaluation import evaluate as evaluate_with
        from resnext_keras.training.evaluation import open_evaluation
        from resnext_keras.training.report import FILES, REPORT, title_of, write_report

    choice = find_choice(model, weights)
    names = find_class_names(*choice)
    name = choice[1].short_name
    target = output or f"{name}.evaluation"
    target = output_directory(target, overwrite, Path(REPORT), FILES, "report")
    check_outside(target, data)
    dataset, how = open_evaluation(data, names, labels)
    if not as_json:
        click.echo(f"{len(dataset)} images, classes {how}.")
    classifier = load_classifier(*choice)
    found = evaluate_with(classifier, dataset, engine=engine, batch_size=batch_size)
    with atomic_directory(target, overwrite) as folder:
        title = title_of(name, data)
        write_report(folder, found, title=title, weights=classifier.weights)
    if as_json:
        click.echo(json.dumps(_as_json(found, classifier.weights), indent=2))
    else:
        print_evaluation(found)
        click.echo(f"Report: {click.format_filename(target / REPORT)}")
    for file, reason in found.skipped[:WORST_FILES]:
        click.echo(f"Skipped: {file}: {reason}", err=True)
    if found.skipped:
        click.echo(
            f"{len(found.skipped)} files skipped; the report names them.", err=True
        )
        raise click.exceptions.Exit(1)


def print_evaluation(evaluation):
    """Prints the figures of an evaluation, and the classes recognised worst."""
    from resnext_keras.training.report import class_rows, figures, in_words

    rows = table("", "", right=("",))
    rows.show_header = False
    for figure in in_words(figures(evaluation)):
        rows.add_row(*figure)
    print_table(rows)
    found = class_rows(evaluation)
    rows = table(*found[0], right=("images", "recall", "precision"))
    for row in found[:WORST_CLASSES]:
        shares = (_share(row[name]) for name in ("recall", "precision"))
        rows.add_row(row["class"], str(row["images"]), *shares)
    print_table(rows)
    if len(found) > WORST_CLASSES:
        click.echo(f"... {len(found) - WORST_CLASSES} classes more, recognised better.")


def _share(value):
    return "-" if value is None else f"{value:.1%}"


def _as_json(evaluation, weights):
    from resnext_keras.training.report import class_rows, figures

    return {
        "weights": weights,
        "images": len(evaluation.dataset),
        "skipped": len(evaluation.skipped),
        **{
            name.replace("-", "_").replace(" ", "_"): value
            for name, value in figures(evaluation).items()
        },
        "classes": class_rows(evaluation),
    }
