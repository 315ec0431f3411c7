"""Which weight sets there are, and what belongs to each.

The published ones are the rows of `sets.csv`. Its column `evaluations` reads
`size/crop_pct top1/top5 source`, in pixels and percent, one entry a size.
"""

import csv
import math
from dataclasses import dataclass
from importlib import resources

from resnext_keras.images.preprocessing import MEAN, STD, Preprocessing
from resnext_keras.models.specs import get_spec

TABLE = resources.files("resnext_keras") / "weights" / "sets.csv"

SUFFIXES = {"torch": ".pth", "safetensors": ".safetensors", "keras-applications": ".h5"}


@dataclass(frozen=True)
class Evaluation:
    """How well a weight set does on images that are read in one way.

    Attributes:
        preprocessing: How the images are resized and cropped.
        top1: Share of ImageNet-1k's validation images (of the held-out ones
            for a set of other classes) whose class scores highest, 0 to 1;
            None where nobody published it.
        top5: Share of those whose class is among the five best, likewise.
        source: `"timm"` for a measurement by timm, which treats all sets alike;
            `"publisher"` for the claim of who published the set; None without
            figures.
    """

    preprocessing: Preprocessing
    top1: float | None = None
    top5: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class WeightSet:
    """A set of weights that is loaded by its name.

    Attributes:
        architecture: Name of the row of the architecture table.
        tag: Name among the sets of this architecture, as timm has it.
        format: `"torch"`, `"safetensors"` or `"keras-applications"` as
            published, or `"keras"` for this package's own `.weights.h5`.
        file: Name of the file here.
        licence: SPDX identifier of the weights' licence.
        evaluations: What is known of its accuracy, one entry a size and the
            one to be preferred last.
        source: Who made it, how, and where that is told.
        aliases: Other names than the tag, those of torchvision.
        url: Where it is published; None for the one that ships.
        hash: `"algorithm:hex digits"` as published, of SHA-256 the first eight
            digits; None where none is published.
        size_bytes: Size of the file, None where it is not known.
        classes: Number of classes; None for a file without a classifier.
        labels: Name of the table of class names, as in `class_names(labels)`;
            None where the package has none.
        bn_epsilon: Added to the variance by the batch norm it was trained with.
        note: What else a user should know.
        mean: Mean of red, green and blue that `preprocess_input` takes away.
        std: Standard deviation that it divides by.
    """

    architecture: str
    tag: str
    format: str
    file: str
    licence: str
    evaluations: tuple[Evaluation, ...]
    source: str
    aliases: tuple[str, ...] = ()
    url: str | None = None
    hash: str | None = None
    size_bytes: int | None = None
    classes: int | None = None
    labels: str | None = None
    bn_epsilon: float = 1e-5
    note: str = ""
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    @property
    def name(self) -> str:
        """The full name, as in `"resnext50_32x4d.tv2_in1k"`."""
        return f"{self.architecture}.{self.tag}"

    @property
    def best(self) -> Evaluation:
        """The evaluation to be preferred."""
        return self.evaluations[-1]

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are read for it: as in the best evaluation."""
        return self.best.preprocessing

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use."""
        return "-NC-" in self.licence


def _published() -> list[WeightSet]:
    """The rows of the table."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [_weight_set(row) for row in csv.DictReader(file)]


def _weight_set(row: dict[str, str]) -> WeightSet:
    classes = int(row["classes"]) or None
    return WeightSet(
        architecture=row["architecture"],
        tag=row["tag"],
        format=row["format"],
        file=_file_name(row),
        licence=row["licence"],
        evaluations=tuple(
            _evaluation(entry, row["interpolation"])
            for entry in row["evaluations"].split(";")
        ),
        source=row["source"],
        aliases=tuple(row["aliases"].split()),
        url=row["url"],
        hash=row["hash"] or None,
        classes=classes,
        labels="imagenet" if classes == 1000 else None,
        bn_epsilon=float(row["bn_epsilon"]),
        note=row["note"],
    )


def _file_name(row: dict[str, str]) -> str:
    """The URL's last part, or the set's name where that would tell nothing."""
    last = row["url"].rpartition("/")[2]
    suffix = SUFFIXES[row["format"]]
    if last == f"model{suffix}":
        return f"{row['architecture']}.{row['tag']}{suffix}"
    return last


def _evaluation(entry: str, interpolation: str) -> Evaluation:
    """`"224/0.95 80.526/94.458 timm"`, or `"224/0.95"` without figures."""
    view, *figures = entry.split()
    size, crop_pct = view.split("/")
    # The share of the short side that is cropped, rounded as timm and torchvision do.
    resize = math.floor(int(size) / float(crop_pct))
    preprocessing = Preprocessing(int(size), resize, interpolation)
    if not figures:
        return Evaluation(preprocessing)
    accuracies, source = figures
    top1, _, top5 = accuracies.partition("/")
    return Evaluation(preprocessing, _share(top1), _share(top5), source)


def _share(percent: str) -> float | None:
    return round(float(percent) / 100, 5) if percent else None


BUNDLED = WeightSet(
    architecture="resnext11_8x4d",
    tag="digits",
    format="keras",
    file="resnext11_8x4d.digits.weights.h5",
    licence="Apache-2.0",
    evaluations=(
        Evaluation(Preprocessing(size=32, resize=(8, 32)), 0.9861, None, "publisher"),
    ),
    source="scikit-learn's handwritten digits; see weights/README.md",
    size_bytes=4_044_728,
    classes=10,
    labels="digits",
)
"""The one that ships with the package."""

WEIGHT_SETS = {weight_set.name: weight_set for weight_set in (*_published(), BUNDLED)}


def list_weights(architecture: str | None = None) -> list[str]:
    """Names of the weight sets, each of which `weights=` takes.

    Args:
        architecture: Name of an architecture, for its sets alone.

    Returns:
        The full names, as in `"resnext50_32x4d.tv2_in1k"`.

    Raises:
        ValueError: There is no such architecture.
    """
    architecture = None if architecture is None else get_spec(architecture).name
    return [weight_set.name for weight_set in sets_of(architecture)]


def sets_of(architecture: str | None, labels: str | None = None) -> list[WeightSet]:
    """The sets of an architecture and with these labels; None for any."""
    return [
        weight_set
        for weight_set in WEIGHT_SETS.values()
        if architecture in (None, weight_set.architecture)
        and labels in (None, weight_set.labels)
    ]


def default_set(architecture: str) -> WeightSet | None:
    """The set that `"imagenet"` names, None where no set may be the default.

    It is torchvision's second generation where there is one, else the most accurate
    set; never one that forbids commercial use.
    """
    sets = sets_of(architecture, labels="imagenet")
    permissive = [s for s in sets if not s.non_commercial]
    second_generation = [s for s in permissive if "IMAGENET1K_V2" in s.aliases]
    return max(second_generation or permissive, key=_accuracy, default=None)


def _accuracy(weight_set: WeightSet) -> tuple[bool, float]:
    """Best top-1 accuracy; what was measured goes before what is claimed."""
    return max((e.source == "timm", e.top1 or 0.0) for e in weight_set.evaluations)
