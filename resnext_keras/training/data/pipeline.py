"""Batches of images and labels for training and evaluation, by `tf.data`.

The batch of a step depends only on the seed and the number of the step, not on earlier
steps or on the number of threads or workers.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.training.data.dataset import ImageDataset
from resnext_keras.training.recipes import Recipe
from resnext_keras.training.transforms.augment import (
    AUGMENTATIONS,
    flip,
    random_erase,
    split,
)
from resnext_keras.training.transforms.crops import (
    center_crop,
    evaluation_image,
    pad_crop,
    random_resized_crop,
)
from resnext_keras.training.transforms.mixup import mix


def training_batches(
    dataset: ImageDataset,
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    seed: int,
    steps: int,
    first_step: int = 0,
    batch_size: int | None = None,
    worker: int = 0,
    workers: int = 1,
) -> tf.data.Dataset:
    """Batches to train on, which depend only on the seed and the number of the step.

    Passes over the images follow each other without a gap, each in another order: step
    k takes the images at places k * `batch_size` to (k + 1) * `batch_size`. So no image
    is left out if `batch_size` does not divide their number, and `batch_size` may be
    larger than their number.

    Each of several workers gets its share of a batch. Together they get the same batch
    as a single worker, with the same mixing.

    Args:
        dataset: The images to train on; all of them can be decoded.
        recipe: How images are cropped, augmented and mixed.
        preprocessing: Size and interpolation of the images, and the resizing for the
            crops `"center"` and `"pad"`.
        seed: Seed of order, crops, augmentation and mixing.
        steps: Number of batches.
        first_step: Number of the first batch.
        batch_size: Images per step, over all workers; None for that of the recipe.
        worker: Number of this worker, from 0.
        workers: Number of workers; a divisor of the batch size.

    Returns:
        A dataset of images, RGB, 0 to 255, uint8, of shape (rows, size, size, 3), and
        soft labels, float32, of shape (rows, classes), with rows = `batch_size` /
        `workers`.
    """
    batch_size = recipe.batch_size if batch_size is None else batch_size
    rows = batch_size // workers
    places = np.arange(worker * rows, (worker + 1) * rows)
    is_mixed = bool(recipe.mixup or recipe.cutmix)
    if is_mixed and workers > 1:
        # This worker's first image is mixed with the last image of another worker.
        places = np.append((places[0] - 1) % batch_size, places)
    read = _reader(dataset, recipe, preprocessing, seed)

    def load(number):
        step, row = number // len(places), number % len(places)
        return read(step * batch_size + tf.gather(places, row))

    def finish(step, batch):
        images, labels = batch
        labels = tf.one_hot(labels, len(dataset.class_names))
        if is_mixed:
            step_seed = _seed_of("mix", seed, step)
            images, labels = mix(images, labels, recipe.mixup, recipe.cutmix, step_seed)
        return images[-rows:], labels[-rows:]

    numbers = np.int64([first_step, first_step + steps]) * len(places)
    data = _mapped(tf.data.Dataset.range(*numbers), load)
    data = data.batch(len(places), drop_remainder=True).enumerate(first_step)
    # One batch at a time, to save memory; the operations run in parallel.
    return _finished(_mapped(data, finish, 1))


def evaluation_batches(
    dataset: ImageDataset, preprocessing: Preprocessing, batch_size: int
) -> tf.data.Dataset:
    """Batches of all images once, in their order, read like `read_image` does.

    Args:
        dataset: The images; all of them can be decoded.
        preprocessing: Sizes and interpolation.
        batch_size: Images per batch; the last batch may have fewer.

    Returns:
        A dataset of images, RGB, 0 to 255, uint8, of shape (batch, size, size, 3), and
        labels, int32, of shape (batch,).
    """
    labels = tf.constant(dataset.labels, tf.int32)

    def load(index):
        image = evaluation_image(dataset.read(index), preprocessing)
        return image, tf.gather(labels, index)

    data = _mapped(tf.data.Dataset.range(len(dataset)), load)
    return _finished(data.batch(batch_size))


def _reader(dataset, recipe, preprocessing, seed: int) -> Callable:
    """A function from a place in the sequence of passes to an image and its label."""
    count = len(dataset)
    labels = tf.constant(dataset.labels, tf.int32)
    size = recipe.train_size or preprocessing.size
    augment = AUGMENTATIONS[recipe.augment]

    def crop(contents, seed):
        if recipe.crop == "center":
            return center_crop(contents, preprocessing, size)
        if recipe.crop == "pad":
            return pad_crop(contents, preprocessing, size, seed)
        return random_resized_crop(
            contents, preprocessing, size, recipe.least_area, seed
        )

    def read(place):
        # Similar seeds give similar orders; `split` makes them independent.
        (ordering,) = split(_seed_of("order", seed, place // count), 1)
        index = tf.random.experimental.index_shuffle(place % count, ordering, count - 1)
        seeds = split(_seed_of("image", seed, place), 4)
        image = crop(dataset.read(index), seeds[0])
        if recipe.flip:
            image = flip(image, seeds[1])
        image = augment(image, seeds[2])
        if recipe.random_erase:
            image = random_erase(image, recipe.random_erase, seeds[3])
        return image, tf.gather(labels, index)

    return read


def _seed_of(purpose: str, seed: int, number):
    """The seed of one pass, place or step; no two have the same."""
    purposes = ("order", "image", "mix")
    first = len(purposes) * seed + purposes.index(purpose)
    return tf.stack([tf.constant(first, tf.int64), number])


def _mapped(data, function, threads=tf.data.AUTOTUNE):
    # AutoGraph would double the time until the first batch, and is not needed here.
    function = tf.autograph.experimental.do_not_convert(function)
    return data.map(function, threads, deterministic=True)


def _finished(data):
    """Adds prefetching, and stops TensorFlow's strategies from sharding it again."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return data.prefetch(tf.data.AUTOTUNE).with_options(options)
