"""`resnext-keras train`: trains a network from random weights, by a recipe."""

import click

from resnext_keras_cli.options import examples
from resnext_keras_cli.runs import patience_option, print_run, run_options
from resnext_keras_cli.start import quiet_start


@click.command(
    epilog=examples(
        "train imagenet/ -o run --recipe torchvision2",
        "train digits/ -o run --model resnext11_8x4d --epochs 20",
        "train imagenet/ -o run --recipe torchvision2 --resume",
    )
)
@run_options
@patience_option(0)
@click.option(
    "--model",
    metavar="NAME",
    default="resnext50_32x4d",
    show_default=True,
    help="Architecture, a name from `resnext-keras list`.",
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="paper, torchvision2, cifar or digits. Default: cifar for networks of "
    "32 pixels, otherwise paper. `resnext-keras recipes` prints them.",
)
def train(**options):
    """Train a network from scratch on the images in DATA.

    DATA is an image folder, with a folder of images for each class, or a folder with
    image folders train and val (or validation or test); a CSV or TSV file with the path
    and the class of each image, in columns image and label, with an optional column
    split; a directory of TensorFlow Datasets; or TFRecord files of encoded images, with
    a file labels.txt beside them that may name the classes, one a line. An image is
    known by its contents: JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, AVIF or HEIC. Other
    files are skipped and listed, except for hidden ones and those with the ending of
    another type, such as .txt.

    Several classes in a cell, as in cat|dog, or a column of 0 and 1 for each class make
    a multi-label data set: each class gets a score of its own.

    RUN gets best.weights.h5 and model.keras, the network with the highest validation
    accuracy; history.csv; report.html, with learning curves, the confusion matrix and
    the worst predictions; run.json, all settings and versions; images.csv, the images
    of each split; skipped.csv, the files that cannot be read as images; and
    checkpoint.safetensors. The same command with --resume resumes an interrupted run
    from this checkpoint, or starts a run if there is none, so a scheduler may always
    pass it.
    """
    with quiet_start():
        from resnext_keras import train

    print_run(train, options)
