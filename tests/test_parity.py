"""The network gives what torchvision's gives, from the same weights."""

import keras
import numpy as np
import pytest
from conftest import GOLDEN
from random_state import draw_images, sample

import resnext_keras

STAGE_OUTPUTS = {
    "conv2": "conv2_block3_out",
    "conv3": "conv3_block4_out",
    "conv4": "conv4_block6_out",
    "conv5": "conv5_block3_out",
}


@pytest.mark.parametrize(("height", "width"), [(224, 224), (161, 193)])
def test_logits_and_every_stage_equal_torchvisions(
    resnext50_file, relative_error, height, width
):
    model = resnext_keras.ResNeXt50(
        weights=resnext50_file,
        input_shape=(height, width, 3),
        classifier_activation=None,
    )
    outputs = {
        stage: model.get_layer(layer).output for stage, layer in STAGE_OUTPUTS.items()
    }
    network = keras.Model(model.input, outputs | {"logits": model.output})
    found = network.predict(draw_images(height, (2, height, width, 3)), verbose=0)
    golden = np.load(GOLDEN / f"resnext50_{height}x{width}.npz")
    for name in golden:
        assert relative_error(sample(found[name]), np.ravel(golden[name])) <= 1e-4, name
