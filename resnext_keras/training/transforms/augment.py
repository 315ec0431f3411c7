"""Random augmentation of a training image.

Each function depends only on the image and a seed, so that parallel workers and resumed
runs give the same images. Keras' layers draw from a state instead, whose order varies,
and none of them is TrivialAugment.

Images are RGB, 0 to 255, uint8, of shape (size, size, 3). A seed is two integers.
"""

import math

import tensorflow as tf

from resnext_keras.training.transforms.crops import MEAN_COLOUR, random_box
from resnext_keras.training.transforms.operations import operations, transformed

BINS = 31  # number of magnitudes, as in torchvision

ERASED_AREAS = (0.02, 0.33)
ERASED_RATIOS = (0.3, 3.3)

# Largest turn (a share of a full turn), shift and slant (shares of the size), and
# smallest and largest number of source pixels per pixel.
INK_TURN, INK_SHIFT, INK_SLANT, INK_ZOOM = 0.04, 0.1, 0.1, (0.9, 1.4)


def trivial_augment(image, seed):
    """One random operation of a random magnitude.

    Source: Mueller and Hutter, "TrivialAugment", ICCV 2021, Table 1 (wide), as
    torchvision's `TrivialAugmentWide`.
    """
    magnitude_seed, seed = split(seed, 2)
    bin_ = tf.random.stateless_uniform([], magnitude_seed, 0, BINS, tf.int32)
    level = tf.cast(bin_, tf.float32) / (BINS - 1)
    table = operations()
    choice_seed, sign_seed = split(seed, 2)
    choice = tf.random.stateless_uniform([], choice_seed, 0, len(table), tf.int32)
    sign = tf.where(_chance(0.5, sign_seed), 1.0, -1.0)
    branches = [
        lambda operation=operation, most=most: operation(image, sign * level * most)
        for operation, most in table
    ]
    return tf.ensure_shape(tf.switch_case(choice, branches), image.shape)


def ink(image, seed):
    """Small turns, shifts, zooms and slants; half of the images become negatives.

    Pixels from outside are black, the background of white ink.
    """
    draws, invert = split(seed, 2)
    draws = tf.random.stateless_uniform([6], draws, -1.0)
    turn, slant = draws[0] * INK_TURN * 2 * math.pi, draws[1] * INK_SLANT
    shift = draws[2:4] * INK_SHIFT * image.shape[0]
    low, high = INK_ZOOM
    across, down = tf.unstack(low + (high - low) * (draws[4:] + 1) / 2)
    cos, sin = tf.cos(turn), tf.sin(turn)
    # The product of turn, zoom and slant, for one interpolation.
    matrix = cos * across, cos * across * slant - sin * down
    matrix += sin * across, sin * across * slant + cos * down
    image = transformed(image, matrix, shift=tf.unstack(shift))
    return tf.where(_chance(0.5, invert), 255 - image, image)


AUGMENTATIONS = {
    "": lambda image, seed: image,
    "trivial": trivial_augment,
    "ink": ink,
}
"""The functions of `Recipe.augment`."""


def flip(image, seed):
    """Mirrors half of the images."""
    mirror = _chance(0.5, seed)
    return tf.raw_ops.Reverse(tensor=image, dims=[False, mirror, False])


def random_erase(image, share: float, seed):
    """Fills a part of some images with ImageNet's mean colour.

    Args:
        image: One image.
        share: Share of the images that are changed, 0 to 1.
        seed: Two integers.

    Source: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, as
    torchvision's `RandomErasing` after normalising.
    """
    size = image.shape[0]
    chance, seed = split(seed, 2)
    box, fits = random_box(size, size, ERASED_AREAS, ERASED_RATIOS, seed)
    erased = inside(box, size)[..., tf.newaxis] & fits & _chance(share, chance)
    return tf.where(erased, tf.constant(MEAN_COLOUR, tf.uint8), image)


def inside(box, size: int):
    """A mask, bool (size, size), of a box (top, left, height, width) in an image."""
    top, left, height, width = tf.unstack(box)
    pixels = tf.range(size)
    rows = (top <= pixels) & (pixels < top + height)
    columns = (left <= pixels) & (pixels < left + width)
    return rows[:, tf.newaxis] & columns


def split(seed, number: int) -> list:
    """Independent seeds from one."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, number))


def _chance(share: float, seed):
    return tf.random.stateless_uniform([], seed) < share
