"""The state of a run in one file, from which it goes on as if nothing had happened."""

import json
from pathlib import Path

import keras
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from resnext_keras.io import atomic_write


class TrainingError(ValueError):
    """A run cannot go on; the message says why, and what is left of it."""


class NotFiniteError(TrainingError):
    """A state is NaN or infinite, and not worth keeping."""


def variables_of(model: keras.Model, metrics: list, average) -> list:
    """All that a step of training changes, in one order.

    Args:
        model: A compiled model, whose optimizer is built.
        metrics: Those whose state counts. `model.metrics_variables` has not got all
            before the first step.
        average: The `MovingAverage` of its weights, or None.

    Returns:
        Weights, statistics and states of random layers, those of the optimizer, of
        the metrics, and of the average.
    """
    return [
        *model.variables,
        *model.optimizer.variables,
        *(variable for metric in metrics for variable in metric.variables),
        *(average.variables if average else ()),
    ]


def save_checkpoint(path: Path, variables: list, progress: dict) -> None:
    """Writes a checkpoint; an earlier one stays until all of it is there.

    Args:
        path: The `.safetensors` file.
        variables: From `variables_of`.
        progress: What else is to be known, as JSON holds it.

    Raises:
        NotFiniteError: A number is; nothing is written then.
    """
    arrays = {_key(*item): np.array(item[1]) for item in enumerate(variables)}
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NotFiniteError(f"{key.split()[1]} is NaN or infinite")
    with atomic_write(path) as file:
        # Not `save_file`, whose error of a full disk is no OSError.
        file.write_bytes(save(arrays, {"progress": json.dumps(progress)}))


def read_progress(path: Path) -> dict:
    """What `save_checkpoint` was told beside the variables.

    Raises:
        TrainingError: It is no checkpoint.
    """
    with _opened(path) as file:
        return json.loads(file.metadata()["progress"])


def restore(path: Path, variables: list) -> None:
    """Gives variables the values of a checkpoint.

    Args:
        path: The file.
        variables: All of those that were saved, or the first of them.

    Raises:
        TrainingError: It is no checkpoint of these variables; none is changed then.
    """
    with _opened(path) as file:
        keys = [_key(*item) for item in enumerate(variables)]
        if sorted(file.keys())[: len(keys)] != keys:
            raise TrainingError(
                "Expected the checkpoint of the same network and optimizer, written by "
                f"the same version of Keras. Received: {path}"
            )
        arrays = [file.get_tensor(key) for key in keys]
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _key(number: int, variable) -> str:
    # Without what Keras numbers anew in each process, as in "sgd_1/".
    name, shape = variable.path.split("/")[-1], "x".join(map(str, variable.shape))
    return f"{number:05} {name} {shape}"


def _opened(path: Path):
    try:
        return safe_open(path, "numpy")
    except Exception as error:  # SafetensorError, which is no subclass of another
        raise TrainingError(
            f"Expected a checkpoint. Received: {path} ({error})"
        ) from error
