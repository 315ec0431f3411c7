"""Random changes of a training image, which leave its class the same.

Everything is a function of the image and a seed: workers that run side by side, and a
run that was resumed, change an image alike. Keras' layers for this draw from a state
in the order in which they happen to run; its `RandAugment` also takes one operation
for a whole batch, and its brightness and colour are not those of the papers.

Images are RGB, 0 to 255, uint8, of shape (size, size, 3). A seed is two integers.
"""

import math

import tensorflow as tf

from resnext_keras.training.transforms.crops import MEAN_COLOUR, random_box
from resnext_keras.training.transforms.operations import operations, transformed

BINS = 31  # in which torchvision has magnitudes, from none to the largest
RAND_OPERATIONS, RAND_BIN = 2, 9  # torchvision's defaults

ERASED_AREAS = (0.02, 0.33)
ERASED_RATIOS = (0.3, 3.3)

# What is written may turn by so many turns, move and slant by such shares of its size,
# and take from 0.9 to 1.4 times as many pixels of the image before for one of its own.
INK_TURN, INK_SHIFT, INK_SLANT, INK_ZOOM = 0.04, 0.1, 0.1, (0.9, 1.4)


def trivial_augment(image, seed):
    """One operation by chance, its magnitude by chance too.

    Source: Mueller and Hutter, "TrivialAugment", ICCV 2021, Table 1 (wide), as
    torchvision's `TrivialAugmentWide`.
    """
    magnitude_seed, seed = split(seed, 2)
    bin_ = tf.random.stateless_uniform([], magnitude_seed, 0, BINS, tf.int32)
    level = tf.cast(bin_, tf.float32) / (BINS - 1)
    return _one_operation(image, level, seed, wide=True)


def rand_augment(image, seed):
    """Two operations by chance, one after the other, of one magnitude.

    Source: Cubuk et al., "RandAugment", NeurIPS 2020, as torchvision's `RandAugment`.
    """
    for operation_seed in split(seed, RAND_OPERATIONS):
        image = _one_operation(image, RAND_BIN / (BINS - 1), operation_seed, wide=False)
    return image


def _one_operation(image, level, seed, *, wide: bool):
    table = operations(image.shape[0], wide)
    choice_seed, sign_seed = split(seed, 2)
    choice = tf.random.stateless_uniform([], choice_seed, 0, len(table), tf.int32)
    sign = tf.where(_chance(0.5, sign_seed), 1.0, -1.0)
    branches = [
        lambda operation=operation, most=most: operation(image, sign * level * most)
        for operation, most in table
    ]
    changed = tf.switch_case(choice, branches)
    return tf.ensure_shape(changed, image.shape)


def ink(image, seed):
    """Small turns, shifts, zooms and slants; then half become their negatives.

    What comes in from outside is black, as the paper of white ink is.
    """
    draws, invert = split(seed, 2)
    draws = tf.random.stateless_uniform([6], draws, -1.0)
    turn, slant = draws[0] * INK_TURN * 2 * math.pi, draws[1] * INK_SLANT
    shift = draws[2:4] * INK_SHIFT * image.shape[0]
    low, high = INK_ZOOM
    across, down = tf.unstack(low + (high - low) * (draws[4:] + 1) / 2)
    cos, sin = tf.cos(turn), tf.sin(turn)
    # Of the matrices of turn, zoom and slant the product; then one interpolation.
    matrix = cos * across, cos * across * slant - sin * down
    matrix += sin * across, sin * across * slant + cos * down
    image = transformed(image, matrix, shift=tf.unstack(shift))
    return tf.where(_chance(0.5, invert), 255 - image, image)


AUGMENTATIONS = {
    "": lambda image, seed: image,
    "trivial": trivial_augment,
    "rand": rand_augment,
    "ink": ink,
}
"""What `Recipe.augment` names."""


def flip(image, seed):
    """Mirrors half of the images."""
    mirror = _chance(0.5, seed)
    return tf.raw_ops.Reverse(tensor=image, dims=[False, mirror, False])


def erase(image, share: float, seed):
    """Paints a part of some images over with ImageNet's mean colour.

    Args:
        image: One image.
        share: Of the images.
        seed: Two integers.

    Source: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, as
    torchvision's `RandomErasing` after normalising.
    """
    size = image.shape[0]
    chance, seed = split(seed, 2)
    box, found = random_box(size, size, ERASED_AREAS, ERASED_RATIOS, seed)
    erased = inside(box, size)[..., tf.newaxis] & found & _chance(share, chance)
    return tf.where(erased, tf.constant(MEAN_COLOUR, tf.uint8), image)


def inside(box, size: int):
    """Which pixels of an image lie in a box.

    Args:
        box: Top, left, height and width.
        size: Height and width of the image.

    Returns:
        A mask, bool, of shape (size, size).
    """
    top, left, height, width = tf.unstack(box)
    places = tf.range(size)
    rows = (top <= places) & (places < top + height)
    columns = (left <= places) & (places < left + width)
    return rows[:, tf.newaxis] & columns


def split(seed, number: int) -> list:
    """So many seeds out of one, that have nothing to do with each other."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, number))


def _chance(share: float, seed):
    return tf.random.stateless_uniform([], seed) < share
