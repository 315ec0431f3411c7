"""The stages of a network, told by the names of its layers, which are public."""

import re

_IN_STAGE = re.compile(r"(?:conv|pool)(\d+)_\w+")
_BLOCK_OUTPUT = re.compile(r"conv(\d+)_block\d+_out")


def stage_of(layer_name: str) -> int | None:
    """Number of the stage that a layer belongs to, in the paper's count.

    Args:
        layer_name: As in `"conv3_block1_out"`, which is of stage 3; the stem is
            stage 1.

    Returns:
        The number; None for layers before, behind and beside the stages.
    """
    found = _IN_STAGE.fullmatch(layer_name)
    return int(found[1]) if found else None


def stage_outputs(model) -> dict:
    """The layer that gives the last feature maps of each stage but the stem.

    Args:
        model: A `keras.Model`.

    Returns:
        By number of the stage a layer, in order; empty for a model that is no
        network of this family.
    """
    return {
        int(found[1]): layer  # The last block of a stage takes the earlier ones' place.
        for layer in model.layers
        if (found := _BLOCK_OUTPUT.fullmatch(layer.name))
    }
