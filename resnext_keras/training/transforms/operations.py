"""The operations of TrivialAugment, with the results of Pillow and torchvision.

An operation takes an image, RGB, 0 to 255, uint8, of shape (size, size, 3), and a
magnitude, a float scalar that is negative half of the time. It returns an image.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from resnext_keras.images.decode import to_uint8

GREY = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow's mode L
SMOOTH = ((1 / 13, 1 / 13, 1 / 13), (1 / 13, 5 / 13, 1 / 13), (1 / 13, 1 / 13, 1 / 13))


def operations() -> list[tuple[Callable, float]]:
    """The operations and the largest magnitude of each.

    Source: torchvision's `TrivialAugmentWide`.
    """
    return [
        (identity, 0.0),
        (shear_x, 0.99),
        (shear_y, 0.99),
        (translate_x, 32.0),
        (translate_y, 32.0),
        (rotate, 135.0),
        (brightness, 0.99),
        (colour, 0.99),
        (contrast, 0.99),
        (sharpness, 0.99),
        (posterize, 6.0),
        (solarize, 255.0),
        (auto_contrast, 0.0),
        (equalize, 0.0),
    ]


def identity(image, magnitude):
    """The image as it is."""
    return image


def shear_x(image, magnitude):
    """Slants by `magnitude` pixels per row; the upper edge stays."""
    return transformed(image, (1.0, magnitude, 0.0, 1.0), centre=-0.5)


def shear_y(image, magnitude):
    """Slants by `magnitude` pixels per column; the left edge stays."""
    return transformed(image, (1.0, 0.0, magnitude, 1.0), centre=-0.5)


def translate_x(image, magnitude):
    """Moves by whole pixels to the right."""
    return transformed(image, shift=(-_whole(magnitude), 0.0))


def translate_y(image, magnitude):
    """Moves by whole pixels down."""
    return transformed(image, shift=(0.0, -_whole(magnitude)))


def rotate(image, magnitude):
    """Turns by degrees, counter-clockwise."""
    cos, sin = (f(magnitude * (math.pi / 180)) for f in (tf.cos, tf.sin))
    return transformed(image, (cos, -sin, sin, cos))


def brightness(image, magnitude):
    """Blends with black, or away from it."""
    return _blend(0.0, tf.cast(image, tf.float32), magnitude)


def colour(image, magnitude):
    """Blends with the grey image, or away from it."""
    return _blend(_grey(image), tf.cast(image, tf.float32), magnitude)


def contrast(image, magnitude):
    """Blends with the mean grey, or away from it."""
    mean = tf.round(tf.reduce_mean(_grey(image)))
    return _blend(mean, tf.cast(image, tf.float32), magnitude)


def sharpness(image, magnitude):
    """Blends with the smoothed image, or away from it; the border is not smoothed."""
    image = tf.cast(image, tf.float32)
    kernel = tf.reshape(tf.constant(SMOOTH), [3, 3, 1, 1]) * tf.ones([1, 1, 3, 1])
    smooth = tf.nn.depthwise_conv2d(image[tf.newaxis], kernel, [1, 1, 1, 1], "VALID")[0]
    border = [[1, 1], [1, 1], [0, 0]]
    is_inner = tf.pad(tf.ones_like(smooth, tf.bool), border)
    smooth = tf.where(is_inner, tf.pad(tf.round(smooth), border), image)
    return _blend(smooth, image, magnitude)


def posterize(image, magnitude):
    """Clears the `magnitude` lowest bits."""
    bits = tf.cast(tf.round(tf.abs(magnitude)), tf.uint8)
    return tf.bitwise.left_shift(tf.bitwise.right_shift(image, bits), bits)


def solarize(image, magnitude):
    """Inverts values from 255 - magnitude on."""
    bright = tf.cast(image, tf.float32) >= 255.0 - tf.abs(magnitude)
    return tf.where(bright, 255 - image, image)


def auto_contrast(image, magnitude):
    """Stretches each channel to 0 to 255."""
    pixels = tf.cast(image, tf.float32)
    low, high = (f(pixels, [0, 1]) for f in (tf.reduce_min, tf.reduce_max))
    stretched = tf.cast(
        (pixels - low) * (255.0 / tf.maximum(high - low, 1.0)), tf.uint8
    )
    return tf.where(high > low, stretched, image)


def equalize(image, magnitude):
    """Spreads the values of each channel, so that all are about equally frequent.

    Source: Pillow's `ImageOps.equalize`.
    """
    channels = tf.reshape(tf.cast(image, tf.int32), [-1, 3])
    counts = tf.math.bincount(tf.transpose(channels), axis=-1, minlength=256)
    total = tf.shape(channels)[0]
    last = tf.gather(counts, tf.reduce_max(channels, 0), axis=1, batch_dims=1)
    step = (total - last)[:, tf.newaxis] // 255
    before = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((before + step // 2) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, table, tf.range(256))  # (3, 256)
    spread = tf.gather(table, tf.transpose(channels), axis=1, batch_dims=1)
    return tf.cast(tf.reshape(tf.transpose(spread), image.shape), tf.uint8)


def transformed(image, matrix=(1.0, 0.0, 0.0, 1.0), *, centre=None, shift=(0.0, 0.0)):
    """Transforms an image affinely, with bilinear interpolation; outside is black.

    Args:
        image: One image.
        matrix: Two rows, one after the other. They map the x and y of a pixel, relative
            to `centre`, to those of its source.
        centre: The x and y of the fixed point, in pixels; None for the middle.
        shift: Number of pixels that are added to the x and y of the source.
    """
    size = image.shape[0]
    centre = (size - 1) / 2 if centre is None else centre
    a, b, c, d = matrix
    right = centre - centre * (a + b) + shift[0]
    down = centre - centre * (c + d) + shift[1]
    values = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image[tf.newaxis], tf.float32),
        transforms=tf.stack([[a, b, right, c, d, down, 0.0, 0.0]]),
        output_shape=[size, size],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return to_uint8(values[0])


def _blend(none, image, magnitude):
    return to_uint8(none + (1.0 + magnitude) * (image - none))


def _grey(image):
    return tf.round(tf.reduce_sum(tf.cast(image, tf.float32) * GREY, -1, keepdims=True))


def _whole(magnitude):
    """Rounds towards zero, as Python's `int`."""
    return tf.sign(magnitude) * tf.floor(tf.abs(magnitude))
