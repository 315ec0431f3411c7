"""What torchvision's or timm's network gives for a weight file, read by torch.

`verification.py` runs this file as a process of its own: torch, where it finds
triton, and TensorFlow bring an LLVM each, and both in one process crash it. It
imports nothing of this package, so that nothing of it is taken for granted.
"""

import json
import re
import sys

import numpy as np

# Where a file may keep its state, in the order of timm's own loader, and what its
# names may begin with.
STATES = ("state_dict_ema", "model_ema", "state_dict", "model")
PREFIXES = re.compile(r"(module\.|_orig_mod\.|backbone\.|head\.(?=fc\.))*")


def main(path: str, images: str, logits: str, network: str) -> None:
    """Saves the logits, and prints the library's name or why there are none.

    Args:
        path: The weight file.
        images: Preprocessed images, .npy, (batch, H, W, 3).
        logits: The .npy file to be written.
        network: The spec as JSON: name, depths, cardinality, group_width, plain
            (nothing beyond the paper's network), and the number of classes.
    """
    spec = json.loads(network)
    library, model = find_network(spec)
    if model is None:
        print(json.dumps({"reason": "neither torchvision nor timm has this network"}))
        return
    import torch

    try:
        state = _state(path)
    except Exception as error:
        text = f"torch cannot read the file: {error}".splitlines()[0]
        print(json.dumps({"reason": f"{text:.200}"}))
        return
    model.load_state_dict({PREFIXES.sub("", k, count=1): v for k, v in state.items()})
    with torch.inference_mode():
        batch = torch.from_numpy(np.moveaxis(np.load(images), -1, 1).copy())
        np.save(logits, model.eval()(batch).numpy())
    print(json.dumps({"library": library}))


def find_network(spec: dict):
    """The library that has a network, and the network; or None and None.

    Args:
        spec: The network as `main` takes it.
    """
    return _torchvision_network(spec) or _timm_network(spec) or (None, None)


def _torchvision_network(spec):
    try:
        import torchvision
    except ImportError:
        return None
    if spec["name"] not in torchvision.models.list_models():
        return None
    network = torchvision.models.get_model(spec["name"], num_classes=spec["classes"])
    return "torchvision", network


def _timm_network(spec):
    try:
        import timm
        from timm.models.resnet import Bottleneck, ResNet
    except ImportError:
        return None
    if timm.is_model(spec["name"]):
        return "timm", timm.create_model(spec["name"], num_classes=spec["classes"])
    if not spec["plain"]:
        return None
    # It has no name for the widest network and for the one of 152 layers.
    return "timm", ResNet(
        Bottleneck,
        spec["depths"],
        num_classes=spec["classes"],
        cardinality=spec["cardinality"],
        base_width=spec["group_width"],
    )


def _state(path):
    if path.lower().endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    nested = (state[key] for key in STATES if isinstance(state.get(key), dict))
    return next(nested, state)


if __name__ == "__main__":
    main(*sys.argv[1:])
