"""The first frame of a GIF as a file of its own, in a TensorFlow graph.

TensorFlow decodes all frames of an animation, however many and large they are, and
takes what is transparent for black. The layout is that of the GIF89a Specification,
CompuServe 1990, https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

import keras

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

GLOBAL_PALETTE = 13  # where it begins, behind header and screen descriptor
EXTENSION, GRAPHIC_CONTROL = 0x21, 0xF9
TRAILER = b";"

# What a walk through a file goes on for, that takes some microseconds a step. Parts
# nearly always have 255 bytes.
MOST_PARTS, MOST_EXTENSIONS = 100_000, 100


def first_frame(contents):
    """Cuts out the first frame, and makes white what is transparent in it.

    Args:
        contents: A GIF, a string scalar.

    Returns:
        The GIF of that frame, a string scalar, and whether the frame is complete and
        fills the picture, a bool scalar.
    """
    size = tf.strings.length(contents)
    data = tf.io.decode_raw(tf.strings.join([contents, b"\0"]), tf.uint8)

    def byte(place):
        """A byte, and 0 behind the end, where each loop stops."""
        return tf.cast(data[tf.minimum(place, size)], tf.int32)

    def palette_length(flags):
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def behind_parts(place):
        """Each part begins with its length, and the last has none."""
        (place,) = tf.while_loop(
            lambda place: byte(place) > 0,
            lambda place: [place + 1 + byte(place)],
            [place],
            maximum_iterations=MOST_PARTS,
        )
        return place + 1

    def skip_extension(place, clear):
        is_control = byte(place + 1) == GRAPHIC_CONTROL
        names_clear = is_control & (byte(place + 3) % 2 == 1)
        clear = tf.cond(names_clear, lambda: byte(place + 6), lambda: clear)
        return behind_parts(place + 2), clear

    head = GLOBAL_PALETTE + palette_length(byte(10))
    image, clear = tf.while_loop(
        lambda place, clear: byte(place) == EXTENSION,
        skip_extension,
        [head, -1],
        maximum_iterations=MOST_EXTENSIONS,
    )
    image = tf.minimum(image, size)
    own = palette_length(byte(image + 9))
    end = behind_parts(image + 10 + own + 1)
    box = [byte(image + n) for n in range(1, 9)]  # left, top, width, height
    screen = [byte(n) for n in range(6, 10)]
    fills = tf.reduce_all(tf.equal(box, [0, 0, 0, 0, *screen])) & (end <= size)
    # Without the extension, which names the transparent colour.
    parts = [(0, head), (image, end - image)]
    alone = tf.strings.join(
        [*(tf.strings.substr(contents, *p) for p in parts), TRAILER]
    )
    palette, length = tf.cond(
        own > 0,
        lambda: (head + 10, own),
        lambda: (GLOBAL_PALETTE, head - GLOBAL_PALETTE),
    )
    return tf.cond(
        (clear >= 0) & (3 * clear < length),
        lambda: _whitened(alone, palette + 3 * clear),
        lambda: alone,
    ), fills


def _whitened(contents, place):
    """With the three bytes of one colour replaced by those of white."""
    before = tf.strings.substr(contents, 0, place)
    after = tf.strings.substr(contents, place + 3, tf.strings.length(contents))
    return tf.strings.join([before, b"\xff\xff\xff", after])
