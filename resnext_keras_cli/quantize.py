"""`resnext-keras quantize`: a network in int8, in a file."""

import click

from resnext_keras_cli.images import image_files, read_images
from resnext_keras_cli.names import find_network
from resnext_keras_cli.options import checked_file
from resnext_keras_cli.start import quiet_start


@click.command()
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
    help="The .onnx file to write. Without it: named after the weights, here.",
)
@click.option("--overwrite", is_flag=True, help="Replace an --output that exists.")
def quantize(model, images, output, overwrite):
    """Write a network in int8, a quarter of its size, into an .onnx file.

    MODEL is a name that `resnext-keras list` prints, whose default weights are
    taken, or WEIGHTS one of `resnext-keras weights list`, or a file of weights.

    The IMAGEs, best some hundred like those to come, tell which range the numbers
    in the network have; of more than 128 an even choice is taken. In the end the
    predictions for them are compared with those in float32. A file that is no
    image is named and left out.

    In Python, resnext_keras.Predictor runs the file. Needs the extra `fast`.
    """
    with quiet_start():
        from resnext_keras import Predictor
        from resnext_keras import quantize as quantize_model
        from resnext_keras.classifier import find_preprocessing, load_classifier
        from resnext_keras.inference.comparison import compare_predictions
        from resnext_keras.inference.quantization import check_packages

    check_packages()
    name, network = find_network(model)
    target = checked_file(output or f"{name}.int8.onnx", ".onnx", overwrite)
    images = read_images(image_files(images), find_preprocessing(**network))
    classifier = load_classifier(**network)
    click.echo(
        f"Converting {classifier.weights}, then calibrating on {len(images)} images.",
        err=True,
    )
    quantize_model(classifier.model, images, target, overwrite)
    click.echo("Comparing with float32.", err=True)
    int8 = Predictor(target)
    float32 = Predictor(classifier.model, int8.engine)
    comparison = compare_predictions(float32, int8, images)
    sizes = 4 * classifier.model.count_params(), target.stat().st_size
    _print(target, int8.engine, len(images), sizes, comparison)


def _print(target, engine, count, sizes, comparison):
    from resnext_keras_cli.tables import print_table, table

    numbers = ("float32", "int8")
    click.echo(click.format_filename(target))  # on one line, that it can be copied
    rows = table("", *numbers, right=numbers)
    rows.add_row("size", *(f"{size / 1e6:.1f} MB" for size in sizes))
    rows.add_row(
        f"time an image, {engine}",
        *(f"{1000 * seconds:.2f} ms" for seconds in comparison.seconds),
    )
    print_table(rows)
    click.echo(
        f"The same best class for {comparison.top1:.1%} of {count} images; "
        f"logits correlate by {comparison.correlation:.4f}."
    )
