"""Writes the goldens: what timm's networks give for drawn weights.

    python tests/golden/make_timm.py

needs torch and timm (the extra `parity`). The weights are drawn by
random_state.py and not stored; a golden holds the names and shapes of timm's
`state_dict`, the logits, and of each stage a sample in Keras' layout, (batch,
H, W, channels). Of networks too large for each run of the tests there is also a
golden with one block of each stage, and of the giants only this.
"""

import json
from pathlib import Path

import numpy as np
import timm
import torch
from random_state import draw_images, draw_state, sample
from timm.models.resnet import Bottleneck, ResNet

FOLDER = Path(__file__).parent / "family"
STAGES = ("layer1", "layer2", "layer3", "layer4")
SAMPLES = 300

# Odd sizes where timm takes them: it cannot add what its anti-aliased
# convolutions and its shortcuts make of an odd number of pixels.
SIZES = {
    "resnext50_32x4d": (64, 64),
    "resnext50d_32x4d": (75, 97),
    "resnext101_32x4d": (66, 95),
    "resnext101_32x8d": (64, 64),
    "resnext101_64x4d": (64, 64),
    "seresnext26d_32x4d": (97, 69),
    "seresnext26t_32x4d": (90, 75),
    "seresnext50_32x4d": (77, 65),
    "seresnext101_32x4d": (65, 64),
    "seresnext101_32x8d": (64, 64),
    "seresnext101_64x4d": (64, 64),
    "seresnext101d_32x8d": (79, 64),
    "seresnextaa101d_32x8d": (66, 98),
    "seresnextaa201d_32x8d": (98, 66),
    "legacy_seresnext26_32x4d": (97, 69),
    "legacy_seresnext50_32x4d": (77, 65),
    "legacy_seresnext101_32x4d": (66, 95),
}
GIANTS = {"resnext101_32x16d": 16, "resnext101_32x32d": 32, "resnext101_32x48d": 48}


def shapes_of(model):
    """Names and shapes of a model's `state_dict`."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def golden(model, height, width, stages=STAGES):
    """The names, the logits and a sample of each stage's output, of two images."""
    shapes = shapes_of(model)
    state = {name: torch.from_numpy(v) for name, v in draw_state(shapes).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    model.eval()
    outputs = {}
    for stage in stages:
        getattr(model, stage).register_forward_hook(
            lambda module, inputs, output, stage=stage: outputs.update({stage: output})
        )
    images = torch.from_numpy(draw_images(height, (2, height, width, 3)))
    with torch.no_grad():
        logits = model(images.permute(0, 3, 1, 2))
    found = {"logits": logits.numpy(), "state": np.array(json.dumps(shapes))}
    for number, stage in enumerate(stages, start=2):
        array = outputs[stage].permute(0, 2, 3, 1).numpy()
        found[f"conv{number}"] = sample(array, SAMPLES)
    return found


def resnext(layers, group_width):
    """A network that timm has no name for, of 32 groups."""
    return ResNet(Bottleneck, layers, cardinality=32, base_width=group_width)


def main():
    FOLDER.mkdir(exist_ok=True)
    models = {name: (timm.create_model(name), *size) for name, size in SIZES.items()}
    models["resnext152_32x4d"] = (resnext((3, 8, 36, 3), 4), 64, 75)
    models |= {
        f"{name}_one_block_a_stage": (resnext((1, 1, 1, 1), width), 32, 36)
        for name, width in GIANTS.items()
    }
    name = "seresnextaa101d_32x8d"
    one_block = timm.create_model(name, layers=(1, 1, 1, 1))
    models[f"{name}_one_block_a_stage"] = (one_block, *SIZES[name])
    for name, (model, height, width) in models.items():
        found = golden(model, height, width)
        np.savez_compressed(FOLDER / f"{name}.npz", size=(height, width), **found)
    for name, width in GIANTS.items():
        with torch.device("meta"):
            state = shapes_of(resnext((3, 4, 23, 3), width))
        np.savez_compressed(FOLDER / f"{name}.npz", state=np.array(json.dumps(state)))


if __name__ == "__main__":
    main()
