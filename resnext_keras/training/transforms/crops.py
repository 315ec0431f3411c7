"""From an encoded image to the square of pixels that a network is trained on."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from resnext_keras.images import read
from resnext_keras.images.decode import decode_image, resize_and_crop, to_uint8
from resnext_keras.images.preprocessing import MEAN, Preprocessing

MEAN_COLOUR = tuple(round(255 * mean) for mean in MEAN)
"""The colour that `preprocess_input` makes nearly zero, as a network's padding is."""

TRIES = 10  # as torchvision's
CROP_RATIOS = (3 / 4, 4 / 3)


def evaluation_image(contents, preprocessing: Preprocessing):
    """Reads an image as `read_image` does, and turns a JPEG upright as it does.

    Args:
        contents: Contents of an image file of a format that an exported model reads,
            a string scalar.
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

    Source: He et al., 2016, section 4.2: of 40 x 40 pixels, four on each side of them
    padding, 32 x 32. What comes in is the mean colour, as in the authors' and
    ResNeXt's Torch code, which pads after normalising.
    """
    most = size // 8
    image = center_crop(contents, preprocessing, size)
    shift = tf.random.stateless_uniform([2], seed, 0, 2 * most + 1, tf.int32)
    image = tf.cast(image, tf.int32) - MEAN_COLOUR
    image = tf.pad(image, [[most, most], [most, most], [0, 0]])
    image = tf.slice(image, [*tf.unstack(shift), 0], [size, size, 3]) + MEAN_COLOUR
    return tf.cast(image, tf.uint8)


def random_resized_crop(
    contents, preprocessing: Preprocessing, size: int, least_area: float, seed
):
    """A random part of an image, resized with antialiasing.

    Of a JPEG no more than that part is decoded. The part is chosen in the image as
    it is stored: the chances are the same for an image on its side.

    Args:
        contents: Contents of an image file, a string scalar.
        preprocessing: Its interpolation is used.
        size: Height and width in pixels.
        least_area: Smallest share of the image's area, to 1.
        seed: Two integers.

    Returns:
        RGB, 0 to 255, uint8, of shape (size, size, 3).

    Source: torchvision's `RandomResizedCrop`.
    """

    def box(shape):
        height, width = tf.unstack(shape)
        part, found = random_box(height, width, (least_area, 1.0), CROP_RATIOS, seed)
        return tf.where(found, part, _largest_center_box(height, width))

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
    """A part of random area and shape at a random place.

    Args:
        height: Of the whole, in pixels, an int32 scalar.
        width: As `height`.
        areas: Smallest and largest share of the whole's area.
        ratios: Smallest and largest width by height; its logarithm is what is drawn.
        seed: Two integers.

    Returns:
        Top, left, height and width in pixels, int32 (4,), and whether one was found
        that lies within the whole, in ten tries.

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
    """The part of an image that is too long for a random one; of `CROP_RATIOS`."""
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
    """Turns and mirrors an image as its EXIF orientation asks.

    Args:
        rgb: One image as it is stored, of shape (height, width, 3).
        orientation: What `exif_orientation` gives.

    Returns:
        The image; of shape (width, height, 3) for 5 to 8.
    """
    rgb = tf.cond(orientation >= 5, lambda: tf.transpose(rgb, [1, 0, 2]), lambda: rgb)
    down, right = (
        tf.reduce_any(orientation == orientations)
        for orientations in ([3, 4, 7, 8], [2, 3, 6, 7])
    )
    return tf.raw_ops.Reverse(tensor=rgb, dims=[down, right, False])
