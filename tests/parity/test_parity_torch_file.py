"""Files that torch, torchvision and timm write here, beside torch's own reading."""

import argparse

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_state import draw_images, draw_state
from weight_files import build

import resnext_keras
from resnext_keras.weights.formats.torch_file import open_torch_file

pytestmark = [
    pytest.mark.parity,
    # torch looks for a GPU, and may not like what it finds.
    pytest.mark.filterwarnings("ignore:CUDA initialization:UserWarning"),
]

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])

# One bottleneck a stage, which timm can build too.
SHORT = resnext_keras.ResNeXtSpec("short", (1, 1, 1, 1), 2, 4)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm")


def with_drawn_state(torch, model):
    """Fills a network of torch, batch statistics included."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = {name: torch.from_numpy(v) for name, v in draw_state(shapes).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model.eval()


def short_network(torch, timm):
    network = timm.models.resnet.ResNet(
        timm.models.resnet.Bottleneck, SHORT.depths, 5, cardinality=2, base_width=4
    )
    return with_drawn_state(torch, network)


@FORMATS
def test_a_seresnext_of_timm_in_half_precision(
    torch, timm, tmp_path, relative_error, zipped
):
    network = with_drawn_state(torch, timm.create_model("seresnext50_32x4d")).half()
    path = tmp_path / "seresnext50.bin"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
    images = draw_images(96, (2, 96, 96, 3))
    with torch.no_grad():
        expected = network.float()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    model = resnext_keras.ResNeXt(
        "seresnext50_32x4d",
        weights=path,
        input_shape=(96, 96, 3),
        classifier_activation=None,
    )
    assert relative_error(model.predict(images, verbose=0), expected) <= 1e-4


@pytest.mark.parametrize("averaged", [True, False])
def test_what_timms_training_script_saves(
    torch, timm, tmp_path, relative_error, averaged
):
    network = short_network(torch, timm)
    optimizer = torch.optim.AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    average = short_network(torch, timm)
    saver = timm.utils.CheckpointSaver(
        torch.nn.DataParallel(network),
        optimizer,
        args=argparse.Namespace(model="short", opt_betas=[0.9, 0.99], mean=None),
        model_ema=average if averaged else None,
        amp_scaler=timm.utils.NativeScaler(device="cpu"),
        checkpoint_dir=str(tmp_path),
    )
    saver.save_checkpoint(0, 80.5)
    saver.save_checkpoint(1, 81.5)
    model = build(tmp_path / "last.pth.tar", SHORT, classifier_activation=None)
    images = draw_images(32, (2, 32, 32, 3))
    with torch.no_grad():
        expected = (average if averaged else network)(
            torch.from_numpy(images).permute(0, 3, 1, 2)
        )
    assert relative_error(model.predict(images, verbose=0), expected.numpy()) <= 1e-4


def check_logits(network, path, spec, relative_error):
    """The weights of a file give the logits of a network of torch."""
    import torch

    images = draw_images(32, (2, 32, 32, 3))
    with torch.no_grad():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    model = build(path, spec, classifier_activation=None)
    assert relative_error(model.predict(images, verbose=0), expected) <= 1e-4


@pytest.mark.parametrize("kept", ["with the model", "alone"])
def test_an_averaged_model_of_torch(
    torch, timm, tmp_path, relative_error, caplog, kept
):
    """As torchvision's reference script saves it."""
    average = torch.optim.swa_utils.AveragedModel(
        short_network(torch, timm), use_buffers=True
    )
    saved, model = average.state_dict(), short_network(torch, timm)
    torch.nn.init.zeros_(model.fc.weight)
    if kept == "with the model":
        saved = {"model": model.state_dict(), "model_ema": saved, "epoch": 3}
    torch.save(saved, tmp_path / "model.pth")
    check_logits(average, tmp_path / "model.pth", SHORT, relative_error)
    assert "left out: 'n_averaged" in caplog.text
    is_named = "averaged weights 'model_ema'" in caplog.text
    assert is_named == (kept == "with the model")


@pytest.mark.parametrize("wrapper", ["compile", "DataParallel", "both"])
def test_wrapped_modules_of_torch(torch, timm, tmp_path, relative_error, wrapper):
    network = wrapped = short_network(torch, timm)
    if wrapper != "DataParallel":
        wrapped = torch.compile(wrapped)
    if wrapper != "compile":
        wrapped = torch.nn.DataParallel(wrapped)
    torch.save({"net": {"state_dict": wrapped.state_dict()}}, tmp_path / "model.pth")
    check_logits(network, tmp_path / "model.pth", SHORT, relative_error)


def test_a_checkpoint_of_the_form_of_lightnings(torch, timm, tmp_path, relative_error):
    network = short_network(torch, timm)
    checkpoint = {
        "epoch": 1,
        "global_step": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {
            "loss_weights": torch.ones(3),
            **{f"model.{key}": value for key, value in network.state_dict().items()},
        },
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [torch.optim.SGD(network.parameters()).state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"size": 3},
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    check_logits(network, tmp_path / "last.ckpt", SHORT, relative_error)


@FORMATS
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source:UserWarning")
def test_a_whole_pickled_module_is_refused(torch, timm, tmp_path, refused, zipped):
    path = tmp_path / "module.pth"
    network = short_network(torch, timm)
    torch.save(network, path, _use_new_zipfile_serialization=zipped)
    refused(path, r"'timm.models.resnet.ResNet', which.*only .*state_dict\(\)")


FLOATS = ("float32", "float16", "bfloat16", "float64")
WHOLE = ("int64", "int32", "int16", "int8", "uint8", "bool")
NAMES = ("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "fc.bias")


@st.composite
def views(draw):
    """A view of a storage of 100 numbers, of any strides."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    strides = [draw(st.integers(0, 7)) for _ in shape]
    last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n)
    return shape, strides, draw(st.integers(0, 99 - last))


@FORMATS
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(
    dtype=st.sampled_from(FLOATS + WHOLE),
    several=st.lists(views(), min_size=1, max_size=5),
    protocol=st.sampled_from([2, 3, 4, 5]),
)
def test_any_view_is_what_torch_reads(
    torch, tmp_path_factory, zipped, dtype, several, protocol
):
    numbers = torch.arange(-50, 50).to(getattr(torch, dtype))
    path = tmp_path_factory.mktemp("views") / "views.pth"
    torch.save(
        {n: numbers.as_strided(*v) for n, v in zip(NAMES, several, strict=False)},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    with open_torch_file(path) as stored:
        found = [tensor.read() for tensor in stored.values()]
    expected = torch.load(path, weights_only=False).values()
    for array, value in zip(found, expected, strict=True):
        assert str(array.dtype) == dtype
        value = value.double() if dtype == "bfloat16" else value
        assert array.shape == value.shape
        np.testing.assert_array_equal(array.astype(value.numpy().dtype), value.numpy())
