"""`resnext-keras export`: writes a network for TF Serving, ONNX, OpenVINO, LiteRT."""

from contextlib import nullcontext

import click

from resnext_keras_cli.options import examples, max_pixels_option
from resnext_keras_cli.start import quiet_start
from resnext_keras_cli.tables import counted, print_table, table


@click.command(
    epilog=examples(
        "export resnext50_32x4d",
        "export flowers-run/ --format onnx --format openvino-int8",
        "export digits photos/ --format litert-int8 --int8-io",
    )
)
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
    metavar="FORMAT",
    multiple=True,
    default=("saved_model",),
    show_default=True,
    help="saved_model, onnx, openvino or litert; all but the first also with -float16 "
    "or -int8, as in onnx-int8. Or all. May be given several times.",
)
@click.option(
    "-o",
    "--output",
    metavar="NAME",
    help="Path of the files without their endings; for a saved_model its folder. Or an "
    "existing folder to write into. Default: named after the weights, in the current "
    "folder; of a run or timm's folder FOLDER.export, beside it.",
)
@click.option("--backbone", is_flag=True, help="Leave out the classifier.")
@click.option(
    "--any-size",
    is_flag=True,
    help="Make a network for images of any size, not only of the size that the weights "
    "were made for.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of classes that a saved_model gives for each image.",
)
@click.option(
    "--int8-io",
    is_flag=True,
    help="Make input and outputs of litert-int8 int8 too, not float32. The model card "
    "has their scales and zero points.",
)
@click.option("--overwrite", is_flag=True, help="Replace earlier exports.")
@max_pixels_option
def export(model, images, formats, **options):
    """Write a network to files that run without this package.

    MODEL is a name from `resnext-keras list`, for its default weights. WEIGHTS is a
    name from `resnext-keras weights list`, a weight file, or the folder of a training
    run.

    A saved_model takes image files and gives class names; it is a folder for TF
    Serving. The other formats take images from preprocess_input; the files contain a
    description of the preprocessing and the class names.

    Each export is then run in its own runtime and compared with Keras, on the IMAGEs
    or, without any, on the validation images of a run or a photo of a cat. Of more
    than 128 an evenly spaced selection is used.

    int8 makes a network a quarter of the size, and faster. It needs IMAGEs for
    calibration, best about a hundred or more that resemble those in later use, or a
    run whose validation images are still there.

    onnx and openvino need the extra `fast`, and so does the comparison of litert.
    For a Keras model of your own, use export_saved_model and export_file in Python.
    """
    with quiet_start():
        from resnext_keras import export_model

    # LiteRT's libraries log to stderr.
    litert = any(name == "all" or name.startswith("litert") for name in formats)
    with quiet_start() if litert else nullcontext():
        report = export_model(model, images, formats=formats, **options)
    for message in report.skipped:
        click.echo(f"Skipped: {message}", err=True)
    numbers = ("size", "difference", "same top-1", "time an image")
    rows = table("format", *numbers, "file", right=numbers)
    for name, model in report.models.items():
        measured = ("runtime not installed", "", "")
        if model.difference is not None:
            top1 = "-" if model.top1 is None else f"{model.top1:.1%}"
            measured = f"{model.difference:.1e}", top1, f"{1000 * model.seconds:.2f} ms"
        size = f"{model.size_bytes / 1e6:.1f} MB"
        rows.add_row(name, size, *measured, click.format_filename(model.path))
    print_table(rows)
    images = counted(report.images, "image") if report.images else "a photo of a cat"
    click.echo(
        "Difference: the largest from Keras, divided by the largest output. Same "
        f"top-1: the share of images with the same class. Both for {images}."
    )
