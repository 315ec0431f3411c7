"""timm's `legacy_seresnext` networks, whose files and pooling are those of Caffe."""

import keras
import pytest
from elsewhere import randomised
from helpers import reference_network
from random_state import draw_images, draw_state

import resnext_keras
from resnext_keras import Predictor, WeightsError, convert_weights, feature_pyramid
from resnext_keras.models.runtime import has_onednn
from resnext_keras.weights.checkpoint import resolve

pytestmark = pytest.mark.parity

SHORT = resnext_keras.ResNeXtSpec(
    "short", (1, 1, 1, 1), 2, 4, squeeze_excite=True, caffe_form=True
)
# Odd and even numbers of pixels before the pooling, with windows over both borders.
SIZES = [*((side, 73 - side) for side in range(33, 41)), (65, 97), (225, 33)]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A network of timm of one block a stage, and a file of its weights."""
    torch = pytest.importorskip("torch")
    from timm.models.senet import SENet, SEResNeXtBottleneck

    network = SENet(SEResNeXtBottleneck, SHORT.depths, 2, 16, num_classes=5).eval()
    state = network.state_dict()
    for key, value in draw_state({k: tuple(v.shape) for k, v in state.items()}).items():
        state[key].copy_(torch.from_numpy(value))
    path = tmp_path_factory.mktemp("short") / "short.pth"
    torch.save(state, path)
    return network, path


def outputs_of(network, images):
    """The logits of a network of timm, and the output of each stage."""
    import torch

    x = network.layer0(torch.from_numpy(images).permute(0, 3, 1, 2))
    x, outputs = network.pool0(x), {}
    for stage in (2, 3, 4, 5):
        x = getattr(network, f"layer{stage - 1}")(x)
        outputs[f"C{stage}"] = x.permute(0, 2, 3, 1).numpy()
    return network.forward_head(x).numpy(), outputs


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_logits_and_stages_of_any_size_are_timms(short, data_format, relative_error):
    import torch

    if data_format == "channels_first" and not has_onednn():
        pytest.skip("on a CPU TensorFlow runs channels_first with oneDNN alone")
    network, path = short
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    try:
        shape = {"channels_last": (None, None, 3), "channels_first": (3, None, None)}
        model = resnext_keras.ResNeXt(
            SHORT,
            weights=path,
            input_shape=shape[data_format],
            classes=5,
            classifier_activation=None,
        )
        pyramid = feature_pyramid(model)
        for size in SIZES:
            images = draw_images(size[0], (2, *size, 3))
            with torch.no_grad():
                logits, stages = outputs_of(network, images)
            if data_format == "channels_first":
                images = images.transpose(0, 3, 1, 2)
                stages = {k: v.transpose(0, 3, 1, 2) for k, v in stages.items()}
            assert relative_error(model(images), logits) <= 1e-5, size
            for level, maps in pyramid(images).items():
                assert relative_error(maps, stages[level]) <= 1e-5, (size, level)
    finally:
        keras.config.set_image_data_format(before)


def test_timms_files_are_known_by_their_names_and_written_again(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    architecture = "legacy_seresnext26_32x4d"
    network = reference_network("timm", architecture)
    paths = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save(network.state_dict(), paths[0])
    save_file(network.state_dict(), paths[1])
    there, back = tmp_path / "b.weights.h5", tmp_path / "c.safetensors"
    for path in paths:
        assert resolve(path).spec.name == architecture
        with pytest.raises(WeightsError, match=f"of the architecture '{architecture}'"):
            resolve(path, "seresnext50_32x4d")
        convert_weights(path, there, overwrite=True)
        assert resolve(there).spec.name == architecture
        convert_weights(there, back, overwrite=True)
        again = reference_network("timm", architecture, seed=1)
        again.load_state_dict(load_file(back))  # strict
        for key, value in again.state_dict().items():
            assert torch.equal(value, network.state_dict()[key]), key


@pytest.mark.parametrize("sides", [(None, None), (61, 47)], ids=str)
def test_onnx_runtime_gives_the_same(sides, relative_error):
    pytest.importorskip("onnxruntime")
    shape = (*sides, 3)
    model = randomised(resnext_keras.ResNeXt(SHORT, False, None, input_shape=shape))
    predict = Predictor(model, "onnxruntime", batch_size=2)
    for height, width in [(61, 47)] if all(sides) else [(61, 47), (60, 46)]:
        images = draw_images(height, (2, height, width, 3))
        expected = model.predict(images, verbose=0)
        assert relative_error(predict(images), expected) <= 1e-5
