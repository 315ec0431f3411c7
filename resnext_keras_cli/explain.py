"""`resnext-keras explain`: what in an image speaks for a class."""

from pathlib import Path

import click

from resnext_keras_cli.names import find_choice, find_class
from resnext_keras_cli.options import model_option, sheet_options, weights_option
from resnext_keras_cli.start import quiet_start


@click.command()
@click.argument("image", type=click.Path(readable=False))
@click.option(
    "--class",
    "classes",
    metavar="NAME|NUMBER",
    multiple=True,
    help="Class to explain; may be given several times. Without it: the most probable.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of the most probable classes to explain, side by side.",
)
@click.option(
    "--layer",
    metavar="NAME",
    help="Layer whose maps are taken, as in conv4_block6_out: the earlier, the finer "
    "and the less telling. Without it: the last.",
)
@model_option
@weights_option
@sheet_options
def explain(image, classes, top, layer, model, weights, output, html, overwrite):
    """Draw which places of a IMAGE speak for a class.

    The places are bright over the image, by Grad-CAM (Selvaraju et al., 2017).
    """
    with quiet_start():
        from resnext_keras.classifier import find_class_names, load_classifier
        from resnext_keras.features.explanation import explain as explain_image
        from resnext_keras.images.read import read_rgb
        from resnext_keras_cli.sheets import checked_sheet, write_sheet

    output = output or f"{Path(image).stem}.explained.png"
    target = checked_sheet(output, html, overwrite)
    choice = find_choice(model, weights)
    read_rgb(image)  # or a typo would cost a download
    names = find_class_names(*choice)  # none where load_classifier says why
    numbers = [find_class(name, names) for name in classes] if names else []
    classifier = load_classifier(*choice)
    explanation = explain_image(classifier, image, numbers or None, layer, top)
    _print(explanation, write_sheet(explanation, target, html))


def _print(explanation, files):
    from resnext_keras_cli.tables import print_table, table

    click.echo(explanation.weights)
    rows = table("class", "score", "", right=("score",))
    for reason in explanation.reasons:
        told = "" if reason.found else f"nothing in {explanation.layer} speaks for it"
        rows.add_row(reason.name, f"{reason.score:.1%}", told)
    print_table(rows)
    for file in files:
        click.echo(click.format_filename(file))
