"""Options that several commands share, and their checks."""

import os

import click

size_option = click.option(
    "--size",
    type=click.IntRange(min=32),
    help="Height and width of the images in pixels. "
    "Without it: what the network was made for.",
)

model_option = click.option(
    "--model",
    metavar="NAME",
    help="Architecture, a name that `resnext-keras list` prints. "
    "Without it: that of the weights, or resnext50_32x4d.",
)

weights_option = click.option(
    "--weights",
    metavar="NAME|FILE",
    help="Weight set that `resnext-keras weights list` prints, a file (.pth, "
    ".safetensors, .h5), or the folder of a training run. Without it: the ImageNet "
    "weights of the architecture, which are downloaded once.",
)


def sheet_options(command):
    """The options of a command that draws a sheet, and an HTML page if asked to."""
    for option in (
        click.option("--overwrite", is_flag=True, help="Replace files that exist."),
        click.option(
            "--html",
            is_flag=True,
            help="Write an HTML page too, beside the .png.",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Path(dir_okay=False),
            help="The .png file to write. Without it: named after the image, here.",
        ),
    ):
        command = option(command)
    return command


def check_new(path, overwrite):
    """Raises for a file that exists and may not be replaced."""
    if os.path.exists(path) and not overwrite:
        raise click.ClickException(f"{path} exists; --overwrite replaces it.")


def checked_file(path, suffix, overwrite):
    """The path of a file that may be written.

    Args:
        path: What was typed.
        suffix: Its required suffix.
        overwrite: Whether an existing file may be replaced.
    """
    from resnext_keras.io import output_file

    target = output_file(path, (suffix,), overwrite=True)
    check_new(target, overwrite)
    return target
