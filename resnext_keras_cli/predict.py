"""`resnext-keras predict`: the classes of image files."""

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


@click.command(
    epilog=examples(
        "predict cat.jpg",
        "predict 3.png --weights digits --top 3",
        "predict photos/ --weights flowers-run/ --csv photos.csv",
    )
)
@click.argument(
    "images",
    metavar="IMAGE|FOLDER...",
    nargs=-1,
    required=True,
    type=click.Path(readable=False),
)
@model_option
@weights_option
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of classes to print for each image.",
)
@batch_option
@precision_option
@calibration_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")
@click.option(
    "--csv",
    "output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write a .csv file, and print no table.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing .csv file.")
@max_pixels_option
def predict(images, as_json, **options):
    """Print the most probable classes of IMAGEs and images in FOLDERs.

    If the network was trained on several classes an image, those with a score of 50 %
    or more are marked as present.

    Files that are not images are named and skipped; the exit code is then 1.
    """
    with quiet_start():
        from resnext_keras import predict_files
        from resnext_keras.images.labels import THRESHOLD
    from resnext_keras_cli.tables import counted, print_table, table

    result = predict_files(images, **options)
    if as_json:
        click.echo(json.dumps(_as_json(result, THRESHOLD), indent=2))
    elif result.file:
        count = counted(len(result.predictions), "image")
        click.echo(f"{count}: {click.format_filename(result.file)}")
    elif result.predictions:
        heads = ["image", "class", "score"] + ["present"] * result.is_multi_label
        rows = table(*heads, right=("score",), title=result.weights)
        for path, predictions in result.predictions:
            for rank, (_, name, score) in enumerate(predictions):
                image = "" if rank else click.format_filename(path)
                present = ["yes" if score >= THRESHOLD else ""] * result.is_multi_label
                rows.add_row(image, name, f"{score:.1%}", *present)
        print_table(rows)
    for error in result.skipped:
        click.echo(f"Skipped: {error}", err=True)
    if result.skipped:
        count = len(result.predictions) + len(result.skipped)
        click.echo(f"{len(result.skipped)} of {count} files skipped.", err=True)
        raise click.exceptions.Exit(1)


def _as_json(result, threshold):
    return [
        {
            "file": path,
            "weights": result.weights,
            "predictions": [
                {"id": id_, "name": name, "score": score}
                | ({"present": score >= threshold} if result.is_multi_label else {})
                for id_, name, score in predictions
            ],
        }
        for path, predictions in result.predictions
    ]
