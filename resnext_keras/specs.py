"""The family as data: what tells one ResNeXt from another.

Plain Python, so that names and shapes can be looked at without loading Keras.
"""

import difflib
from dataclasses import dataclass
from numbers import Integral

STEMS = {"imagenet": (224, 1000), "cifar": (32, 10)}
"""The two stems of the paper: size in pixels and classes of their data sets."""

MIN_IMAGE_SIZE = 32
"""Smallest height and width in pixels, as in keras.applications."""


@dataclass(frozen=True)
class ResNeXtSpec:
    """One row of the architecture table.

    The widths follow the paper's rule (Table 1): stage `s` (from 1) has
    bottlenecks of `cardinality * group_width * 2 ** (s - 1)` channels and an
    output of `256 * 2 ** (s - 1)` channels.

    Attributes:
        name: Name in the paper's `depth_CxD` form, as in `"resnext50_32x4d"`.
        depths: Number of bottleneck blocks of each stage; the first stage is
            conv2, and every later one halves the resolution.
        cardinality: Groups of each 3x3 convolution (the paper's C).
        group_width: Channels of one group in conv2 (the paper's d).
        stem: `"imagenet"`, a 7x7 convolution and a max-pool that reduce the
            resolution to a quarter, or `"cifar"`, a 3x3 convolution that
            keeps it.

    Raises:
        ValueError: A value is outside what is described above.
    """

    name: str
    depths: tuple[int, ...]
    cardinality: int
    group_width: int
    stem: str = "imagenet"

    def __post_init__(self):
        if not self.name or not isinstance(self.name, str) or "/" in self.name:
            raise ValueError(
                "Expected `name` to be a non-empty string without '/'. "
                f"Received: name={self.name!r}"
            )
        depths = self.depths
        if not (
            isinstance(depths, (tuple, list)) and depths and all(map(_is_count, depths))
        ):
            raise ValueError(
                "Expected `depths` to be a tuple of positive integers, the number of "
                f"blocks of each stage. Received: depths={depths!r}"
            )
        object.__setattr__(self, "depths", tuple(depths))
        for field in ("cardinality", "group_width"):
            value = getattr(self, field)
            if not _is_count(value):
                raise ValueError(
                    f"Expected `{field}` to be a positive integer. "
                    f"Received: {field}={value!r}"
                )
        if self.stem not in STEMS:
            raise ValueError(
                f"Expected `stem` to be one of {sorted(STEMS)}. "
                f"Received: stem={self.stem!r}"
            )

    @property
    def image_size(self) -> int:
        """Height and width in pixels that the network was made for."""
        return STEMS[self.stem][0]

    @property
    def classes(self) -> int:
        """Number of classes of the data set that the network was made for."""
        return STEMS[self.stem][1]

    @property
    def stages(self) -> range:
        """Numbers of the stages, in the paper's count: 2 for conv2 and so on."""
        return range(2, 2 + len(self.depths))

    def widths(self, stage: int) -> tuple[int, int]:
        """Channels of a stage's bottlenecks and of its output (Table 1)."""
        scale = 2 ** (stage - 2)  # channels double whenever the resolution halves
        return self.cardinality * self.group_width * scale, 256 * scale


def _is_count(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value > 0


# Table 1 of the paper, and for CIFAR its section 5.3; "resnext152_32x4d" and
# "resnext101_32x8d" are those of the published checkpoints. The last row is
# the small network whose weights ship with this package.
ARCHITECTURES = {
    spec.name: spec
    for spec in (
        ResNeXtSpec("resnext50_32x4d", (3, 4, 6, 3), 32, 4),
        ResNeXtSpec("resnext101_32x4d", (3, 4, 23, 3), 32, 4),
        ResNeXtSpec("resnext101_32x8d", (3, 4, 23, 3), 32, 8),
        ResNeXtSpec("resnext101_64x4d", (3, 4, 23, 3), 64, 4),
        ResNeXtSpec("resnext152_32x4d", (3, 8, 36, 3), 32, 4),
        ResNeXtSpec("resnext29_8x64d", (3, 3, 3), 8, 64, stem="cifar"),
        ResNeXtSpec("resnext29_16x64d", (3, 3, 3), 16, 64, stem="cifar"),
        ResNeXtSpec("resnext11_8x4d", (1, 1, 1), 8, 4, stem="cifar"),
    )
}


def list_models() -> list[str]:
    """Names of the architectures, each of which `ResNeXt(name, ...)` builds.

    Returns:
        The names in the order of the table, from `"resnext50_32x4d"` on.
    """
    return list(ARCHITECTURES)


def get_spec(spec_or_name: ResNeXtSpec | str) -> ResNeXtSpec:
    """The row of the table with that name; a spec is handed through.

    Args:
        spec_or_name: A `ResNeXtSpec`, or a name that `list_models()` gives.

    Returns:
        The `ResNeXtSpec`.

    Raises:
        ValueError: The argument is neither a spec nor the name of a row; the
            error lists the nearest names.
    """
    if isinstance(spec_or_name, ResNeXtSpec):
        return spec_or_name
    if not isinstance(spec_or_name, str):
        raise ValueError(
            "Expected `spec_or_name` to be a ResNeXtSpec or the name of an "
            f"architecture. Received: spec_or_name={spec_or_name!r}"
        )
    if spec_or_name not in ARCHITECTURES:
        near = difflib.get_close_matches(spec_or_name.lower(), ARCHITECTURES, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "See list_models()."
        raise ValueError(
            f"Expected one of the names that list_models() gives. {hint} "
            f"Received: spec_or_name={spec_or_name!r}"
        )
    return ARCHITECTURES[spec_or_name]
