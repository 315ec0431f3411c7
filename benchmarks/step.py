"""Times ResNeXt-50 beside torchvision's, a training step and a prediction.

    pip install -e ".[parity]"
    python benchmarks/step.py [--stock]

Each contender runs in a process of its own, in turn, for several rounds, since
the speed of a machine drifts; the median of all its calls counts. Batch 8,
224 x 224, float32, SGD with momentum; `compile()` as Keras does it by default.
`--stock` adds Keras' own `Conv2D(groups=32)`, which takes minutes.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

ROUNDS = 3
CALLS = 5
BATCH = (8, 224, 224, 3)
CLASSES = 1000


def seconds(call, count):
    """How long each of some calls takes, after one that is not counted."""
    call()
    durations = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return durations


def batch():
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.normal(size=BATCH).astype("float32")
    return images, rng.integers(0, CLASSES, BATCH[0])


def time_keras(stock=False):
    import keras
    import tensorflow as tf

    from resnext_keras import ResNeXt50, blocks

    if stock:
        blocks.GroupedConv2D = keras.layers.Conv2D
    images, labels = batch()
    model = ResNeXt50(weights=None)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy"
    )
    predict = tf.function(lambda x: model(x, training=False))
    calls = 1 if stock else CALLS
    return {
        "train": seconds(lambda: model.train_on_batch(images, labels), calls),
        "predict": seconds(lambda: predict(images).numpy(), CALLS),
    }


def time_torch(channels_last=False):
    import torch
    import torchvision

    torch.set_num_threads(os.cpu_count())
    images, labels = map(torch.from_numpy, batch())
    images = images.permute(0, 3, 1, 2)
    model = torchvision.models.resnext50_32x4d()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    else:
        images = images.contiguous()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def train():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def predict():
        with torch.inference_mode():
            model(images)

    trained = seconds(train, CALLS)
    model.eval()
    return {"train": trained, "predict": seconds(predict, CALLS)}


CONTENDERS = {
    "torchvision, eager": (time_torch, {}),
    "torchvision, eager, channels_last": (lambda: time_torch(channels_last=True), {}),
    "resnext_keras, oneDNN on": (time_keras, {"TF_ENABLE_ONEDNN_OPTS": "1"}),
    "resnext_keras, oneDNN off": (time_keras, {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    "Keras Conv2D(groups=32)": (lambda: time_keras(stock=True), {}),
}


def in_own_process(name):
    _, environment = CONTENDERS[name]
    done = subprocess.run(
        [sys.executable, __file__, "--one", name],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run, _ = CONTENDERS[options.one]
        print(json.dumps(run()))
        return
    names = list(CONTENDERS)[: None if options.stock else -1]
    times = {name: {"train": [], "predict": []} for name in names}
    for number in range(ROUNDS):
        for name in names:
            if "Conv2D" in name and number > 0:
                continue  # once is enough to see it
            for what, durations in in_own_process(name).items():
                times[name][what] += durations
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors")
    print("| batch of 8 | training step s | by torchvision's | prediction s |")
    print("|---|---|---|---|")
    base = statistics.median(times[names[0]]["train"])
    for name in names:
        train, predict = (statistics.median(times[name][w]) for w in times[name])
        print(f"| {name} | {train:.2f} | {train / base:.2f} | {predict:.2f} |")


if __name__ == "__main__":
    main()
