"""`resnext-keras train`: a network from random weights, by a recipe."""

import os

import click

from resnext_keras_cli.names import find_model
from resnext_keras_cli.runs import (
    carry_out,
    check_folder,
    recipe_changes,
    run_options,
)
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
    help="paper, torchvision2, cifar or digits. Without it: cifar for networks of "
    "32 pixels, else paper.",
)
def train(data, folder, resume, model, recipe, seconds, export, **options):
    """Train a network from scratch on the images in DATA.

    DATA is a folder with a folder of images for each class, or with two or three
    such, train and val; a data set that TensorFlow Datasets has prepared; or
    TFRecords of encoded images.

    RUN gets best.weights.h5 and model.keras, the weights with the highest validation
    accuracy; history.csv; report.html, with learning curves, the confusion matrix and
    the worst classified images; run.json, all settings and versions; skipped.csv,
    the files that are no images; and checkpoint.safetensors, from which a run that
    was stopped, however it was, goes on with --resume and the same arguments. A
    scheduler may start a job with --resume from the first.
    """
    check_folder(folder, resume)
    with quiet_start():
        from resnext_keras.models.specs import get_spec
        from resnext_keras.training.recipes import adjusted, get_recipe
        from resnext_keras.training.settings import Phase, Settings

    spec = get_spec(find_model(model))
    recipe = get_recipe(recipe or ("cifar" if spec.stem == "cifar" else "paper"))
    changes = recipe_changes(options)
    phase = Phase(adjusted(recipe, **changes))
    settings = Settings(os.path.abspath(data), spec, None, (phase,), **options)
    carry_out(settings, folder, resume, seconds, export)
