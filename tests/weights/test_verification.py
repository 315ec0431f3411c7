"""Wrong weight files are refused; the maintainers' tool finds other logits."""

import argparse
import dataclasses
import runpy

import numpy as np
import pytest
from helpers import ROOT, reference_network
from safetensors.numpy import save_file
from weight_files import torch_state

from resnext_keras import (
    Preprocessing,
    ResNeXt,
    WeightsError,
    class_names,
    preprocess_input,
    read_image,
    verify_weights,
)
from resnext_keras.images.read import SAMPLE_PHOTO
from resnext_keras.models.specs import get_spec


@pytest.fixture(scope="module")
def tool():
    """The names of tools/verify_published.py."""
    return runpy.run_path(str(ROOT / "tools" / "verify_published.py"))


def write(architecture, path, library="torchvision", legacy=False, under=None):
    """A file that torch writes of a network with random statistics."""
    torch = pytest.importorskip("torch")
    state = reference_network(library, architecture).state_dict()
    torch.save(
        {under: state} if under else state,
        path,
        _use_new_zipfile_serialization=not legacy,
    )


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "library", "options"),
    [
        ("resnext50_32x4d.tv2_in1k", "torchvision", {}),
        ("resnext50_32x4d.a1_in1k", "torchvision", {"legacy": True}),
        ("seresnext26t_32x4d.bt_in1k", "timm", {"under": "state_dict"}),
    ],
)
def test_the_logits_are_those_of_torch(
    name, library, options, tmp_path, publish, tool, capsys
):
    path = tmp_path / "file.pth"
    write(name.partition(".")[0], path, library, **options)
    publish(name, path)
    verification = verify_weights(name)
    assert verification.path == path
    difference, reference = tool["compare"](verification)
    assert reference == library
    assert 0 < difference <= 1e-5
    # Any other logits are found.
    others = dataclasses.replace(
        verification, outputs=np.roll(verification.outputs, 1, -1)
    )
    assert tool["compare"](others)[0] > 10 * tool["TOLERANCE"]
    assert tool["main"]([name])
    assert capsys.readouterr().out.startswith(f"ok      {name}: logits differ by ")
    assert not tool["main"]([name, "nothing"])


@pytest.mark.parity
def test_a_file_that_torch_refuses_is_not_compared(tmp_path, tool):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.resnext50_32x4d().state_dict()
    options = {"state_dict": state, "args": argparse.Namespace(lr=0.1)}
    torch.save(options, tmp_path / "options.pth")
    difference, reason = tool["compare"](verify_weights(tmp_path / "options.pth"))
    assert difference is None
    assert reason.startswith("torch cannot read the file")
    compiled = {f"_orig_mod.{name}": value for name, value in state.items()}
    torch.save(compiled, tmp_path / "compiled.PTH")
    assert tool["compare"](verify_weights(tmp_path / "compiled.PTH"))[0] <= 1e-5


def test_a_file_of_another_architecture_hash_or_count_of_classes_is_refused(
    tmp_path, publish
):
    path, spec = tmp_path / "digits.safetensors", get_spec("resnext11_8x4d")
    save_file(torch_state(spec, 1000), path)
    publish("resnext101_32x4d.gluon_in1k", path)
    with pytest.raises(WeightsError, match="of the architecture 'resnext11_8x4d'"):
        verify_weights("resnext101_32x4d.gluon_in1k")
    save_file(torch_state(spec, 7), path)
    publish("resnext11_8x4d.digits", path)
    with pytest.raises(WeightsError, match=r"Expected 10 classes in .*, found 7"):
        verify_weights("digits")
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x11")
    with pytest.raises(WeightsError, match=r"sha256 .*; found "):
        verify_weights("digits")


def test_the_logits_are_those_of_the_photo_read_as_the_weights_need_it():
    verification = verify_weights("digits")
    assert verification.parameters == 980_298
    images = preprocess_input(
        read_image(SAMPLE_PHOTO, Preprocessing(32, (8, 32)))[None]
    )
    network = ResNeXt("resnext11_8x4d", weights="digits", classes=10)
    scores = np.exp(verification.outputs) / np.exp(verification.outputs).sum()
    np.testing.assert_allclose(scores, network.predict(images, verbose=0), rtol=1e-4)
    assert verification.top1 == class_names("digits")[scores.argmax()]
