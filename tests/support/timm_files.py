"""Folders as timm's `save_for_hf` writes them, with weights drawn from a seed."""

import json

from safetensors.numpy import save_file
from weight_files import torch_state

import resnext_keras as rk

FLOWERS = rk.ResNeXtSpec("resnext14_4x4d", (1, 1, 1, 1), 4, 4)
NAMES = ("daisy", "rose", "tulip")
READING = rk.Preprocessing(32, 36, "bicubic", (0.5, 0.4, 0.3), (0.3, 0.25, 0.2))

# What timm 1.0.31 writes for such a network, but for the names of classes.
CONFIG = {
    "architecture": "resnext50_32x4d",
    "num_classes": 3,
    "num_features": 2048,
    "global_pool": "avg",
    "label_names": list(NAMES),
    "model_args": {
        "num_classes": 3,
        "layers": [1, 1, 1, 1],
        "cardinality": 4,
        "in_chans": 3,
        "global_pool": "avg",
    },
    "pretrained_cfg": {
        "tag": "a1h_in1k",
        "custom_load": False,
        "input_size": [3, 32, 32],
        "test_input_size": [3, 64, 64],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.88,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.3, 0.25, 0.2],
        "num_classes": 3,
        "pool_size": None,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
    },
}


def timm_folder(folder, reading=None, spec=FLOWERS, classes=3, channels=3, **changes):
    """Writes a folder; `reading` and `changes` are merged into its config.json.

    A value of None removes an entry.
    """
    folder.mkdir()
    state = torch_state(spec, classes, channels)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    inner = _merged(CONFIG["pretrained_cfg"], reading or {})
    config = _merged(CONFIG | {"pretrained_cfg": inner}, changes)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _merged(entries, changes):
    return {k: v for k, v in (entries | changes).items() if v is not None}
