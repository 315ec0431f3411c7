"""What the names that a user types refer to."""

import difflib
from collections.abc import Sequence

import click


def find_class(name: str, class_names: Sequence[str]) -> int:
    """The number of a class.

    Args:
        name: What was typed: its name, in any case and with blanks for underscores
            too, or its number.
        class_names: The names of all classes.

    Raises:
        click.ClickException: There is no such class.
    """
    if name in class_names:
        return class_names.index(name)
    names = {_plain(known): number for number, known in enumerate(class_names)}
    wanted = _plain(name)
    if wanted in names:
        return names[wanted]
    count = len(class_names)
    if name.isdecimal() and int(name) < count:
        return int(name)
    near = difflib.get_close_matches(wanted, names)
    near += [known for known in names if wanted in known and known not in near]
    near = [class_names[names[known]] for known in near[:5]]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise click.ClickException(
        f"No class {name!r}.{hint} Expected a name, or a number from 0 to {count - 1}."
    )


def _plain(name: str) -> str:
    return "_".join(name.lower().split())


def find_model(name):  # until callers resolve once
    """The name of an architecture, checked."""
    from resnext_keras.models.specs import get_spec

    return None if name is None else get_spec(name).name


def find_weights(name, model=None):  # until callers resolve once
    """The weight set or the file of a name."""
    from resnext_keras.weights.lookup import find_weights

    return find_weights(name, model)


def find_choice(model, weights):  # until callers resolve once
    """The first two arguments of `load_classifier`."""
    from resnext_keras.weights.checkpoint import resolve

    return None, resolve(weights, model)


def find_network(name):  # until callers resolve once
    """What an output is named after, and the arguments of `load_classifier`."""
    from resnext_keras.arguments import did_you_mean
    from resnext_keras.models.specs import ARCHITECTURES
    from resnext_keras.weights.checkpoint import resolve

    if name in ARCHITECTURES:
        return name, {"weights": resolve(None, name)}
    try:
        checkpoint = resolve(name)
    except ValueError:
        if did_you_mean(name, ARCHITECTURES):
            find_model(name)  # raises with what is near
        raise
    return checkpoint.short_name, {"weights": checkpoint}
