"""Square crops of an image for training."""

import dataclasses
import math

import numpy as np
from PIL import Image

from resnext_keras.images.preprocessing import INTERPOLATIONS, Preprocessing
from resnext_keras.images.read import resize_and_crop

TRIES = 10  # as torchvision's
CROP_RATIOS = (3 / 4, 4 / 3)


def center_crop(
    rgb: Image.Image, preprocessing: Preprocessing, size: int
) -> Image.Image:
    """The image of evaluation, at another size in pixels."""
    *first, last = preprocessing.short_sides
    resize = *first, round(last * size / preprocessing.size)
    scaled = dataclasses.replace(preprocessing, size=size, resize=resize)
    return Image.fromarray(resize_and_crop(rgb, scaled))


def pad_crop(
    rgb: Image.Image,
    preprocessing: Preprocessing,
    size: int,
    rng: np.random.Generator,
) -> Image.Image:
    """The image of `center_crop`, shifted by up to an eighth of its size.

    Source: He et al., 2016, section 4.2: an image of 32 x 32 is padded by four pixels
    on each side, then cropped. The padding is the mean colour, since the authors' and
    ResNeXt's Torch code pads after normalising.
    """
    padding = size // 8
    padded = Image.new("RGB", (size, size), mean_colour(preprocessing))
    left, top = rng.integers(-padding, padding, 2, endpoint=True).tolist()
    padded.paste(center_crop(rgb, preprocessing, size), (left, top))
    return padded


def mean_colour(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """The colour that `preprocess_input` maps to nearly zero, the value of padding."""
    return tuple(round(255 * mean) for mean in preprocessing.mean)


def random_resized_crop(
    rgb: Image.Image,
    preprocessing: Preprocessing,
    size: int,
    least_area: float,
    rng: np.random.Generator,
) -> Image.Image:
    """A random part of an image, resized with antialiasing.

    Args:
        rgb: The image, of mode RGB.
        preprocessing: For its interpolation.
        size: Height and width in pixels.
        least_area: Smallest share of the image's area; the largest is 1.
        rng: Generator of random numbers.

    Returns:
        An image of size x size pixels.

    Source: torchvision's `RandomResizedCrop`.
    """
    box = random_box(*rgb.size, (least_area, 1.0), CROP_RATIOS, rng)
    part = rgb.crop(box or _largest_center_box(*rgb.size))
    return part.resize((size, size), INTERPOLATIONS[preprocessing.interpolation])


def random_box(
    width: int,
    height: int,
    areas: tuple[float, float],
    ratios: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """A part of an image with a random area, aspect ratio and position.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        areas: Smallest and largest share of the image's area.
        ratios: Smallest and largest width / height; the logarithm is drawn uniformly.
        rng: Generator of random numbers.

    Returns:
        Left, top, right and bottom in pixels; None if ten tries gave no part within the
        image.

    Source: torchvision's `RandomResizedCrop.get_params`.
    """
    for _ in range(TRIES):
        area = width * height * rng.uniform(*areas)
        ratio = math.exp(rng.uniform(*map(math.log, ratios)))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left = int(rng.integers(width - across, endpoint=True))
            top = int(rng.integers(height - down, endpoint=True))
            return left, top, left + across, top + down
    return None


def _largest_center_box(width: int, height: int) -> tuple[int, int, int, int]:
    """The largest part at the centre with one of `CROP_RATIOS`, for long images."""
    low, high = CROP_RATIOS
    across, down = min(width, round(height * high)), min(height, round(width / low))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down
