"""Training, fine-tuning and evaluation."""

from resnext_keras.training.optimizers import SGD

__all__ = ["SGD"]
