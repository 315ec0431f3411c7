"""The order of an image's axes: `keras.config.image_data_format()`."""

import keras
import numpy as np


def channels_first() -> bool:
    """Whether `keras.config.image_data_format()` is `"channels_first"`."""
    return keras.config.image_data_format() == "channels_first"


def image_shape(
    height: int | None, width: int | None, channels: int = 3
) -> tuple[int | None, ...]:
    """Shape of one image: (H, W, channels) or (channels, H, W)."""
    if channels_first():
        return channels, height, width
    return height, width, channels


def to_data_format(images: np.ndarray) -> np.ndarray:
    """A batch (batch, H, W, channels), transposed if Keras is set to channels first."""
    return np.moveaxis(images, -1, 1) if channels_first() else images
