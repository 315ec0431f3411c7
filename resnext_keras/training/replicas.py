"""What Keras' `fit` lacks under TensorFlow's strategies, for the time of one call."""

import contextlib

import keras
import numpy as np
import tensorflow as tf
from keras import tree


def is_multi_worker(strategy) -> bool:
    """Whether replicas are on several machines."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


_STEPS = ("train_step", "test_step")


@contextlib.contextmanager
def as_fit_needs(model, strategy, batches):
    """The model, with what Keras' `fit` cannot do under these strategies done for it.

    Keras 3.15 builds a model's metrics from the mean of one batch of all replicas,
    which TensorFlow does not take of tuples across workers (keras#20585); and there it
    takes means over the first axis of logs, which are scalars. Neither is needed: what
    a batch is, its dataset tells, and logs may have an axis. Several steps in one
    execution fail, even those of a dense layer, so that each is one.
    """
    batch = tree.map_structure(
        lambda spec: keras.KerasTensor(spec.shape, spec.dtype.name),
        batches.element_spec,
    )

    def build(iterator=None, data_batch=None):
        with strategy.scope():
            model._symbolic_build(data_batch=batch)

    def with_axis(step):
        def step_with_axis(data):
            return {name: tf.reshape(log, (1,)) for name, log in step(data).items()}

        return step_with_axis

    own = {"_maybe_symbolic_build": build}
    if is_multi_worker(strategy):
        own |= {name: with_axis(getattr(model, name)) for name in _STEPS}
    for name, function in own.items():
        setattr(model, name, function)
    model.train_function = model.test_function = None  # of the steps as they were
    together, model.steps_per_execution = model.steps_per_execution, 1
    try:
        yield
    finally:
        model.steps_per_execution = together
        for name in own:
            delattr(model, name)
        model.train_function = model.test_function = None


@contextlib.contextmanager
def synchronised(model):
    """Batch norm's statistics are those of the images of all replicas."""
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
    ]
    for layer in layers:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronized = False


def all_of(strategy, values: list) -> np.ndarray:
    """The rows of all replicas, one below the other."""

    @tf.function
    def gather():
        rows = tf.constant(values)
        return tf.distribute.get_replica_context().all_gather(rows, axis=0)

    return strategy.experimental_local_results(strategy.run(gather))[0].numpy()


def draw_apart(model, strategy):
    """Dropout draws from seeds that differ between replicas, as its images do.

    Keras starts all of them with one seed. The first replica's are what is saved, and
    those of the others follow from them, here as after a restart.
    """
    states = [
        variable.value
        for variable in model.non_trainable_variables
        if variable.name == "seed_generator_state"
    ]

    @tf.function
    def draw():
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group
        for state in states:
            first = tf.where(replica == 0, state, tf.zeros_like(state))
            first = context.all_reduce(tf.distribute.ReduceOp.SUM, first)
            state.assign(first + tf.cast(tf.stack([replica, 0]), state.dtype))

    if states:
        strategy.run(draw)


@contextlib.contextmanager
def accumulating(optimizer, strategy):
    """Gradients are summed over all replicas, then kept until an update is due.

    Keras decides within a replica whether one is, where TensorFlow takes no branches
    that end in an exchange between replicas. It would also keep each replica's own
    gradients, of which a checkpoint has but the first's.
    """
    # Of 16-bit training it is within the one that scales the loss.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    steps = optimizer.gradient_accumulation_steps

    def apply(gradients, variables):
        numbers = map(optimizer._get_variable_index, variables)
        kept = [optimizer._accumulated_gradients[number].value for number in numbers]
        variables = [variable.value for variable in variables]
        context = tf.distribute.get_replica_context()

        def across(distribution, gradients):
            update = distribution.extended.update
            rate = optimizer.learning_rate

            def step(variable, gradient, before):
                optimizer.update_step((before + gradient) / steps, variable, rate)
                before.assign(tf.zeros_like(before))

            def due():
                for variable, gradient, before in zip(
                    variables, gradients, kept, strict=True
                ):
                    update(variable, step, args=(gradient, before), group=False)

            def keep():
                for before, gradient in zip(kept, gradients, strict=True):
                    update(before, _add, args=(gradient,), group=False)

            tf.cond((optimizer._iterations.value + 1) % steps == 0, due, keep)

        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        context.merge_call(across, args=(gradients,))

    if steps:
        optimizer._backend_apply_gradients = apply
    try:
        yield
    finally:
        if steps:
            del optimizer._backend_apply_gradients


def _add(variable, value):
    variable.assign_add(value)
