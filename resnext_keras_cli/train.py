"""`resnext-keras train`: a network from random weights, by a recipe."""

import click

from resnext_keras_cli.runs import print_run, run_options
from resnext_keras_cli.start import quiet_start


@click.command()
@run_options
@click.option(
    "--model",
    metavar="NAME",
    default="resnext50_32x4d",
    show_default=True,
    help="Architecture, a name that `resnext-keras list` prints.",
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="paper, torchvision2, cifar or digits. Default: cifar for networks of "
    "32 pixels, else paper.",
)
def train(**options):
    """Train a network from scratch on the images in DATA.

    DATA is a folder with a folder of images for each class, or with two or three of
    those, train and val; a directory of TensorFlow Datasets; or TFRecord files of
    encoded images.

    RUN gets best.weights.h5 and model.keras, the weights with the highest validation
    accuracy; history.csv; report.html, with learning curves, the confusion matrix and
    the worst predictions; run.json, all settings and versions; skipped.csv, the files
    that cannot be read as images; and checkpoint.safetensors, from which --resume with
    the same arguments continues a run that was stopped at any time. A scheduler may
    pass --resume from the first start on.
    """
    with quiet_start():
        from resnext_keras.training.trainer import train

    print_run(train, options)
