"""`resnext-keras export`: a network for TF Serving, ONNX, OpenVINO or LiteRT."""

from contextlib import nullcontext
from pathlib import Path

import click

from resnext_keras_cli.images import image_files, read_images
from resnext_keras_cli.names import find_network
from resnext_keras_cli.options import check_new
from resnext_keras_cli.start import quiet_start

FORMAT_NAMES = (  # of resnext_keras.export.formats, which loads TensorFlow
    "saved_model",
    "onnx",
    "onnx-float16",
    "onnx-int8",
    "openvino",
    "openvino-float16",
    "openvino-int8",
    "litert",
    "litert-float16",
    "litert-int8",
)


@click.command()
@click.argument("model", metavar="MODEL|WEIGHTS")
@click.argument(
    "images",
    nargs=-1,
    metavar="[IMAGE|FOLDER...]",
    type=click.Path(exists=True, readable=False),
)
@click.option(
    "--format",
    "formats",
    type=click.Choice((*FORMAT_NAMES, "all")),
    multiple=True,
    default=("saved_model",),
    show_default=True,
    help="Format and precision; may be given several times.",
)
@click.option(
    "-o",
    "--output",
    metavar="NAME",
    help="What the files are called, but for their endings, and the folder of a "
    "saved_model; or an existing folder to write into. Without it: as the weights, "
    "here.",
)
@click.option(
    "--backbone", is_flag=True, help="Without the classifier, for features alone."
)
@click.option(
    "--any-size",
    is_flag=True,
    help="Tensors of any size, not only of the one that the weights were made for.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of classes that a saved_model names for each image.",
)
@click.option("--overwrite", is_flag=True, help="Replace earlier exports.")
def export(model, images, formats, output, backbone, any_size, top, overwrite):
    """Write a network into files that run without this package.

    MODEL is a name that `resnext-keras list` prints, whose default weights are
    taken, or WEIGHTS one of `resnext-keras weights list`, a file of weights, or the
    folder of a run of training.

    A saved_model takes image files and names classes, and lies in a folder as
    TF Serving expects it. Files of the other formats take what preprocess_input
    gives; in them is written how images are read and what the classes are.

    For a network of your own, with classes of your own, there are
    resnext_keras.export_saved_model and export_file in Python.

    In the end each is run in its own runtime and compared with Keras, on the
    IMAGEs or else on a photo of a cat. int8 needs IMAGEs, best some hundred
    like those to come, which tell the range of the numbers in the network.

    onnx and openvino need the extra `fast`, and so does trying litert.
    """
    with quiet_start():
        from resnext_keras.classifier import find_preprocessing, load_classifier
        from resnext_keras.export.formats import (
            FORMATS,
            check_formats,
            export_as,
            try_out,
        )
        from resnext_keras.images.read import SAMPLE_PHOTO
        from resnext_keras.weights.registry import WEIGHT_SETS
        from resnext_keras_cli.tables import counted

    name, network = find_network(model)
    chosen = FORMAT_NAMES if "all" in formats else dict.fromkeys(formats)
    formats = {name: FORMATS[name] for name in chosen}
    base = _base(output, f"{name}.backbone" if backbone else name, formats.values())
    check_formats(formats.values(), base)
    for format_ in formats.values():
        for path in format_.paths(base):
            check_new(path, overwrite)
    files = image_files(images) if images else [SAMPLE_PHOTO]
    if not images and any(f.precision == "int8" for f in formats.values()):
        raise click.ClickException("int8 needs IMAGEs like those to come.")
    images = read_images(files, find_preprocessing(**network))
    classifier = load_classifier(**network, include_top=not backbone, any_size=any_size)
    if classifier.weights in WEIGHT_SETS:
        about = {"weights": classifier.weights}
    else:
        about = {
            "preprocessing": classifier.preprocessing,
            "class_names": classifier.class_names or None,
        }
    expected = classifier.model.predict(images, batch_size=32, verbose=0)
    trials = {}
    for name, format_ in formats.items():
        by = f", calibrated on {counted(len(images), 'image')}"
        by *= format_.precision == "int8"
        click.echo(f"Writing {name}{by}.", err=True)
        # LiteRT's libraries tell of each step.
        with quiet_start() if format_.engine == "litert" else nullcontext():
            path = export_as(
                format_, classifier.model, base, images, top, overwrite, **about
            )
            trials[name] = path, try_out(format_, base, images, expected)
    _print(trials, len(images) if images else None)


def _base(output, name, formats):
    """What the files are called, but for their endings."""
    from resnext_keras.export.saved_model import EARLIER

    if output is None:
        return name
    folder = Path(output).expanduser()
    if folder.is_dir() and not (folder / EARLIER).is_file():
        return folder / name
    for format_ in sorted(formats, key=lambda format_: -len(format_.ending)):
        output = output.removesuffix(format_.ending)
    return output


def _print(trials, count):
    from resnext_keras_cli.tables import counted, print_table, table

    numbers = ("size", "difference", "time an image")
    rows = table("format", *numbers, "file", right=numbers)
    for name, (path, trial) in trials.items():
        tried = ("not installed", "")
        if trial.difference is not None:
            tried = f"{trial.difference:.1e}", f"{1000 * trial.seconds:.2f} ms"
        size = f"{trial.size_bytes / 1e6:.1f} MB"
        rows.add_row(name, size, *tried, click.format_filename(path))
    print_table(rows)
    images = "a photo of a cat" if count is None else counted(count, "image")
    click.echo(f"Largest difference from Keras, by the largest output, for {images}.")
