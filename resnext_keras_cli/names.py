"""What the names that a user types stand for; errors speak of commands and options."""

import difflib
from pathlib import Path

import click

DIGITS_ONLY = (
    "The bundled network sees handwritten digits in all images; "
    "for photos pass --model resnext50_32x4d."
)


def find_model(name: str | None) -> str | None:
    """An architecture's name, or None for None.

    Args:
        name: What was typed, if anything was.

    Returns:
        The same.

    Raises:
        click.ClickException: There is no such architecture.
    """
    from resnext_keras.models.specs import ARCHITECTURES

    if name is None or name in ARCHITECTURES:
        return name
    near = difflib.get_close_matches(name.lower(), ARCHITECTURES)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise click.ClickException(
        f"No model {name!r}.{hint} `resnext-keras list` prints the names."
    )


def find_weights(name: str, model: str | None = None):
    """The weight set or the file that a name stands for.

    Args:
        name: What was typed.
        model: Name of the architecture that it has to fit, if one was given.

    Returns:
        What the library's `find_weights` gives.

    Raises:
        click.ClickException: It is neither a set nor a file, or does not fit.
    """
    from resnext_keras.weights import lookup
    from resnext_keras.weights.tensors import WeightsError

    try:
        return lookup.find_weights(name, model)
    except WeightsError as error:
        # The argument of a Python function, and after it how Python lists names.
        told, _, received = str(error).partition(" Received: weights=")
        hint = " `resnext-keras weights list` prints the names." * (";" in received)
    raise click.ClickException(f"{name}: {told}{hint}")


def find_choice(model: str | None, weights: str | None):
    """What the options --model and --weights stand for together.

    Args:
        model: Name of an architecture, if one was typed.
        weights: Name of a weight set or a file, if one was typed.

    Returns:
        The first two arguments of `load_classifier`.

    Raises:
        click.ClickException: One of them is unknown, or they do not fit.
    """
    from resnext_keras.weights.registry import WeightSet

    model = find_model(model)
    if weights is not None:
        found = find_weights(weights, model)
        return model, found.name if isinstance(found, WeightSet) else found
    if model is None:
        click.echo(DIGITS_ONLY, err=True)
    return model, None


def find_set(name: str):
    """The weight set of a name.

    Args:
        name: What was typed.

    Returns:
        The `WeightSet`.

    Raises:
        click.ClickException: There is no such set.
    """
    from resnext_keras.weights.registry import WeightSet

    found = find_weights(name)
    if not isinstance(found, WeightSet):
        raise click.ClickException(
            f"{name} is a file. Expected the name of a weight set, which "
            "`resnext-keras weights list` prints."
        )
    return found


def find_network(name: str):
    """The network with trained weights that a name stands for.

    Args:
        name: What was typed: an architecture, a weight set or a file of weights.

    Returns:
        What an output is named after, and the arguments of `load_classifier`.

    Raises:
        click.ClickException: It is none of them.
    """
    from resnext_keras.models.specs import ARCHITECTURES
    from resnext_keras.weights.registry import WeightSet

    if name in ARCHITECTURES:
        return name, {"spec_or_name": name}
    try:
        found = find_weights(name)
    except click.ClickException:
        if difflib.get_close_matches(name.lower(), ARCHITECTURES):
            find_model(name)  # which says what is near
        raise
    if isinstance(found, WeightSet):
        return found.name, {"weights": found.name}
    return name_of_file(found), {"weights": found}


def name_of_file(path: Path) -> str:
    """What an output is named after that comes of a file of weights: it, or its run."""
    from resnext_keras.weights.runs import trained

    name = path.absolute().parent.name if trained(path) else path.name
    return name.split(".")[0]
