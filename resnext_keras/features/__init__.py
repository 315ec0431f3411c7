"""Features of pictures: a network's maps and vectors, and what is done with them."""

from resnext_keras.features.backbone import feature_pyramid, freeze

__all__ = ["feature_pyramid", "freeze"]
