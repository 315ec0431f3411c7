"""Networks with random weights, for the tests of their exports."""

import dataclasses

import numpy as np
from elsewhere import randomised
from weight_files import EVERY_OPTION, TINY

from resnext_keras import Preprocessing, ResNeXt

NAMES = ("birch", "ель", "木", 'a "b"', "c\nd")  # any letters
# A network with all that the family has.
SPEC = dataclasses.replace(TINY, stem="imagenet", depths=(1, 2), **EVERY_OPTION)
SIGNATURES = {"serving_default", "predict", "predict_uint8", "features"}
READING = Preprocessing(size=32, resize=40)
IMAGES = np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype("float32")


def build(include_top=True, spec=TINY, **options):
    """A network with random weights and statistics."""
    options = {"input_shape": (32, 32, 3), "classes": len(NAMES)} | options
    return randomised(ResNeXt(spec, include_top, None, **options))
