"""Fine-tuning: what a network has learnt, with a new head for new classes."""

import os

from resnext_keras.arguments import positive_integer
from resnext_keras.models.specs import ARCHITECTURES, ResNeXtSpec, get_spec
from resnext_keras.training.recipes import FINETUNE_HEAD, FINETUNE_STAGES, adjusted
from resnext_keras.training.settings import Phase
from resnext_keras.weights.files import identify
from resnext_keras.weights.lookup import find_weights
from resnext_keras.weights.registry import WeightSet
from resnext_keras.weights.runs import trained

DEFAULT = "resnext50_32x4d"


def starting_point(
    spec_or_name: ResNeXtSpec | str | None = None,
    weights: str | os.PathLike | None = None,
) -> tuple[ResNeXtSpec, str]:
    """The network that fine-tuning begins with.

    Args:
        spec_or_name: The architecture; None for that of the weights, or without any
            for `"resnext50_32x4d"`.
        weights: Weight set or file; None for the architecture's `"imagenet"`.

    Returns:
        The spec, and the full name of the set or the absolute path of the file.

    Raises:
        ValueError: One of them is unknown, or they do not fit.
    """
    if weights is None:
        spec_or_name, weights = spec_or_name or DEFAULT, "imagenet"
    spec = None if spec_or_name is None else get_spec(spec_or_name)
    found = find_weights(weights, spec and spec.name)
    if isinstance(found, WeightSet):
        return spec or get_spec(found.architecture), found.name
    run = trained(found)
    known = [run.spec] if run else ARCHITECTURES.values()
    spec, channels, _ = identify(found, [spec] if spec else known)
    if channels != 3:
        raise ValueError(
            "Expected weights of a network of RGB images; the file has "
            f"{channels} input channels. Received: {found}"
        )
    return spec, os.path.abspath(found)


def finetune_phases(
    spec: ResNeXtSpec,
    /,
    epochs: int | None = None,
    learning_rate: float | None = None,
    **changes,
) -> tuple[Phase, ...]:
    """A new head on frozen stages, then the last two of them too, at a lower rate.

    Args:
        spec: The architecture.
        epochs: In all, a third of them for the head; None for those of the recipes.
        learning_rate: Of the head; that of the stages is a tenth. None for those of
            the recipes.
        **changes: Of both recipes, as `adjusted` takes them.

    Raises:
        ValueError: As of `adjusted`.
    """
    last = 1 + len(spec.depths)
    of_head = None if epochs is None else -(-positive_integer("epochs", epochs) // 3)
    head = adjusted(
        FINETUNE_HEAD, epochs=of_head, learning_rate=learning_rate, **changes
    )
    phases = [Phase(head, f"conv{last}")]
    if epochs is None or epochs > of_head:
        stages = adjusted(
            FINETUNE_STAGES,
            epochs=None if epochs is None else epochs - of_head,
            learning_rate=None if learning_rate is None else learning_rate / 10,
            **changes,
        )
        phases.append(Phase(stages, f"conv{max(last - 2, 1)}"))
    return tuple(phases)
