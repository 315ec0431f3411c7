"""`resnext-keras demo`: the bundled network on images from outside its training."""

import click

from resnext_keras_cli.options import examples
from resnext_keras_cli.start import quiet_start
from resnext_keras_cli.tables import print_table, table

ROWS = 10

NEXT = """\
What to try next:
  resnext-keras predict IMAGE...           photos, by ResNeXt-50 (downloads 100 MB)
  resnext-keras predict IMAGE... --weights digits
                                           a digit of your own that fills the image
  resnext-keras summary resnext50_32x4d    parameters and multiply-adds of ResNeXt-50
  resnext-keras list                       the architectures and weight sets
"""


@click.command(
    epilog=examples(
        "demo",
        "demo -o digits.png",
    )
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help="The .png file for the contact sheet. Default: resnext-keras-demo.png in the "
    "current folder, which is replaced.",
)
@click.option("--overwrite", is_flag=True, help="Replace an --output that exists.")
def demo(output, overwrite):
    """Classify handwritten digits that were not used in training.

    Prints predictions and the accuracy, and draws all images with their predictions
    on a contact sheet. Needs no download.
    """
    with quiet_start():
        from resnext_keras.digits import demonstrate

    digits, file = demonstrate(output, overwrite)
    rows = table("image", "label", "predicted", "score")
    for number, label, predicted, score in digits[:ROWS]:
        style = None if predicted == label else "red"
        rows.add_row(str(number), label, predicted, f"{score:.1%}", style=style)
    print_table(rows)
    correct = sum(predicted == label for _, label, predicted, _ in digits)
    click.echo(
        f"\n{correct} of {len(digits)} held-out images correct: top-1 accuracy "
        f"{correct / len(digits):.2%}\nAll of them, mistakes in red: "
        f"{click.format_filename(file)}\n"
    )
    click.echo(NEXT, nl=False)
