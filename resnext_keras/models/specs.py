"""The table of architectures.

Plain Python, so that names and shapes are known without loading Keras.
"""

from dataclasses import dataclass

from resnext_keras.arguments import (
    did_you_mean,
    model_name,
    positive_integer,
    positive_integers,
)

SE_REDUCTION = 16
"""Ratio of a block's channels to the channels inside its squeeze-and-excitation."""

STEMS = {"imagenet": (224, 1000, 4), "cifar": (32, 10, 1)}
"""The two stems of the paper: image size in pixels and number of classes of the data
set, and the factor by which the stem reduces the size."""

MIN_IMAGE_SIZE = 32
"""Smallest height and width in pixels, as in keras.applications."""


@dataclass(frozen=True)
class ResNeXtSpec:
    """One row of the architecture table.

    The widths follow the paper's rule (Table 1): stage `s` (from 1) has
    bottlenecks of `cardinality * group_width * 2 ** (s - 1)` channels and an
    output of `256 * 2 ** (s - 1)` channels.

    Attributes:
        name: Name in the paper's `depth_CxD` form, such as `"resnext50_32x4d"`.
        depths: Number of bottleneck blocks of each stage; the first stage is
            conv2, and every later one halves the resolution.
        cardinality: Groups of each 3x3 convolution (the paper's C).
        group_width: Channels of one group in conv2 (the paper's d).
        stem: `"imagenet"`, which reduces the resolution to a quarter, by a
            strided convolution and a max-pool, or `"cifar"`, which keeps it.
        stem_filters: Filters of the stem's convolutions: one of 7x7 (for CIFAR
            3x3), or three of 3x3 (ResNet-C of He et al., "Bag of Tricks", CVPR
            2019, Figure 2).
        pooled_shortcut: Whether a strided shortcut averages 2x2 pixels before
            its projection, so that it uses all pixels (ResNet-D, same paper).
        squeeze_excite: Whether each block weighs its output channels by
            squeeze-and-excitation (Hu et al., CVPR 2018).
        anti_aliased: Whether averages of 2x2 pixels replace the stride of each
            3x3 convolution and the stem's max-pool (the average-pool form of Zhang,
            "Making Convolutional Networks Shift-Invariant Again", ICML 2019, in
            timm's `seresnextaa`).
        caffe_form: Whether the network is as in Caffe, for which SE-ResNeXt was first
            published (timm's `legacy_seresnext`). The stem's max-pool pads the right
            and the lower border alone, and rounds odd sizes down. The two convolutions
            of squeeze-and-excitation have the names of files for torch, so that the
            names in a weight file show its form.

    Raises:
        ValueError: A value is outside what is described above.

    Examples:
        >>> spec = rk.ResNeXtSpec("mine", depths=(1, 1), cardinality=8, group_width=4)
        >>> rk.ResNeXt(spec, weights=None, classes=3).output_shape
        (None, 3)
    """

    name: str
    depths: tuple[int, ...]
    cardinality: int
    group_width: int
    stem: str = "imagenet"
    stem_filters: tuple[int, ...] = (64,)
    pooled_shortcut: bool = False
    squeeze_excite: bool = False
    anti_aliased: bool = False
    caffe_form: bool = False

    def __post_init__(self):
        model_name(self.name)
        # JSON does not take NumPy's integers, and gives lists for tuples.
        for field, check in (
            ("depths", positive_integers),
            ("cardinality", positive_integer),
            ("group_width", positive_integer),
            ("stem_filters", positive_integers),
        ):
            object.__setattr__(self, field, check(field, getattr(self, field)))
        if self.stem not in [*STEMS]:
            raise ValueError(
                f"Expected `stem` to be one of {sorted(STEMS)}. "
                f"Received: stem={self.stem!r}"
            )
        if len(self.stem_filters) not in (1, 3):
            raise ValueError(
                "Expected `stem_filters` to be one or three numbers. "
                f"Received: stem_filters={self.stem_filters!r}"
            )

    @property
    def image_size(self) -> int:
        """Height and width of the images that the network was made for, in pixels."""
        return STEMS[self.stem][0]

    @property
    def classes(self) -> int:
        """Number of classes of the data set that the network was made for."""
        return STEMS[self.stem][1]

    @property
    def stem_convolutions(self) -> tuple[tuple[str, int, int], ...]:
        """Name, kernel size and filters of each convolution of the stem."""
        filters = self.stem_filters
        if len(filters) == 1:
            return (("conv1", 7 if self.stem == "imagenet" else 3, filters[0]),)
        # The last one is named "conv1", so that every stem ends in "conv1_relu".
        return tuple(
            (name, 3, count)
            for name, count in zip(
                ("conv1_1", "conv1_2", "conv1"), filters, strict=True
            )
        )

    @property
    def excitation(self) -> tuple[str, ...]:
        """Names of the convolutions of squeeze-and-excitation; empty without it."""
        names = ("fc1", "fc2") if self.caffe_form else ("reduce", "expand")
        return names if self.squeeze_excite else ()

    @property
    def stages(self) -> range:
        """Numbers of the stages as in the paper, from 2 for conv2."""
        return range(2, 2 + len(self.depths))

    @property
    def strides(self) -> tuple[int, ...]:
        """Ratio of the image size to the size of each stage's output."""
        reduction = STEMS[self.stem][2]
        return tuple(reduction * 2 ** (stage - 2) for stage in self.stages)

    def widths(self, stage: int) -> tuple[int, int]:
        """Channels of a stage's bottlenecks and of its output (Table 1)."""
        scale = 2 ** (stage - 2)  # channels double whenever the resolution halves
        return self.cardinality * self.group_width * scale, 256 * scale


# The letters in timm's names: D for ResNet-D, T for its tiered stem, SE for
# squeeze-and-excitation, AA for anti-aliasing.
_D = {"stem_filters": (32, 32, 64), "pooled_shortcut": True}
_T = _D | {"stem_filters": (24, 32, 64)}
_SE = {"squeeze_excite": True}
_SE_AA_D = _D | _SE | {"anti_aliased": True}
_LEGACY = _SE | {"caffe_form": True}

# The architectures of the paper (Table 1, for CIFAR section 5.3) and those of all
# published weights, named as in timm. The last row is the small network of the bundled
# weights.
ARCHITECTURES = {
    spec.name: spec
    for spec in (
        ResNeXtSpec("resnext50_32x4d", (3, 4, 6, 3), 32, 4),
        ResNeXtSpec("resnext50d_32x4d", (3, 4, 6, 3), 32, 4, **_D),
        ResNeXtSpec("resnext101_32x4d", (3, 4, 23, 3), 32, 4),
        ResNeXtSpec("resnext101_32x8d", (3, 4, 23, 3), 32, 8),
        ResNeXtSpec("resnext101_32x16d", (3, 4, 23, 3), 32, 16),
        ResNeXtSpec("resnext101_32x32d", (3, 4, 23, 3), 32, 32),
        ResNeXtSpec("resnext101_32x48d", (3, 4, 23, 3), 32, 48),
        ResNeXtSpec("resnext101_64x4d", (3, 4, 23, 3), 64, 4),
        ResNeXtSpec("resnext152_32x4d", (3, 8, 36, 3), 32, 4),
        ResNeXtSpec("seresnext26d_32x4d", (2, 2, 2, 2), 32, 4, **_D, **_SE),
        ResNeXtSpec("seresnext26t_32x4d", (2, 2, 2, 2), 32, 4, **_T, **_SE),
        ResNeXtSpec("seresnext50_32x4d", (3, 4, 6, 3), 32, 4, **_SE),
        ResNeXtSpec("seresnext101_32x4d", (3, 4, 23, 3), 32, 4, **_SE),
        ResNeXtSpec("seresnext101_32x8d", (3, 4, 23, 3), 32, 8, **_SE),
        ResNeXtSpec("seresnext101_64x4d", (3, 4, 23, 3), 64, 4, **_SE),
        ResNeXtSpec("seresnext101d_32x8d", (3, 4, 23, 3), 32, 8, **_D, **_SE),
        ResNeXtSpec("seresnextaa101d_32x8d", (3, 4, 23, 3), 32, 8, **_SE_AA_D),
        ResNeXtSpec(
            "seresnextaa201d_32x8d",
            (3, 24, 36, 4),
            32,
            8,
            **_SE_AA_D | {"stem_filters": (64, 64, 128)},
        ),
        ResNeXtSpec("legacy_seresnext26_32x4d", (2, 2, 2, 2), 32, 4, **_LEGACY),
        ResNeXtSpec("legacy_seresnext50_32x4d", (3, 4, 6, 3), 32, 4, **_LEGACY),
        ResNeXtSpec("legacy_seresnext101_32x4d", (3, 4, 23, 3), 32, 4, **_LEGACY),
        ResNeXtSpec("resnext29_8x64d", (3, 3, 3), 8, 64, stem="cifar"),
        ResNeXtSpec("resnext29_16x64d", (3, 3, 3), 16, 64, stem="cifar"),
        ResNeXtSpec("resnext11_8x4d", (1, 1, 1), 8, 4, stem="cifar"),
    )
}


def list_models() -> list[str]:
    """Lists the names of the architectures; `ResNeXt(name, ...)` builds one.

    Returns:
        The names in the order of the table, beginning with `"resnext50_32x4d"`.

    Examples:
        >>> rk.list_models()[:2]
        ['resnext50_32x4d', 'resnext50d_32x4d']
    """
    return list(ARCHITECTURES)


def get_spec(model: ResNeXtSpec | str) -> ResNeXtSpec:
    """Finds an architecture by its name; a spec is returned as it is.

    Args:
        model: A `ResNeXtSpec`, or a name from `list_models()`, in any case, or of a
            function of the package, such as `"ResNeXt50"`.

    Returns:
        The `ResNeXtSpec`.

    Raises:
        ValueError: The argument is neither a spec nor a name from the table; the
            message suggests similar names.
    """
    if isinstance(model, ResNeXtSpec):
        return model
    if not isinstance(model, str):
        raise ValueError(
            "Expected `model` to be a ResNeXtSpec or the name of an "
            f"architecture. Received: model={model!r}"
        )
    name = architecture_name(model)
    if name is None:
        raise ValueError(
            "Expected one of the names that list_models() gives."
            f"{did_you_mean(model, ARCHITECTURES)} Received: model={model!r}"
        )
    return ARCHITECTURES[name]


def architecture_name(written: str) -> str | None:
    """The name in the table that is meant, or None; see `get_spec`."""
    bare = written.lower().replace("_", "")
    names = {name.replace("_", ""): name for name in ARCHITECTURES}
    # Functions leave out the width that most networks have: ResNeXt50, ResNeXt101.
    return names.get(bare) or names.get(f"{bare}32x4d")
