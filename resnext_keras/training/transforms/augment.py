"""Random augmentation of a training image.

Each function depends only on the image and a NumPy generator of random numbers, so that
parallel workers and resumed runs give the same images. Keras' layers draw from a state
instead, whose order varies, and none of them is TrivialAugment.

Images are `PIL.Image`s of mode RGB, of size x size pixels.
"""

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from resnext_keras.training.transforms.crops import random_box

BINS = 31  # number of magnitudes, as in torchvision

ERASED_AREAS = (0.02, 0.33)
ERASED_RATIOS = (0.3, 3.3)

# Largest turn (a share of a full turn), shift and slant (shares of the size), and
# smallest and largest number of source pixels per pixel.
INK_TURN, INK_SHIFT, INK_SLANT, INK_ZOOM = 0.04, 0.1, 0.1, (0.9, 1.4)


def _transformed(image, matrix):
    """Transforms an image affinely, with bilinear interpolation; outside is black.

    The six numbers of the matrix, row by row, map the x and y of a pixel, and 1, to the
    x and y of its source.
    """
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, affine, matrix, bilinear)


OPERATIONS = (
    (lambda image, m: image, 0.0),
    # Shears by m pixels per row or column; the upper or left edge stays.
    (lambda image, m: _transformed(image, (1, m, 0, 0, 1, 0)), 0.99),
    (lambda image, m: _transformed(image, (1, 0, 0, m, 1, 0)), 0.99),
    # Translates by whole pixels to the right or down.
    (lambda image, m: _transformed(image, (1, 0, -int(m), 0, 1, 0)), 32.0),
    (lambda image, m: _transformed(image, (1, 0, 0, 0, 1, -int(m))), 32.0),
    # Rotates by degrees, counter-clockwise.
    (lambda image, m: image.rotate(m, Image.Resampling.BILINEAR), 135.0),
    (lambda image, m: ImageEnhance.Brightness(image).enhance(1 + m), 0.99),
    (lambda image, m: ImageEnhance.Color(image).enhance(1 + m), 0.99),
    (lambda image, m: ImageEnhance.Contrast(image).enhance(1 + m), 0.99),
    (lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + m), 0.99),
    # Clears the m lowest bits.
    (lambda image, m: ImageOps.posterize(image, 8 - round(abs(m))), 6.0),
    # Inverts values from 255 - m on.
    (lambda image, m: ImageOps.solarize(image, 255 - abs(m)), 255.0),
    (lambda image, m: ImageOps.autocontrast(image), 0.0),
    (lambda image, m: ImageOps.equalize(image), 0.0),
)
"""The operations of TrivialAugment, and the largest magnitude of each.

An operation takes an image, a `PIL.Image` of mode RGB, and a magnitude m, a float that
is negative half of the time. It returns an image of the same size.

Source: torchvision's `TrivialAugmentWide`.
"""


def trivial_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One random operation of a random magnitude.

    Source: Mueller and Hutter, "TrivialAugment", ICCV 2021, Table 1 (wide), as
    torchvision's `TrivialAugmentWide`.
    """
    operation, most = OPERATIONS[rng.integers(len(OPERATIONS))]
    level = rng.integers(BINS) / (BINS - 1)
    sign = 1 if rng.random() < 0.5 else -1
    return operation(image, sign * level * most)


def ink(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Small turns, shifts, zooms and slants; half of the images become negatives.

    Pixels from outside are black, the background of white ink.
    """
    turn = 2 * math.pi * rng.uniform(-INK_TURN, INK_TURN)
    slant = rng.uniform(-INK_SLANT, INK_SLANT)
    shift = rng.uniform(-INK_SHIFT, INK_SHIFT, 2) * image.width
    across, down = rng.uniform(*INK_ZOOM, 2)
    cos, sin = math.cos(turn), math.sin(turn)
    # The product of turn, zoom and slant, for one interpolation.
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag([across, down])
    matrix = matrix @ [[1, slant], [0, 1]]
    centre = image.width / 2
    offset = centre + shift - matrix @ [centre, centre]
    image = _transformed(image, np.column_stack([matrix, offset]).ravel().tolist())
    return ImageOps.invert(image) if rng.random() < 0.5 else image


AUGMENTATIONS = {
    "": lambda image, rng: image,
    "trivial": trivial_augment,
    "ink": ink,
}
"""The functions of `Recipe.augment`."""


def flip(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Mirrors half of the images."""
    return ImageOps.mirror(image) if rng.random() < 0.5 else image


def random_erase(
    image: Image.Image,
    share: float,
    colour: tuple[int, int, int],
    rng: np.random.Generator,
) -> Image.Image:
    """Fills a part of some images with a colour.

    Args:
        image: One image.
        share: Share of the images that are changed, 0 to 1.
        colour: RGB, 0 to 255, from `mean_colour`.
        rng: Generator of random numbers.

    Source: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, as
    torchvision's `RandomErasing` after normalising.
    """
    is_erased = rng.random() < share
    if is_erased and (box := random_box(*image.size, ERASED_AREAS, ERASED_RATIOS, rng)):
        image = image.copy()
        image.paste(colour, box)
    return image
