"""From encoded images to the pixels of a batch, in a TensorFlow graph."""

import PIL
import tensorflow as tf

from resnext_keras.images.decode_formats import decode
from resnext_keras.images.preprocessing import Preprocessing

# Since Pillow 13 the height comes first where it loses over twice as many pixels as
# the width, https://github.com/python-pillow/Pillow/pull/9549; before, it never did.
VERTICAL_FIRST = int(PIL.__version__.split(".")[0]) >= 13

KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}  # as TensorFlow calls them


def decode_images(image_bytes, preprocessing: Preprocessing):
    """Decodes images and cuts out of each the square that a weight set expects.

    For a `tf.function` that is exported: what `read_image` does, of TensorFlow's own
    operations alone. A file that cannot be read spoils only its own row.

    The formats are JPEG, PNG, uncompressed BMP of 8, 24 or 32 bits, and WebP where
    the TensorFlow that runs the function decodes it, which 2.19 does not. GIF, of
    which TensorFlow would hold all frames at once, TIFF and PPM are no images to
    it. The EXIF rotation is not carried out. Where `read_image` rounds in whole
    numbers, a pixel may differ by 1 or 2, on average by 0.01; by 0.3 for CMYK, which
    TensorFlow cuts.

    Args:
        image_bytes: Contents of image files, strings of shape (batch,).
        preprocessing: Sizes and interpolation.

    Returns:
        The pixels, RGB, 0 to 255, uint8, of shape (batch, size, size, 3), and
        whether each row is an image, bool, of shape (batch,). Where it is none
        its pixels are 0.
    """
    rows = tf.size(image_bytes)
    square = [preprocessing.size, preprocessing.size, 3]

    def read(row, contents):
        rgb = decode(contents)
        found = tf.size(rgb) > 0
        pixels = tf.cond(
            found,
            lambda: resize_and_crop(rgb, preprocessing),
            lambda: tf.zeros(square, tf.uint8),
        )
        return row, pixels, found

    # A graph cannot catch an error, but a dataset leaves out the element that gave
    # it. One row more, so that there always is one.
    beyond = tf.data.Dataset.from_tensors((rows, tf.zeros(square, tf.uint8), False))
    index, pixels, found = (
        tf.data.Dataset.from_tensor_slices((tf.range(rows), image_bytes))
        .map(read, num_parallel_calls=tf.data.AUTOTUNE)
        .ignore_errors()
        .concatenate(beyond)
        .batch(tf.cast(rows, tf.int64) + 1)
        .get_single_element()
    )
    index = index[:, tf.newaxis]
    pixels = tf.scatter_nd(index, pixels, [rows + 1, *square])
    valid = tf.scatter_nd(index, tf.cast(found, tf.int32), [rows + 1]) > 0
    return pixels[:-1], valid[:-1]


def resize_and_crop(rgb, preprocessing: Preprocessing):
    """`resnext_keras.images.read.resize_and_crop` in a graph.

    Args:
        rgb: One image, uint8, of shape (height, width, 3).
        preprocessing: Sizes and interpolation.

    Returns:
        RGB, 0 to 255, uint8, of shape (size, size, 3).
    """
    kernel = KERNELS[preprocessing.interpolation]
    *first, last = preprocessing.short_sides
    for short in first:
        rgb = _resize(rgb, short, kernel)
    rgb = _resize(rgb, last, kernel, preprocessing.size)
    return tf.ensure_shape(rgb, [preprocessing.size, preprocessing.size, 3])


def _resize(rgb, short, kernel: str, size: int | None = None):
    """Resizes the short side, and then cuts out the centre if there is a size.

    One axis after the other, each rounded, in the order of Pillow.
    """
    before = tf.shape(rgb, tf.int64)[:2]
    after = tf.cast(short, tf.int64) * before // tf.reduce_min(before)
    height, width = tf.unstack(after)

    def transposed(rgb):
        return tf.transpose(rgb, [1, 0, 2])

    def resized(rgb, first, second):
        """The second axis first."""
        rgb = _resample(transposed(rgb), first, kernel, size)
        return _resample(transposed(rgb), second, kernel, size)

    if not VERTICAL_FIRST:
        return resized(rgb, width, height)
    less_height, less_width = tf.unstack(before - after)
    return tf.cond(
        (less_height > 0) & (less_height > 2 * less_width),
        lambda: transposed(resized(transposed(rgb), height, width)),
        lambda: resized(rgb, width, height),
    )


def _resample(rgb, length, kernel: str, size: int | None):
    """Resizes the first axis, of which no more than the centre is computed.

    The operation takes a column of single pixels, each of all that shares a place:
    on the last axis it is half as fast, and copies the image in float32.
    """
    before, others, _ = tf.unstack(tf.shape(rgb))
    begin = 0.0
    after = tf.cast(length, tf.int32)
    if size is not None:
        # Half to even, as Python and torchvision round.
        begin = tf.round(tf.cast(after - size, tf.float32) / 2)
        after = size
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(rgb, [1, before, 1, others * 3]),
        size=[after, 1],
        scale=[tf.cast(length / tf.cast(before, tf.int64), tf.float32), 1.0],
        translation=[-begin, 0.0],
        kernel_type=kernel,
        antialias=True,
    )
    # A bicubic kernel leaves the range of a pixel. The cast cuts, so half goes up.
    rounded = tf.cast(tf.clip_by_value(resized + 0.5, 0.0, 255.0), tf.uint8)
    return tf.reshape(rounded, [after, others, 3])
