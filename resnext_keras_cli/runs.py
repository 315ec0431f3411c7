"""What `train` and `finetune` share: their options, and how a run is told of."""

import ast
import contextlib
import errno
import os
import shlex
import sys

import click

from resnext_keras_cli.evaluate import print_evaluation
from resnext_keras_cli.tables import counted, print_table, table

EXPORT = "saved_model"

MOST_CLASSES = 20  # of which each has a row of its own
BAR = 30  # characters of the largest class


class Change(click.ParamType):
    """`FIELD=VALUE`, as a pair of the field and what Python reads in the value."""

    name = "FIELD=VALUE"

    def convert(self, value, param, ctx):
        """Reads it; text that is no literal of Python is text."""
        field, equals, text = value.partition("=")
        if not equals or not field:
            self.fail(f"{value!r} is not FIELD=VALUE, as in mixup=0.2.")
        try:
            return field, ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return field, text


OPTIONS = (
    click.argument("data", type=click.Path(exists=True)),
    click.option(
        "-o",
        "--output",
        "folder",
        metavar="RUN",
        type=click.Path(file_okay=False),
        required=True,
        help="The folder to be made, for all that comes of it.",
    ),
    click.option(
        "--resume", is_flag=True, help="Go on with the run in RUN, if there is one."
    ),
    click.option("--epochs", type=click.IntRange(min=1), help="Of all phases."),
    click.option(
        "--batch",
        "batch_size",
        type=click.IntRange(min=1),
        help="Images after which the weights change, on all devices together. "
        "The learning rate grows and falls with it, unless it is named too.",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        help="The highest.",
    ),
    click.option(
        "--set",
        "changes",
        type=Change(),
        multiple=True,
        help="Another value of the recipe, as in --set mixup=0.2.",
    ),
    click.option(
        "--size",
        type=click.IntRange(min=32),
        help="Height and width of the images in pixels. "
        "Without it: what the network was made for.",
    ),
    click.option(
        "--validation",
        "validation_share",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.2,
        show_default=True,
        help="Share of the images that is kept for validation, where DATA has no "
        "split of its own.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
        default="float32",
        show_default=True,
        help="Of the numbers in the network.",
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(min=1),
        default=1,
        help="Take a batch in that many parts, which need less memory.",
    ),
    click.option(
        "--steps-per-execution",
        type=click.IntRange(min=1),
        default=1,
        help="Steps that are run at once; more are faster for small networks.",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option(
        "--deterministic",
        is_flag=True,
        help="Give the same bits in each run; slower on a GPU.",
    ),
    click.option(
        "--checkpoint-every",
        "seconds",
        type=click.FloatRange(min=0),
        default=60,
        show_default=True,
        help="Seconds after which the state of the run is written; each epoch ends "
        "with it too.",
    ),
    click.option("--export", is_flag=True, help="Write a SavedModel too."),
)


def run_options(command):
    """The argument and the options of a command that trains."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def recipe_changes(options):
    """Takes what changes a recipe out of options: that of --set, and its own."""
    changes = dict(options.pop("changes"))
    for name in ("epochs", "batch_size", "learning_rate"):
        value = options.pop(name)
        if value is not None:
            changes[name] = value
    return changes


def check_folder(folder, resume):
    """Refuses a folder before the library, which takes seconds, is loaded."""
    if os.path.lexists(folder) and not resume:
        raise click.ClickException(
            f"{click.format_filename(folder)} exists; --resume goes on with the run "
            "in it, or name another folder."
        )


def carry_out(settings, folder, resume, seconds, export):
    """Opens a run, tells what it will do, does it, and tells what came of it."""
    from resnext_keras.export.saved_model import export_saved_model
    from resnext_keras.inference.engines import check_backend
    from resnext_keras.training.report import report_run
    from resnext_keras.training.run import open_run
    from resnext_keras.training.trainer import train

    if export:
        check_backend()
    run = open_run(settings, folder, resume=resume)
    if run.devices.is_chief:
        tell_plan(run)
    with _stops_told(folder):
        classifier = train(
            run, seconds=seconds, verbose=1 if sys.stdout.isatty() else 2
        )
        if classifier is None:  # the first worker tells
            return
        evaluation = report_run(run, classifier)
        if export:
            export_saved_model(
                classifier.model,
                run.folder / EXPORT,
                preprocessing=classifier.preprocessing,
                class_names=classifier.class_names,
                overwrite=True,
            )
    print_evaluation(evaluation)
    tell_result(run, export)


@contextlib.contextmanager
def _stops_told(folder):
    """Says how to go on where a user or a full disk ends a run."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Stopped; the same command with --resume goes on.", err=True)
        raise click.exceptions.Exit(130) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise click.ClickException(
            f"No space left on the disk of {click.format_filename(folder)}. What is "
            "in it is whole; make room, then go on with --resume."
        ) from error


def tell_plan(run):
    """Prints what a run will do, and the classes with their images."""
    from resnext_keras.training.data.dataset import class_counts

    settings = run.settings
    names = run.training.class_names
    splits = [class_counts(split) for split in (run.training, run.validation)]
    skipped = f", {len(run.skipped)} left out (skipped.csv)" * bool(run.skipped)
    click.echo(
        f"{len(names)} classes, {counted(len(run.training), 'image')} to learn from, "
        f"{len(run.validation)} to validate{skipped}."
    )
    _print_balance(names, *splits)
    size = run.preprocessing.size
    start = settings.weights or "random weights"
    click.echo(f"{settings.spec.name} from {start}, images of {size} x {size} pixels.")
    devices = run.devices
    if devices.replicas > 1:
        click.echo(f"{devices.replicas} devices, in {devices.workers} processes.")
    for number, phase in enumerate(settings.phases, 1):
        click.echo(f"Phase {number}: {_in_words(phase, len(settings.spec.depths))}.")


def _print_balance(names, training, validation):
    order = sorted(range(len(names)), key=lambda number: -training[number])
    rows = table(
        "class", "training", "validation", "", right=("training", "validation")
    )
    shown = range(len(names))
    if len(names) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        shown = [*order[:half], None, *order[-half:]]
    for number in shown:
        if number is None:
            rows.add_row(f"... {len(names) - MOST_CLASSES} more", "", "", "")
            continue
        bar = "#" * max(round(BAR * training[number] / max(training.max(), 1)), 1)
        counts = str(training[number]), str(validation[number])
        rows.add_row(names[number], *counts, bar)
    print_table(rows)


def _in_words(phase, stages):
    recipe = phase.recipe
    last = f"conv{stages + 1}"
    if phase.frozen is None:
        learns = "all layers learn"
    elif phase.frozen == last:
        learns = "the classifier alone learns"
    else:
        first = int(phase.frozen.removeprefix("conv")) + 1
        learns = f"conv{first} and what follows it learn"
    falls = "in steps" if recipe.milestones else "along a cosine"
    changes = [
        name
        for name, is_used in (
            (f"{recipe.crop.replace('_', ' ')} crops", recipe.crop != "center"),
            ("flips", recipe.flip),
            (f"augmentation {recipe.augment!r}", recipe.augment),
            (f"mixup {recipe.mixup}", recipe.mixup),
            (f"cutmix {recipe.cutmix}", recipe.cutmix),
            (f"erasing {recipe.erasing}", recipe.erasing),
        )
        if is_used
    ]
    return (
        f"{counted(recipe.epochs, 'epoch')} by the recipe {recipe.name}, batches of "
        f"{recipe.batch_size}, {learns}; learning rate {recipe.learning_rate:.3g}, "
        f"which falls {falls}; {', '.join(changes) or 'images as they are'}"
    )


def tell_result(run, export):
    """Prints what is where, and what it is for."""
    from resnext_keras.training.report import REPORT
    from resnext_keras.training.trainer import MODEL
    from resnext_keras.weights.runs import BEST

    folder = click.format_filename(run.folder)
    taken = shlex.quote(folder)
    rows = [
        (REPORT, "learning curves, confusion matrix, the worst classified"),
        (BEST, f"`resnext-keras predict IMAGE --weights {taken}` takes it"),
        (MODEL, "the same as a Keras model"),
    ]
    if export:
        rows.append((EXPORT, "the same for TF Serving: image files in, names out"))
    click.echo(f"In {folder}:")
    lines = table("file", "")
    lines.show_header = False
    for row in rows:
        lines.add_row(*row)
    print_table(lines)
