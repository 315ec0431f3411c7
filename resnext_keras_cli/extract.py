"""`resnext-keras extract`: features of all images in folders."""

import click

from resnext_keras_cli.options import model_option, weights_option
from resnext_keras_cli.start import quiet_start


class Shard(click.ParamType):
    """`i/n`, as a tuple of numbers."""

    name = "i/n"

    def convert(self, value, param, ctx):
        """Reads it; a default is a tuple already."""
        if isinstance(value, tuple):
            return value
        number, _, shards = value.partition("/")
        if not (number.isdecimal() and shards.isdecimal()):
            self.fail(f"{value!r} is not i/n, as in 2/8.")
        return int(number), int(shards)


@click.command()
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
    default="features.parquet",
    show_default=True,
    help="The .parquet file to write.",
)
@model_option
@weights_option
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the features; float16 halves the file.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "openvino", "onnxruntime", "tensorflow", "ray"]),
    default="auto",
    show_default=True,
    help="What runs the network. auto: the fastest that is installed. ray: workers "
    "with that engine, in the cluster of RAY_ADDRESS or on this machine.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes of --engine ray. Default: one on each 4 cores.",
)
@click.option(
    "--batch",
    "batch_size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Number of images that are run at once.",
)
@click.option(
    "--shard",
    type=Shard(),
    default=(1, 1),
    metavar="I/N",
    help="Only the I-th of N shares of all images.",
)
@click.option("--resume", is_flag=True, help="Continue a run that was stopped.")
@click.option("--overwrite", is_flag=True, help="Start again, and replace OUTPUT.")
def extract(folders, output, **options):
    """Write the features of all images in FOLDERs into a Parquet file.

    A row has path, sha256, width and height of an image, and features: the mean of
    the network's last feature maps. Folders are searched with all folders in them,
    and links are followed. A file that is not an image, or may not be read, is left
    out and listed in OUTPUT's .errors.csv. If all are, the exit code is 1, and
    --resume tries them again.

    A run that was stopped continues with --resume and the same arguments, to the
    same file; until the end its chunks are in OUTPUT.chunks. With --resume a
    finished run stays as it is, so a scheduler may start each job with it.

    On N machines that see the same folders, give job I, from 1 on, `--shard I/N
    -o features-I.parquet --resume`. The rows of all N files, one after the other,
    are those of a single run.

    With --engine ray the machines of a Ray cluster do the work. They open the images
    themselves, so FOLDERs and a --weights file must be on a shared file system, at
    the same paths. A worker that dies is replaced. A run may change to or from ray
    with --resume, if auto chooses the same engine.

    Needs the extra `features`, and `ray` for --engine ray; with `fast` the network
    runs faster.
    """
    with quiet_start():
        import resnext_keras as rk
    from resnext_keras_cli.tables import counted

    try:
        done = rk.extract(folders, output, **options)
    except KeyboardInterrupt:
        click.echo(
            "Stopped; the same command with --resume (and without --overwrite) "
            "continues.",
            err=True,
        )
        raise click.exceptions.Exit(130) from None
    speed = "finished before"
    if done.seconds:
        rate = done.read / done.seconds
        speed = f"in {done.seconds:.1f} s, {rate:.1f} a second"
    skipped = f", {done.skipped} skipped" if done.skipped else ""
    separator = " " if done.seconds else ", "
    click.echo(
        f"{counted(done.images, 'image')}{skipped}{separator}{speed}: "
        f"{click.format_filename(done.output)}"
    )
    if done.skipped:
        errors = click.format_filename(done.errors)
        click.echo(f"Skipped, with reasons: {errors}", err=True)
        if not done.images:
            raise click.exceptions.Exit(1)
