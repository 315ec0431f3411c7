"""`resnext-keras extract`: features of all images in folders."""

import errno
import os
import re

import click

from resnext_keras_cli.names import find_choice
from resnext_keras_cli.options import model_option, weights_option
from resnext_keras_cli.start import quiet_start

ENGINES = ("auto", "openvino", "onnxruntime", "tensorflow", "ray")


class Shard(click.ParamType):
    """`i/n`, as a tuple of numbers."""

    name = "i/n"

    def convert(self, value, param, ctx):
        """Reads it; a default is a tuple already."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value)
        number, shards = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= shards:
            self.fail(f"{value!r} is not i/n with i from 1 to n, as in 2/8.")
        return number, shards


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
    help="Of the features; float16 makes the file half as large.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="What runs the network; auto takes the fastest that is installed, "
    "ray has workers take that, in the cluster of RAY_ADDRESS or on this machine.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes of --engine ray. Without it: one on each 4 cores.",
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
    help="The I-th of N shares of all images alone.",
)
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option("--overwrite", is_flag=True, help="Begin anew, and replace the --output.")
def extract(folders, output, resume, overwrite, model, weights, **options):
    """Write features of all images in FOLDERs into a Parquet file.

    A row has path, sha256, width and height of an image, and features: the mean
    of the network's last maps. Folders within are searched too, and links followed.
    A file that is no image, or may not be read, is left out and named in OUTPUT's
    .errors.csv; if all are, the exit code is 1, and --resume tries them again.

    A run that was stopped, however it was, goes on with --resume and the same
    arguments, and gives the same file; what it has finished is in OUTPUT.parts till
    the end. With --resume a run that is finished is left as it is: a scheduler
    may start each job with it, again and again.

    On N machines that see the same folders, give job I of a scheduler, from 1 on,
    `--shard I/N -o features-I.parquet --resume`. The rows of all N files, one after
    the other, are those of a single run.

    With --engine ray the machines of a Ray cluster do the work. They open the
    images themselves, so FOLDERs, and a --weights file, have to lie on a file
    system that all share, under the same paths. A worker that dies is replaced. A
    run may change from one engine to ray with --resume, where auto takes that engine.

    Needs the extra `features`, and `ray` for --engine ray; with `fast` the network
    runs faster.
    """
    if options["workers"] and options["engine"] != "ray":
        raise click.UsageError("--workers is for --engine ray alone.")
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other.")
    _check_new(output, resume or overwrite)
    with quiet_start():
        from resnext_keras.features.extraction import extract as extract_features
        from resnext_keras.features.extraction import parts_folder

    model, weights = find_choice(model, weights)
    parts = parts_folder(output)
    try:
        done = extract_features(
            folders,
            output,
            model,
            weights,
            resume=resume,
            overwrite=overwrite,
            **options,
        )
    except KeyboardInterrupt:
        _say_stopped(parts, overwrite)
        raise click.exceptions.Exit(130) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise click.ClickException(
            f"No space left on the disk of {click.format_filename(output)}. What is "
            f"finished stays in {click.format_filename(parts)}; make room, then go on "
            "with --resume."
        ) from error
    _print(done)
    if done.skipped and not done.images:
        raise click.exceptions.Exit(1)


def _check_new(output, may_exist):
    """Refuses what exists before the library, which takes seconds, is loaded."""
    for path in (output, f"{output}.parts"):
        if os.path.lexists(path) and not may_exist:
            raise click.ClickException(
                f"{click.format_filename(path)} exists; --resume goes on with a run "
                "that was stopped, --overwrite begins anew."
            )


def _say_stopped(parts, overwrite):
    if parts.is_dir():
        instead = " in the place of --overwrite" * overwrite
        told = f"the same command with --resume{instead} goes on"
    else:
        told = "nothing was written"
    click.echo(f"Stopped; {told}.", err=True)


def _print(done):
    speed = (
        f" in {done.seconds:.1f} s, {done.read / max(done.seconds, 1e-9):.1f} a second"
    )
    speed = speed if done.seconds else ", finished before"
    skipped = f", {done.skipped} skipped" * bool(done.skipped)
    click.echo(
        f"{done.images} image{'s' * (done.images != 1)}{skipped}{speed}: "
        f"{click.format_filename(done.target)}"
    )
    if done.skipped:
        click.echo(
            f"Skipped, with reasons: {click.format_filename(done.errors)}", err=True
        )
