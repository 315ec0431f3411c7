"""`resnext-keras list`: the architectures and the weight sets."""

import click

from resnext_keras_cli.options import examples
from resnext_keras_cli.start import quiet_start
from resnext_keras_cli.tables import print_table, table


@click.command(
    "list",
    epilog=examples(
        "list",
        "weights list --model resnext50_32x4d",
    ),
)
def list_():
    """Print the architectures and their weight sets."""
    with quiet_start():
        from resnext_keras.models.specs import ARCHITECTURES
        from resnext_keras.models.variables import count_parameters, variable_shapes
        from resnext_keras.weights.registry import sets_of

    numbers = ("size", "classes", "parameters")
    rows = table("model", *numbers, "weight sets", right=numbers)
    for spec in ARCHITECTURES.values():
        shapes = variable_shapes(spec, classes=spec.classes)
        sets = [weight_set.tag for weight_set in sets_of(spec.name)]
        rows.add_row(
            spec.name,
            str(spec.image_size),
            str(spec.classes),
            f"{count_parameters(shapes):,}",
            ", ".join(sets),
        )
    print_table(rows, wrap=True)
