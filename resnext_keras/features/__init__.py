"""Features of pictures: a network's maps and vectors, and what is done with them."""

from resnext_keras.features.backbone import feature_pyramid, freeze
from resnext_keras.features.explain import Explanation, explain
from resnext_keras.features.extract import Extraction, extract
from resnext_keras.features.grad_cam import grad_cam
from resnext_keras.features.nearest import Match, nearest
from resnext_keras.features.overlay import overlay
from resnext_keras.features.search import Search, search
from resnext_keras.features.store import iterate, read_source

__all__ = [
    "Explanation",
    "Extraction",
    "Match",
    "Search",
    "explain",
    "extract",
    "feature_pyramid",
    "freeze",
    "grad_cam",
    "iterate",
    "nearest",
    "overlay",
    "read_source",
    "search",
]
