"""What a network without its classifier is for: maps, vectors, and their reasons."""

from resnext_keras.features.explain import Explanation, explain
from resnext_keras.features.grad_cam import grad_cam
from resnext_keras.features.nearest import Match, nearest
from resnext_keras.features.overlay import overlay
from resnext_keras.features.search import Search, search

__all__ = [
    "Explanation",
    "Match",
    "Search",
    "explain",
    "grad_cam",
    "nearest",
    "overlay",
    "search",
]
