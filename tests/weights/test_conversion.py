"""A converted file holds the same numbers, and other libraries read it."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers import dtype_policy, reference_network
from safetensors.numpy import load_file, save_file
from weight_files import assert_same, numbers, torch_state, without_counters

import resnext_keras
from resnext_keras import WeightsError, convert_weights
from resnext_keras.models.specs import get_spec
from resnext_keras.weights import checkpoint

SPEC = get_spec("resnext11_8x4d")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.safetensors"
    save_file(torch_state(SPEC, 10), path)
    return path


@pytest.mark.parametrize(
    ("classes", "channels", "policy"),
    [(10, 3, "float32"), (3, 1, "mixed_bfloat16"), (None, 3, "float32")],
)
def test_there_and_back_gives_the_same_state_dict(tmp_path, classes, channels, policy):
    """Whatever the classes, the channels and the caller's policy."""
    state = torch_state(SPEC, classes, channels)
    source, there, back = paths = [
        tmp_path / name for name in ("a.safetensors", "b.weights.h5", "c.safetensors")
    ]
    save_file(state, source)
    with dtype_policy(policy):
        assert convert_weights(source, there) == SPEC
        assert convert_weights(there, back) == SPEC
        assert keras.config.dtype_policy().name == policy
    written = load_file(back)
    assert written.keys() == state.keys()
    assert_same(without_counters(written), without_counters(state))
    assert sorted(tmp_path.iterdir()) == paths


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_state_dict_keeps_its_types(source, tmp_path, dtype):
    state = {
        k: v.astype(dtype) for k, v in without_counters(torch_state(SPEC, 10)).items()
    }
    save_file(state, source)
    target = tmp_path / "again.safetensors"
    convert_weights(source, target)
    written = without_counters(load_file(target))
    assert {value.dtype.name for value in written.values()} == {dtype}
    assert_same(written, state)


def test_a_network_outside_the_table_needs_its_spec(tmp_path):
    spec = resnext_keras.ResNeXtSpec(
        "own",
        (1, 1),
        2,
        4,
        stem_filters=(8, 8, 16),
        squeeze_excite=True,
        pooled_shortcut=True,
    )
    model = resnext_keras.ResNeXt(spec, weights=None, classes=4)
    source, target = tmp_path / "own.weights.h5", tmp_path / "own.safetensors"
    model.save_weights(source)
    with pytest.raises(WeightsError, match=r"list_models\(\).*ResNeXtSpec"):
        convert_weights(source, target)
    assert not target.exists()
    assert convert_weights(source, target, spec) == spec
    again = resnext_keras.ResNeXt(spec, weights=target, classes=4)
    assert_same(numbers(again), numbers(model))


def test_the_architecture_decides_between_twins(tmp_path, monkeypatch):
    """Their variables are the same; one pools where the other strides."""
    one, other = twins = [
        dataclasses.replace(
            get_spec(name), depths=(1, 1, 1, 1), cardinality=2, group_width=4
        )
        for name in ("seresnext101d_32x8d", "seresnextaa101d_32x8d")
    ]
    monkeypatch.setattr(
        checkpoint, "ARCHITECTURES", {spec.name: spec for spec in twins}
    )
    model = resnext_keras.ResNeXt(one, weights=None, classes=4)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    source, target = tmp_path / "twin.weights.h5", tmp_path / "twin.safetensors"
    model.save_weights(source)
    with pytest.raises(WeightsError, match=f"{one.name} and {other.name} have var"):
        convert_weights(source, target)
    assert not target.exists()
    for spec in twins:
        assert convert_weights(source, target, spec, overwrite=True) == spec
    again = resnext_keras.ResNeXt(other, weights=target, classes=4)
    assert_same(numbers(again), numbers(model))


@pytest.mark.parametrize("suffix", [".safetensors", ".weights.h5"])
def test_a_target_is_replaced_only_on_demand_and_never_by_a_bad_source(
    source, tmp_path, suffix
):
    target = tmp_path / f"old{suffix}"
    target.write_bytes(b"precious")
    with pytest.raises(WeightsError, match="does not exist, or overwrite=True"):
        convert_weights(source, target)
    good = source.read_bytes()
    state = torch_state(SPEC, 10)
    state["fc.bias"][3] = np.nan
    save_file(state, source)
    with pytest.raises(WeightsError, match="finite"):
        convert_weights(source, target, overwrite=True)
    source.write_bytes(good[:-5])
    with pytest.raises(WeightsError, match="damaged"):
        convert_weights(source, target, overwrite=True)
    assert target.read_bytes() == b"precious"
    assert sorted(tmp_path.iterdir()) == sorted([source, target])
    source.write_bytes(good)
    convert_weights(source, target, overwrite=True)
    assert target.stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("a.pth", "ends in .weights.h5 or .safetensors"),
        ("a.h5", "ends in"),
        ("a", "ends in"),
        ("no/folder/a.safetensors", "existing folder"),
    ],
)
def test_impossible_targets_are_refused(source, tmp_path, target, message):
    with pytest.raises(WeightsError, match=message):
        convert_weights(source, tmp_path / target)
    assert [*tmp_path.iterdir()] == [source]


@pytest.mark.parametrize(
    "empty",
    [{"fc.weight": (0, 1024), "fc.bias": (0,)}, {"conv1.weight": (64, 0, 3, 3)}],
    ids=["classes", "channels"],
)
def test_a_file_without_classes_or_channels_is_refused(source, tmp_path, empty):
    state = torch_state(SPEC, 10)
    state |= {name: np.zeros(shape, "float32") for name, shape in empty.items()}
    save_file(state, source)
    with pytest.raises(WeightsError, match="Expected the weights of an architecture"):
        convert_weights(source, tmp_path / "target.weights.h5")


@pytest.mark.parity
@pytest.mark.parametrize(
    ("library", "architecture"),
    [("torchvision", "resnext50_32x4d"), ("timm", "seresnext26d_32x4d")],
)
def test_a_round_trip_gives_the_same_logits(library, architecture, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch_file
    from safetensors.torch import save_file as save_torch_file

    network = reference_network(library, architecture)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
    source, there, back = (
        tmp_path / name for name in ("a.safetensors", "b.weights.h5", "c.safetensors")
    )
    save_torch_file(network.state_dict(), source)
    convert_weights(source, there)
    convert_weights(there, back)
    again = reference_network(library, architecture, seed=1)
    again.load_state_dict(load_torch_file(back))  # strict
    with torch.no_grad():
        assert torch.equal(again(images), expected)
