"""`resnext-keras finetune`: trains a network with trained weights on other classes."""

import click

from resnext_keras_cli.options import examples, model_option, weights_option
from resnext_keras_cli.runs import patience_option, print_run, run_options
from resnext_keras_cli.start import quiet_start


@click.command(
    epilog=examples(
        "finetune flowers/ -o flowers-run",
        "finetune labels.csv -o run --model ResNeXt101 --set mixup=0.2",
        "finetune flowers/ -o flowers-run --resume",
    )
)
@run_options
@patience_option(5)
@model_option
@weights_option
def finetune(**options):
    """Train a network with trained weights on the classes in DATA.

    First a new classifier is trained on the frozen network. Then the last two stages
    are trained too, at a tenth of the learning rate. In most cases about a hundred
    images per class are enough.

    For DATA and RUN see `resnext-keras train --help`. That command starts from random
    weights.
    """
    with quiet_start():
        from resnext_keras import finetune

    print_run(finetune, options)
