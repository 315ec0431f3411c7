"""Class names, and the decoding of predictions.

The table `data/imagenet_classes.csv` has one line for each class, in the order of a
network's outputs: WordNet id and name. `tests/golden/make_imagenet_classes.py` wrote
it, and gives its sources.
"""

import functools
import importlib.resources
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from resnext_keras.arguments import did_you_mean, positive_integer


@functools.cache
def _imagenet_classes() -> tuple[tuple[str, str], ...]:
    """WordNet id and name of each of the 1000 classes."""
    table = importlib.resources.files("resnext_keras") / "data/imagenet_classes.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split(",")) for line in lines)


THRESHOLD = 0.5
"""The sigmoid score from which an image has a class, if it may have several."""

TABLES = {
    "imagenet": lambda: tuple(name for _, name in _imagenet_classes()),
    "digits": lambda: tuple("0123456789"),
}


def class_names(table: str = "imagenet") -> tuple[str, ...]:
    """The class names of a data set, in the order of a network's outputs.

    Args:
        table: `"imagenet"`, the 1000 classes of ImageNet-1k, or `"digits"`,
            the ten handwritten digits.

    Returns:
        The names, without duplicates. Those of ImageNet have underscores for spaces,
        as in `"great_white_shark"`.

    Raises:
        ValueError: The table is unknown; the message lists the tables.

    Examples:
        >>> rk.class_names("imagenet")[281]
        'tabby'
    """
    if not isinstance(table, str) or table not in TABLES:
        raise ValueError(
            f"Expected `table` to be one of {sorted(TABLES)}."
            f"{did_you_mean(str(table), TABLES)} Received: table={table!r}"
        )
    return TABLES[table]()


def wordnet_ids() -> tuple[str, ...]:
    """WordNet ids of ImageNet-1k's classes, in the order of a network's outputs."""
    return tuple(wordnet_id for wordnet_id, _ in _imagenet_classes())


def class_spellings(names: Sequence[str]) -> dict[str, dict]:
    """The numbers of classes by their spellings, for `class_number`.

    There is a dict for each kind of spelling: `"names"`, `"numbers"` and, for the
    classes of ImageNet, `"WordNet ids"`.
    """
    kinds = {"names": names, "numbers": map(str, range(len(names)))}
    if tuple(names) == class_names("imagenet"):
        kinds["WordNet ids"] = wordnet_ids()
    spellings = {kind: {} for kind in kinds}
    for kind, spelled in kinds.items():
        for number, name in enumerate(spelled):
            for key in (name, ("plain", _plain(name))):
                spellings[kind].setdefault(key, []).append(number)
    return spellings


def class_number(name: str, kinds: Iterable[dict]) -> int | None:
    """The number of a class, or None if no class has this name.

    Args:
        name: Name of the class, in any case, with underscores or spaces.
        kinds: The values of `class_spellings` to search, in order.

    Raises:
        ValueError: Several classes have this name.
    """
    for numbers_of in kinds:
        # Exact names first: ImageNet has "Cardigan", a dog, and "cardigan", a garment.
        numbers = numbers_of.get(name) or numbers_of.get(("plain", _plain(name)), [])
        if len(numbers) > 1:
            raise ValueError(
                f"Expected the name of one class. Received: {name!r}, the name of the "
                f"classes {numbers} of the network; give their numbers or WordNet ids"
            )
        if numbers:
            return numbers[0]
    return None


def _plain(name: str) -> str:
    """`"great_white_shark"` for `"Great white shark, man-eater"`."""
    return "_".join(name.partition(",")[0].lower().split())


def decode_predictions(
    preds, top: int = 5, *, class_names: Sequence[str] | None = None
) -> list[list[tuple[str, str, float]]]:
    """Finds the classes with the highest scores, as keras.applications does.

    It needs no download: the class names are in the package.

    Args:
        preds: Scores, an array or tensor of shape (batch, classes):
            probabilities or logits, of any numeric dtype.
        top: Number of classes for each row, at least 1. A number above that of the
            classes gives all of them.
        class_names: Name of each column; or two names for a single column, the
            sigmoid scores, 0 to 1, of the second class. None for the 1000 classes of
            ImageNet-1k; `preds` must then have 1000 columns.

    Returns:
        For each row a list of tuples `(id, name, score)`, highest score first; of
        equal scores the lower column first. The id is the WordNet id, or with
        `class_names` the number of the class as a string.

    Raises:
        ValueError: The shape is not as described, `top` is not a positive
            integer, a score is NaN, or a score of a single column is outside 0 to 1.

    Examples:
        >>> scores = np.eye(1000)[[281]]
        >>> rk.decode_predictions(scores, top=1)
        [[('n02123045', 'tabby', 1.0)]]
    """
    top = positive_integer("top", top)
    if keras.backend.standardize_dtype(getattr(preds, "dtype", None)) == "bfloat16":
        preds = keras.ops.cast(preds, "float32")  # NumPy cannot sort bfloat16
    scores = np.asarray(keras.ops.convert_to_numpy(preds)).astype("float64")
    if scores.ndim != 2:
        raise ValueError(
            "Expected `preds` to have the shape (batch, classes). "
            f"Received: preds.shape={scores.shape}"
        )
    classes = _classes_of(class_names, columns=scores.shape[1])
    scores = scores_by_class(scores, classes)
    broken = np.flatnonzero(np.isnan(scores).any(axis=1))
    if broken.size:
        raise ValueError(
            "Expected `preds` without NaN. "
            f"Received: NaN in {broken.size} of {len(scores)} rows, "
            f"the first is preds[{broken[0]}]"
        )
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(*classes[column], float(row[column])) for column in columns]
        for row, columns in zip(scores, order, strict=True)
    ]


def _classes_of(names, columns) -> Sequence[tuple[str, str]]:
    """Id and name of each class, or a `ValueError` if their number differs."""
    if names is None:
        classes = _imagenet_classes()
        if columns != len(classes):
            raise ValueError(
                f"Expected `preds` to have {len(classes)} columns, the classes of "
                "ImageNet-1k; for other classes pass `class_names`. "
                f"Received: {columns} columns"
            )
        return classes
    names = checked_names(names, columns)
    return [(str(number), name) for number, name in enumerate(names)]


def scores_by_class(scores: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """The scores of both classes, if a single column has those of the second one.

    Args:
        scores: (batch, classes); or (batch, 1), 0 to 1, for two classes.
        class_names: One item for each class.

    Returns:
        (batch, classes).

    Raises:
        ValueError: A score of a single column is outside 0 to 1.
    """
    if scores.shape[1] != 1 or len(class_names) != 2:
        return scores
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        raise ValueError(
            "Expected scores from 0 to 1, as a sigmoid gives them, in the single "
            f"column of two classes. Received: {scores.min():.4g} to {scores.max():.4g}"
        )
    return np.hstack([1 - scores, scores])


def checked_names(names: Sequence[str], classes: int) -> tuple[str, ...]:
    """The names of all classes, or a `ValueError`; two for a single output."""
    if (
        isinstance(names, str)
        or not isinstance(names, (Sequence, np.ndarray))
        or not all(isinstance(name, str) for name in names)
    ):
        raise ValueError(
            "Expected `class_names` to be a sequence of strings. "
            f"Received: class_names={names!r}"
        )
    if len(names) != classes and (len(names), classes) != (2, 1):
        raise ValueError(
            f"Expected `class_names` to name each of the {classes} classes. "
            f"Received: {len(names)} names"
        )
    return tuple(map(str, names))
