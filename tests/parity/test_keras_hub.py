"""KerasHub's tasks train on our networks, and their presets keep them."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from elsewhere import randomised

from resnext_keras import ResNeXt, ResNeXtSpec, feature_pyramid, fold_batch_norm, freeze

keras_hub = pytest.importorskip("keras_hub")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.tensorflow,
    # KerasHub trains from a dataset of its own, and loads weights without optimizers.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:Skipping variable loading for optim:UserWarning"
    ),
]

SPEC = ResNeXtSpec("tiny", (1, 1, 1, 1), 2, 2)
IMAGES = np.random.default_rng(0).normal(size=(4, 64, 96, 3)).astype("float32")


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def network(stem="imagenet", **options):
    spec = replace(SPEC, stem=stem)
    return randomised(ResNeXt(spec, include_top=False, weights=None, **options))


def retina(image_encoder, min_level=3, max_level=5):
    return keras_hub.models.RetinaNetBackbone(
        image_encoder, min_level, max_level, use_p5=False, image_shape=IMAGES.shape[1:]
    )


def losses(model, targets, **options):
    model.compile(keras.optimizers.Adam(1e-4), **options)
    run = model.fit(IMAGES, targets, batch_size=4, epochs=6, verbose=0)
    return run.history["loss"]


def preset_of(model, task, path):
    """What a preset of the model loads; it gives the same outputs."""
    model.save_to_preset(str(path))
    loaded = task.from_preset(str(path))
    expected = keras.tree.flatten(model(IMAGES))
    for found, output in zip(keras.tree.flatten(loaded(IMAGES)), expected, strict=True):
        np.testing.assert_array_equal(found, output)
    return loaded


@pytest.mark.parametrize("encoder", [lambda n: n, feature_pyramid, fold_batch_norm])
def test_a_detector_trains_and_its_preset_predicts_the_same(encoder, tmp_path):
    boxes = [[[8, 8, 40, 40], [50, 24, 90, 56]]] * 4
    targets = {"boxes": np.array(boxes, "float32"), "labels": np.array([[0, 1]] * 4)}
    model = keras_hub.models.RetinaNetObjectDetector(
        retina(encoder(network())),
        num_classes=2,
        bounding_box_format="xyxy",
        pre_logits_num_conv_layers=1,
    )
    history = losses(model, targets)
    assert history[-1] < 0.5 * history[0]
    loaded = preset_of(model, keras_hub.models.ObjectDetector, tmp_path)
    levels = loaded.backbone.image_encoder.pyramid_outputs
    assert list(levels) == ["P2", "P3", "P4", "P5"]


def test_a_segmenter_trains_and_its_preset_predicts_the_same(tmp_path):
    targets = np.zeros(IMAGES.shape[:3], int)
    targets[:, 16:48, 32:64] = 1
    backbone = keras_hub.models.DeepLabV3Backbone(
        network(output_stride=16),
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        upsampling_size=4,
        dilation_rates=[1, 2],
        image_shape=IMAGES.shape[1:],
    )
    model = keras_hub.models.DeepLabV3ImageSegmenter(backbone, 2, activation="softmax")
    assert model.output_shape == (None, 64, 96, 2)
    history = losses(model, targets, loss="sparse_categorical_crossentropy", metrics=[])
    assert history[-1] < 0.8 * history[0]
    preset_of(model, keras_hub.models.ImageSegmenter, tmp_path)


def test_a_classifier_trains_above_frozen_stages_and_its_preset_is_the_same(tmp_path):
    backbone = network()
    freeze(backbone, until="conv4")
    before = [np.array(weight) for weight in backbone.weights]
    model = keras_hub.models.ImageClassifier(backbone, 2, activation="softmax")
    history = losses(model, np.array([0, 1, 1, 0]))
    assert history[-1] < 0.8 * history[0]
    loaded = preset_of(model, keras_hub.models.ImageClassifier, tmp_path)
    for weight, value, again in zip(
        backbone.weights, before, loaded.backbone.weights, strict=True
    ):
        is_frozen = "conv5" not in weight.path
        assert np.array_equal(weight, value) == is_frozen, weight.path
        np.testing.assert_array_equal(weight, again)


@pytest.mark.parametrize(
    ("stem", "output_stride", "levels"),
    [("imagenet", None, (2, 6)), ("imagenet", 16, (2, 4)), ("cifar", None, (0, 3))],
)
def test_the_levels_have_the_strides_that_keras_hub_expects(
    stem, output_stride, levels
):
    encoder = network(stem=stem, output_stride=output_stride)
    for level, maps in retina(encoder, *levels).output.items():
        stride = 2 ** int(level[1])
        assert maps.shape[1:3] == (64 // stride, 96 // stride)
