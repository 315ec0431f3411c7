"""Decodes an image file for training, and crops a square of its pixels."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from resnext_keras.images import read
from resnext_keras.images.decode import decode_image, resize_and_crop, to_uint8
from resnext_keras.images.preprocessing import MEAN, Preprocessing

MEAN_COLOUR = tuple(round(255 * mean) for mean in MEAN)
"""The colour that `preprocess_input` maps to nearly zero, the value of padding."""

TRIES = 10  # as torchvision's
CROP_RATIOS = (3 / 4, 4 / 3)


def evaluation_image(contents, preprocessing: Preprocessing):
    """Reads an image like `read_image`, but turns only JPEGs upright.

    Args:
        contents: Contents of an image file, a string scalar. The formats are those of
            `decode_image`.
        preprocessing: Sizes and interpolation.

    Returns:
        RGB, 0 to 255, uint8, of shape (size, size, 3).
    """
    rgb = upright(_decode(contents), exif_orientation(contents))
    return resize_and_crop(rgb, preprocessing)


def center_crop(contents, preprocessing: Preprocessing, size: int):
    """The image of evaluation, at another size in pixels."""
    *first, last = preprocessing.short_sides
    resize = *first, round(last * size / preprocessing.size)
    scaled = dataclasses.replace(preprocessing, size=size, resize=resize)
    return evaluation_image(contents, scaled)


def pad_crop(contents, preprocessing: Preprocessing, size: int, seed):
    """The image of `center_crop`, shifted by up to an eighth of its size.

    Source: He et al., 2016, section 4.2: an image of 32 x 32 is padded by four pixels
    on each side, then cropped. The padding is the mean colour, since the authors' and
    ResNeXt's Torch code pads after normalising.
    """
    padding = size // 8
    image = center_crop(contents, preprocessing, size)
    shift = tf.random.stateless_uniform([2], seed, 0, 2 * padding + 1, tf.int32)
    image = tf.cast(image, tf.int32) - MEAN_COLOUR
    image = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
    image = tf.slice(image, [*tf.unstack(shift), 0], [size, size, 3]) + MEAN_COLOUR
    return tf.cast(image, tf.uint8)


def random_resized_crop(
    contents, preprocessing: Preprocessing, size: int, least_area: float, seed
):
    """A random part of an image, resized with antialiasing.

    Only this part of a JPEG is decoded. It is chosen before the image is turned
    upright, which does not change the probabilities.

    Args:
        contents: Contents of an image file, a string scalar.
        preprocessing: For its interpolation.
        size: Height and width in pixels.
        least_area: Smallest share of the image's area; the largest is 1.
        seed: Two integers.

    Returns:
        RGB, 0 to 255, uint8, of shape (size, size, 3).

    Source: torchvision's `RandomResizedCrop`.
    """

    def box(shape):
        height, width = tf.unstack(shape)
        part, fits = random_box(height, width, (least_area, 1.0), CROP_RATIOS, seed)
        return tf.where(fits, part, _largest_center_box(height, width))

    def of_jpeg():
        part = box(tf.image.extract_jpeg_shape(contents)[:2])
        return tf.image.decode_and_crop_jpeg(
            contents, part, channels=3, dct_method="INTEGER_ACCURATE"
        )

    def of_others():
        rgb = _decode(contents)
        top, left, height, width = tf.unstack(box(tf.shape(rgb)[:2]))
        return rgb[top : top + height, left : left + width]

    is_jpeg = tf.strings.substr(contents, 0, 3) == b"\xff\xd8\xff"
    part = tf.cond(is_jpeg, of_jpeg, of_others)
    image = tf.image.resize(
        part, [size, size], preprocessing.interpolation, antialias=True
    )
    image = upright(to_uint8(image), exif_orientation(contents))
    return tf.ensure_shape(image, [size, size, 3])


def random_box(height, width, areas, ratios, seed):
    """A part of an image with a random area, aspect ratio and position.

    Args:
        height: Height of the image in pixels, an int32 scalar.
        width: Width of the image in pixels, an int32 scalar.
        areas: Smallest and largest share of the image's area.
        ratios: Smallest and largest width / height; the logarithm is drawn uniformly.
        seed: Two integers.

    Returns:
        Top, left, height and width in pixels, int32 (4,); and whether it lies within
        the image, which ten tries may not achieve.

    Source: torchvision's `RandomResizedCrop.get_params`.
    """
    area, ratio, top, left = tf.unstack(tf.random.stateless_uniform([4, TRIES], seed))
    area = areas[0] + (areas[1] - areas[0]) * area
    area *= tf.cast(height, tf.float32) * tf.cast(width, tf.float32)
    low, high = (math.log(ratio) for ratio in ratios)
    ratio = tf.exp(low + (high - low) * ratio)
    heights = tf.cast(tf.round(tf.sqrt(area / ratio)), tf.int32)
    widths = tf.cast(tf.round(tf.sqrt(area * ratio)), tf.int32)
    within = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    tops = tf.cast(top * tf.cast(height - heights + 1, tf.float32), tf.int32)
    lefts = tf.cast(left * tf.cast(width - widths + 1, tf.float32), tf.int32)
    first = tf.argmax(within)
    return tf.stack([tops, lefts, heights, widths], -1)[first], within[first]


def _largest_center_box(height, width):
    """The largest part at the centre with one of `CROP_RATIOS`, for long images."""
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    low, high = CROP_RATIOS
    h = tf.minimum(height, tf.cast(tf.round(columns / low), tf.int32))
    w = tf.minimum(width, tf.cast(tf.round(rows * high), tf.int32))
    return tf.stack([(height - h) // 2, (width - w) // 2, h, w])


def _decode(contents):
    rgb = decode_image(contents)
    message = "Expected an image in JPEG, PNG, BMP or WebP"
    with tf.control_dependencies([tf.debugging.assert_positive(tf.size(rgb), message)]):
        return tf.identity(rgb)


def exif_orientation(contents):
    """`resnext_keras.images.read.exif_orientation` in a graph: an int32 scalar.

    TensorFlow decodes pixels as they are stored, and phones store most images on their
    side. Pillow reads the EXIF data in a tenth of the time that TensorFlow's operations
    need for it.
    """
    number = tf.numpy_function(_orientation, [contents], tf.int32, stateful=False)
    return tf.ensure_shape(number, [])


def _orientation(contents: bytes) -> np.int32:
    return np.int32(read.exif_orientation(contents))


def upright(rgb, orientation):
    """Turns and mirrors an image by its EXIF orientation.

    Args:
        rgb: One image as it is stored, of shape (height, width, 3).
        orientation: From `exif_orientation`.

    Returns:
        The image; of shape (width, height, 3) for 5 to 8.
    """
    rgb = tf.cond(orientation >= 5, lambda: tf.transpose(rgb, [1, 0, 2]), lambda: rgb)
    down, right = (
        tf.reduce_any(orientation == orientations)
        for orientations in ([3, 4, 7, 8], [2, 3, 6, 7])
    )
    return tf.raw_ops.Reverse(tensor=rgb, dims=[down, right, False])
