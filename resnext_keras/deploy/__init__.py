"""Networks for prediction alone: folded, in int8, on any engine, in files."""

from resnext_keras.deploy.comparison import Comparison, compare_predictions
from resnext_keras.deploy.files import export_file
from resnext_keras.deploy.fold import fold_batch_norm
from resnext_keras.deploy.predictor import Predictor
from resnext_keras.deploy.quantize import check_packages, quantize
from resnext_keras.deploy.saved_model import export_saved_model

__all__ = [
    "Comparison",
    "Predictor",
    "check_packages",
    "compare_predictions",
    "export_file",
    "export_saved_model",
    "fold_batch_norm",
    "quantize",
]
