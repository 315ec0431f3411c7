"""The network of a training run."""

import contextlib

import keras

from resnext_keras.images.preprocessing import IMAGENET, Preprocessing, preprocess_input
from resnext_keras.models.data_format import channels_first, image_shape
from resnext_keras.models.resnext import ResNeXt
from resnext_keras.models.variables import variable_shapes
from resnext_keras.training.settings import Settings
from resnext_keras.weights.loading import assign


def build_network(
    settings: Settings, outputs: int, preprocessing: Preprocessing
) -> keras.Model:
    """Builds the network of a run, from preprocessed images to logits."""
    recipes = [phase.recipe for phase in settings.phases]
    sizes = {recipe.train_size or preprocessing.size for recipe in recipes}
    size = preprocessing.size if sizes == {preprocessing.size} else None
    network = ResNeXt(
        settings.spec,
        weights=None,
        input_shape=image_shape(size, size),
        classes=outputs,
        classifier_activation=None,
        drop_path_rate=max(recipe.drop_path for recipe in recipes),
    )
    if settings.weights:  # without their classifier, even for as many classes
        with settings.weights.open(
            variable_shapes(settings.spec, classes=None)
        ) as tensors:
            assign(network, tensors)
    return network


def with_preprocessing(
    network: keras.Model, preprocessing: Preprocessing = IMAGENET
) -> keras.Model:
    """Puts `preprocess_input` before a network, so that the device gets uint8 pixels.

    Args:
        network: A model from preprocessed images to logits.
        preprocessing: For its mean and deviation.

    Returns:
        A model with the same weights, from uint8 (batch, H, W, 3) to float32 logits,
        (batch, classes). For a network of one output, the sigmoid of two classes, the
        logit of the first is 0: their softmax is this sigmoid.
    """
    pixels = keras.Input((None, None, 3), dtype="uint8", name="pixels")
    images = preprocess_input(pixels, "channels_last", preprocessing)
    if channels_first():
        images = keras.ops.transpose(images, (0, 3, 1, 2))
    logits = keras.ops.cast(network(images), "float32")
    if logits.shape[-1] == 1:
        logits = keras.ops.pad(logits, ((0, 0), (1, 0)))
    return keras.Model(pixels, logits, name=f"{network.name}_with_preprocessing")


@contextlib.contextmanager
def dtype_policy(name: str):
    """Context manager: sets the dtype policy of Keras."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
