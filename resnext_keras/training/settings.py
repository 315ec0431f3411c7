"""What a run of training is set to: enough to begin it again."""

import dataclasses
from dataclasses import dataclass

from resnext_keras.arguments import positive_integer
from resnext_keras.models.specs import MIN_IMAGE_SIZE, ResNeXtSpec
from resnext_keras.training.recipes import Recipe

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Phase:
    """A part of a run: one recipe from its first to its last epoch.

    Attributes:
        recipe: How it trains.
        frozen: The last stage that keeps its weights, `"conv1"` to `"conv5"`, which
            is all but the classifier; None where all learn.
    """

    recipe: Recipe
    frozen: str | None = None


@dataclass(frozen=True)
class Settings:
    """What a run is set to; with the same data and seed it gives the same weights.

    Attributes:
        data: Path of the images, as `open_dataset` takes it.
        spec: The architecture.
        weights: Weight set or file that the network begins with; None for random
            weights.
        phases: What is trained, one after the other.
        size: Height and width of the images of evaluation, in pixels; None for what
            the weights, or without them the architecture, were made for.
        validation_share: Share of the images that are kept for validation, where
            the data have no split of their own.
        seed: Of the split, the random weights, the order and the augmentation.
        precision: A Keras dtype policy, one of `PRECISIONS`.
        accumulate: Steps whose gradients are averaged before the weights change; a
            batch of the recipe is taken in that many parts.
        steps_per_execution: Steps that are run at once, as Keras' `compile` has it.
        deterministic: Whether the same run gives the same bits, which costs speed.

    Raises:
        ValueError: A value is outside what is described above.
    """

    data: str
    spec: ResNeXtSpec
    weights: str | None
    phases: tuple[Phase, ...]
    size: int | None = None
    validation_share: float = 0.2
    seed: int = 0
    precision: str = "float32"
    accumulate: int = 1
    steps_per_execution: int = 1
    deterministic: bool = False

    def __post_init__(self):
        for field in ("accumulate", "steps_per_execution"):
            positive_integer(field, getattr(self, field))
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"Expected `precision` to be one of {', '.join(PRECISIONS)}. "
                f"Received: precision={self.precision!r}"
            )
        if not 0 < self.validation_share < 1:
            raise ValueError(
                "Expected `validation_share` to be between 0 and 1. "
                f"Received: validation_share={self.validation_share!r}"
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
        return dataclasses.asdict(self)

    def step_size(self, phase: Phase) -> int:
        """Number of images of a step."""
        return phase.recipe.batch_size // self.accumulate
