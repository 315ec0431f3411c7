"""Asks for TensorFlow's oneDNN kernels, which it reads of when it is loaded.

On processors without AVX-512 TensorFlow leaves them off, and a training step of
this package takes 1.6 times as long. So this module is the first that the package
imports.
"""

import logging
import os
import sys

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"

logger = logging.getLogger(__name__)

if "tensorflow" not in sys.modules:
    os.environ.setdefault(VARIABLE, "1")


def tell_if_off(is_on: bool) -> None:
    """Says in the log how to get the kernels, unless the user has decided.

    Args:
        is_on: Whether TensorFlow uses them.
    """
    if not is_on and VARIABLE not in os.environ:
        logger.warning(
            "TensorFlow was imported without its oneDNN kernels, which make ResNeXt "
            "faster on this processor. Import resnext_keras before tensorflow and "
            "keras, or set %s=1.",
            VARIABLE,
        )
