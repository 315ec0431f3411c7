"""`resnext-keras explain`: the evidence in an image for a class."""

from pathlib import Path

import click

from resnext_keras_cli.options import (
    examples,
    max_pixels_option,
    model_option,
    sheet_options,
    weights_option,
)
from resnext_keras_cli.start import quiet_start
from resnext_keras_cli.tables import print_table, table


@click.command(
    epilog=examples(
        "explain cat.jpg",
        "explain cat.jpg --class tabby --layer conv4_block6_out",
        "explain cat.jpg --top 3 --html",
    )
)
@click.argument("image", type=click.Path(readable=False))
@click.option(
    "--class",
    "classes",
    metavar="NAME|NUMBER",
    multiple=True,
    help="Class to explain, or WordNet id of one of ImageNet; may be given several "
    "times. Default: the most probable.",
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
    help="Layer that outputs feature maps, such as conv4_block6_out. Maps of earlier "
    "layers are finer, but less specific to the class. Default: the last.",
)
@model_option
@weights_option
@sheet_options
@max_pixels_option
def explain(image, classes, output, **options):
    """Draw which places of IMAGE are evidence for a class.

    Draws a heat map over the image, by Grad-CAM (Selvaraju et al., 2017): the places
    with the strongest evidence are the brightest.
    """
    with quiet_start():
        import resnext_keras as rk

    output = output or f"{Path(image).stem}.explained.png"
    explanation = rk.explain(image, classes=classes or None, output=output, **options)
    click.echo(explanation.weights)
    rows = table("class", "score", "", right=("score",))
    for evidence in explanation.classes:
        note = f"no evidence in {explanation.layer}" if evidence.is_empty else ""
        rows.add_row(evidence.name, f"{evidence.score:.1%}", note)
    print_table(rows)
    for file in explanation.files:
        click.echo(click.format_filename(file))
