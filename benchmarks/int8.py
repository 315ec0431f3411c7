"""ResNeXt-50 in int8, quantized by this package and by NNCF: accuracy and time.

    pip install -e ".[parity]" nncf scikit-image
    python benchmarks/int8.py

Both quantize the same network of torchvision, calibrate with the same 128 images, and
run in OpenVINO. The weights are random, the statistics of batch norm those of the
photos, changed at random; the images are cut from photos that scikit-learn and
scikit-image ship.
"""

import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

CALIBRATION, HELD_OUT, BATCH = 128, 256, 32
TIMED_BATCHES = 1, 8
CALLS, ROUNDS = 20, 3


def write_photos(path):
    """Squares of photos as the network takes them, float32, (384, 224, 224, 3)."""
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_images

    from resnext_keras import preprocess_input

    pixels = load_sample_images().images
    pixels += [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    photos = [Image.fromarray(array) for array in pixels]
    rng = np.random.default_rng(0)
    images = []
    for number in range(CALIBRATION + HELD_OUT):
        photo = photos[number % len(photos)]
        side = int(rng.integers(100, min(photo.size)))
        left = int(rng.integers(photo.width - side + 1))
        top = int(rng.integers(photo.height - side + 1))
        square = photo.crop((left, top, left + side, top + side))
        images.append(np.asarray(square.resize((224, 224))))
    np.save(path, preprocess_input(np.stack(images)))


def write_network(folder):
    """Torchvision's network as weights and as .onnx file, and its logits."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import resnext50_32x4d

    torch.manual_seed(0)
    network = resnext50_32x4d()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for name, parameter in network.named_parameters():
        if ".bn" in name and name.endswith("weight"):
            # Smaller at the ends of blocks, as in trained networks.
            scale = 0.3 if "bn3" in name else 1
            parameter.data.uniform_(0.5 * scale, 1.5 * scale)
    for norm in norms:
        norm.momentum = None  # the mean of all batches
        norm.bias.data.normal_(0, 0.1)
    images = torch.from_numpy(np.load(folder / "images.npy")).permute(0, 3, 1, 2)
    with torch.no_grad():
        for batch in images[:CALIBRATION].split(BATCH):
            network(batch)
        network.eval()
        for norm in norms:
            variance = norm.running_var
            variance *= torch.empty_like(variance).uniform_(0.8, 1.25)
        held_out = images[CALIBRATION:].split(BATCH)
        np.save(folder / "logits.npy", torch.cat(list(map(network, held_out))))
    save_file(network.state_dict(), folder / "network.safetensors")
    warnings.simplefilter("ignore", DeprecationWarning)
    names = {"input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}}
    torch.onnx.export(
        network, (images[:1],), folder / "network.onnx", dynamo=False, **names
    )


def contenders(folder, images):
    """Functions from images to logits: in float32, in int8 by NNCF and by ours."""
    import nncf
    import openvino

    import resnext_keras as rk

    model = rk.ResNeXt50(
        weights=folder / "network.safetensors", classifier_activation=None
    )
    yield "float32", rk.Predictor(model, "openvino")
    yield "int8", rk.Predictor(model, "openvino", precision="int8", calibration=images)

    channels_first = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    dataset = nncf.Dataset([image[None] for image in channels_first])
    peer = nncf.quantize(
        openvino.Core().read_model(folder / "network.onnx"),
        dataset,
        subset_size=len(images),
    )
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(peer, "CPU", options)

    def predict(images):
        images = np.ascontiguousarray(np.moveaxis(images, -1, 1))
        parts = np.split(images, range(BATCH, len(images), BATCH))
        return np.concatenate([compiled(part)[0] for part in parts])

    yield "int8 of NNCF", predict


def agreement(logits, expected):
    """Correlation of logits, of what differs between images, and the same top-1."""

    def correlation(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    differences = (array - array.mean(0) for array in (logits, expected))
    same = (logits.argmax(1) == expected.argmax(1)).mean()
    return correlation(logits, expected), correlation(*differences), same


def milliseconds(predict, images):
    """Median time of an image."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        predict(images)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times)) / len(images)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "images.npy")
        # In a process of its own: torch and TensorFlow crash in one.
        subprocess.run([sys.executable, __file__, name], check=True)
        images, expected = (np.load(folder / f"{n}.npy") for n in ("images", "logits"))
        calibration, held_out = np.split(images, [CALIBRATION])
        predictors = dict(contenders(folder, calibration))
        found = {n: agreement(p(held_out), expected) for n, p in predictors.items()}
        times = {key: [] for key in predictors}
        for _ in range(ROUNDS):
            for key, predict in predictors.items():
                times[key] += [
                    [milliseconds(predict, held_out[:size]) for size in TIMED_BATCHES]
                ]
    print("| | logits' correlation | of images' differences | same top-1 | ", end="")
    print(" | ".join(f"an image, batch of {size}" for size in TIMED_BATCHES), "|")
    print("|---|---|---|---|" + "---|" * len(TIMED_BATCHES))
    for key, (whole, differences, same) in found.items():
        cells = [f"{whole:.4f}", f"{differences:.4f}", f"{same:.1%}"]
        cells += [f"{ms:.2f} ms" for ms in np.median(times[key], axis=0)]
        print(f"| {' | '.join([key, *cells])} |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write_network(Path(sys.argv[1]))
    else:
        main()
