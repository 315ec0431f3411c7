"""Training recipes as data, in plain Python."""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resnext_keras.arguments import did_you_mean

CROPS = ("random_resized", "pad", "center")

AUGMENTATIONS = ("trivial", "ink")


@dataclass(frozen=True)
class Recipe:
    """A training recipe.

    Attributes:
        name: Name of the recipe.
        source: Source of its numbers.
        epochs: Passes over the training images.
        batch_size: Images per update, over all devices.
        learning_rate: The highest learning rate, for updates of `batch_size` images.
        milestones: Shares of all epochs after which the rate falls to a tenth. Without
            milestones it falls along a cosine to zero.
        warmup: Share of all epochs in which the rate rises from nearly zero.
        momentum: Momentum of SGD.
        nesterov: Whether to use Nesterov momentum.
        weight_decay: Weight decay as in PyTorch's SGD: the decay times the weight is
            added to the gradient.
        norm_weight_decay: Whether scales and shifts of batch norm decay too.
        label_smoothing: Share of each label that is spread over all classes.
        mixup: Alpha of mixup (Zhang et al., 2018); 0 for none.
        cutmix: Alpha of CutMix (Yun et al., 2019); 0 for none. With both, each batch
            gets one of them at random.
        crop: How a training image is cropped. `"random_resized"`: a random part of it
            (Szegedy et al., 2015). `"pad"`: the validation crop, shifted by up to an
            eighth of its size (He et al., 2016, section 4.2). `"center"`: the
            validation crop.
        least_area: The smallest share of the area for the crop `"random_resized"`.
        flip: Whether half of the images are mirrored.
        augment: `""`, `"trivial"` (TrivialAugment, Mueller and Hutter, 2021), or
            `"ink"` for handwriting: small shifts and turns, and negatives.
        random_erase: Share of the images with an erased part (Zhong et al., 2020).
        ema_span: Share of all steps that the exponential moving average of the weights
            spans: the decay of a step is 1 - 1 / (`ema_span` * steps). The average is
            validated and saved; 0 for none.
        train_size: Height and width of training images, in pixels; None for that of
            evaluation.
        drop_path: Rate of stochastic depth, as `ResNeXt` takes it.

    Raises:
        ValueError: A value is out of range.
    """

    name: str
    source: str
    epochs: int
    batch_size: int
    learning_rate: float
    milestones: tuple[float, ...] = ()
    warmup: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    norm_weight_decay: bool = True
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    crop: str = "random_resized"
    least_area: float = 0.08
    flip: bool = True
    augment: str = ""
    random_erase: float = 0.0
    ema_span: float = 0.0
    train_size: int | None = None
    drop_path: float = 0.0

    def ema_decay(self, steps: int) -> float:
        """Decay of the moving average in each of a run's `steps`, 0 to below 1."""
        return 1 - 1 / max(self.ema_span * steps, 1)

    def __post_init__(self):
        for fields, expected, is_valid in _RANGES:
            for field in fields:
                value = getattr(self, field)
                try:
                    valid = is_valid(value)
                except TypeError:  # the value has another type
                    valid = False
                if not valid:
                    raise ValueError(
                        f"Expected `{field}` of a recipe to be {expected}. "
                        f"Received: {field}={value!r}"
                    )


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_share(value) -> bool:
    return 0 <= value < 1


def _are_milestones(values) -> bool:
    is_sequence = isinstance(values, tuple | list)
    return (
        is_sequence and list(values) == sorted(values) and all(map(_is_share, values))
    )


_SHARES = (
    "warmup",
    "momentum",
    "label_smoothing",
    "random_erase",
    "ema_span",
    "drop_path",
)

# Fields, what is expected, and a function that checks it.
_RANGES = (
    (("epochs", "batch_size"), "a positive integer", _is_count),
    (("learning_rate",), "above 0 and finite", lambda value: 0 < value < math.inf),
    (
        ("weight_decay", "mixup", "cutmix"),
        "0 or more, and finite",
        lambda value: 0 <= value < math.inf,
    ),
    (_SHARES, "at least 0 and less than 1", _is_share),
    (
        ("nesterov", "norm_weight_decay", "flip"),
        "True or False",
        lambda value: isinstance(value, bool),
    ),
    (("least_area",), "above 0 and at most 1", lambda value: 0 < value <= 1),
    (("milestones",), "rising shares of the epochs", _are_milestones),
    (("crop",), f"one of {', '.join(CROPS)}", CROPS.__contains__),
    (
        ("augment",),
        f"one of {', '.join(AUGMENTATIONS)}, or empty",
        ("", *AUGMENTATIONS).__contains__,
    ),
    (
        ("train_size",),
        "a positive number of pixels, or None",
        lambda value: value is None or _is_count(value),
    ),
)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "paper",
            "Xie et al., 2017, section 4, on ImageNet; what it leaves open is as in "
            "https://github.com/facebookresearch/ResNeXt",
            epochs=100,
            batch_size=256,
            learning_rate=0.1,
            milestones=(0.3, 0.6, 0.9),
            nesterov=True,
        ),
        Recipe(
            "torchvision2",
            "torchvision's references/classification, of IMAGENET1K_V2: "
            "https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-"
            "torchvision-latest-primitives/",
            epochs=600,
            batch_size=1024,
            learning_rate=0.5,
            warmup=5 / 600,
            weight_decay=2e-5,
            norm_weight_decay=False,
            label_smoothing=0.1,
            mixup=0.2,
            cutmix=1.0,
            augment="trivial",
            random_erase=0.1,
            # Its --model-ema-decay 0.99998 is 1 - 3.4e-5 per step of 750,600.
            ema_span=0.04,
            train_size=176,
        ),
        Recipe(
            "cifar",
            "Xie et al., 2017, appendix A, on CIFAR-10 and -100; what it leaves open "
            "is as in https://github.com/facebookresearch/ResNeXt",
            epochs=300,
            batch_size=128,
            learning_rate=0.1,
            milestones=(150 / 300, 225 / 300),
            nesterov=True,
            weight_decay=5e-4,
            crop="pad",
        ),
        Recipe(
            "digits",
            "weights/README.md, of the bundled weights",
            epochs=60,
            batch_size=32,
            learning_rate=0.05,
            warmup=1 / 20,
            nesterov=True,
            # 5e-4 there: Keras' SGD applies the decay once. Here the momentum repeats
            # it ten times.
            weight_decay=5e-5,
            crop="center",
            flip=False,
            augment="ink",
        ),
    )
}

_FINETUNE = {"batch_size": 32, "least_area": 0.35, "warmup": 1 / 20}

FINETUNE_HEAD = Recipe(
    "head",
    "fine-tuning: a new classifier on a frozen network",
    epochs=5,
    learning_rate=0.01,
    **_FINETUNE,
)

FINETUNE_STAGES = Recipe(
    "stages",
    "fine-tuning: the last two stages too, at a tenth of the rate",
    epochs=10,
    learning_rate=0.001,
    **_FINETUNE,
)


def list_recipes() -> list[Recipe]:
    """Lists the training recipes; `train(..., recipe=name)` trains by one.

    Returns:
        The `Recipe` objects, with their `name`, `source` and all values.
    """
    return list(RECIPES.values())


def field_meanings(documented: Callable = Recipe) -> dict[str, str]:
    """The first paragraph on each argument or attribute in a docstring."""
    text = inspect.getdoc(documented) or ""  # None with `python -OO`
    text = text.partition("\nRaises:")[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}\S.*)*)", text, re.MULTILINE)
    paragraphs = {name: " ".join(lines.split()) for name, lines in found}
    return {
        name: text.replace("`", "")
        for name, text in paragraphs.items()
        if not text.endswith(":")  # a list follows
    }


def get_recipe(name: str) -> Recipe:
    """Finds a recipe by its name.

    Raises:
        ValueError: There is no such recipe. The message suggests names.
    """
    if name not in RECIPES:
        raise ValueError(
            f"Expected one of the recipes {', '.join(RECIPES)}."
            f"{did_you_mean(str(name), RECIPES)} Received: recipe={name!r}"
        )
    return RECIPES[name]


def all_changes(recipe_changes: Mapping[str, Any] | None, **arguments) -> dict:
    """The arguments that are not None, and `recipe_changes`, which go first."""
    named = {field: value for field, value in arguments.items() if value is not None}
    return named | dict(recipe_changes or {})


def adjusted(recipe: Recipe, /, **changes) -> Recipe:
    """Changes fields of a recipe.

    Args:
        recipe: The recipe.
        **changes: Fields and their values. With a `batch_size` but without a
            `learning_rate`, the rate is scaled in proportion to the batch size (Goyal
            et al., 2017, section 2.1).

    Raises:
        ValueError: A field does not exist, or a value is out of range.
    """
    fields = [field.name for field in dataclasses.fields(Recipe)][2:]
    for field in changes:
        if field not in fields:
            raise ValueError(
                f"Expected one of the fields of a recipe: {', '.join(fields)}."
                f"{did_you_mean(field, fields)} Received: {field}={changes[field]!r}"
            )
    changed = dataclasses.replace(recipe, **changes)
    if "learning_rate" in changes:
        return changed
    scale = changed.batch_size / recipe.batch_size
    return dataclasses.replace(changed, learning_rate=recipe.learning_rate * scale)
