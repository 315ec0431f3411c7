"""Options that several commands have, and their checks."""

import os

import click

size_option = click.option(
    "--size",
    type=click.IntRange(min=32),
    help="Height and width of the images in pixels. "
    "Without it: what the network was made for.",
)


def check_new(path, overwrite):
    """Refuses a file that exists and may not be replaced."""
    if os.path.exists(path) and not overwrite:
        raise click.ClickException(f"{path} exists; --overwrite replaces it.")
