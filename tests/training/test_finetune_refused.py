"""Fine-tuning checks its weights first."""

import pytest
from weight_files import SMALLEST

from resnext_keras import ResNeXt, WeightsError, finetune, load_classifier
from resnext_keras.weights.verify import verify_weights


def test_weights_for_other_images_than_rgb_are_refused_before_anything_is_written(
    tmp_path,
):
    network = ResNeXt(SMALLEST, weights=None, input_shape=(32, 32, 1), classes=3)
    network.save_weights(tmp_path / "grey.weights.h5")
    weights = {"weights": tmp_path / "grey.weights.h5", "model": SMALLEST}
    for function, arguments in (
        (finetune, (tmp_path, tmp_path / "run")),
        (load_classifier, ()),
        (verify_weights, ()),
    ):
        with pytest.raises(WeightsError, match=r"RGB images; .*grey.* has 1 input"):
            function(*arguments, **weights)
    assert not (tmp_path / "run").exists()
