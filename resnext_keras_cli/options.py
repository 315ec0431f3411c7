"""Options that several commands have."""

import click

size_option = click.option(
    "--size",
    type=click.IntRange(min=32),
    help="Height and width of the images in pixels. "
    "Without it: what the network was made for.",
)
