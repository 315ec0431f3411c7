"""A SavedModel that reads pictures in its graph: signatures, decoding, warm-up."""

from resnext_keras.deploy.saved_model.export import export_saved_model

__all__ = ["export_saved_model"]
