"""`output_stride` trades strides for dilation, and the weights see the same."""

import numpy as np
import pytest
from elsewhere import randomised
from helpers import reference_network

import resnext_keras
from resnext_keras import Predictor, ResNeXt, ResNeXtSpec, feature_pyramid

SIDE = 64
IMAGES = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype("float32")
SPECS = {
    "caffe": ResNeXtSpec("caffe", (1, 1, 2, 2), 2, 2, caffe_form=True),
    "plain": ResNeXtSpec("plain", (1, 1, 2, 2), 2, 2),
    "cifar": ResNeXtSpec("cifar", (1, 2, 2), 2, 2, stem="cifar"),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_dilated_network_gives_the_strided_ones_values_and_those_between(
    name, relative_error
):
    spec, options = SPECS[name], {"include_top": False, "weights": None}
    strided = feature_pyramid(randomised(ResNeXt(spec, **options)))
    expected = strided(IMAGES)  # not `predict`: to build a graph takes longer
    for output_stride in spec.strides:
        dilated = feature_pyramid(ResNeXt(spec, **options, output_stride=output_stride))
        dilated.set_weights(strided.get_weights())
        found = dilated(IMAGES)
        for stride, (level, maps) in zip(spec.strides, found.items(), strict=True):
            finer = min(stride, output_stride)
            assert maps.shape[1] == SIDE // finer
            step = stride // finer
            assert relative_error(maps[:, ::step, ::step], expected[level]) <= 1e-5


def test_a_dilated_network_takes_images_of_any_size():
    options = {"include_top": False, "weights": None, "output_stride": 8}
    images = IMAGES[:, :61, :47]
    for shape in ((None, None, 3), (61, 47, 3)):
        model = ResNeXt(SPECS["plain"], input_shape=shape, **options)
        for training in (False, True):
            assert model(images, training=training).shape == (2, 8, 6, 2048)


@pytest.mark.parity
def test_onnx_runtime_runs_a_dilated_network_of_any_size(relative_error):
    pytest.importorskip("onnxruntime")
    options = {"include_top": False, "weights": None, "output_stride": 8}
    model = randomised(ResNeXt(SPECS["plain"], **options))  # of any size by default
    predict = Predictor(model, "onnxruntime", batch_size=2)
    for images in (IMAGES, IMAGES[:, :61, :47]):
        expected = model.predict(images, verbose=0)
        assert relative_error(predict(images), expected) <= 1e-5


def test_an_output_stride_that_no_stage_has_is_refused_before_anything_is_built(
    no_model,
):
    for wrong in (0, 2, 64, "16", 8.5):
        with pytest.raises(ValueError, match=r"None or .* 4, 8, 16, 32\. .*stride="):
            resnext_keras.ResNeXt50(weights=None, output_stride=wrong)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("library", "architecture", "output_stride"),
    [
        ("torchvision", "resnext50_32x4d", 16),
        ("torchvision", "resnext50_32x4d", 4),
        ("timm", "resnext50d_32x4d", 8),
        ("timm", "seresnextaa101d_32x8d", 8),
    ],
)
def test_logits_and_levels_of_any_size_are_those_of_torchvision_and_timm(
    library, architecture, output_stride, tmp_path, relative_error
):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    dilated = [output_stride < stride for stride in (8, 16, 32)]
    options = {
        "torchvision": {"replace_stride_with_dilation": dilated},
        "timm": {"output_stride": output_stride},
    }
    reference = reference_network(library, architecture, **options[library])
    path = tmp_path / "weights.safetensors"
    save_file(reference.state_dict(), path)
    expected = {}
    for level in (2, 3, 4, 5):
        getattr(reference, f"layer{level - 1}").register_forward_hook(
            lambda _, inputs, output, level=level: expected.update(
                {f"C{level}": output.permute(0, 2, 3, 1).numpy()}
            )
        )
    images = np.random.default_rng(1).normal(size=(2, 97, 130, 3)).astype("float32")
    with torch.no_grad():
        logits = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()

    model = ResNeXt(
        architecture,
        weights=path,
        input_shape=(None, None, 3),
        classifier_activation=None,
        output_stride=output_stride,
    )
    assert relative_error(model.predict(images, verbose=0), logits) <= 1e-4
    found = feature_pyramid(model).predict(images, verbose=0)
    assert list(found) == list(expected)
    for level, maps in found.items():
        assert relative_error(maps, expected[level]) <= 1e-4, level
