"""`resnext-keras weights`: published weight sets, and files of weights."""

import dataclasses
import json

import click

from resnext_keras_cli.messages import in_one_line
from resnext_keras_cli.options import architecture_option, examples
from resnext_keras_cli.start import quiet_start


@click.group(
    epilog=examples(
        "weights list",
        "weights show resnext50_32x4d.tv2_in1k",
    )
)
def weights():
    """List, fetch, verify and convert weights."""


@weights.command(
    "list",
    epilog=examples(
        "weights list --permissive",
        "weights list --model ResNeXt50 --json",
    ),
)
@click.option("--model", metavar="NAME", help="Only the sets of this architecture.")
@click.option(
    "--permissive", is_flag=True, help="Only the sets that allow commercial use."
)
@click.option("--local", is_flag=True, help="Only the sets that are on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")
def list_(model, permissive, local, as_json):
    """Print the weight sets; * marks the default of an architecture.

    The top-1 accuracy was published for images of the size in the column "at", in
    pixels; `weights show` prints the accuracy for other sizes too.
    """
    with quiet_start():
        import resnext_keras as rk
    from resnext_keras_cli.tables import print_table, table

    names = rk.list_weights(model, permissive=permissive, local=local)
    sets = [rk.weights_info(name) for name in names]
    if as_json:
        click.echo(json.dumps([_as_dict(s) for s in sets], indent=2))
        return
    if not sets:
        click.echo("No weight set matches.", err=True)
        return
    numbers = ("top-1", "at", "classes")
    rows = table("name", *numbers, "licence", right=numbers)
    for weight_set in sets:
        best = weight_set.best
        rows.add_row(
            weight_set.name + " *" * weight_set.is_default,
            _percent(best.top1),
            str(best.preprocessing.size),
            str(weight_set.classes or "none"),
            weight_set.licence,
        )
    print_table(rows)
    for weight_set in sets:
        if weight_set.note:
            click.echo(f"\n{weight_set.name}: {weight_set.note}")


@weights.command(
    epilog=examples(
        "weights show digits",
        "weights show resnext50_32x4d.a1_in1k --json",
    )
)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")
def show(name, as_json):
    """Print all about the weight set NAME."""
    with quiet_start():
        from resnext_keras import weights_info

    weight_set = weights_info(name)
    if as_json:
        click.echo(json.dumps(_as_dict(weight_set), indent=2))
        return
    names = ", ".join((weight_set.tag, *weight_set.aliases))
    lines = [
        ("name", weight_set.name),
        ("architecture", weight_set.architecture),
        ("short names", f"{names} (where the architecture is given)"),
        ("parameters", f"{weight_set.parameters:,}"),
        ("classes", str(weight_set.classes or "none: a file without classifier")),
        ("licence", weight_set.licence),
        ("source", weight_set.source),
        ("note", weight_set.note),
        ("URL", weight_set.url or "ships with the package"),
        ("hash", weight_set.hash or "none published"),
        ("format", weight_set.format),
        ("file", str(weight_set.path or "not on this machine yet")),
    ]
    for evaluation in weight_set.evaluations:
        read = evaluation.preprocessing
        facts = [f"short side {read.resize}", read.interpolation]
        for label, accuracy in (("top-1", evaluation.top1), ("top-5", evaluation.top5)):
            if accuracy is not None:
                facts.append(f"{label} {_percent(accuracy)}")
        source = f" ({evaluation.source})" if evaluation.source else ""
        lines.append((f"at {read.size} pixels", ", ".join(facts) + source))
    for label, value in lines:
        if value:
            click.echo(f"{label + ':':20}{value}")


@weights.command(
    epilog=examples(
        "weights fetch resnext50_32x4d.tv2_in1k",
        "weights fetch resnext50_32x4d resnext101_32x8d",
    )
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def fetch(names):
    """Download weights into the cache, and print the paths of their files.

    NAME is a name from `resnext-keras weights list`, or hf://OWNER/NAME.

    RESNEXT_KERAS_HOME is the folder of the cache. RESNEXT_KERAS_MIRROR is the URL of a
    folder with the files, which is used instead of the publishers' servers.
    RESNEXT_KERAS_OFFLINE=1 forbids downloads.
    """
    with quiet_start():
        from resnext_keras import fetch_weights

    for path in fetch_weights(names):
        click.echo(click.format_filename(path))


@weights.command(
    epilog=examples(
        "weights verify digits",
        "weights verify mine.pth --model resnext50_32x4d",
        "weights verify --all",
    )
)
@click.argument("names", nargs=-1, metavar="NAME|FILE...")
@click.option("--all", "every", is_flag=True, help="All published weight sets.")
@click.option(
    "--model",
    metavar="NAME",
    help="Architecture of files. Default: identified by their tensors.",
)
def verify(names, every, model):
    """Check weight sets or files, and try them on a photo of a cat.

    A set is downloaded if it is missing, and its hash is checked. In any file all names
    and shapes are checked, and that all numbers are finite. The exit code is 1 if a
    check fails.
    """
    if bool(names) == every:
        raise click.UsageError("Expected names of weight sets or files, or --all.")
    with quiet_start():
        from resnext_keras import list_weights, verify_weights

    failed = 0
    names = names or list_weights()
    for name in names:
        try:
            verified = verify_weights(name, model)
        except Exception as error:  # continue with the others
            click.echo(f"FAILED  {name}: {in_one_line(error)}")
            failed += 1
            continue
        photo = f", photo: {verified.top1}" if verified.top1 else ""
        parameters = f"{verified.parameters:,} parameters"
        click.echo(f"ok      {verified.checkpoint.name}: {parameters}{photo}")
    click.echo(f"{len(names) - failed} of {len(names)} passed.")
    if failed:
        raise click.exceptions.Exit(1)


@weights.command(
    epilog=examples(
        "weights convert digits digits.safetensors",
        "weights convert mine.pth mine.weights.h5 --model resnext50_32x4d",
        "weights convert flowers-run/ flowers-timm --to timm",
    )
)
@click.argument("source", metavar="NAME|FILE|FOLDER")
@click.argument("target", type=click.Path())
@click.option(
    "--to",
    type=click.Choice(["timm"]),
    help="Write a folder that timm and transformers load, with a model card for the "
    "Hugging Face hub.",
)
@architecture_option
@click.option("--overwrite", is_flag=True, help="Replace a TARGET that exists.")
def convert(source, target, **options):
    """Write weights into TARGET, in the format of its suffix.

    .weights.h5 is for Keras, .safetensors for load_state_dict of torchvision and
    timm models. With --to timm, TARGET is a folder.
    """
    with quiet_start():
        from resnext_keras import convert_weights

    spec = convert_weights(source, target, **options)
    click.echo(f"{target}: {spec.name}")


def _as_dict(weight_set) -> dict:
    return {"name": weight_set.name} | dataclasses.asdict(weight_set)


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2%}"
