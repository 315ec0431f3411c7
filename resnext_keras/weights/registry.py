"""The table of weight sets.

The published sets are the rows of `sets.csv`. `accuracy.csv` has a row for each image
size that a set was evaluated at, the best last: size in pixels, accuracy in percent.
"""

import csv
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.models.specs import (
    ARCHITECTURES,
    ResNeXtSpec,
    architecture_name,
    get_spec,
)
from resnext_keras.models.variables import count_parameters, variable_shapes
from resnext_keras.weights.cache import local_path

FOLDER = resources.files("resnext_keras") / "weights"

SUFFIXES = {"torch": ".pth", "safetensors": ".safetensors", "keras-applications": ".h5"}


@dataclass(frozen=True)
class PublishedAccuracy:
    """The accuracy of a weight set for one size of images.

    Attributes:
        preprocessing: How the images are resized and cropped.
        top1: Top-1 accuracy, 0 to 1, on ImageNet-1k's validation images (for a set
            with other classes on its held-out images); None if not published.
        top5: Top-5 accuracy, likewise.
        source: `"timm"` if timm measured it, in the same way for all sets;
            `"publisher"` if the publisher reported it; None without accuracies.
    """

    preprocessing: Preprocessing
    top1: float | None = None
    top5: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class WeightSet:
    """Weights that are loaded by their name.

    Attributes:
        architecture: Name of the architecture.
        tag: Name among the sets of this architecture, as in timm.
        format: `"torch"`, `"safetensors"` or `"keras-applications"` as
            published, or `"keras"` for this package's own `.weights.h5`.
        file: Name of the file in the cache.
        licence: SPDX identifier of the weights' licence.
        evaluations: Its accuracy, one entry for each size, the best last.
        source: Who made it, how, and where that is published.
        aliases: Other names for the tag, those of torchvision.
        url: URL of the file; None for the set that ships with the package.
        hash: Published hash, `"algorithm:hex digits"`; of SHA-256 the first eight
            digits. None if none is published.
        classes: Number of classes; None for a file without a classifier.
        labels: Name of the table of class names, for `class_names(labels)`;
            None if the package has no such table.
        note: Anything else that a user should know.
    """

    architecture: str
    tag: str
    format: str
    file: str
    licence: str
    evaluations: tuple[PublishedAccuracy, ...]
    source: str
    aliases: tuple[str, ...] = ()
    url: str | None = None
    hash: str | None = None
    classes: int | None = None
    labels: str | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """The full name, as in `"resnext50_32x4d.tv2_in1k"`."""
        return f"{self.architecture}.{self.tag}"

    @property
    def best(self) -> PublishedAccuracy:
        """The evaluation with the best accuracy."""
        return self.evaluations[-1]

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are read for the weights: as in the best evaluation."""
        return self.best.preprocessing

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use."""
        return "-NC-" in self.licence

    @property
    def is_default(self) -> bool:
        """Whether `"imagenet"` names this set for its architecture."""
        return self is default_set(self.architecture)

    @property
    def parameters(self) -> int:
        """Number of parameters, batch-norm statistics included."""
        spec = get_spec(self.architecture)
        return count_parameters(variable_shapes(spec, classes=self.classes))

    @property
    def path(self) -> Path | None:
        """The file on this machine, not verified; None before it is downloaded."""
        return local_path(self.file)


def _rows(table: str) -> list[dict[str, str]]:
    with (FOLDER / table).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _published() -> list[WeightSet]:
    """The rows of the tables."""
    evaluations = {}
    for row in _rows("accuracy.csv"):
        evaluations.setdefault(row["name"], []).append(_evaluation(row))
    return [_weight_set(row, evaluations) for row in _rows("sets.csv")]


def _weight_set(
    row: dict[str, str], evaluations: dict[str, list[PublishedAccuracy]]
) -> WeightSet:
    classes = int(row["classes"]) if row["classes"] else None
    return WeightSet(
        architecture=row["architecture"],
        tag=row["tag"],
        format=row["format"],
        file=_file_name(row),
        licence=row["licence"],
        evaluations=tuple(evaluations[f"{row['architecture']}.{row['tag']}"]),
        source=row["source"],
        aliases=tuple(row["aliases"].split()),
        url=row["url"],
        hash=row["hash"] or None,
        classes=classes,
        labels="imagenet" if classes == 1000 else None,
        note=row["note"],
    )


def _file_name(row: dict[str, str]) -> str:
    """The last part of the URL; the set's name if that part is `model.*`."""
    last = row["url"].rpartition("/")[2]
    suffix = SUFFIXES[row["format"]]
    if last == f"model{suffix}":
        return f"{row['architecture']}.{row['tag']}{suffix}"
    return last


def _evaluation(row: dict[str, str]) -> PublishedAccuracy:
    size = int(row["size"])
    # crop_pct is size / resize; timm and torchvision round down too.
    resize = math.floor(size / float(row["crop_pct"]))
    return PublishedAccuracy(
        Preprocessing(size, resize, row["interpolation"]),
        _share(row["top1"]),
        _share(row["top5"]),
        row["measured_by"] or None,
    )


def _share(percent: str) -> float | None:
    return round(float(percent) / 100, 5) if percent else None


BUNDLED = WeightSet(
    architecture="resnext11_8x4d",
    tag="digits",
    format="keras",
    file="resnext11_8x4d.digits.weights.h5",
    licence="Apache-2.0",
    evaluations=(
        PublishedAccuracy(
            Preprocessing(size=32, resize=(8, 32)), 0.9861, None, "publisher"
        ),
    ),
    source="scikit-learn's handwritten digits; see weights/README.md",
    classes=10,
    labels="digits",
)
"""The weight set that ships with the package."""

WEIGHT_SETS = {weight_set.name: weight_set for weight_set in (*_published(), BUNDLED)}


def list_weights(
    model: ResNeXtSpec | str | None = None,
    *,
    permissive: bool = False,
    local: bool = False,
) -> list[str]:
    """Lists the names of the weight sets, for the argument `weights`.

    Args:
        model: Name of an architecture, to list only its sets; None for all.
        permissive: Whether to list only sets whose licence allows commercial use.
        local: Whether to list only sets whose file is on this machine.

    Returns:
        The full names, as in `"resnext50_32x4d.tv2_in1k"`.

    Raises:
        ValueError: There is no such architecture.

    Examples:
        >>> rk.list_weights("resnext152_32x4d")
        ['resnext152_32x4d.mm_in1k']
    """
    architecture = None if model is None else get_spec(model).name
    return [
        weight_set.name
        for weight_set in sets_of(architecture)
        if not (permissive and weight_set.non_commercial)
        and not (local and weight_set.path is None)
    ]


def as_registered(written: str) -> str:
    """A name of weights or of an architecture as the tables spell it, if they have it.

    The case does not matter, and an architecture may have the name of its function, as
    in `"ResNeXt50.A1_IN1K"`.
    """
    architecture, dot, tag = written.rpartition(".")
    tags = {"imagenet", *(weight_set.tag for weight_set in WEIGHT_SETS.values())}
    if dot:
        name = architecture_name(architecture)
        return f"{name}.{tag.lower()}" if name and tag.lower() in tags else written
    tags = tags.union(*(weight_set.aliases for weight_set in WEIGHT_SETS.values()))
    name = {known.lower(): known for known in tags}.get(written.lower())
    return name or architecture_name(written) or written


def is_registered(written: str) -> bool:
    """Whether a name is one of weights or of an architecture."""
    names = map(names_of, WEIGHT_SETS.values())
    return as_registered(written) in set(ARCHITECTURES).union(*names)


def sets_of(architecture: str | None, labels: str | None = None) -> list[WeightSet]:
    """The sets of an architecture with these labels; None for any."""
    return [
        weight_set
        for weight_set in WEIGHT_SETS.values()
        if architecture in (None, weight_set.architecture)
        and labels in (None, weight_set.labels)
    ]


def default_set(architecture: str) -> WeightSet | None:
    """The set that `"imagenet"` names; None if no set may be the default.

    It is torchvision's second generation if there is one, otherwise the most accurate
    set that allows commercial use.
    """
    sets = sets_of(architecture, labels="imagenet")
    permissive = [s for s in sets if not s.non_commercial]
    second_generation = [s for s in permissive if "IMAGENET1K_V2" in s.aliases]
    return max(second_generation or permissive, key=_accuracy, default=None)


def names_of(weight_set: WeightSet) -> tuple[str, ...]:
    """Tag, full name and aliases of a set; also those with `imagenet` of a default."""
    names = (weight_set.tag, weight_set.name, *weight_set.aliases)
    if weight_set.is_default:
        names += ("imagenet", f"{weight_set.architecture}.imagenet")
    return names


def _accuracy(weight_set: WeightSet) -> tuple[bool, float]:
    """Best top-1 accuracy; those that timm measured rank before reported ones."""
    return max((e.source == "timm", e.top1 or 0.0) for e in weight_set.evaluations)
