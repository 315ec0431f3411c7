"""Batches of images and labels for training and validation, read in threads.

Pillow reads and crops the images, as for prediction and evaluation, and releases
Python's lock while it does so.
"""

import functools
import math
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import keras
import numpy as np
from PIL import Image

from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.images.read import ImageError, resize_and_crop
from resnext_keras.images.threads import AHEAD
from resnext_keras.training.data.dataset import ImageDataset, Unreadable
from resnext_keras.training.recipes import Recipe
from resnext_keras.training.transforms.augment import (
    AUGMENTATIONS,
    flip,
    random_erase,
)
from resnext_keras.training.transforms.crops import (
    center_crop,
    mean_colour,
    pad_crop,
    random_resized_crop,
)
from resnext_keras.training.transforms.mixup import mix

# Part of each seed: order, images, mixing and replacements draw independently.
ORDER, IMAGE, MIX, REPLACEMENT = range(4)


class _Batches(keras.utils.PyDataset):
    """Batches that threads prepare some steps ahead.

    A subclass has three methods: `_items(step)` gives an item for each row of a batch,
    `_load(item)` the pixels of the row and the number of its image, and
    `_finish(step, rows)` the batch of these.
    """

    def __init__(self, dataset: ImageDataset, steps: int, unreadable: Unreadable):
        # One worker, for which Keras starts no threads of its own.
        super().__init__(workers=1)
        self.dataset, self.steps, self.unreadable = dataset, steps, unreadable
        self._pool = ThreadPoolExecutor(os.cpu_count(), "reading")
        self._lock = threading.Lock()
        self._waiting: dict[int, Future] = {}

    def __len__(self) -> int:
        return self.steps

    def close(self) -> None:
        """Stops the threads, without waiting for batches that nobody needs."""
        self._pool.shutdown(cancel_futures=True)

    def __getitem__(self, step: int) -> tuple[np.ndarray, ...]:
        with self._lock:
            wanted = range(step, min(step + AHEAD, self.steps))
            for other in self._waiting.keys() - wanted:
                del self._waiting[other]
            for number in wanted:
                if number not in self._waiting:
                    self._waiting[number] = self._begin(number)
            batch = self._waiting.pop(step)
        return batch.result()

    def _begin(self, step: int) -> Future:
        rows = [self._pool.submit(self._load, item) for item in self._items(step)]
        # Its rows are before it in the queue of the pool, so this cannot deadlock.
        return self._pool.submit(
            lambda: self._finish(step, [row.result() for row in rows])
        )

    def _open(self, number: int, rng: np.random.Generator) -> tuple[Image.Image, int]:
        """The image of this number, or if it cannot be read another, and its number."""
        while not self.unreadable.must_end:
            try:
                return self.dataset.image(number), number
            except ImageError as error:
                self.unreadable[self.dataset.names[number]] = error.reason
            except OSError as error:
                self.unreadable.failure = error
            number = int(rng.integers(len(self.dataset)))
        # The callback `UnreadableImages` ends the run after this step.
        return Image.new("RGB", (1, 1)), number


class TrainingBatches(_Batches):
    """Batches to train on, which depend only on the seed and the number of the step.

    Passes over the images follow each other without a gap, each in another order. A
    batch may contain the end of one pass and the beginning of the next, so that no
    image is left out, and `batch_size` may be larger than their number.

    Each of several workers gets its share of a batch. Together they get the same batch
    as a single worker, with the same mixing.

    Each batch has images, RGB, 0 to 255, uint8, of shape (rows, size, size, 3), and
    soft labels, float32, of shape (rows, classes), with rows = `batch_size` /
    `workers`.

    Args:
        dataset: The images to train on.
        recipe: How images are cropped, augmented and mixed.
        preprocessing: Size and interpolation of the images, and the resizing for the
            crops `"center"` and `"pad"`.
        seed: Seed of order, crops, augmentation and mixing.
        steps: Number of batches.
        first_step: Number of the first batch.
        batch_size: Images per step, over all workers; None for that of the recipe.
        worker: Number of this worker, from 0.
        workers: Number of workers; a divisor of the batch size.
        unreadable: Gets the name and reason of each image that cannot be read. Another
            image is read in its place, the next draw of the same seed.
    """

    def __init__(
        self,
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
        unreadable: Unreadable,
    ):
        super().__init__(dataset, steps, unreadable)
        self.recipe, self.preprocessing = recipe, preprocessing
        self.seed, self.first_step = seed, first_step
        self.batch_size = recipe.batch_size if batch_size is None else batch_size
        self.rows = self.batch_size // workers
        self.places = np.arange(worker * self.rows, (worker + 1) * self.rows)
        if workers > 1 and (recipe.mixup or recipe.cutmix):
            # This worker's first image is mixed with the last image of another worker.
            before = (self.places[0] - 1) % self.batch_size
            self.places = np.append(before, self.places)
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, number: int) -> np.ndarray:
        """The order of the images in a pass."""
        return self._rng(ORDER, number).permutation(len(self.dataset))

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, purpose, number))

    def _items(self, step):
        return ((self.first_step + step) * self.batch_size + self.places).tolist()

    def _load(self, item):
        number, place = divmod(item, len(self.dataset))
        rng = self._rng(IMAGE, item)
        rgb, index = self._open(int(self._order(number)[place]), rng)
        image = self._crop(rgb, rng)
        if self.recipe.flip:
            image = flip(image, rng)
        image = AUGMENTATIONS[self.recipe.augment](image, rng)
        if self.recipe.random_erase:
            colour = mean_colour(self.preprocessing)
            image = random_erase(image, self.recipe.random_erase, colour, rng)
        return np.asarray(image), index

    def _crop(self, rgb, rng):
        recipe, preprocessing = self.recipe, self.preprocessing
        size = recipe.train_size or preprocessing.size
        if recipe.crop == "center":
            return center_crop(rgb, preprocessing, size)
        if recipe.crop == "pad":
            return pad_crop(rgb, preprocessing, size, rng)
        return random_resized_crop(rgb, preprocessing, size, recipe.least_area, rng)

    def _finish(self, step, rows):
        images, numbers = zip(*rows, strict=True)
        images, labels = np.stack(images), self.dataset.soft_labels(numbers)
        rng = self._rng(MIX, self.first_step + step)
        images, labels = mix(images, labels, self.recipe.mixup, self.recipe.cutmix, rng)
        return images[-self.rows :], labels[-self.rows :]


class ValidationBatches(_Batches):
    """Batches of all images once, in their order, read like `read_image` does.

    Each batch has images, RGB, 0 to 255, uint8, of shape (rows, size, size, 3), and
    labels, 0 or 1, float32, of shape (rows, classes).

    With `pad` all batches have the same number of rows: images of zeros fill the last
    one. A third array, float32, of shape (rows,), has the weight of each row: 0 for
    padding, and slightly above 1 for the others, so that the mean over all rows is that
    of the real images, in the loss and in `weighted_metrics`.

    Args:
        dataset: The images.
        preprocessing: Sizes and interpolation.
        batch_size: Images per batch of this worker; without padding the last batch may
            have fewer.
        pad: Whether to pad the last batch.
        worker: Number of this worker, from 0. It gets every `workers`-th image.
        workers: Number of workers.
        unreadable: See `TrainingBatches`.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        preprocessing: Preprocessing,
        batch_size: int,
        *,
        pad: bool = False,
        worker: int = 0,
        workers: int = 1,
        unreadable: Unreadable,
    ):
        steps = math.ceil(len(dataset) / (batch_size * workers))
        super().__init__(dataset, steps, unreadable)
        self.preprocessing, self.batch_size, self.pad = preprocessing, batch_size, pad
        self.numbers = range(worker, len(dataset), workers)
        self.weight = steps * batch_size * workers / len(dataset)

    def _items(self, step):
        return self.numbers[step * self.batch_size : (step + 1) * self.batch_size]

    def _load(self, item):
        rgb, index = self._open(item, np.random.default_rng((0, REPLACEMENT, item)))
        return resize_and_crop(rgb, self.preprocessing), index

    def _finish(self, step, rows):
        size, count = self.preprocessing.size, len(rows)
        images = np.zeros((count, size, size, 3), "uint8")
        for image, (pixels, _) in zip(images, rows, strict=True):
            image[:] = pixels
        labels = self.dataset.soft_labels([index for _, index in rows])
        if not self.pad:
            return images, labels
        weights = np.full(count, self.weight, "float32")
        missing = self.batch_size - count
        return tuple(
            np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
            for array in (images, labels, weights)
        )
