"""`resnext-keras quantize`: writes a network in int8."""

import click

from resnext_keras_cli.options import examples, max_pixels_option
from resnext_keras_cli.start import quiet_start
from resnext_keras_cli.tables import print_table, table


@click.command(
    epilog=examples(
        "quantize resnext50_32x4d photos/",
        "quantize flowers-run/ photos/ -o flowers.int8.onnx",
    )
)
@click.argument("model", metavar="MODEL|WEIGHTS")
@click.argument(
    "images",
    nargs=-1,
    required=True,
    metavar="IMAGE|FOLDER...",
    type=click.Path(readable=False),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help="The .onnx file to write. Default: named after the weights, in the current "
    "folder.",
)
@click.option("--overwrite", is_flag=True, help="Replace an --output that exists.")
@max_pixels_option
def quantize(model, images, output, overwrite):
    """Write a network in int8, a quarter of its size, to an .onnx file.

    MODEL is a name from `resnext-keras list`, for its default weights. WEIGHTS is a
    name from `resnext-keras weights list`, a weight file, or the folder of a training
    run.

    The IMAGEs are for the calibration, which sets the ranges of the numbers in the
    network: best about a hundred or more that resemble those in later use. Of more
    than 128 an evenly spaced selection is used. Then the predictions for these images
    are compared with those in float32. Files that are not images are named and
    skipped.

    In Python, resnext_keras.Predictor runs the file. Needs the extra `fast`.
    """
    with quiet_start():
        from resnext_keras import quantize_model

    result = quantize_model(model, images, output=output, overwrite=overwrite)
    for message in result.skipped:
        click.echo(f"Skipped: {message}", err=True)
    click.echo(click.format_filename(result.path))  # on a line of its own, to be copied
    numbers = ("float32", "int8")
    rows = table("", *numbers, right=numbers)
    rows.add_row("size", *(f"{size / 1e6:.1f} MB" for size in result.size_bytes))
    rows.add_row(
        f"time an image, {result.engine}",
        *(f"{1000 * seconds:.2f} ms" for seconds in result.comparison.seconds),
    )
    print_table(rows)
    click.echo(
        f"The same top-1 class for {result.comparison.top1:.1%} of {result.images} "
        f"images; correlation of the logits {result.comparison.correlation:.4f}."
    )
