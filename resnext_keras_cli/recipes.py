"""`resnext-keras recipes`: the training recipes, field by field."""

import dataclasses
import json

import click

from resnext_keras_cli.options import examples
from resnext_keras_cli.start import quiet_start
from resnext_keras_cli.tables import print_table, table


@click.command(
    epilog=examples(
        "recipes",
        "recipes torchvision2",
        "recipes --json",
    )
)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")
def recipes(name, as_json):
    """Print the training recipes, or all fields of the recipe NAME.

    `resnext-keras train --recipe NAME` trains by a recipe, and --set FIELD=VALUE of
    `train` and `finetune` changes a field.
    """
    with quiet_start():
        from resnext_keras.training.recipes import (
            field_meanings,
            get_recipe,
            list_recipes,
        )

    if as_json:
        recipes = [get_recipe(name)] if name else list_recipes()
        content = [dataclasses.asdict(recipe) for recipe in recipes]
        click.echo(json.dumps(content[0] if name else content, indent=2))
        return
    if name:
        values, meanings = dataclasses.asdict(get_recipe(name)), field_meanings()
        rows = table("field", "value", "meaning")
        click.echo(f"{values.pop('name')}: {values.pop('source')}")
        for field, value in values.items():
            rows.add_row(field, _as_typed(value), meanings[field])
    else:
        numbers = ("epochs", "batch size", "learning rate")
        rows = table("recipe", *numbers, "source", right=numbers)
        for recipe in list_recipes():
            figures = (recipe.epochs, recipe.batch_size, recipe.learning_rate)
            rows.add_row(recipe.name, *map(str, figures), recipe.source)
    print_table(rows, wrap=True)


def _as_typed(value) -> str:
    """A value as --set takes it, rounded."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_as_typed, value))})"
    return f"{value:.3g}" if isinstance(value, float) else repr(value)
