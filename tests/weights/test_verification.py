"""A verified weight set gives torch's logits; a wrong one is found out."""

import argparse
import functools

import pytest
from helpers import reference_network

from resnext_keras import Preprocessing, ResNeXt, WeightsError, class_names, read_image
from resnext_keras.models.specs import get_spec
from resnext_keras.weights import verify as verification
from resnext_keras.weights.verify import TOLERANCE, verify_weights


def write(architecture, path, library="torchvision", legacy=False, **wrapping):
    """A file that torch writes of a network with random statistics."""
    torch = pytest.importorskip("torch")
    state = reference_network(library, architecture).state_dict()
    torch.save(
        {wrapping["under"]: state} if wrapping else state,
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
def test_the_logits_are_compared_with_torchs(name, library, options, tmp_path, publish):
    path = tmp_path / "file.pth"
    write(name.partition(".")[0], path, library, **options)
    publish(name, path)
    found = verify_weights(name)
    assert found.passed
    assert found.path == path
    assert found.reference == library
    assert 0 < found.difference <= 1e-5
    assert found.top1


@pytest.mark.parity
def test_a_network_that_differs_does_not_pass(tmp_path, publish, monkeypatch):
    """An anti-aliased network has the same variables as one that is not."""
    path = tmp_path / "file.pth"
    write("seresnextaa101d_32x8d", path, "timm")
    publish("seresnextaa101d_32x8d.ah_in1k", path)
    assert verify_weights("seresnextaa101d_32x8d.ah_in1k").passed
    plain = get_spec("seresnext101d_32x8d")
    monkeypatch.setattr(verification, "ResNeXt", functools.partial(of_spec, plain))
    found = verify_weights("seresnextaa101d_32x8d.ah_in1k")
    assert not found.passed
    assert found.difference > 10 * TOLERANCE


def of_spec(spec, _, **options):
    return ResNeXt(spec, **options)


@pytest.mark.parity
def test_what_torch_refuses_has_no_reference_and_stops_nothing(tmp_path):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.resnext50_32x4d().state_dict()
    options = {"state_dict": state, "args": argparse.Namespace(lr=0.1)}
    torch.save(options, tmp_path / "options.pth")
    found = verify_weights(tmp_path / "options.pth")
    assert found.passed
    assert found.difference is None
    assert found.reference.startswith("torch cannot read the file")
    compiled = {f"_orig_mod.{name}": value for name, value in state.items()}
    torch.save(compiled, tmp_path / "compiled.PTH")
    assert verify_weights(tmp_path / "compiled.PTH").difference <= 1e-5


def test_a_file_of_another_architecture_or_hash_is_found_out(
    resnext50_file, tmp_path, publish
):
    path = tmp_path / resnext50_file.name
    path.write_bytes(resnext50_file.read_bytes())
    publish("resnext101_32x4d.gluon_in1k", path)
    with pytest.raises(WeightsError, match="of the architecture 'resnext50_32x4d'"):
        verify_weights("resnext101_32x4d.gluon_in1k")
    publish("resnext50_32x4d.tv2_in1k", path)
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x11")
    with pytest.raises(WeightsError, match=r"sha256 .*; found "):
        verify_weights("resnext50_32x4d.tv2_in1k")


@pytest.mark.usefixtures("no_reference_installed")
def test_the_photo_is_seen_as_the_set_wants_it(
    resnext50_file, tmp_path, publish, monkeypatch
):
    path = tmp_path / resnext50_file.name
    path.write_bytes(resnext50_file.read_bytes())
    publish("resnext50_32x4d.tv2_in1k", path)
    seen = []

    def read(photo, preprocessing):
        seen.append((photo.name, preprocessing))
        return read_image(photo, preprocessing)

    monkeypatch.setattr(verification, "read_image", read)
    found = verify_weights("resnext50_32x4d.tv2_in1k")
    assert seen == [("chelsea.jpg", Preprocessing(224, 232))]
    assert found.passed
    assert found.parameters == 25_097_128
    assert found.top1 in class_names()
