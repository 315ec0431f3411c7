"""Options that several commands share, and their checks."""

import click


def examples(*commands: str) -> str:
    """The epilog of a command's help, with lines to try."""
    lines = [f"  resnext-keras {command}" for command in commands]
    return "\n".join(["\b", "Examples:", *lines])


size_option = click.option(
    "--size",
    type=click.IntRange(min=32),
    help="Height and width of the images in pixels. "
    "Default: the size of the weights, or without weights that of the architecture.",
)

model_option = click.option(
    "--model",
    metavar="NAME",
    help="Architecture, a name from `resnext-keras list`. "
    "Default: that of the weights, or resnext50_32x4d.",
)

# Of a command whose weights have their own.
architecture_option = click.option(
    "--model", metavar="NAME", help="Architecture. Default: that of the weights."
)

weights_option = click.option(
    "--weights",
    metavar="NAME|FILE",
    help="Weight set from `resnext-keras weights list`, a file (.pth, .safetensors, "
    ".h5), the folder of a training run or of timm's files, or hf://OWNER/NAME on the "
    "Hugging Face hub. Default: the ImageNet weights of the "
    "architecture, which are downloaded once.",
)

batch_option = click.option(
    "--batch",
    "batch_size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Number of images that are run at once.",
)

precision_option = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "int8", "auto"]),
    default="float32",
    show_default=True,
    help="What the network computes in. bfloat16: float32 where the processor has "
    "none. auto: bfloat16 if it is faster here. int8 needs the extra `fast`.",
)

calibration_option = click.option(
    "--calibration",
    metavar="FOLDER|IMAGE",
    type=click.Path(exists=True, readable=False),
    help="Images to calibrate an int8 network with, at most 128. "
    "Default: those of the command.",
)


def _set_max_pixels(ctx, param, pixels):
    if pixels:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = -(-pixels // 2)  # Pillow refuses more than twice that


max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    callback=_set_max_pixels,
    expose_value=False,
    help="Read images of up to this many pixels, 4 bytes of memory each. "
    "Default: 178,956,970.",
)


def together(*options):
    """A decorator that gives a command several options, in this order."""

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# Of a command that draws a contact sheet.
sheet_options = together(
    click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False),
        help="The .png file to write. Default: named after the image, in the current "
        "folder.",
    ),
    click.option(
        "--html", is_flag=True, help="Also write an HTML page beside the .png."
    ),
    click.option("--overwrite", is_flag=True, help="Replace files that exist."),
)
