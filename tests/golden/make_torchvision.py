"""Writes the goldens: what torchvision's ResNeXt gives for drawn weights.

    python tests/golden/make_torchvision.py

needs torch and torchvision (the extra `parity`). The weights are drawn by
random_state.py and not stored. Arrays are in Keras' layout, (batch, H, W,
channels), of large ones a sample.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torchvision
from random_state import draw_images, draw_state, sample

FOLDER = Path(__file__).parent
STAGES = ("layer1", "layer2", "layer3", "layer4")


def network():
    """ResNeXt-50 of torchvision with the drawn state, and that state's shapes."""
    model = torchvision.models.resnext50_32x4d()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = {name: torch.from_numpy(v) for name, v in draw_state(shapes).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model, shapes


def images(seed, shape):
    """The drawn batch as torch wants it."""
    return torch.from_numpy(draw_images(seed, shape)).permute(0, 3, 1, 2)


def inference(height, width):
    """Logits, and a sample of each stage's output, of two images."""
    model, _ = network()
    model.eval()
    outputs = {}
    for stage in STAGES:
        getattr(model, stage).register_forward_hook(
            lambda module, inputs, output, stage=stage: outputs.update({stage: output})
        )
    with torch.no_grad():
        logits = model(images(height, (2, height, width, 3)))
    golden = {"logits": logits.numpy()}
    for number, stage in enumerate(STAGES, start=2):
        golden[f"conv{number}"] = sample(outputs[stage].permute(0, 2, 3, 1).numpy())
    return golden


def training():
    """Loss and gradients of one batch in training mode.

    In double precision: with a batch's own statistics, a rounding in single
    precision that turns one ReLU off moves a gradient by per cents.
    """
    model, _ = network()
    model.double().train()
    batch = images(64, (4, 64, 64, 3)).double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model(batch), torch.arange(4) * 250)
    loss.backward()
    golden = {
        "loss": loss.detach().numpy(),
        "images": sample(batch.grad.permute(0, 2, 3, 1).numpy()),
    }
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.numpy()
        if gradient.ndim == 4:
            gradient = gradient.transpose(2, 3, 1, 0)
        elif gradient.ndim == 2:
            gradient = gradient.T
        golden[name] = sample(gradient, 50)
    return golden


def main():
    _, shapes = network()
    (FOLDER / "resnext50_state_shapes.json").write_text(json.dumps(shapes) + "\n")
    for height, width in ((224, 224), (161, 193)):
        np.savez_compressed(
            FOLDER / f"resnext50_{height}x{width}.npz", **inference(height, width)
        )
    np.savez_compressed(FOLDER / "resnext50_training.npz", **training())


if __name__ == "__main__":
    main()
