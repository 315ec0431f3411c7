"""How fast images are read for training, beside torchvision and the training itself.

    pip install -e ".[parity]"
    KERAS_BACKEND=torch python benchmarks/pipeline.py
    KERAS_BACKEND=torch taskset -c 0 python benchmarks/pipeline.py  # on one core

The images are JPEGs of 500 x 375 cut from the two photos that scikit-learn ships. Ours
are `TrainingBatches` of a recipe; torchvision's are a `DataLoader` with a process for
each core and the transforms of the same recipe, if torchvision is installed. Both take
turns. Training is a step of ResNeXt-50 in float32 by SGD on a batch in memory.
"""

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from resnext_keras import ResNeXt
from resnext_keras.images.preprocessing import MEAN, STD, Preprocessing
from resnext_keras.training.data.dataset import Unreadable
from resnext_keras.training.data.pipeline import TrainingBatches
from resnext_keras.training.data.splits import open_split
from resnext_keras.training.network import with_preprocessing
from resnext_keras.training.optimizers import build_optimizer
from resnext_keras.training.recipes import RECIPES, adjusted

BATCH, CLASSES = 64, 10
SECONDS = 10.0  # of a turn


def write_images(folder, count, size=(500, 375)):
    """An image folder of parts of the photos, at random places and sizes."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count):
        photo = photos[number % len(photos)]
        width = int(rng.integers(200, photo.width))
        height = width * 3 // 4
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(max(photo.height - height, 0) + 1))
        part = photo.crop((left, top, left + width, top + height)).resize(size)
        path = folder / str(number % CLASSES) / f"{number:04}.jpg"
        path.parent.mkdir(exist_ok=True)
        part.save(path, quality=90)


def torchvision_batches(folder, recipe, size):
    """The batches of torchvision's reference script, without its sampler's order."""
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2
    from torchvision.transforms.functional import InterpolationMode

    steps = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
    if recipe.augment == "trivial":
        bilinear = InterpolationMode.BILINEAR
        steps.append(v2.TrivialAugmentWide(interpolation=bilinear))
    steps += [
        v2.PILToTensor(),
        v2.ToDtype(torch.float, scale=True),
        v2.Normalize(MEAN, STD),
    ]
    if recipe.random_erase:
        steps.append(v2.RandomErasing(recipe.random_erase))
    mixing = [
        kind(alpha=alpha, num_classes=CLASSES)
        for kind, alpha in ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
        if alpha
    ]
    mix = v2.RandomChoice(mixing) if mixing else lambda *batch: batch

    def collate(rows):
        return mix(*torch.utils.data.default_collate(rows))

    loader = torch.utils.data.DataLoader(
        ImageFolder(folder, v2.Compose(steps)),
        BATCH,
        shuffle=True,
        num_workers=len(os.sched_getaffinity(0)),
        collate_fn=collate,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        yield from loader


def read_per_second(batches):
    """Images a second when nothing else is done."""
    batches = iter(batches)
    for _ in range(3):  # were read ahead
        next(batches)
    begin, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < SECONDS:
        count += len(next(batches)[0])
    return count / spent


def trained_per_second(recipe, size, batch):
    """Images a second that ResNeXt-50 is trained on."""
    network = ResNeXt(
        "resnext50_32x4d",
        weights=None,
        input_shape=(size, size, 3),
        classes=CLASSES,
        classifier_activation=None,
    )
    model = with_preprocessing(network)
    optimizer = build_optimizer(recipe, steps_per_epoch=100)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    model.train_on_batch(*batch)
    begin = time.perf_counter()
    for steps in itertools.count(1):
        model.train_on_batch(*batch)
        if (spent := time.perf_counter() - begin) >= SECONDS:
            return BATCH * steps / spent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="torchvision2", choices=RECIPES)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 176, 224])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", action="store_true", help="also time training")
    options = parser.parse_args()

    print("images a second, the median of the rounds")
    print("size   ours  torchvision   ratio  training")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        dataset = open_split(folder)
        for size in options.sizes:
            recipe = adjusted(
                RECIPES[options.recipe], batch_size=BATCH, train_size=size
            )
            reading = Preprocessing(size, size * 8 // 7)
            ours = TrainingBatches(
                dataset, recipe, reading, seed=0, steps=10**9, unreadable=Unreadable(1)
            )
            turns = {"ours": ours}
            try:
                turns["torchvision"] = torchvision_batches(folder, recipe, size)
                next(turns["torchvision"])
            except ImportError:
                del turns["torchvision"]
            rates = {name: [] for name in turns}
            for _ in range(options.rounds):
                for name, batches in turns.items():
                    rates[name].append(read_per_second(batches))
            median = {name: float(np.median(rate)) for name, rate in rates.items()}
            theirs = median.get("torchvision", float("nan"))
            trained = float("nan")
            if options.train:
                trained = trained_per_second(recipe, size, ours[0])
            print(
                f"{size:4}  {median['ours']:5.0f}  {theirs:11.0f}  "
                f"{median['ours'] / theirs:6.2f}  {trained:8.1f}"
            )


if __name__ == "__main__":
    main()
