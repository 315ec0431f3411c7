"""`resnext-keras finetune`: a trained network, for classes of one's own."""

import os

import click

from resnext_keras_cli.names import find_model, find_weights
from resnext_keras_cli.options import model_option
from resnext_keras_cli.runs import (
    carry_out,
    check_folder,
    recipe_changes,
    run_options,
)
from resnext_keras_cli.start import quiet_start


@click.command()
@run_options
@model_option
@click.option(
    "--weights",
    metavar="NAME|FILE",
    help="Weight set that `resnext-keras weights list` prints, a file (.pth, "
    ".safetensors, .h5), or the folder of a run of training. Without it: the default "
    "of the --model, which is downloaded; without that either, of resnext50_32x4d.",
)
def finetune(data, folder, resume, model, weights, seconds, export, **options):
    """Train a network that has seen millions of images on the classes in DATA.

    A new classifier learns on the frozen network first, then the last two stages
    learn with it at a tenth of the rate. Some hundred images of a class are enough
    in most cases.

    DATA and RUN are as of `resnext-keras train`, which begins with random weights.
    """
    check_folder(folder, resume)
    with quiet_start():
        from resnext_keras.training.finetuning import finetune_phases, starting_point
        from resnext_keras.training.settings import Settings

    model = find_model(model)
    if weights is not None:
        find_weights(weights, model)
    spec, weights = starting_point(model, weights)
    changes = recipe_changes(options)
    phases = finetune_phases(spec, **changes)
    settings = Settings(os.path.abspath(data), spec, weights, phases, **options)
    carry_out(settings, folder, resume, seconds, export)
