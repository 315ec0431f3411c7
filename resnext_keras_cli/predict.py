"""`resnext-keras predict`: the classes of image files."""

import json
import os

import click

from resnext_keras_cli.names import find_choice
from resnext_keras_cli.options import model_option, weights_option
from resnext_keras_cli.start import quiet_start


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(readable=False))
@model_option
@weights_option
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of classes to print for each image.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")
def predict(images, model, weights, top, as_json):
    """Print the most probable classes of each IMAGE.

    A file that is no image is named and left out; the exit code is then 1.
    """
    from tqdm import tqdm

    with quiet_start():
        from resnext_keras.classifier import load_classifier
        from resnext_keras.images.read import ImageError

    choice = find_choice(model, weights)
    if not any(map(os.path.lexists, images)):  # a typo, which costs no download
        named = ", ".join(map(click.format_filename, images))
        raise click.ClickException(f"No such file: {named}")
    classifier = load_classifier(*choice)
    found, broken = [], []
    # A bar for what takes long, and not into a file.
    bar = tqdm(
        classifier.predict_files(images, top),
        total=len(images),
        unit=" images",
        disable=None if len(images) > 1 else True,
        leave=False,
    )
    for path, result in bar:
        if isinstance(result, ImageError):
            broken.append(result)
        else:
            found.append((path, result))
    if as_json:
        click.echo(json.dumps(_as_json(found, classifier.weights), indent=2))
    elif found:
        _print_table(found, classifier.weights)
    for error in broken:
        click.echo(f"Skipped: {error}", err=True)
    if broken:
        click.echo(f"{len(broken)} of {len(images)} files skipped.", err=True)
        raise click.exceptions.Exit(1)


def _as_json(found, weights):
    return [
        {
            "file": path,
            "weights": weights,
            "predictions": [
                {"id": id_, "name": name, "score": score}
                for id_, name, score in predictions
            ],
        }
        for path, predictions in found
    ]


def _print_table(found, weights):
    from resnext_keras_cli.tables import print_table, table

    rows = table("image", "class", "score", right=("score",), title=weights)
    for path, predictions in found:
        for rank, (_, name, score) in enumerate(predictions):
            rows.add_row(
                "" if rank else click.format_filename(path), name, f"{score:.1%}"
            )
    print_table(rows)
