"""Writes weights as timm does for the Hugging Face hub: config, tensors, model card."""

import contextlib
import json
import math
import os
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from resnext_keras.classifier import Classifier
from resnext_keras.images.labels import class_names
from resnext_keras.io import atomic_directory, output_directory
from resnext_keras.models.data_format import channels_first
from resnext_keras.models.graph import head_activation
from resnext_keras.models.specs import ARCHITECTURES, ResNeXtSpec, get_spec
from resnext_keras.models.variables import count_parameters, variable_shapes
from resnext_keras.weights.checkpoint import Checkpoint, resolve
from resnext_keras.weights.formats.torch_names import torch_layer
from resnext_keras.weights.formats.torch_safetensors import write_torch_safetensors
from resnext_keras.weights.hub import WEIGHTS
from resnext_keras.weights.loading import HEAD, variables_by_name
from resnext_keras.weights.run_folder import RUN
from resnext_keras.weights.tensors import LazyTensor, LazyTensors, WeightsError
from resnext_keras.weights.timm_config import (
    CONFIG,
    MODEL_ARGS,
    MULTI_LABEL,
    STAGES,
)

NOT_IN_TIMM = ("resnext101_32x48d", "resnext152_32x4d")  # it has no functions for them

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
    variables = variables_by_name(network)
    found = {name: tuple(variable.shape) for name, variable in variables.items()}
    if found != shapes:
        raise ValueError(
            f"Expected a network of {checkpoint.spec.name} and nothing else. Received: "
            f"model={network.name!r}, with other layers or shapes"
        )
    tensors = {name: _lazy(variables[name]) for name in shapes}
    return _write(checkpoint, folder, overwrite, contextlib.nullcontext(tensors))


def convert_to_timm(
    checkpoint: Checkpoint, folder: str | os.PathLike, overwrite: bool
) -> Path:
    """Writes a checkpoint as `save_timm` does, in the dtypes of its tensors."""
    opened = checkpoint.open(_shapes(checkpoint))
    return _write(checkpoint, folder, overwrite, opened, has_results=True)


def _shapes(checkpoint: Checkpoint):
    return variable_shapes(checkpoint.spec, checkpoint.channels, checkpoint.classes)


def _lazy(variable: keras.Variable) -> LazyTensor:
    def read():
        return keras.ops.convert_to_numpy(variable).astype("float32", copy=False)

    shape, dtype = tuple(variable.shape), np.dtype("float32")
    return LazyTensor(shape, dtype, Path(variable.path), read)


def _write(
    checkpoint: Checkpoint,
    folder: str | os.PathLike,
    overwrite: bool,
    opened: AbstractContextManager[LazyTensors],
    has_results: bool = False,
) -> Path:
    """Writes the folder, after all checks, and returns its absolute path.

    `has_results` is whether the metrics in the registry or in the run's folder are
    those of the tensors, which a `Classifier` may have changed.
    """
    config = _config(checkpoint)
    beside = (WEIGHTS, CARD)
    folder = output_directory(folder, overwrite, Path(CONFIG), beside, "timm folder")
    card = _card(checkpoint, config, _results(checkpoint) if has_results else {})
    with opened as tensors, atomic_directory(folder, overwrite) as written:
        if checkpoint.classes == 1:
            two = {name: _two_logits(tensors[name]) for name in HEAD}
            tensors = dict(tensors) | two
        write_torch_safetensors(written / WEIGHTS, tensors, checkpoint.spec)
        for name, text in ((CONFIG, json.dumps(config, indent=2)), (CARD, card)):
            (written / name).write_text(text, encoding="utf-8")
    return folder


def _config(checkpoint: Checkpoint) -> dict:
    """The content of `config.json`; an error if timm cannot do what it describes."""
    spec, reading = checkpoint.spec, checkpoint.preprocessing
    architecture, args = _architecture(spec)
    if len(reading.short_sides) > 1:
        raise WeightsError(
            f"Expected images that are resized once, as timm does. Received: {reading}"
        )
    names = checkpoint.class_names if checkpoint.classes else ()
    pretrained = {
        "custom_load": False,
        "input_size": [checkpoint.channels, reading.size, reading.size],
        "fixed_input_size": False,
        "interpolation": reading.interpolation,
        "crop_pct": _crop_pct(reading.size, reading.resize),
        "crop_mode": "center",
        "mean": list(reading.mean),
        "std": list(reading.std),
        "num_classes": len(names),
        "pool_size": [math.ceil(reading.size / spec.strides[-1])] * 2,
        "first_conv": torch_layer(spec.stem_convolutions[0][0] + "_conv", spec),
        "classifier": torch_layer("predictions", spec),
        "license": checkpoint.licence,
    }
    config = {
        "architecture": architecture,
        "num_classes": len(names),
        "num_features": spec.widths(spec.stages[-1])[1],
        "global_pool": "avg",
        "model_args": args,
        # Without names timm and transformers take ImageNet's for 1000 classes.
        "label_names": [] if names == class_names("imagenet") else list(names),
        "problem_type": MULTI_LABEL if checkpoint.is_multi_label else None,
        "pretrained_cfg": {k: v for k, v in pretrained.items() if v is not None},
    }
    return {
        name: value for name, value in config.items() if value not in ({}, [], None)
    }


def _architecture(spec: ResNeXtSpec) -> tuple[str, dict]:
    """Name of a function of timm, and the arguments that it needs for this network."""
    table = [row for row in ARCHITECTURES.values() if row.name not in NOT_IN_TIMM]
    fields = {field: getattr(spec, field) for field in MODEL_ARGS.values()}
    similar = [
        row
        for row in table
        # timm's functions for the form of Caffe take other arguments.
        if replace(row, name=spec.name, **fields) == spec and not row.caffe_form
    ]
    bases = [spec] if spec in table else similar
    if not bases or spec.stem == "cifar" or len(spec.depths) != STAGES:
        raise WeightsError(
            "Expected a network that timm has, with a stem for ImageNet and "
            f"{STAGES} stages. Received: {spec}"
        )
    base = bases[0]
    args = {
        argument: list(value) if isinstance(value, tuple) else value
        for argument, field in MODEL_ARGS.items()
        if (value := getattr(spec, field)) != getattr(base, field)
    }
    return base.name, args


def _crop_pct(size: int, resize: int) -> float:
    """The ratio from which timm computes `resize` again, as `floor(size / ratio)`."""
    ratio = size / resize
    return ratio if math.floor(size / ratio) == resize else math.nextafter(ratio, 0)


def _two_logits(tensor: LazyTensor) -> LazyTensor:
    """Of one output two, with 0 as the first: their softmax is the sigmoid."""
    *inputs, _ = tensor.shape
    padding = [(0, 0)] * len(inputs) + [(1, 0)]
    return replace(
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
