"""A heat map over its image, with the image still to be seen."""

import numpy as np
from PIL import Image

# matplotlib's inferno at nine equal steps (Smith and van der Walt, 2015, CC0), which
# looks as evenly spaced as it is, to the colour-blind and in grey too.
INFERNO = np.array(
    [
        (0, 0, 4),
        (33, 12, 74),
        (87, 16, 110),
        (138, 34, 106),
        (188, 55, 84),
        (228, 90, 49),
        (249, 142, 9),
        (249, 203, 53),
        (252, 255, 164),
    ]
)
HEAT_COLOURS = ", ".join("rgb({} {} {})".format(*colour) for colour in INFERNO)
"""The same for a gradient of CSS."""

OPACITY = 0.75
"""Of the hottest places; where nothing speaks for a class the image is as it was."""


def overlay(image: np.ndarray, heat: np.ndarray, size: int | None = None):
    """Draws a heat map over an image.

    Args:
        image: RGB, 0 to 255, uint8, (H, W, 3), as `read_image` gives it.
        heat: Values from 0 to 1, (h, w), of any size, as `grad_cam` gives for it.
        size: Length in pixels of the shorter side of what is drawn; None for that
            of `image`.

    Returns:
        A `PIL.Image`, RGB, of the shape of `image`: the hotter, the brighter and
        the more opaque.

    Raises:
        ValueError: An array has another shape or type.
    """
    image, heat = np.asarray(image), np.asarray(heat, "float32")
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            "Expected `image` to be uint8, (H, W, 3). "
            f"Received: {image.dtype} {image.shape}"
        )
    if heat.ndim != 2 or not heat.size or not ((heat >= 0) & (heat <= 1)).all():
        raise ValueError(
            "Expected `heat` to be (h, w) with values from 0 to 1. "
            f"Received: shape {heat.shape}"
        )
    height, width = image.shape[:2]
    scale = 1 if size is None else size / min(height, width)
    shape = round(width * scale), round(height * scale)
    pixels = np.float32(Image.fromarray(image).resize(shape, Image.Resampling.BICUBIC))
    heat = np.asarray(Image.fromarray(heat).resize(shape, Image.Resampling.BICUBIC))
    heat = heat.clip(0, 1)
    steps = np.linspace(0, 1, len(INFERNO))
    colours = np.stack([np.interp(heat, steps, c) for c in INFERNO.T], axis=-1)
    opacity = OPACITY * heat[..., np.newaxis]
    mixed = pixels * (1 - opacity) + colours * opacity
    return Image.fromarray(mixed.round().astype("uint8"))
