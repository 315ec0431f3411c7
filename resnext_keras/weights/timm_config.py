"""Reads the `config.json` that timm writes beside `model.safetensors` for the hub.

Source: `timm.models._hub`; `timm.data.resolve_data_config` has the defaults.
"""

import json
import logging
import math
import re
from dataclasses import replace
from pathlib import Path

from resnext_keras.arguments import few
from resnext_keras.images.labels import class_names, wordnet_ids
from resnext_keras.images.preprocessing import MEAN, STD, Preprocessing
from resnext_keras.models.specs import ResNeXtSpec, architecture_name, get_spec
from resnext_keras.weights.tensors import WeightsError

CONFIG = "config.json"

MULTI_LABEL = "multi_label_classification"
"""The `problem_type` of transformers for several labels an image."""

MAX_BYTES = 2**24
MAX_CLASSES = 10**6
MAX_SIZE = 2**12  # of images, in pixels
MAX_BLOCKS = 1000

STAGES = 4  # of timm's networks

# Arguments of timm's networks, and the fields of a spec.
MODEL_ARGS = {
    "layers": "depths",
    "cardinality": "cardinality",
    "base_width": "group_width",
}
# Those that are read elsewhere, or matter in training alone.
OTHER_ARGS = (
    *("num_classes", "in_chans", "global_pool", "zero_init_last"),
    *("drop_rate", "drop_path_rate", "drop_block_rate"),
)

# The entries that are read, with their types.
ENTRIES = {
    "architecture": str,
    "model_args": dict,
    "num_classes": int,
    "global_pool": str,
    "problem_type": str,
    "label_names": (list, dict),
    "labels": (list, dict),
    "id2label": dict,
    "label_descriptions": dict,
    "input_size": list,
    "crop_pct": (int, float),
    "crop_mode": str,
    "interpolation": str,
    "mean": list,
    "std": list,
    "license": str,
}

logger = logging.getLogger(__name__)


def is_timm_config(path: Path) -> bool:
    """Whether a file is a `config.json` with the name of an architecture in it."""
    try:
        return "architecture" in _read(path)
    except (OSError, ValueError):
        return False


def read_timm_config(path: Path) -> dict:
    """Reads the description of weights.

    Args:
        path: A `config.json` of timm, or of transformers for a network of timm.

    Returns:
        The arguments of a `Checkpoint`: `spec`, `classes`, `channels`,
        `preprocessing`, `class_names`, `activation` and `licence`.

    Raises:
        WeightsError: The file is of another kind, of another architecture, or asks for
            something that this package does not have.
    """
    try:
        return _checkpoint_fields(_read(path))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"Expected a config.json that timm writes for a ResNeXt. Received: {path} "
            f"({error})"
        ) from None


def _read(path: Path) -> dict:
    """The content of a file; a `ValueError` if it is not a JSON object."""
    with path.open("rb") as file:
        text = file.read(MAX_BYTES)
    try:
        content = json.loads(text)
    except RecursionError:
        content = None
    if not isinstance(content, dict):
        raise ValueError("not an object of JSON")
    return content


def _checkpoint_fields(config: dict) -> dict:
    facts = _entries(config)
    args = facts.get("model_args", {})
    spec = _spec(facts.get("architecture"), args)
    size = [3, spec.image_size, spec.image_size]
    channels, *sides = facts.get("input_size", size)
    classes = _whole("num_classes", facts.get("num_classes", spec.classes), MAX_CLASSES)
    pooling = args.get("global_pool", facts.get("global_pool", "avg"))
    if pooling != "avg" and (classes or pooling):
        raise ValueError(f"global_pool={pooling!r}, not 'avg'")
    is_multi_label = facts.get("problem_type") == MULTI_LABEL
    return {
        "spec": spec,
        "classes": classes or None,
        "channels": _whole("in_chans", args.get("in_chans", channels), MAX_SIZE, 1),
        "preprocessing": _preprocessing(facts, sides),
        "class_names": _class_names(facts, classes) if classes else (),
        "activation": "sigmoid" if classes == 1 or is_multi_label else "softmax",
        "licence": facts.get("license"),
    }


def _entries(config: dict) -> dict:
    """The entries that are read, of `pretrained_cfg` too, without empty ones."""
    inner = config.get("pretrained_cfg", {})  # the oldest files have no such object
    if not isinstance(inner, dict):
        raise ValueError(f"pretrained_cfg={inner!r:.100}")
    entries = {k: v for k, v in (inner | config).items() if k in ENTRIES}
    facts = {k: v for k, v in entries.items() if v not in (None, [], {}, "")}
    for name, value in facts.items():
        if not isinstance(value, ENTRIES[name]):
            raise ValueError(f"{name}={value!r:.100}")
    return facts


def _whole(name: str, value, most: int, least: int = 0) -> int:
    """A whole number within bounds, or a `ValueError`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name}={value!r:.100}")
    return value


def _spec(architecture: str | None, args: dict) -> ResNeXtSpec:
    """The architecture of the table, or with other depths, cardinality or width."""
    # Some names have the tag of a weight set.
    name = architecture and architecture_name(architecture.partition(".")[0])
    if not name:
        raise ValueError(f"the architecture {architecture!r:.100}")
    spec = get_spec(name)
    if unknown := [name for name in args if name not in (*MODEL_ARGS, *OTHER_ARGS)]:
        raise ValueError(f"model_args with {few(unknown)}")
    changes = {
        field: args[argument]
        for argument, field in MODEL_ARGS.items()
        if argument in args
    }
    changed = replace(spec, **changes)
    if len(changed.depths) != STAGES or sum(changed.depths) > MAX_BLOCKS:
        raise ValueError(
            f"layers={args.get('layers')!r:.100}, not {STAGES} small numbers"
        )
    return spec if changed == spec else replace(changed, name=_name_of(changed))


def _name_of(spec: ResNeXtSpec) -> str:
    """Its name in the paper's form, with the depth that its layers add up to."""
    depth = 3 * sum(spec.depths) + 2
    size = f"{spec.cardinality}x{spec.group_width}d"
    return re.sub(r"\d+([a-z]*)_.*", rf"{depth}\1_{size}", spec.name)


def _preprocessing(facts: dict, sides: list) -> Preprocessing:
    crop_pct = facts.get("crop_pct", 0.875)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise ValueError(f"images of {sides} pixels, which are not square")
    size = _whole("input_size", sides[0], MAX_SIZE, 1)
    if not 0.1 <= crop_pct <= 1:
        raise ValueError(f"crop_pct={crop_pct}")
    if facts.get("crop_mode", "center") != "center":
        logger.warning(
            "crop_mode=%r of the weights is not supported: images are resized by their "
            "short side, and cropped in the centre.",
            facts["crop_mode"],
        )
    mean, std = (
        values * 3 if len(values) == 1 else values
        for values in (facts.get("mean", MEAN), facts.get("std", STD))
    )
    return Preprocessing(
        size,
        math.floor(size / crop_pct),
        facts.get("interpolation", "bicubic"),
        mean,
        std,
    )


def _class_names(facts: dict, classes: int) -> tuple[str, ...]:
    """A name for each class: its description, its name, or its number."""
    # A single output is the probability of the second of two classes.
    count = 2 if classes == 1 else classes
    numbers = {str(number): str(number) for number in range(count)}
    kinds = ("label_names", "labels", "id2label")
    labels = next((facts[kind] for kind in kinds if kind in facts), {})
    fits = len(labels) == count
    if isinstance(labels, list):
        if classes == len(labels) == 1:
            labels, fits = [f"not {labels[0]}", *labels], True
        labels = {str(number): name for number, name in enumerate(labels)}
    else:  # which may have gaps
        fits = labels.keys() <= numbers.keys()
    if not fits:
        # transformers keeps the names of a network that was tuned for other classes.
        logger.warning(
            "The names of %d classes in the config are not those of the %d outputs: "
            "classes have their numbers.",
            len(labels),
            classes,
        )
        labels = {}
    names = tuple(map(str, (numbers | labels).values()))
    if names == wordnet_ids() or (not labels and classes == 1000):
        return class_names("imagenet")
    descriptions = facts.get("label_descriptions", {})
    return tuple(str(descriptions.get(name, name)) for name in names)
