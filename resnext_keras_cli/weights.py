"""`resnext-keras weights`: published weight sets, and files of weights."""

import dataclasses
import json

import click

from resnext_keras_cli.names import find_model, find_set
from resnext_keras_cli.options import check_new
from resnext_keras_cli.start import quiet_start


@click.group()
def weights():
    """List, fetch, verify and convert weights."""


@weights.command("list")
@click.option("--model", metavar="NAME", help="Only those of this architecture.")
@click.option(
    "--permissive", is_flag=True, help="Only those that allow commercial use."
)
@click.option("--local", is_flag=True, help="Only those that are on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")
def list_(model, permissive, local, as_json):
    """Print the weight sets; an asterisk marks what "imagenet" stands for.

    The accuracies are those published for images of the size beside them, in
    pixels; `weights show` has them for other sizes too.
    """
    with quiet_start():
        from resnext_keras.weights.download import local_path
        from resnext_keras.weights.lookup import default_set, list_weights
        from resnext_keras.weights.registry import WEIGHT_SETS
    from resnext_keras_cli.tables import print_table, table

    sets = [
        weight_set
        for weight_set in map(WEIGHT_SETS.get, list_weights(find_model(model)))
        if not (permissive and weight_set.non_commercial)
        and not (local and local_path(weight_set) is None)
    ]
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
            weight_set.name
            + (" *" if weight_set is default_set(weight_set.architecture) else ""),
            _percent(best.top1),
            str(best.preprocessing.size),
            str(weight_set.classes or "none"),
            weight_set.licence,
        )
    print_table(rows)
    for weight_set in sets:
        if weight_set.note:
            click.echo(f"\n{weight_set.name}: {weight_set.note}")


@weights.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")
def show(name, as_json):
    """Print what is known of the weight set NAME."""
    with quiet_start():
        from resnext_keras.models.specs import get_spec
        from resnext_keras.models.variables import (
            count_parameters,
            variable_shapes,
        )
        from resnext_keras.weights.download import local_path

    found = find_set(name)
    if as_json:
        click.echo(json.dumps(_as_dict(found), indent=2))
        return
    shapes = variable_shapes(get_spec(found.architecture), classes=found.classes)
    names = ", ".join((found.tag, *found.aliases))
    lines = [
        ("name", found.name),
        ("architecture", found.architecture),
        ("short names", f"{names} (where the architecture is given)"),
        ("parameters", f"{count_parameters(shapes):,}"),
        ("classes", str(found.classes or "none: a file without classifier")),
        ("licence", found.licence),
        ("source", found.source),
        ("note", found.note),
        ("URL", found.url or "ships with the package"),
        ("hash", found.hash or "none published"),
        ("format", found.format),
        ("file", str(local_path(found) or "not on this machine yet")),
        ("mean, deviation", f"{found.mean}, {found.std}"),
        ("batch-norm epsilon", f"{found.bn_epsilon:g}"),
    ]
    for evaluation in found.evaluations:
        read = evaluation.preprocessing
        told = [f"short side {read.resize}", read.interpolation]
        for label, share in (("top-1", evaluation.top1), ("top-5", evaluation.top5)):
            if share is not None:
                told.append(f"{label} {_percent(share)}")
        source = f" ({evaluation.source})" if evaluation.source else ""
        lines.append((f"at {read.size} pixels", ", ".join(told) + source))
    for label, value in lines:
        if value:
            click.echo(f"{label + ':':20}{value}")


@weights.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def fetch(names):
    """Download weight sets into the cache, and print where they lie.

    RESNEXT_KERAS_HOME names the folder of the cache, RESNEXT_KERAS_MIRROR the URL
    of a folder that has the files instead; RESNEXT_KERAS_OFFLINE=1 forbids
    downloads.
    """
    with quiet_start():
        from resnext_keras.weights.download import fetch as fetch_set

    for weight_set in [find_set(name) for name in names]:
        click.echo(fetch_set(weight_set))


@weights.command()
@click.argument("names", nargs=-1, metavar="NAME|FILE...")
@click.option("--all", "every", is_flag=True, help="All published weight sets.")
@click.option(
    "--model",
    metavar="NAME",
    help="Architecture of files. Without it: what their names and shapes tell.",
)
def verify(names, every, model):
    """Check weight sets or files, and try them on a bundled photo.

    A set is fetched where it is missing, and its hash is checked; of any file
    every name and shape, and that all numbers are finite. Where torchvision or timm
    is installed, the logits are compared with those of its network on the same file.
    The exit code is 1 if one fails.
    """
    if bool(names) == every:
        raise click.UsageError("Expected names of weight sets or files, or --all.")
    with quiet_start():
        from resnext_keras.weights.lookup import list_weights
        from resnext_keras.weights.verify import verify_weights

    failed = 0
    names = names or list_weights()
    for name in names:
        try:
            verified = verify_weights(name, model)
        except Exception as error:  # whatever it is, the others come next
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            click.echo(f"FAILED  {name}: {kind}{error}")
            failed += 1
            continue
        failed += not verified.passed
        click.echo(_verdict(verified))
    click.echo(f"{len(names) - failed} of {len(names)} right.")
    if failed:
        raise click.exceptions.Exit(1)


@weights.command()
@click.argument("source", metavar="NAME|FILE")
@click.argument("target", type=click.Path(dir_okay=False))
@click.option(
    "--model",
    metavar="NAME",
    help="Architecture. Without it: what the names and shapes in the file tell.",
)
@click.option("--overwrite", is_flag=True, help="Replace a TARGET that exists.")
def convert(source, target, model, overwrite):
    """Write weights into TARGET, in the format that its name ends in.

    .weights.h5 is Keras', and .safetensors torch's: torchvision's and timm's
    load_state_dict take it.
    """
    with quiet_start():
        from resnext_keras.weights.convert import convert_weights

    check_new(target, overwrite)
    spec = convert_weights(source, target, find_model(model), overwrite)
    click.echo(f"{target}: {spec.name}")


def _verdict(verified) -> str:
    """What a verification found, in a line."""
    text = "right " if verified.passed else "FAILED"
    text += f"  {verified.name}: {verified.parameters:,} parameters"
    if verified.top1:
        text += f", sees {verified.top1}"
    if verified.difference is None:
        return f"{text}; no torch library to compare with: {verified.reference}"
    return (
        f"{text}; logits differ by {verified.difference:.1e} from {verified.reference}"
    )


def _as_dict(weight_set) -> dict:
    return {"name": weight_set.name} | dataclasses.asdict(weight_set)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
