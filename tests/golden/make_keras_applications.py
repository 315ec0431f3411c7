"""Writes the goldens of keras-applications: a weight file, and its logits.

    python tests/golden/make_keras_applications.py

needs keras-applications and tf-keras (the extra `parity`). The network is the
smallest that its ResNeXt blocks make up: one stage of two blocks, 4 x 4d. Weights
and batch statistics are random.
"""

from pathlib import Path

import numpy as np
import tf_keras
from keras_applications.resnet_common import ResNet, stack3
from random_state import draw_images

FOLDER = Path(__file__).parent
NAME = "keras_applications_4x4d"
SIZE = (65, 97)

# What keras-applications calls through, since it belongs to no Keras of its own.
KERAS = {
    "backend": tf_keras.backend,
    "layers": tf_keras.layers,
    "models": tf_keras.models,
    "utils": tf_keras.utils,
}


def network():
    """The network with drawn weights, which gives logits."""
    model = ResNet(
        lambda x: stack3(x, 16, 2, stride1=1, groups=4, name="conv2"),
        preact=False,
        use_bias=False,
        model_name=NAME,
        weights=None,
        input_shape=(*SIZE, 3),
        classes=5,
        **KERAS,
    )
    draw_weights(model, np.random.default_rng(0))
    model.get_layer("probs").activation = tf_keras.activations.linear
    return model


def draw_weights(model, rng):
    """Sets all weights at random; of kernels such that activations keep their size."""
    for weight in model.weights:
        variable = weight.name.rpartition("/")[2].removesuffix(":0")
        shape = tuple(weight.shape)
        if variable == "moving_variance":
            value = rng.uniform(0.5, 2.0, shape)
        elif variable == "gamma":
            value = rng.uniform(0.3, 1.0, shape)
        elif variable in ("beta", "moving_mean", "bias"):
            value = rng.normal(0.0, 0.3, shape)
        elif variable == "depthwise_kernel":
            height, width, _, channels = shape
            value = rng.normal(0.0, (2 / (height * width * channels)) ** 0.5, shape)
        else:
            value = rng.normal(0.0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
        weight.assign(value)


def main():
    model = network()
    logits = model.predict(draw_images(0, (2, *SIZE, 3)), verbose=0)
    model.save_weights(FOLDER / f"{NAME}.h5")
    np.save(FOLDER / f"{NAME}_logits.npy", logits)


if __name__ == "__main__":
    main()
