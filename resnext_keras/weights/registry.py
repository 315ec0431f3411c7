"""Which weight sets there are, and what belongs to each."""

import contextlib
import difflib
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from resnext_keras.preprocessing import Preprocessing
from resnext_keras.weights.stored import WeightsError

PACKAGE = Path(str(resources.files("resnext_keras")))
PACKAGED = PACKAGE / "weights" / "bundled"
CHECKOUT = PACKAGE.parent / "weights"


@dataclass(frozen=True)
class WeightSet:
    """A set of weights that is loaded by its name.

    Attributes:
        name: What `weights=` takes.
        architecture: Name of the row of the architecture table.
        file: Name of the file, in this package or in a checkout's `weights/`.
        classes: Number of classes.
        labels: Name of the table of class names, as in `class_names(labels)`.
        preprocessing: How pictures are read for it.
        licence: SPDX identifier of the weights' licence.
        top1: Accuracy on pictures that training never saw, 0 to 1.
        source: What it was trained on, and where that is told.
    """

    name: str
    architecture: str
    file: str
    classes: int
    labels: str
    preprocessing: Preprocessing
    licence: str
    top1: float
    source: str

    @property
    def path(self) -> Path:
        """Where the file lies: in the installed package, else in the checkout."""
        packaged = PACKAGED / self.file
        return packaged if packaged.exists() else CHECKOUT / self.file


WEIGHT_SETS = {
    weight_set.name: weight_set
    for weight_set in (
        WeightSet(
            name="digits",
            architecture="resnext11_8x4d",
            file="resnext11_8x4d.digits.weights.h5",
            classes=10,
            labels="digits",
            preprocessing=Preprocessing(size=32, resize=32, detail=8),
            licence="Apache-2.0",
            top1=0.9861,
            source="scikit-learn's handwritten digits; see weights/README.md",
        ),
    )
}


def list_weights() -> list[str]:
    """Names of the weight sets, each of which `weights=` takes."""
    return list(WEIGHT_SETS)


def find_weights(
    weights: str | os.PathLike, architecture: str | None = None
) -> WeightSet | Path:
    """What the argument `weights` stands for.

    Args:
        weights: Name of a weight set, or path of a file.
        architecture: Architecture that it has to fit, if that is known.

    Returns:
        The row of the set, or the path of an existing file.

    Raises:
        ValueError: It is neither, or the set is of another architecture.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            "Expected `weights` to be None, the name of a weight set or the path of "
            f"a file. Received: weights={weights!r}"
        )
    if weights == "imagenet":
        raise ValueError(
            "The published ImageNet weights cannot be loaded by name yet. Pass "
            "weights=None for a random start, the path of a .weights.h5 file of this "
            "package, or the path of a torchvision or timm state_dict saved as "
            "safetensors. Received: weights='imagenet'"
        )
    if weights in WEIGHT_SETS:
        found = WEIGHT_SETS[weights]
        if architecture not in (None, found.architecture):
            raise ValueError(
                f"Expected weights of {architecture!r}; the weight set {found.name!r} "
                f"is of {found.architecture!r}. Received: weights={weights!r}"
            )
        return found
    path = Path(os.path.expanduser(weights))
    if os.path.isfile(path):  # of a path that cannot be, Path.is_file may raise
        return path
    near = difflib.get_close_matches(str(path), _known_names(path), n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise WeightsError(
        "Expected `weights` to be None, the name of a weight set "
        f"({', '.join(WEIGHT_SETS)}) or the path of an existing file"
        f"{'; it is a folder' if os.path.isdir(path) else ''}.{hint} "
        f"Received: weights={os.fspath(weights)!r}"
    )


def _known_names(path: Path) -> list[str]:
    """The weight sets, and the files beside a path that might be meant."""
    names = list(WEIGHT_SETS)
    with contextlib.suppress(OSError, ValueError):
        names += [
            str(file)
            for file in path.parent.iterdir()
            if file.suffix in {".h5", ".safetensors"}
        ]
    return names
