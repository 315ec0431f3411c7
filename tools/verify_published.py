"""Compares published weights with torchvision's or timm's network on the same file.

For maintainers, from a checkout with torch and torchvision or timm installed:

    python tools/verify_published.py [NAME|FILE...]

Without names all published weight sets are fetched, 17 GB, and verified as by
`resnext-keras weights verify`. The exit code is 1 if the check of one fails, or its
logits differ from torch's by more than `TOLERANCE`.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TOLERANCE = 1e-4
"""Largest difference of the logits, by the largest logit."""

# Where a file may keep its state, in the order of timm's own loader, and what its
# names may begin with.
STATES = ("state_dict_ema", "model_ema", "state_dict", "model")
PREFIXES = re.compile(r"(module\.|_orig_mod\.|backbone\.|head\.(?=fc\.))*")


def main(names: list[str]) -> bool:
    """Verifies weights, prints a line for each, and returns whether all are right."""
    from resnext_keras import list_weights, verify_weights

    wrong = 0
    for name in names or list_weights():
        try:
            difference, reference = compare(verify_weights(name))
        except Exception as error:  # the others are verified all the same
            print(f"FAILED  {name}: {type(error).__name__}: {error}")
            wrong += 1
            continue
        if difference is None:
            print(f"ok      {name}: not compared, {reference}")
            continue
        is_right = difference <= TOLERANCE
        wrong += not is_right
        verdict = "ok    " if is_right else "FAILED"
        print(f"{verdict}  {name}: logits differ by {difference:.1e} from {reference}")
    return not wrong


def compare(verification) -> tuple[float | None, str]:
    """Compares the logits of verified weights with torch's.

    Args:
        verification: A `Verification`.

    Returns:
        The largest difference by the largest logit and the name of the reference
        library; or None and the reason why there is no reference.

    Raises:
        RuntimeError: The reference network does not take the file.
    """
    from resnext_keras.models.specs import ResNeXtSpec
    from resnext_keras.weights.verify import photo_batch

    checkpoint, path = verification.checkpoint, verification.path
    spec, classes = checkpoint.spec, checkpoint.classes
    if classes is None:
        return None, "a network without classifier"
    if path.suffix.lower() in (".h5", ".hdf5"):
        return None, "an HDF5 file, which torch does not read"
    paper = ResNeXtSpec(spec.name, spec.depths, spec.cardinality, spec.group_width)
    network = {
        "name": spec.name,
        "depths": spec.depths,
        "cardinality": spec.cardinality,
        "group_width": spec.group_width,
        "is_of_the_paper": spec == paper,
        "classes": classes,
    }
    # In a process of its own: torch, where it finds triton, and TensorFlow bring an
    # LLVM each, and both in one process crash it.
    with tempfile.TemporaryDirectory() as folder:
        images, logits = (Path(folder) / name for name in ("images.npy", "logits.npy"))
        np.save(images, photo_batch(checkpoint))
        command = [sys.executable, __file__, "--torch", path, images, logits]
        done = subprocess.run(
            [*map(str, command), json.dumps(network)], capture_output=True, text=True
        )
        if done.returncode:
            last = (done.stderr.strip() or "it crashed").splitlines()[-1]
            raise RuntimeError(f"Expected torch to take {path}, found: {last:.300}")
        answer = json.loads(done.stdout.splitlines()[-1])
        if "reason" in answer:
            return None, answer["reason"]
        expected = np.load(logits)
    difference = np.abs(verification.outputs - expected).max() / np.abs(expected).max()
    return float(difference), answer["library"]


def run_torch(path: str, images: str, logits: str, network: str) -> None:
    """Saves the reference's logits, and prints its name or why there is none.

    It imports nothing of this package, so that the two have nothing in common.

    Args:
        path: The weight file.
        images: Preprocessed images, .npy, (batch, H, W, 3).
        logits: The .npy file to write.
        network: JSON, as `find_network` takes it.
    """
    network = json.loads(network)
    library, model = find_network(network)
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


def find_network(network: dict):
    """The library that has a network, and the network; or None and None.

    Args:
        network: `name`, `depths`, `cardinality`, `group_width`, `is_of_the_paper`
            (which adds nothing to the paper's network) and `classes`.
    """
    return _torchvision_network(network) or _timm_network(network) or (None, None)


def _torchvision_network(network):
    try:
        import torchvision
    except ImportError:
        return None
    name = network["name"]
    if name not in torchvision.models.list_models():
        return None
    model = torchvision.models.get_model(name, num_classes=network["classes"])
    return "torchvision", model


def _timm_network(network):
    try:
        import timm
        from timm.models.resnet import Bottleneck, ResNet
    except ImportError:
        return None
    name, classes = network["name"], network["classes"]
    if timm.is_model(name):
        return "timm", timm.create_model(name, num_classes=classes)
    if not network["is_of_the_paper"]:
        return None
    # It has no name for the widest network and for the one of 152 layers.
    return "timm", ResNet(
        Bottleneck,
        network["depths"],
        num_classes=classes,
        cardinality=network["cardinality"],
        base_width=network["group_width"],
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
    if sys.argv[1:2] == ["--torch"]:
        run_torch(*sys.argv[2:])
    else:
        sys.exit(not main(sys.argv[1:]))
