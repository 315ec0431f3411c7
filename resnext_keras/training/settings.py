"""The settings of a training run, all that is needed to repeat it."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from resnext_keras.arguments import positive_integer
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.models.specs import MIN_IMAGE_SIZE, ResNeXtSpec
from resnext_keras.training.losses import ClassWeights
from resnext_keras.training.recipes import (
    FINETUNE_HEAD,
    FINETUNE_STAGES,
    Recipe,
    adjusted,
    field_meanings,
)
from resnext_keras.weights.checkpoint import Checkpoint

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Phase:
    """A part of a run that trains with one recipe.

    Attributes:
        recipe: The recipe.
        frozen: The last frozen stage, from `"conv1"` to the last, which leaves only the
            classifier to train; None to train all layers.
    """

    recipe: Recipe
    frozen: str | None = None


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    On the same data, devices and versions they give the same weights, exactly if
    `deterministic` is True.

    Attributes:
        data: Path of the data set.
        spec: The architecture.
        weights: The checkpoint to start from; None for random weights.
        phases: The phases, one after the other.

    The others are arguments of `train`.

    Raises:
        ValueError: A value is outside its range.
    """

    data: str
    spec: ResNeXtSpec
    weights: Checkpoint | None
    phases: tuple[Phase, ...]
    size: int | None = None
    validation_split: float = 0.2
    seed: int = 0
    precision: str = "float32"
    accumulate: int = 1
    steps_per_execution: int = 1
    deterministic: bool = False
    class_weights: ClassWeights = None
    patience: int = 0

    def __post_init__(self):
        for field in ("accumulate", "steps_per_execution"):
            positive_integer(field, getattr(self, field))
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"Expected `precision` to be one of {', '.join(PRECISIONS)}. "
                f"Received: precision={self.precision!r}"
            )
        if not 0 < self.validation_split < 1:
            raise ValueError(
                "Expected `validation_split` to be between 0 and 1. "
                f"Received: validation_split={self.validation_split!r}"
            )
        if not (isinstance(self.patience, int) and self.patience >= 0):
            raise ValueError(
                "Expected `patience` to be a number of epochs, or 0 for no early "
                f"stopping. Received: patience={self.patience!r}"
            )
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**32):
            raise ValueError(
                "Expected `seed` to be an integer from 0 to 2**32 - 1. "
                f"Received: seed={self.seed!r}"
            )
        sizes = [("train_size", phase.recipe.train_size) for phase in self.phases]
        for field, size in [("size", self.size), *sizes]:
            if size is not None and positive_integer(field, size) < MIN_IMAGE_SIZE:
                raise ValueError(
                    f"Expected `{field}` to be at least {MIN_IMAGE_SIZE} pixels. "
                    f"Received: {field}={size!r}"
                )
        for phase in self.phases:
            if phase.recipe.batch_size % self.accumulate:
                raise ValueError(
                    "Expected `accumulate` to divide the batch of "
                    f"{phase.recipe.batch_size} images. "
                    f"Received: accumulate={self.accumulate!r}"
                )

    def as_dict(self) -> dict:
        """The settings as JSON holds them."""
        settings = dataclasses.asdict(dataclasses.replace(self, weights=None))
        if self.weights is not None:
            settings["weights"] = self.weights.absolute_name
        return settings

    def step_size(self, phase: Phase) -> int:
        """Number of images of a step."""
        return phase.recipe.batch_size // self.accumulate


def settings_tables(content: dict, train: Callable) -> list[dict]:
    """The settings of a run as tables for its report, with what each of them means.

    Args:
        content: The content of `run.json`.
        train: The function whose docstring explains them.

    Returns:
        The `heading` of each table, its `columns` and, as text, the cells of its
        `rows`: name, values and meaning.
    """
    settings = dict(content["settings"])
    for name in ("outputs", "activation", "backend"):
        settings[name] = content[name]
    phases, spec = settings.pop("phases"), settings.pop("spec")
    recipes = [phase["recipe"] | {"frozen": phase["frozen"]} for phase in phases]
    if extensions := content.get("extensions"):
        texts = ("to {epochs} epochs, after {after}".format(**e) for e in extensions)
        settings["extended"] = ", then ".join(texts)
    heads = [f"phase {number}" for number in range(1, len(recipes) + 1)]
    one = ["value"]
    of_recipe = field_meanings(Recipe) | field_meanings(Phase)
    reading = content["preprocessing"]
    tables = (
        ("Run", one, [settings], field_meanings(train)),
        ("Recipe", heads if len(heads) > 1 else one, recipes, of_recipe),
        ("Architecture", one, [spec], field_meanings(ResNeXtSpec)),
        ("Preprocessing", one, [reading], field_meanings(Preprocessing)),
        ("Versions", one, [content["versions"]], {}),
    )
    return [
        {
            "heading": heading,
            "columns": ["name", *values] + ["meaning"] * bool(meanings),
            "rows": [
                [name, *(_text(column[name]) for column in columns)]
                + [meanings.get(name, "")] * bool(meanings)
                for name in columns[0]
            ],
        }
        for heading, values, columns, meanings in tables
    ]


def _text(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value == "" else str(value)


def finetune_phases(
    spec: ResNeXtSpec,
    /,
    epochs: int | None = None,
    learning_rate: float | None = None,
    **changes,
) -> tuple[Phase, ...]:
    """The two phases of fine-tuning: a new classifier, then the last two stages too.

    There is only the first one if `epochs` is 1.

    Args:
        spec: The architecture.
        epochs: Epochs of both phases together, a third of them for the classifier;
            None for those of the recipes.
        learning_rate: Learning rate of the classifier; the stages are trained at a
            tenth of it. None for the rates of the recipes.
        **changes: Changes of both recipes, see `adjusted`.

    Raises:
        ValueError: See `adjusted`.
    """
    first, second = {}, {}
    if learning_rate is not None:
        first["learning_rate"] = learning_rate
    if epochs is not None:
        first["epochs"] = math.ceil(positive_integer("epochs", epochs) / 3)
        second["epochs"] = epochs - first["epochs"]
    head = adjusted(FINETUNE_HEAD, **first, **changes)
    if learning_rate is not None:
        second["learning_rate"] = learning_rate / 10
    last = 1 + len(spec.depths)
    phases = (Phase(head, f"conv{last}"),)
    if epochs == 1:
        return phases
    stages = adjusted(FINETUNE_STAGES, **second, **changes)
    return *phases, Phase(stages, f"conv{max(last - 2, 1)}")
