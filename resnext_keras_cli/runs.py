"""Options and output of `train` and `finetune`."""

import ast
import shlex
import sys

import click

from resnext_keras_cli.evaluate import print_evaluation
from resnext_keras_cli.options import max_pixels_option, size_option, together
from resnext_keras_cli.tables import counted, print_table, table

MOST_CLASSES = 20  # number of classes to print
BAR = 30  # characters in the bar of the largest class


class Change(click.ParamType):
    """`FIELD=VALUE`, as a pair of the field and the value."""

    name = "FIELD=VALUE"

    def convert(self, value, param, ctx):
        """Parses the value as a Python literal, otherwise as text."""
        field, equals, text = value.partition("=")
        if not equals or not field:
            self.fail(f"{value!r} is not FIELD=VALUE, as in mixup=0.2.")
        try:
            # Python's True in any case.
            literal = text.title() if text.lower() in ("true", "false") else text
            return field, ast.literal_eval(literal)
        except (ValueError, SyntaxError):
            return field, text


class ClassWeight(click.ParamType):
    """`NAME=W`, as a pair of the name of a class and its weight."""

    name = "NAME=W"

    def convert(self, value, param, ctx):
        """Parses the weight; the name may contain an equals sign."""
        name, _, text = value.rpartition("=")
        try:
            return name, float(text)
        except ValueError:
            self.fail(f"{value!r} is not NAME=W, as in cat=2.")


def patience_option(default):
    """The option --patience of a command that trains."""
    return click.option(
        "--patience",
        metavar="EPOCHS",
        type=click.IntRange(min=0),
        default=default,
        show_default=True,
        help="End a phase after this many epochs without improvement; 0: never.",
    )


run_options = together(
    click.argument("data", type=click.Path(exists=True)),
    click.option(
        "-o",
        "--output",
        metavar="RUN",
        type=click.Path(file_okay=False),
        required=True,
        help="The folder to create.",
    ),
    click.option(
        "--resume", is_flag=True, help="Continue the run in RUN, if there is one."
    ),
    click.option(
        "--allow-changed",
        is_flag=True,
        help="Resume even if images are missing or new; both are left out.",
    ),
    click.option(
        "--epochs",
        type=click.IntRange(min=1),
        help="Number of epochs, of all phases together. Default: that of the recipe.",
    ),
    click.option(
        "--batch",
        "batch_size",
        type=click.IntRange(min=1),
        help="Images per update, over all devices. The learning rate is scaled in "
        "proportion, unless --learning-rate is given.",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        help="The highest learning rate. Default: that of the recipe.",
    ),
    click.option(
        "--set",
        "recipe_changes",
        type=Change(),
        multiple=True,
        help="Change a field of the recipe, as in --set mixup=0.2; may be given "
        "several times.",
    ),
    click.option(
        "--balance",
        is_flag=True,
        help="Weigh the loss of each class in inverse proportion to its images.",
    ),
    click.option(
        "--class-weight",
        "class_weights",
        metavar="NAME=W",
        type=ClassWeight(),
        multiple=True,
        help="Weight of a class in the loss, as in --class-weight cat=2; may be given "
        "several times. Default: 1.",
    ),
    size_option,
    click.option(
        "--validation-split",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.2,
        show_default=True,
        help="Share of the images to validate on, if DATA has no validation split.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
        default="float32",
        show_default=True,
        help="Keras dtype policy of the network.",
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Number of parts that each batch is split into, to need less memory.",
    ),
    click.option(
        "--steps-per-execution",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="As in Keras' compile; a larger number is faster for small networks.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Seed of the split, the random weights, the order and the augmentation.",
    ),
    click.option(
        "--deterministic",
        is_flag=True,
        help="Give exactly the same weights in each run; slower on a GPU.",
    ),
    click.option(
        "--checkpoint-every",
        "checkpoint_seconds",
        type=click.FloatRange(min=0),
        default=60,
        show_default=True,
        help="Seconds between two checkpoints; there is also one after each epoch.",
    ),
    max_pixels_option,
    click.option("--export", is_flag=True, help="Also write a SavedModel."),
    click.option(
        "--tensorboard",
        is_flag=True,
        help="Also write logs for TensorBoard, into RUN/tensorboard.",
    ),
)


def print_run(function, options):
    """Calls `train` or `finetune`, and prints the plan and the result.

    Args:
        function: `train` or `finetune`.
        options: Its arguments.
    """
    options["recipe_changes"] = dict(options["recipe_changes"])
    given = options.pop("class_weights")
    weights = dict(given)
    if len(weights) < len(given):
        raise click.UsageError("Give --class-weight once for each class.")
    if options.pop("balance"):
        if weights:
            raise click.UsageError("Give either --balance or --class-weight.")
        weights = "balanced"
    try:
        result = function(
            **options,
            class_weights=weights or None,
            on_start=print_plan,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except KeyboardInterrupt:
        click.echo(
            "Stopped; the same command with --resume continues the run.", err=True
        )
        raise click.exceptions.Exit(130) from None
    if result:  # of the first process
        print_evaluation(result.evaluation)
        print_files(result)


def print_plan(run):
    """Prints the data, the network and the phases of a run."""
    settings = run.settings
    names = run.training.class_names
    splits = [split.class_counts() for split in (run.training, run.validation)]
    skipped = f", {len(run.skipped)} skipped (skipped.csv)" * bool(run.skipped)
    click.echo(
        f"{len(names)} classes{', several an image' * run.training.is_multi_label}, "
        f"{counted(len(run.training), 'image')} to train on, "
        f"{len(run.validation)} to validate on{skipped}."
    )
    _print_balance(names, *splits, run.class_weights)
    size = run.preprocessing.size
    start = settings.weights.name if settings.weights else "random weights"
    click.echo(f"{settings.spec.name} from {start}, images of {size} x {size} pixels.")
    devices = run.devices
    if devices.replicas > 1:
        processes = "1 process"
        if devices.workers > 1:
            processes = f"{devices.workers} processes"
        click.echo(f"{devices.replicas} devices, in {processes}.")
    for number, phase in enumerate(settings.phases, 1):
        click.echo(f"Phase {number}: {_in_words(phase, len(settings.spec.depths))}.")


def _print_balance(names, training, validation, weights):
    columns = ["training", "validation"] + ["weight"] * (weights is not None)
    rows = table("class", *columns, "", right=columns)
    shown = range(len(names))
    if len(names) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        order = sorted(shown, key=lambda number: -training[number])
        shown = [*order[:half], None, *order[-half:]]
    for number in shown:
        if number is None:
            rows.add_row(f"... {len(names) - MOST_CLASSES} more")
            continue
        bar = "#" * max(round(BAR * training[number] / training.max()), 1)
        cells = [str(training[number]), str(validation[number])]
        if weights is not None:
            cells.append(f"{weights[number]:.3g}")
        rows.add_row(names[number], *cells, bar)
    print_table(rows)


def _in_words(phase, stages):
    recipe = phase.recipe
    last = f"conv{stages + 1}"
    if phase.frozen is None:
        trained = "trains all layers"
    elif phase.frozen == last:
        trained = "trains only the classifier"
    else:
        first = int(phase.frozen.removeprefix("conv")) + 1
        trained = f"trains the layers from conv{first} on"
    fall = "in steps" if recipe.milestones else "along a cosine"
    changes = [
        name
        for name, is_used in (
            (f"{recipe.crop.replace('_', ' ')} crops", recipe.crop != "center"),
            ("flips", recipe.flip),
            (f"augmentation {recipe.augment!r}", recipe.augment),
            (f"mixup {recipe.mixup}", recipe.mixup),
            (f"cutmix {recipe.cutmix}", recipe.cutmix),
            (f"random erase {recipe.random_erase}", recipe.random_erase),
        )
        if is_used
    ]
    size = f" of {recipe.train_size} x {recipe.train_size} pixels"
    return (
        f"{counted(recipe.epochs, 'epoch')} by the recipe {recipe.name}, batches of "
        f"{counted(recipe.batch_size, 'image')}{size if recipe.train_size else ''}, "
        f"{trained}; learning rate {recipe.learning_rate:.3g}, "
        f"which falls {fall}; {', '.join(changes) or 'no augmentation'}"
    )


def print_files(result):
    """Prints the main files of a run and their uses."""
    folder = click.format_filename(result.folder)
    quoted = shlex.quote(folder)
    uses = {
        "report.html": "learning curves, metrics of the classes, the worst predictions",
        "best.weights.h5": f"for `resnext-keras predict IMAGE --weights {quoted}`",
        "model.keras": "the same network as a Keras model",
        "saved_model": "the same network for TF Serving: image files in, names out",
        "tensorboard": f"for `tensorboard --logdir {quoted}`",
    }
    click.echo(f"In {folder}:")
    rows = table("file", "")
    rows.show_header = False
    for name, use in uses.items():
        if name in result.files:
            rows.add_row(name, use)
    print_table(rows)
