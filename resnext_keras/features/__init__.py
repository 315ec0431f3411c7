"""What a network sees in pictures: why a class, and what is like what."""

from resnext_keras.features.explain import Explanation, explain
from resnext_keras.features.grad_cam import grad_cam
from resnext_keras.features.overlay import overlay

__all__ = ["Explanation", "explain", "grad_cam", "overlay"]
