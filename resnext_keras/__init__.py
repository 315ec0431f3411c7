"""The ResNeXt family for Keras 3, called as `keras.applications` is."""

from resnext_keras import onednn as onednn  # first: it speaks to TensorFlow
from resnext_keras.conversion import convert_weights
from resnext_keras.deploy import (
    Predictor,
    export_file,
    export_saved_model,
    fold_batch_norm,
    quantize,
)
from resnext_keras.features import feature_pyramid, freeze, grad_cam, overlay
from resnext_keras.labels import class_names, decode_predictions
from resnext_keras.layers import GroupedConv2D
from resnext_keras.models import (
    ResNeXt,
    ResNeXt29_8x64d,
    ResNeXt29_16x64d,
    ResNeXt50,
    ResNeXt50D_32x4d,
    ResNeXt101,
    ResNeXt101_32x8d,
    ResNeXt101_32x16d,
    ResNeXt101_32x32d,
    ResNeXt101_32x48d,
    ResNeXt101_64x4d,
    ResNeXt152,
    SEResNeXt26D_32x4d,
    SEResNeXt26T_32x4d,
    SEResNeXt50_32x4d,
    SEResNeXt101_32x4d,
    SEResNeXt101_32x8d,
    SEResNeXt101_64x4d,
    SEResNeXt101D_32x8d,
    SEResNeXtAA101D_32x8d,
    SEResNeXtAA201D_32x8d,
)
from resnext_keras.preprocessing import (
    ImageError,
    Preprocessing,
    preprocess_input,
    read_image,
)
from resnext_keras.specs import ResNeXtSpec, list_models
from resnext_keras.weights import WeightsError, list_weights, weights_preprocessing

__all__ = [
    "GroupedConv2D",
    "ImageError",
    "Predictor",
    "Preprocessing",
    "ResNeXt",
    "ResNeXt29_8x64d",
    "ResNeXt29_16x64d",
    "ResNeXt50",
    "ResNeXt50D_32x4d",
    "ResNeXt101",
    "ResNeXt101_32x8d",
    "ResNeXt101_32x16d",
    "ResNeXt101_32x32d",
    "ResNeXt101_32x48d",
    "ResNeXt101_64x4d",
    "ResNeXt152",
    "ResNeXtSpec",
    "SEResNeXt26D_32x4d",
    "SEResNeXt26T_32x4d",
    "SEResNeXt50_32x4d",
    "SEResNeXt101D_32x8d",
    "SEResNeXt101_32x4d",
    "SEResNeXt101_32x8d",
    "SEResNeXt101_64x4d",
    "SEResNeXtAA101D_32x8d",
    "SEResNeXtAA201D_32x8d",
    "WeightsError",
    "class_names",
    "convert_weights",
    "decode_predictions",
    "export_file",
    "export_saved_model",
    "feature_pyramid",
    "fold_batch_norm",
    "freeze",
    "grad_cam",
    "list_models",
    "list_weights",
    "overlay",
    "preprocess_input",
    "quantize",
    "read_image",
    "weights_preprocessing",
]
