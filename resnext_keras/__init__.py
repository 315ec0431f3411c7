"""The ResNeXt family for Keras 3, called as `keras.applications` is."""

import importlib.metadata
from typing import TYPE_CHECKING

from resnext_keras.models import runtime as _runtime  # noqa: F401 - sets up TensorFlow, so first
from resnext_keras.models.layers import GroupedConv2D
from resnext_keras.models.resnext import (
    LegacySEResNeXt26_32x4d,
    LegacySEResNeXt50_32x4d,
    LegacySEResNeXt101_32x4d,
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
from resnext_keras.models.specs import ResNeXtSpec, list_models
from resnext_keras.training.optimizers import SGD

__all__ = [
    "SGD",
    "Classifier",
    "Evaluation",
    "GroupedConv2D",
    "ImageError",
    "LegacySEResNeXt26_32x4d",
    "LegacySEResNeXt50_32x4d",
    "LegacySEResNeXt101_32x4d",
    "Predictor",
    "Preprocessing",
    "Recipe",
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
    "TrainingResult",
    "WeightsError",
    "class_names",
    "convert_weights",
    "decode_predictions",
    "evaluate",
    "explain",
    "export_file",
    "export_model",
    "export_saved_model",
    "extract",
    "feature_pyramid",
    "fetch_weights",
    "finetune",
    "fold_batch_norm",
    "freeze",
    "grad_cam",
    "list_models",
    "list_recipes",
    "list_weights",
    "load_classifier",
    "overlay",
    "predict_files",
    "preprocess_input",
    "push_to_hub",
    "quantize",
    "read_image",
    "save_timm",
    "search",
    "stage_costs",
    "train",
    "verify_weights",
    "weights_info",
    "weights_preprocessing",
]

if TYPE_CHECKING:
    from resnext_keras.classifier import Classifier, load_classifier
    from resnext_keras.export.files import export_file
    from resnext_keras.export.formats import export_model
    from resnext_keras.export.saved_model import export_saved_model
    from resnext_keras.features.class_activation import grad_cam
    from resnext_keras.features.explanation import explain
    from resnext_keras.features.extraction import extract
    from resnext_keras.features.similarity import search
    from resnext_keras.images.draw import overlay
    from resnext_keras.images.labels import class_names, decode_predictions
    from resnext_keras.images.preprocessing import Preprocessing, preprocess_input
    from resnext_keras.images.read import ImageError, read_image
    from resnext_keras.inference.fold import fold_batch_norm
    from resnext_keras.inference.prediction import predict_files
    from resnext_keras.inference.predictor import Predictor
    from resnext_keras.inference.quantization import quantize
    from resnext_keras.models.backbone import feature_pyramid, freeze
    from resnext_keras.models.flops import stage_costs
    from resnext_keras.training.evaluation import Evaluation, evaluate
    from resnext_keras.training.recipes import Recipe, list_recipes
    from resnext_keras.training.trainer import TrainingResult, finetune, train
    from resnext_keras.weights.checkpoint import (
        fetch_weights,
        weights_info,
        weights_preprocessing,
    )
    from resnext_keras.weights.convert import convert_weights
    from resnext_keras.weights.push import push_to_hub
    from resnext_keras.weights.registry import list_weights
    from resnext_keras.weights.tensors import WeightsError
    from resnext_keras.weights.timm_folder import save_timm
    from resnext_keras.weights.verify import verify_weights

# Imported on first use, as the block above has them for editors; a test holds the
# two together.
_LAZY = {
    "Classifier": "classifier",
    "Evaluation": "training.evaluation",
    "ImageError": "images.read",
    "Predictor": "inference.predictor",
    "Preprocessing": "images.preprocessing",
    "Recipe": "training.recipes",
    "TrainingResult": "training.trainer",
    "WeightsError": "weights.tensors",
    "class_names": "images.labels",
    "convert_weights": "weights.convert",
    "decode_predictions": "images.labels",
    "evaluate": "training.evaluation",
    "explain": "features.explanation",
    "export_file": "export.files",
    "export_model": "export.formats",
    "export_saved_model": "export.saved_model",
    "extract": "features.extraction",
    "feature_pyramid": "models.backbone",
    "fetch_weights": "weights.checkpoint",
    "finetune": "training.trainer",
    "fold_batch_norm": "inference.fold",
    "freeze": "models.backbone",
    "grad_cam": "features.class_activation",
    "list_recipes": "training.recipes",
    "list_weights": "weights.registry",
    "load_classifier": "classifier",
    "overlay": "images.draw",
    "predict_files": "inference.prediction",
    "preprocess_input": "images.preprocessing",
    "push_to_hub": "weights.push",
    "quantize": "inference.quantization",
    "read_image": "images.read",
    "save_timm": "weights.timm_folder",
    "search": "features.similarity",
    "stage_costs": "models.flops",
    "train": "training.trainer",
    "verify_weights": "weights.verify",
    "weights_info": "weights.checkpoint",
    "weights_preprocessing": "weights.checkpoint",
}


def __getattr__(name: str):
    if name == "__version__":
        return importlib.metadata.version("resnext-keras")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
    globals()[name] = value = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _LAZY.keys())
