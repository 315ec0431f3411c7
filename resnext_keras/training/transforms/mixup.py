"""Mixup and CutMix: mix each image of a batch with the one before it."""

import tensorflow as tf

from resnext_keras.training.transforms.augment import inside, split


def mix(images, labels, mixup: float, cutmix: float, seed):
    """Mixes a batch by mixup or CutMix; with both, by one of them at random.

    As in torchvision all images of a batch are mixed in the same way: each with the one
    before it, and the first with the last.

    Args:
        images: RGB, 0 to 255, uint8, of shape (batch, size, size, 3).
        labels: One-hot, float32, of shape (batch, classes).
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of CutMix; 0 for none.
        seed: Two integers.

    Returns:
        Images, rounded, and soft labels, of the same shapes and types.

    Source: torchvision's `MixUp`, `CutMix` and `RandomChoice`.
    """
    choice, seed = split(seed, 2)
    ways = [
        lambda way=way, alpha=alpha: way(images, labels, alpha, seed)
        for way, alpha in ((_mixup, mixup), (_cutmix, cutmix))
        if alpha
    ]
    if not ways:
        return images, labels
    which = tf.random.stateless_uniform([], choice, 0, len(ways), tf.int32)
    images_shape, labels_shape = images.shape, labels.shape
    images, labels = tf.switch_case(which, ways)
    return tf.ensure_shape(images, images_shape), tf.ensure_shape(labels, labels_shape)


def _mixup(images, labels, alpha: float, seed):
    """Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018."""
    # In 256ths, so that 16 bits suffice: batches may be large.
    share = tf.round(256.0 * _beta(alpha, seed))
    own, wide = tf.cast(share, tf.uint16), tf.cast(images, tf.uint16)
    mixed = own * wide + (256 - own) * tf.roll(wide, 1, 0) + 128
    mixed = tf.cast(tf.bitwise.right_shift(mixed, tf.constant(8, tf.uint16)), tf.uint8)
    return mixed, _mixed_labels(labels, share / 256.0)


def _cutmix(images, labels, alpha: float, seed):
    """Yun et al., "CutMix", ICCV 2019."""
    size = images.shape[1]
    share_seed, place_seed = split(seed, 2)
    reach = tf.cast(0.5 * tf.sqrt(1.0 - _beta(alpha, share_seed)) * size, tf.int32)
    centre = tf.random.stateless_uniform([2], place_seed, 0, size, tf.int32)
    begin, end = tf.maximum(centre - reach, 0), tf.minimum(centre + reach, size)
    is_other = inside(tf.concat([begin, end - begin], 0), size)
    mixed = tf.where(is_other[..., tf.newaxis], tf.roll(images, 1, 0), images)
    share = 1.0 - tf.reduce_mean(tf.cast(is_other, tf.float32))
    return mixed, _mixed_labels(labels, share)


def _mixed_labels(labels, share):
    return share * labels + (1.0 - share) * tf.roll(labels, 1, 0)


def _beta(alpha: float, seed):
    """A random number from Beta(alpha, alpha)."""
    # In float64, since small alphas would give 0 / 0 in float32.
    first, second = tf.unstack(
        tf.random.stateless_gamma([2], seed, alpha, dtype=tf.float64)
    )
    return tf.cast(first / (first + second), tf.float32)
