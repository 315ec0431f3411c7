"""What the processor can do at best: large matrix products in float32."""

import numpy as np
import tensorflow as tf

tf.config.experimental.enable_tensor_float_32_execution(False)


def product(work, side):
    """One product of two square matrices, which takes `2 * side**3` operations."""
    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    rng = np.random.default_rng(0)
    matrix = tf.constant(rng.normal(size=(side, side)).astype("float32"))
    return lambda: tf.matmul(matrix, matrix)[0, 0].numpy()
