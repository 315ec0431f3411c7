"""The first frame of a GIF as a file of its own, in a TensorFlow graph.

TensorFlow decodes all frames of an animation, however many and large they are,
and knows nothing of transparency. Layout: GIF89a Specification, CompuServe 1990,
https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

from typing import NamedTuple

import keras

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

EXTENSION = 0x21  # what a block begins with that is no image
GRAPHIC_CONTROL = 0xF9
TRAILER = b";"


class Frame(NamedTuple):
    """A GIF of one frame; height, width in pixels are those of that frame."""

    contents: object
    height: object
    width: object


def first_frame(contents):
    """Cuts out the first frame, and makes what is transparent in it white.

    Args:
        contents: A GIF, a string scalar. One that ends early gives an error.

    Returns:
        The `Frame`, of scalars: a string and two int64.
    """
    data = tf.io.decode_raw(contents, tf.uint8)

    def byte(place):
        return tf.cast(data[place], tf.int32)  # an error behind the end

    def bytes_of_palette(flags):
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def after_parts(place):
        """Behind parts that begin with their length, the last of length 0."""
        place = tf.while_loop(
            lambda place: byte(place) > 0,
            lambda place: [place + 1 + byte(place)],
            [place],
        )[0]
        return place + 1

    def skip_extension(place, clear):
        is_control = byte(place + 1) == GRAPHIC_CONTROL
        has_clear = is_control & (byte(place + 3) % 2 == 1)
        clear = tf.cond(has_clear, lambda: byte(place + 6), lambda: clear)
        return after_parts(place + 2), clear

    start = 13 + bytes_of_palette(byte(10))
    image, clear = tf.while_loop(
        lambda place, clear: byte(place) == EXTENSION, skip_extension, [start, -1]
    )
    own = bytes_of_palette(byte(image + 9))
    end = after_parts(image + 10 + own + 1)
    palette, length = tf.cond(
        own > 0, lambda: (start + 10, own), lambda: (13, start - 13)
    )
    alone = tf.strings.join(
        [
            tf.strings.substr(contents, 0, start),
            tf.strings.substr(contents, image, end - image),
            TRAILER,
        ]
    )
    width, height = (byte(image + n) + 256 * byte(image + n + 1) for n in (5, 7))
    return Frame(
        tf.cond(
            (clear >= 0) & (3 * clear < length),
            lambda: _whitened(alone, palette + 3 * clear),
            lambda: alone,
        ),
        tf.cast(height, tf.int64),
        tf.cast(width, tf.int64),
    )


def _whitened(contents, place):
    """With the three bytes of one colour replaced by those of white."""
    before = tf.strings.substr(contents, 0, place)
    after = tf.strings.substr(contents, place + 3, tf.strings.length(contents))
    return tf.strings.join([before, b"\xff\xff\xff", after])
