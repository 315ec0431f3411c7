"""Networks for prediction alone: batch norm folded, on the fastest engine."""

from resnext_keras.deploy.fold import fold_batch_norm
from resnext_keras.deploy.predictor import Predictor

__all__ = ["Predictor", "fold_batch_norm"]
