"""Writes weights as timm does for the Hugging Face hub: config, tensors, model card."""

import dataclasses
import json
import os
from pathlib import Path

import keras
import numpy as np

from resnext_keras.classifier import Classifier
from resnext_keras.io import atomic_directory, output_directory
from resnext_keras.models.data_format import channels_first
from resnext_keras.models.graph import head_activation
from resnext_keras.models.specs import ResNeXtSpec, get_spec
from resnext_keras.models.variables import count_parameters, variable_shapes
from resnext_keras.weights.checkpoint import Checkpoint, resolve
from resnext_keras.weights.formats.torch_names import torch_layer
from resnext_keras.weights.formats.torch_safetensors import write_torch_safetensors
from resnext_keras.weights.hub import WEIGHTS
from resnext_keras.weights.loading import HEAD
from resnext_keras.weights.run_folder import RUN
from resnext_keras.weights.tensors import LazyTensor, LazyTensors
from resnext_keras.weights.timm_config import CONFIG, timm_config

CARD = "README.md"

METRICS = {"top_1": "accuracy", "top_5": "top_5_accuracy"}
"""The hub's names of metrics."""

CARD_TEXT = """# {name}

An image classifier: a ResNeXt of [Aggregated Residual Transformations for Deep Neural
Networks](https://arxiv.org/abs/1611.05431), in timm's format.

| | |
|---|---|
{rows}

```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
```

```python
import transformers

classify = transformers.pipeline("image-classification", "FOLDER")
classify("photo.jpg")
```

```python
import resnext_keras as rk

classifier = rk.load_classifier(weights="FOLDER")  # for Keras
dict(classifier.predict_each("photo.jpg"))
```

`FOLDER` is the folder of this file. For a repository OWNER/NAME of the Hugging Face hub
it is `hf-hub:OWNER/NAME` in timm, `OWNER/NAME` in transformers, and
`hf://OWNER/NAME` in resnext_keras.
"""


def save_timm(
    classifier: Classifier,
    folder: str | os.PathLike,
    *,
    model: ResNeXtSpec | str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a classifier to a folder that timm and transformers load.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` and
    `transformers.pipeline("image-classification", "FOLDER")` give the same logits, with
    the same class names and preprocessing; and so does `weights="FOLDER"` here. For a
    weight set, a file or a training run, see `convert_weights`.

    Args:
        classifier: A `Classifier`. Its `model` is a network from `ResNeXt`, with any
            weights, with or without the layer `predictions`.
        folder: The folder to write, with `config.json`, `model.safetensors` and a model
            card, `README.md`.
        model: The architecture; None for that of `classifier.weights`.
        licence: SPDX identifier of the weights' licence; None for that of
            `classifier.weights`.
        overwrite: Whether an earlier folder may be replaced.

    Returns:
        The absolute path of the folder.

    Raises:
        ValueError: The architecture is unknown or not that of the model; timm has no
            such network (it has none for CIFAR) or preprocessing; or the folder exists.
            Nothing is written then.

    Examples:
        >>> network = rk.ResNeXt50(weights=None, classes=2)
        >>> reading = rk.Preprocessing(size=224, resize=232)
        >>> names = ("daisy", "tulip")
        >>> flowers = rk.Classifier(network, reading, names, "resnext50_32x4d")
        >>> rk.save_timm(flowers, "flowers-timm").name
        'flowers-timm'
    """
    network = classifier.model
    layers = {layer.name for layer in network.layers}
    base = resolve(classifier.weights) if model is None else None
    checkpoint = Checkpoint(
        base.spec if base else get_spec(model),
        network.output_shape[-1] if "predictions" in layers else None,
        classifier.preprocessing,
        classifier.class_names,
        classifier.weights,
        licence or (base and base.licence),
        network.input_shape[1 if channels_first() else -1],
        head_activation(network),
    )
    shapes = _shapes(checkpoint)
    variables = {
        f"{layer.name}/{variable.name}": variable
        for layer in network.layers
        for variable in layer.weights
    }
    found = {name: tuple(variable.shape) for name, variable in variables.items()}
    if found != shapes:
        raise ValueError(
            f"Expected a network of {checkpoint.spec.name} and nothing else. Received: "
            f"model={network.name!r}, with other layers or shapes"
        )
    tensors = {name: _lazy(variables[name]) for name in shapes}
    config, folder = _config(checkpoint), _checked(folder, overwrite)
    _write(folder, checkpoint, config, tensors, {}, overwrite)
    return folder


def convert_to_timm(
    checkpoint: Checkpoint, folder: str | os.PathLike, overwrite: bool
) -> Path:
    """Writes a checkpoint as `save_timm` does, in the dtypes of its tensors."""
    config, folder = _config(checkpoint), _checked(folder, overwrite)
    results = _results(checkpoint)
    with checkpoint.open(_shapes(checkpoint)) as tensors:
        _write(folder, checkpoint, config, tensors, results, overwrite)
    return folder


def _shapes(checkpoint: Checkpoint):
    return variable_shapes(checkpoint.spec, checkpoint.channels, checkpoint.classes)


def _lazy(variable: keras.Variable) -> LazyTensor:
    def read():
        return keras.ops.convert_to_numpy(variable).astype("float32", copy=False)

    shape, dtype = tuple(variable.shape), np.dtype("float32")
    return LazyTensor(shape, dtype, Path(variable.path), read)


def _checked(folder: str | os.PathLike, overwrite: bool) -> Path:
    beside = (WEIGHTS, CARD)
    return output_directory(folder, overwrite, Path(CONFIG), beside, "timm folder")


def _config(checkpoint: Checkpoint) -> dict:
    spec, names = checkpoint.spec, checkpoint.class_names
    return timm_config(
        spec,
        checkpoint.preprocessing,
        names if checkpoint.classes else (),
        checkpoint.is_multi_label,
        checkpoint.licence,
        first_conv=torch_layer(spec.stem_convolutions[0][0] + "_conv", spec),
        classifier=torch_layer("predictions", spec),
        channels=checkpoint.channels,
    )


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    config: dict,
    tensors: LazyTensors,
    results: dict,
    overwrite: bool,
) -> None:
    if checkpoint.classes == 1:
        tensors = dict(tensors) | {name: _two_logits(tensors[name]) for name in HEAD}
    with atomic_directory(folder, overwrite) as written:
        write_torch_safetensors(written / WEIGHTS, tensors, checkpoint.spec)
        for name, text in (
            (CONFIG, json.dumps(config, indent=2)),
            (CARD, _card(checkpoint, config, results)),
        ):
            (written / name).write_text(text, encoding="utf-8")


def _two_logits(tensor: LazyTensor) -> LazyTensor:
    """Of one output two, with 0 as the first: their softmax is the sigmoid."""
    *inputs, _ = tensor.shape
    padding = [(0, 0)] * len(inputs) + [(1, 0)]
    return dataclasses.replace(
        tensor, shape=(*inputs, 2), read=lambda: np.pad(tensor.read(), padding)
    )


def _results(checkpoint: Checkpoint) -> dict:
    """The data set and the metrics of weights, as the hub's `model-index` has them."""
    if weight_set := checkpoint.weight_set:
        if weight_set.labels != "imagenet":
            return {}
        best = weight_set.best
        dataset, metrics = "imagenet-1k", {"top_1": best.top1, "top_5": best.top5}
    elif folder := checkpoint.run_folder:
        content = json.loads((folder / RUN).read_text(encoding="utf-8"))
        dataset = os.path.basename(content["settings"]["data"])
        metrics = content.get("end", {}).get("metrics", {})
    else:
        return {}
    return {
        "task": {"type": "image-classification"},
        "dataset": {"name": dataset, "type": dataset},
        "metrics": [
            {"type": METRICS.get(name, name), "value": round(value, 5), "name": name}
            for name, value in metrics.items()
            if value is not None
        ],
    }


def _card(checkpoint: Checkpoint, config: dict, results: dict) -> str:
    """The model card, with the metadata that the hub reads."""
    name = checkpoint.short_name
    dataset = results.get("dataset", {}).get("name")
    metadata = {
        "license": (checkpoint.licence or "unknown").lower(),
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "transformers", "resnext"],
        "datasets": [dataset] if dataset == "imagenet-1k" else None,
        "model-index": [{"name": name, "results": [results]}] if results else None,
    }
    front = "\n".join(
        # JSON is YAML: no other package is needed to write it.
        f"{key}: {json.dumps(value)}"
        for key, value in metadata.items()
        if value is not None
    )
    reading = checkpoint.preprocessing
    facts = {
        "Architecture": f"{checkpoint.spec.name} ({config['architecture']} of timm)",
        "Parameters": f"{count_parameters(_shapes(checkpoint)):,}",
        "Classes": checkpoint.classes or "none: a backbone",
        "Images": f"{reading.size} x {reading.size} pixels, from a short side of "
        f"{reading.short_sides[-1]}, {reading.interpolation}",
        "Mean and deviation": f"{reading.mean}, {reading.std}",
        "Trained on": dataset,
        **{m["name"]: f"{m['value']:.4f}" for m in results.get("metrics", ())},
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items() if value)
    return f"---\n{front}\n---\n" + CARD_TEXT.format(name=name, rows=rows)
