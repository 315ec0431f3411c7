"""What the folder of a run of training tells of the weights in it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.models.specs import ResNeXtSpec
from resnext_keras.weights.tensors import WeightsError

RUN, BEST = "run.json", "best.weights.h5"


@dataclass(frozen=True)
class Trained:
    """What belongs to the weights of a run.

    Attributes:
        spec: The architecture.
        preprocessing: How images are read for it.
        class_names: Name of each class.
    """

    spec: ResNeXtSpec
    preprocessing: Preprocessing
    class_names: tuple[str, ...]


def best_weights(folder: str | os.PathLike) -> Path | None:
    """The weights in the folder of a run; None where it is none, or has none yet."""
    files = [os.path.join(folder, name) for name in (BEST, RUN)]
    return Path(files[0]) if all(map(os.path.isfile, files)) else None


def trained(path: Path) -> Trained | None:
    """What belongs to a file of weights, if it lies in the folder of a run.

    Raises:
        WeightsError: The run is described in another way than runs are.
    """
    if path != best_weights(path.parent):
        return None
    try:
        content = json.loads((path.parent / RUN).read_text(encoding="utf-8"))
        return Trained(
            ResNeXtSpec(**content["settings"]["spec"]),
            Preprocessing(**content["preprocessing"]),
            tuple(content["class_names"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"Expected {RUN} beside the weights of a run, as training writes it. "
            f"Received: {path.parent / RUN} ({error!r})"
        ) from error
