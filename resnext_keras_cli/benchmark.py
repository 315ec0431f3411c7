"""`resnext-keras benchmark`: this package beside its peers, on this machine."""

import json
import shlex

import click

from resnext_keras_cli.names import find_model
from resnext_keras_cli.options import checked_file, size_option
from resnext_keras_cli.start import quiet_start

FILE = click.Path(dir_okay=False)

WORDS = ("contender", "failed")  # the columns that are no numbers


class SeveralValues(click.Command):
    """Takes `--batch 1 8` for `--batch 1 --batch 8`, of options that may be repeated.

    What was typed is kept, to be told beside the numbers.
    """

    def parse_args(self, ctx, args):
        ctx.meta["command"] = shlex.join([*ctx.command_path.split(), *args])
        repeated = {
            name
            for option in self.params
            if isinstance(option, click.Option) and option.multiple
            for name in option.opts
        }
        spread, option, values = [], None, 0
        for arg in args:
            if arg in repeated:
                option, values = arg, 0
            elif arg.startswith("-") and values:
                option = None
            elif option is not None:
                spread += [option] * (values > 0)
                values += 1
            spread.append(arg)
        return super().parse_args(ctx, spread)


@click.command(cls=SeveralValues)
@click.argument("model", default="resnext50_32x4d")
@click.option(
    "--peers",
    multiple=True,
    default=("all",),
    metavar="all|none|NAME...",
    help="What to compare with: all that is installed, nothing, or some of torch, "
    "torch-channels-last, torch-compile, torch-onnxruntime, torch-openvino, keras, "
    "keras-applications.",
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(min=1),
    default=(8,),
    metavar="N...",
    help="Numbers of images at once. Without it: 8.",
)
@size_option
@click.option("--train", is_flag=True, help="Time training steps too.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How often each contender has its turn, in a process of its own.",
)
@click.option(
    "--calls",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Calls that each process counts: more in 2 seconds, fewer in 10.",
)
@click.option("--plot", type=FILE, help="The .png file to draw the times into.")
@click.option("--json", type=FILE, help="The .json file for every single time.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.pass_context
def benchmark(ctx, model, peers, batches, size, train, rounds, calls, **files):
    """Time MODEL on this machine, side by side with its peers.

    MODEL is a name that `resnext-keras list` prints; without it ResNeXt-50. All
    contenders compute in float32, with the same images and as many threads, in
    turn. The tables that are printed are Markdown.
    """
    with quiet_start():
        from resnext_keras.benchmark.contenders import choose
        from resnext_keras.benchmark.machine import device
        from resnext_keras.benchmark.report import make_report
        from resnext_keras.benchmark.rounds import Settings, measure, schedule
        from resnext_keras.io import atomic_write
        from resnext_keras.models.specs import get_spec

    spec, where = get_spec(find_model(model)), device()
    tasks = ("predict", "train") if train else ("predict",)
    contenders, left_out = choose(_known(peers), tasks, spec.name, where)
    draw = _plot_function() if files["plot"] else None
    plot, times = _checked(**files)
    for label, reason in left_out.items():
        click.echo(f"Left out: {label}, which {reason}", err=True)
    settings = Settings(spec, size or spec.image_size, where, calls)
    runs = schedule(contenders, tasks, dict.fromkeys(batches), rounds)
    series = measure(_with_progress(runs), settings)
    report = make_report(series, settings, rounds, ctx.meta["command"])
    if times:
        with atomic_write(times) as path:
            path.write_text(json.dumps(report.as_json, indent=1) + "\n")
    if plot:
        with atomic_write(plot) as path:
            draw(report, path)
    _print(report)


def _known(peers):
    """The peers that are named, checked."""
    from resnext_keras.benchmark.contenders import PEERS

    if peers in (("all",), ("none",)):
        return PEERS if peers == ("all",) else ()
    for name in peers:
        if name not in PEERS:
            raise click.ClickException(
                f"No peer {name!r}. --peers takes all, none, or some of "
                f"{', '.join(PEERS)}; MODEL comes before it."
            )
    return peers


def _plot_function():
    from resnext_keras.benchmark.plot import load_matplotlib, plot

    try:
        load_matplotlib()
    except ImportError as error:
        raise click.ClickException(f"--plot: {error}") from error
    return plot


def _checked(plot, json, overwrite):
    """The files to be written, None for those that were not asked for."""
    return (
        plot and checked_file(plot, ".png", overwrite),
        json and checked_file(json, ".json", overwrite),
    )


def _with_progress(runs):
    """The runs, each told while it lasts: on a bar, or a line where none can be."""
    from tqdm import tqdm

    with tqdm(total=len(runs), unit=" processes", disable=None, leave=False) as bar:
        for number, run in enumerate(runs, 1):
            told = f"{run.contender.label}, {run.task} {run.batch}"
            if bar.disable:
                click.echo(f"{number} of {len(runs)}: {told}", err=True)
            bar.set_description(told)
            yield run
            bar.update()


def _print(report):
    """Prints Markdown: what the numbers depend on, and a table a panel."""
    facts, machine = report.facts, report.facts["machine"]
    size, rounds = facts["size"], facts["rounds"]
    memory = f", {machine['memory'] / 2**30:.0f} GB" if machine["memory"] else ""
    vectors = f" with {machine['vectors']}" if machine["vectors"] else ""
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    click.echo(
        f"{facts['model']}, {size} x {size} pixels, float32, {facts['threads']} "
        f"threads on {machine['processors']} processors of {machine['processor']}"
        f"{vectors}{memory}, {rounds} round{'s' * (rounds > 1)}, {facts['date']}, "
        f"`{facts['command']}`: {versions}.\n"
    )
    panels = report.panels
    for panel in panels:
        click.echo(f"{panel.title}:")
        _print_panel(panel)  # Its Markdown has an empty line above and below.
    has_ratio = any(row.ratio for panel in panels for row in panel.rows)
    click.echo(
        "Median and middle half of all calls; "
        f"{'the ratio is to the best of PyTorch; ' * has_ratio}"
        "the first call comes with building, and is the longest of all rounds. The "
        f"floor is what the {2 * facts['multiply_adds'] / 1e9:.2f} GFLOP of an image "
        "take at the rate of large matrix products, three times for a training step."
    )


def _print_panel(panel):
    from rich import box

    from resnext_keras_cli.tables import print_table, table

    lines = [_cells(row) for row in panel.rows]
    columns = [c for c in lines[0] if any(line[c] for line in lines)]
    rows = table(*columns, right=tuple(c for c in columns if c not in WORDS))
    rows.box, rows.padding = box.MARKDOWN, (0, 1)
    for line in lines:
        rows.add_row(*(line[column] for column in columns))
    print_table(rows)


def _cells(row):
    """The cells of a row by their heading, empty where nothing is known."""
    from resnext_keras.benchmark.report import in_seconds

    return {
        "contender": row.label,
        "median": in_seconds(row.median) if row.median else "",
        "middle half": in_seconds(row.low, row.high) if row.low else "",
        "ratio": f"{row.ratio:.2f}" if row.ratio else "",
        "images/s": f"{row.images:.1f}" if row.images else "",
        "memory": f"{row.memory / 2**30:.2f} GB" if row.memory else "",
        "first call": in_seconds(row.first) if row.first else "",
        "failed": row.reason,
    }
