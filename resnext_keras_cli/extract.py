"""`resnext-keras extract`: features of all images in folders."""

import click

from resnext_keras_cli.options import (
    batch_option,
    examples,
    max_pixels_option,
    model_option,
    weights_option,
)
from resnext_keras_cli.start import quiet_start


class Shard(click.ParamType):
    """`i/n`, as a tuple of numbers."""

    name = "i/n"

    def convert(self, value, param, ctx):
        """Parses the text; the default is a tuple already."""
        if isinstance(value, tuple):
            return value
        number, _, shards = value.partition("/")
        if not (number.isdecimal() and shards.isdecimal()):
            self.fail(f"{value!r} is not i/n, as in 2/8.")
        return int(number), int(shards)


@click.command(
    epilog=examples(
        "extract photos/ -o features.parquet",
        "extract photos/ --update features.parquet",
        "extract photos/ --shard 2/8 -o features-2.parquet --resume",
    )
)
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    metavar="FOLDER|IMAGE...",
    type=click.Path(exists=True, readable=False),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help="The .parquet file to write. Default: features.parquet.",
)
@model_option
@weights_option
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Dtype of the features; float16 halves the size of the file.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "openvino", "onnxruntime", "tensorflow", "ray"]),
    default="auto",
    show_default=True,
    help="Engine that runs the network. auto: the fastest that is installed. ray: "
    "workers with that engine, in the cluster of RAY_ADDRESS or on this machine.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "int8"]),
    default="float32",
    show_default=True,
    help="What the network computes in. bfloat16: float32 where the processor has "
    "none. int8: on one machine; needs the extra `fast`.",
)
@click.option(
    "--calibration",
    metavar="FOLDER|IMAGE",
    type=click.Path(exists=True, readable=False),
    help="Images to calibrate an int8 network with. Default: the first 256.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of processes for --engine ray. Default: one per 4 cores.",
)
@batch_option
@click.option(
    "--shard",
    type=Shard(),
    default=(1, 1),
    metavar="I/N",
    help="Extract only shard I of N.",
)
@click.option(
    "--update",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Compute only images that are new or changed since FILE was written by the "
    "same network, and replace FILE.",
)
@click.option("--resume", is_flag=True, help="Resume an interrupted run.")
@click.option("--overwrite", is_flag=True, help="Start again, and replace OUTPUT.")
@max_pixels_option
def extract(folders, output, **options):
    """Write the features of all images in FOLDERs into a Parquet file.

    A row has path, sha256, width and height of an image, and features: the mean of
    the network's last feature maps. Folders are searched with their subfolders, and
    links are followed. Files that are not images or cannot be read are skipped, and
    listed in a file that ends in .errors.csv. If all files are skipped, the exit code
    is 1, and --resume tries them again.

    The same command with --resume resumes an interrupted run, and gives the same file.
    Until the end of the run its chunks are in OUTPUT.chunks. --resume does not change a
    finished run, so a scheduler may always pass it.

    --update FILE takes the rows of images with the same path and contents from FILE,
    and drops those of images that are gone. FILE is then what a run anew would write.

    To use N machines with the same folders, start job I (1 to N) with `--shard I/N -o
    features-I.parquet --resume`. The rows of all N files, one after the other, are
    those of a single run.

    With --engine ray the machines of a Ray cluster do the work. They open the images
    themselves, so FOLDERs and a --weights file must be on a shared file system, at
    the same paths. A worker that dies is replaced. A run may be continued with or
    without ray if auto chooses the same engine.

    --precision int8 keeps the calibrated network in OUTPUT.int8.onnx. --resume and
    --update use it, so that all rows come from the same network.

    Needs the extra `features`, and `ray` for --engine ray; with `fast` the network
    runs faster.
    """
    with quiet_start():
        import resnext_keras as rk
    from resnext_keras_cli.tables import counted

    try:
        result = rk.extract(folders, output, **options)
    except KeyboardInterrupt:
        click.echo(
            "Stopped; the same command with --resume (and without --overwrite) "
            "continues the run.",
            err=True,
        )
        raise click.exceptions.Exit(130) from None
    speed = "finished before"
    if result.seconds:
        rate = result.read / result.seconds
        speed = f"in {result.seconds:.1f} s, {rate:.1f} a second"
    skipped = f", {result.skipped} skipped" if result.skipped else ""
    if options["update"]:
        computed = result.images - result.kept
        skipped += (
            f": {result.kept} kept, {computed} computed, {result.dropped} dropped"
        )
    separator = " " if result.seconds else ", "
    click.echo(
        f"{counted(result.images, 'image')}{skipped}{separator}{speed}: "
        f"{click.format_filename(result.output)}"
    )
    if result.skipped:
        errors = click.format_filename(result.errors)
        click.echo(f"Skipped, with reasons: {errors}", err=True)
        if not result.images:
            raise click.exceptions.Exit(1)
