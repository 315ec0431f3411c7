"""Preprocessing of images for the networks of this family.

Every published weight set expects RGB that is scaled to [0, 1] and normalised with
ImageNet's mean and standard deviation (`mode="torch"` of keras.applications). Sets
differ in how an image is resized and cropped before, and weights that others have
trained may have another mean and deviation; that is a `Preprocessing`.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import keras
import numpy as np

from resnext_keras.arguments import positive_integer, positive_integers

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's red, green and blue, for values in [0, 1]."""

STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's red, green and blue, for values in [0, 1]."""

INTERPOLATIONS = {"bilinear": 2, "bicubic": 3}
"""Pillow's `Image.Resampling`, as numbers: networks are built without Pillow."""


@dataclass(frozen=True)
class Preprocessing:
    """How the images for a weight set are resized, cropped and normalised.

    Attributes:
        size: Height and width in pixels of the square that is cropped from the centre.
        resize: Length in pixels that the short side is resized to before the crop,
            at least `size`. A tuple gives several resizes in turn: the bundled digits
            need `(8, 32)`, because their network was trained on images of 8 x 8 pixels
            and has never seen sharper edges.
        interpolation: `"bilinear"` or `"bicubic"`, both with antialiasing.
        mean: Mean of red, green and blue, for values in [0, 1]. Default: ImageNet's.
        std: Standard deviation of the three, likewise, above 0.

    Raises:
        ValueError: A value is outside what is described above.

    Examples:
        >>> rk.Preprocessing(size=288, resize=288, interpolation="bicubic").size
        288
    """

    size: int
    resize: int | tuple[int, ...]
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD

    def __post_init__(self):
        # JSON does not take NumPy's integers, and gives lists for tuples.
        object.__setattr__(self, "size", positive_integer("size", self.size))
        is_several = isinstance(self.resize, (list, tuple))
        check = positive_integers if is_several else positive_integer
        object.__setattr__(self, "resize", check("resize", self.resize))
        if self.short_sides[-1] < self.size:
            raise ValueError(
                "Expected `resize` to be at least `size`. "
                f"Received: size={self.size}, resize={self.resize}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"Expected `interpolation` to be one of {list(INTERPOLATIONS)}. "
                f"Received: interpolation={self.interpolation!r}"
            )
        for name, above in (("mean", -math.inf), ("std", 0)):
            values = _three_numbers(name, getattr(self, name), above)
            object.__setattr__(self, name, values)

    def __repr__(self):
        # Mean and deviation are nearly always the same.
        names = ["size", "resize", "interpolation"]
        names += ["mean", "std"] if (self.mean, self.std) != (MEAN, STD) else []
        fields = (f"{name}={getattr(self, name)!r}" for name in names)
        return f"Preprocessing({', '.join(fields)})"

    @property
    def short_sides(self) -> tuple[int, ...]:
        """The lengths that the short side is resized to, in turn."""
        return self.resize if isinstance(self.resize, tuple) else (self.resize,)

    def as_json(self) -> dict:
        """The fields as JSON types; `Preprocessing(**fields)` restores the object."""
        fields = asdict(self).items()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields}


def _three_numbers(
    name: str, values: Iterable[float], above: float
) -> tuple[float, float, float]:
    """The values as floats, or a `ValueError` unless they are three finite numbers."""
    try:
        red, green, blue = map(float, values)
    except (TypeError, ValueError, OverflowError):
        red = green = blue = math.nan
    as_float32 = np.array([red, green, blue], "float32")  # may become 0 or infinity
    if not ((above < as_float32) & (as_float32 < math.inf)).all():
        positive = "" if above else "positive "
        raise ValueError(
            f"Expected `{name}` to be three {positive}numbers, for red, green and "
            f"blue. Received: {name}={values!r}"
        )
    return red, green, blue


IMAGENET = Preprocessing(size=224, resize=256)
"""Preprocessing for the evaluation of the first generation of weight sets."""


def default_preprocessing(size: int | None) -> Preprocessing:
    """How images are read if only their size is known; None for any size."""
    if size in (None, IMAGENET.size):
        return IMAGENET
    return Preprocessing(size=size, resize=size)


def preprocess_input(x, data_format=None, preprocessing=IMAGENET):
    """Scales RGB to [0, 1], then normalises it, by default as ImageNet.

    For a network with another number of input channels, each channel is normalised as
    the kernel of the first convolution that it meets: of RGB, repeated and cut to the
    number of channels. A single channel, whose kernel is the sum of the three, becomes
    the mean of what its RGB copy would become. timm, whose `adapt_input_conv` has these
    kernels, leaves mean and deviation to the user.

    It takes arrays and tensors, and works inside a functional model and in a `tf.data`
    map. The caller's array is not changed.

    Args:
        x: RGB or other channels, 0 to 255, of any integer or float dtype: one image
            (3D) or a batch (4D). A `PIL.Image` or a nested list is converted to a NumPy
            array.
        data_format: `"channels_last"` or `"channels_first"`; None for
            `keras.config.image_data_format()`.
        preprocessing: The `Preprocessing` of weights with another mean and deviation.

    Returns:
        `(x / 255 - mean) / std` in the shape of `x`: a NumPy array for an array, a
        tensor for a tensor. The dtype is that of `x` if it is a float dtype, otherwise
        `keras.config.floatx()`.

    Raises:
        ValueError: `data_format` is unknown; `x` is not 3D or 4D; or its shape is one
            of the other data format: neither 3 channels, nor at least as many pixels as
            channels (or 32 pixels) in height and width.

    Examples:
        >>> white = np.full((1, 32, 32, 3), 255, "uint8")
        >>> rk.preprocess_input(white)[0, 0, 0].round(2)
        array([2.25, 2.43, 2.64], dtype=float32)
    """
    if data_format is None:
        data_format = keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            'Expected `data_format` to be "channels_last" or "channels_first". '
            f"Received: data_format={data_format!r}"
        )
    if not hasattr(x, "shape"):
        x = np.asarray(x)
    shape = tuple(x.shape)
    axis = -1 if data_format == "channels_last" else -3
    if len(shape) not in (3, 4) or not _has_channels(shape, axis):
        raise ValueError(
            "Expected `x` to be one image (3D) or a batch of images (4D) with the "
            f"channels on axis {axis} ({data_format}). "
            f"Received: x.shape={shape}"
        )
    dtype = keras.backend.standardize_dtype(x.dtype)
    is_float = keras.backend.is_float_dtype(dtype)
    if not is_float:
        dtype = keras.config.floatx()
    # A dimension of a symbolic tensor may be None, not known yet.
    mean, std = (
        np.reshape(values, (-1,) + (1,) * (-1 - axis))
        for values in _statistics(preprocessing, shape[axis] or 3)
    )
    if isinstance(x, np.ndarray):
        if axis == -1:  # for a whole row: NumPy is slow along an axis of three
            mean, std = np.resize(mean, shape[-2:]), np.resize(std, shape[-2:])
        x = x.astype(dtype)  # a copy
        x /= 255.0
        x -= mean.astype(dtype)
        x /= std.astype(dtype)
        return x
    ops = keras.ops
    if type(x).__module__.startswith("tensorflow."):
        import tensorflow as ops  # for `tf.data`, on any backend of Keras
    if not is_float:
        x = ops.cast(x, dtype)
    mean = ops.convert_to_tensor(mean, dtype=dtype)
    std = ops.convert_to_tensor(std, dtype=dtype)
    return (x / 255.0 - mean) / std


def _has_channels(shape: tuple[int | None, ...], axis: int) -> bool:
    """Whether an axis may be that of the channels, not of rows or columns."""
    channels = shape[axis]
    if channels in (3, None):
        return True
    sides = shape[-3:-1] if axis == -1 else shape[-2:]
    known = [side for side in sides if side is not None]
    return channels > 0 and all(side >= min(channels, 32) for side in known)


def _statistics(
    preprocessing: Preprocessing, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, for values in [0, 1]."""
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
    if channels == 1:
        one = 1 / np.mean(1 / std, keepdims=True)
        return one * np.mean(mean / std), one
    return np.resize(mean, channels), np.resize(std, channels)
