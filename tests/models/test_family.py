"""Every member of the family gives what timm's network of its name gives."""

import dataclasses
import itertools
import json

import keras
import numpy as np
import pytest
from helpers import GOLDEN
from random_state import draw_images, draw_state, sample
from safetensors.numpy import save_file

import resnext_keras
from resnext_keras.models.specs import ARCHITECTURES, get_spec
from resnext_keras.models.variables import count_parameters, variable_shapes
from resnext_keras.weights.checkpoint import resolve
from resnext_keras.weights.formats.torch_names import keras_tensors, torch_tensors
from resnext_keras.weights.tensors import LazyTensor, WeightsError

GIANTS = ("resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d")
ONE_BLOCK = "_one_block_a_stage"
CUT = [name + ONE_BLOCK for name in (*GIANTS, "seresnextaa101d_32x8d")]
# Their variables are the same; a pooling that has none tells them apart.
TWINS = ("seresnext101d_32x8d", "seresnextaa101d_32x8d")
PUBLISHED = [name for name in ARCHITECTURES if ARCHITECTURES[name].stem == "imagenet"]
# The others differ from one of these in depth, width or a choice of options alone:
# for the long run.
IN_EACH_RUN = {
    "resnext50_32x4d",
    "seresnext26d_32x4d",
    "seresnext26t_32x4d",
    "resnext101_32x16d" + ONE_BLOCK,
    "seresnextaa101d_32x8d" + ONE_BLOCK,
    "legacy_seresnext26_32x4d",
}


def golden(name):
    return dict(np.load(GOLDEN / "family" / f"{name}.npz"))


def state_shapes(golden):
    """Names and shapes of timm's `state_dict`, batch counters left out."""
    return {
        name: tuple(shape)
        for name, shape in json.loads(str(golden["state"])).items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.mark.usefixtures("memory_given_back")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] * (name not in IN_EACH_RUN))
        for name in (
            *(name for name in PUBLISHED if name not in GIANTS),
            *CUT,
        )
    ],
)
def test_logits_and_every_stage_equal_timms(name, tmp_path, relative_error):
    expected = golden(name)
    height, width = expected.pop("size")
    path = tmp_path / "timm.safetensors"
    save_file(draw_state(state_shapes(expected)), path)
    del expected["state"]
    spec = get_spec(name.removesuffix(ONE_BLOCK))
    if name.endswith(ONE_BLOCK):
        spec = dataclasses.replace(spec, depths=(1, 1, 1, 1))
    elif name not in TWINS:
        assert (resolve(path).spec, resolve(path).classes) == (spec, 1000)
    else:
        with pytest.raises(
            WeightsError, match=f"{' and '.join(TWINS)} have .* Give the architecture"
        ):
            resolve(path)
        assert resolve(path, spec).classes == 1000

    model = resnext_keras.ResNeXt(
        spec,
        weights=path,
        input_shape=(height, width, 3),
        classifier_activation=None,
    )
    assert model.count_params() == count_parameters(variable_shapes(spec))
    outputs = {
        f"conv{stage}": model.get_layer(f"conv{stage}_block{depth}_out").output
        for stage, depth in zip(spec.stages, spec.depths, strict=True)
    }
    network = keras.Model(model.input, outputs | {"logits": model.output})
    # Not `predict`: to build a graph takes longer than to run it once.
    found = network(draw_images(height, (2, height, width, 3)))
    assert found.keys() == expected.keys()
    for output, value in found.items():
        count = expected[output].size
        error = relative_error(sample(value, count), np.ravel(expected[output]))
        assert error <= 1e-4, output


def test_variables_tell_all_architectures_but_the_twins_apart():
    """So a file is identified, and weights load into no network but their own."""
    shapes = {name: variable_shapes(get_spec(name)) for name in PUBLISHED}
    equal = [
        p for p in itertools.combinations(shapes, 2) if shapes[p[0]] == shapes[p[1]]
    ]
    assert equal == [TWINS]


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_timms(name, tmp_path):
    theirs = state_shapes(golden(name))
    ours = variable_shapes(get_spec(name))
    state = {
        key: LazyTensor(shape, np.dtype("f4"), tmp_path, lambda: None)
        for key, shape in theirs.items()
    }
    tensors = keras_tensors(state, tmp_path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == ours
    back = torch_tensors(tensors, get_spec(name))
    assert {key: tensor.shape for key, tensor in back.items()} == theirs
