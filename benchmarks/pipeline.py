"""How fast images are read for training, beside the speed of training.

    pip install -e ".[test]"
    python benchmarks/pipeline.py

The images are JPEGs of 500 x 375 cut from the two photos that scikit-learn ships; the
network is ResNeXt-50 in float32, a step of SGD on batches of 64 x 64 pixels. All three
figures are of this machine's cores, one after the other: reading alone, steps alone on
one batch in memory, and both at once, as in a run.
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from resnext_keras import ResNeXt
from resnext_keras.images.preprocessing import Preprocessing
from resnext_keras.training.data.dataset import open_split
from resnext_keras.training.data.pipeline import training_batches
from resnext_keras.training.optimizers import build_optimizer
from resnext_keras.training.recipes import RECIPES, adjusted
from resnext_keras.training.trainer import with_preprocessing

SIZE, BATCH, CLASSES = 64, 64, 10
READING = Preprocessing(size=SIZE, resize=SIZE * 8 // 7)


def write_images(folder, count):
    """An image folder of parts of the photos, at random places and sizes."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count):
        photo = photos[number % len(photos)]
        width = int(rng.integers(200, photo.width))
        height = width * 3 // 4
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(max(photo.height - height, 0) + 1))
        part = photo.crop((left, top, left + width, top + height)).resize((500, 375))
        path = folder / str(number % CLASSES) / f"{number:04}.jpg"
        path.parent.mkdir(exist_ok=True)
        part.save(path, quality=90)


def compiled(recipe):
    """The model whose steps are timed."""
    network = ResNeXt(
        "resnext50_32x4d",
        weights=None,
        input_shape=(SIZE, SIZE, 3),
        classes=CLASSES,
        classifier_activation=None,
    )
    model = with_preprocessing(network)
    optimizer = build_optimizer(recipe, steps_per_epoch=100)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    return model


def read_per_second(batches, seconds=10.0):
    """Images a second that a dataset gives when nothing else is done."""
    count, begin, spent = 0, None, 0.0
    for images, _ in batches:
        if begin is None:  # the first was read ahead
            begin = time.perf_counter()
            continue
        count += len(images)
        spent = time.perf_counter() - begin
        if spent >= seconds:
            break
    return count / spent


def trained_per_second(model, batches, steps):
    """Images a second that `fit` takes, after some steps to begin with."""
    times = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: times.append(time.perf_counter())
    )
    model.fit(
        batches, steps_per_epoch=steps, callbacks=[note], shuffle=False, verbose=0
    )
    begin = len(times) // 4
    return BATCH * (len(times) - 1 - begin) / (times[-1] - times[begin])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="torchvision2", choices=RECIPES)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=24)
    options = parser.parse_args()

    recipe = adjusted(RECIPES[options.recipe], batch_size=BATCH, train_size=SIZE)
    model = compiled(recipe)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        dataset = open_split(folder)

        def batches(steps=10_000):
            return training_batches(dataset, recipe, READING, seed=0, steps=steps)

        read = read_per_second(batches())
        (batch,) = batches(1)
        alone = trained_per_second(
            model, tf.data.Dataset.from_tensors(batch).repeat(), options.steps
        )
        both = trained_per_second(model, batches(), options.steps)
    print(f"reading alone       {read:7.1f} images/s")
    print(f"training alone      {alone:7.1f} images/s")
    print(f"reading by training {read / alone:7.2f}")
    print(f"both at once        {both:7.1f} images/s")


if __name__ == "__main__":
    main()
