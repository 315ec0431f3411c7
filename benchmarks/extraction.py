"""How fast `extract` is in each precision, beside reading and the network alone.

    pip install -e ".[fast,features]" scikit-learn
    python benchmarks/extraction.py
    python benchmarks/extraction.py --images 60 --width 4000  # 12 megapixels

The images are those of `pipeline.py`, JPEGs of 500 x 375; the network is ResNeXt-50
with random weights and statistics. Reading is what `extract` does without a network;
the network alone runs batches in memory; extract is both, without writing the file.
Precisions take turns. The int8 network is calibrated with one image, which changes its
features, not its speed.
"""

import argparse
import contextlib
import itertools
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from pipeline import write_images
from worker import randomise_batch_norm

import resnext_keras as rk
from resnext_keras.features.calibrated import calibrated_network
from resnext_keras.features.extractor import Extractor
from resnext_keras.features.loader import read_batches
from resnext_keras.images.listing import list_images
from resnext_keras.inference.predictor import available_precision
from resnext_keras.weights.checkpoint import resolve

SECONDS = 8.0  # of a turn of the network alone


def paths_per_second(batches, paths):
    """Images a second of an iterator over the batches of all paths."""
    begin = time.perf_counter()
    for _ in batches:
        pass
    return len(paths) / (time.perf_counter() - begin)


def network_per_second(extractor, batch_size):
    """Images a second of the network on a batch in memory."""
    size = extractor.preprocessing.size
    images = np.zeros((batch_size, size, size, 3), "float32")
    extractor.predictor(images)
    begin = time.perf_counter()
    for calls in itertools.count(1):
        extractor.predictor(images)
        if (spent := time.perf_counter() - begin) >= SECONDS:
            return calls * batch_size / spent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    precisions = ["float32", "bfloat16", "int8"]
    parser.add_argument(
        "--precision", nargs="+", default=precisions, choices=precisions
    )
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        photos, weights = Path(folder, "photos"), Path(folder, "r50.weights.h5")
        photos.mkdir()
        size = options.width, options.width * 3 // 4
        write_images(photos, options.images, size)
        paths = [os.fsencode(path) for path, _ in list_images([photos])]
        network = rk.ResNeXt("resnext50_32x4d", weights=None)
        randomise_batch_norm(network)
        network.save_weights(weights)
        checkpoint = resolve(weights, "resnext50_32x4d")
        print("images a second\nprecision  reading  network  extract", flush=True)
        extractors = {}
        for precision in options.precision:
            if available_precision(precision) != precision:  # says why
                continue
            with contextlib.ExitStack() as stack:
                calibrated = None
                if precision == "int8":
                    first = os.fsdecode(paths[0])
                    network = calibrated_network(checkpoint, [first])
                    calibrated = stack.enter_context(network)
                extractors[precision] = Extractor(
                    weights=checkpoint,
                    precision=precision,
                    batch_size=options.batch_size,
                    calibrated=calibrated,
                )
        sizes = checkpoint.preprocessing, options.batch_size
        for _ in range(options.rounds):
            for precision, extractor in extractors.items():
                exact = precision == "float32"
                batches = read_batches(paths, *sizes, exact=exact)
                reading = paths_per_second(batches, paths)
                network = network_per_second(extractor, options.batch_size)
                both = paths_per_second(extractor.read(paths), paths)
                print(
                    f"{precision:9}  {reading:7.1f}  {network:7.1f}  {both:7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
