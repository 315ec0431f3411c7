"""`resnext-keras summary`: shapes, parameters and multiply-adds of a network."""

import click

from resnext_keras_cli.options import examples, size_option
from resnext_keras_cli.start import quiet_start
from resnext_keras_cli.tables import print_table, table


@click.command(
    epilog=examples(
        "summary resnext50_32x4d",
        "summary ResNeXt101 --size 320 --classes 5",
    )
)
@click.argument("model")
@size_option
@click.option(
    "--classes",
    type=click.IntRange(min=1),
    help="Number of classes. Default: that of the network's data set.",
)
def summary(model, size, classes):
    """Print shapes, parameters and multiply-adds of MODEL by stage.

    MODEL is a name from `resnext-keras list`.
    """
    with quiet_start():
        import resnext_keras as rk
        from resnext_keras.models.data_format import image_shape
        from resnext_keras.models.specs import get_spec

    spec = get_spec(model)
    size, classes = size or spec.image_size, classes or spec.classes
    network = rk.ResNeXt(
        spec, weights=None, input_shape=image_shape(size, size), classes=classes
    )
    numbers = ("parameters", "multiply-adds")
    rows = table(
        "stage",
        "output",
        *numbers,
        right=numbers,
        title=f"{spec.name}, {size} x {size} pixels, {classes} classes",
    )
    costs = rk.stage_costs(network)
    for cost in costs:
        shape = " x ".join(map(str, cost.output_shape))
        rows.add_row(
            cost.stage, shape, f"{cost.parameters:,}", f"{cost.multiply_adds:,}"
        )
    rows.add_row(
        "all",
        "",
        f"{network.count_params():,}",
        f"{sum(cost.multiply_adds for cost in costs):,}",
    )
    print_table(rows)
