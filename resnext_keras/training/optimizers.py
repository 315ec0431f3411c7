"""Stochastic gradient descent as in PyTorch, and its learning rate schedules."""

import contextlib

import keras
from keras import ops
from keras.optimizers.schedules import (
    CosineDecay,
    LearningRateSchedule,
    PiecewiseConstantDecay,
)

from resnext_keras.training.recipes import Recipe

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

# Share of the rate at which a warm-up begins, as torchvision's `--lr-warmup-decay`.
WARMUP_START = 0.01

# Scales and shifts of batch norm, which do not decay with `norm_weight_decay=False`.
# Biases decay, as with torchvision's `--norm-weight-decay 0.0`. TensorFlow puts the
# name of the layer before, that of the device after.
NOT_DECAYED = r"(^|/)(gamma|beta)(/replica_\d+)?(:\d+)?$"


@keras.saving.register_keras_serializable(package="resnext_keras")
class SGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` with the steps of `torch.optim.SGD`.

    The published recipes are for PyTorch. Keras' own SGD gives other results with the
    same numbers: its velocity contains the learning rate, so that a lower rate takes
    effect only gradually, and its weight decay bypasses the momentum.

    The arguments are those of `keras.optimizers.SGD`. Clipping comes before the decay,
    as in PyTorch. With `gradient_accumulation_steps` a schedule counts updates; in
    Keras it counts batches. A saved model keeps the names of
    `exclude_from_weight_decay`.

    Source: https://pytorch.org/docs/stable/generated/torch.optim.SGD.html, without
    dampening.
    """

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Excludes variables from weight decay, as in Keras, and keeps the names."""
        super().exclude_from_weight_decay(var_list, var_names)
        self._not_decayed = tuple(var_names or ())

    def get_config(self):
        """The configuration, with the names that do not decay."""
        names = list(getattr(self, "_not_decayed", ()))
        return super().get_config() | {"not_decayed": names}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """An optimizer from its configuration, not built yet."""
        names = config.get("not_decayed")
        config = {name: config[name] for name in config if name != "not_decayed"}
        optimizer = super().from_config(config, custom_objects)
        optimizer.exclude_from_weight_decay(var_names=names)
        return optimizer

    # Private, but nothing public gives Keras' updates another learning rate.
    def _get_current_learning_rate(self):
        if isinstance(self._learning_rate, LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    # Private, but nothing public takes the decay out of Keras' `apply`.
    def _apply_weight_decay(self, variables):
        """Does nothing; `update_step` decays the weights."""

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable of any backend."""
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        # Private, but Keras' own optimizers too find exclusions and buffers only by
        # `_use_weight_decay` and `_get_variable_index`.
        if self.weight_decay and self._use_weight_decay(variable):
            with _after(gradient):
                decayed = ops.multiply(variable, self.weight_decay)
            gradient = ops.add(gradient, decayed)
        if self.momentum:
            buffer = self.momentums[self._get_variable_index(variable)]
            if keras.config.backend() == "tensorflow":
                # The same in one pass over memory, without temporaries.
                tf.raw_ops.ResourceApplyMomentum(
                    var=variable.handle,
                    accum=buffer.value.handle,
                    lr=learning_rate,
                    grad=gradient,
                    momentum=self.momentum,
                    use_nesterov=self.nesterov,
                )
                return
            moved = ops.add(ops.multiply(buffer, self.momentum), gradient)
            self.assign(buffer, moved)
            if self.nesterov:
                gradient = ops.add(gradient, ops.multiply(moved, self.momentum))
            else:
                gradient = moved
        self.assign_sub(variable, ops.multiply(gradient, learning_rate))


def _after(gradient):
    """Context manager: operations of TensorFlow wait for a gradient.

    Otherwise TensorFlow would multiply all weights at the start of a step, and hold a
    copy of them during the step.
    """
    if keras.config.backend() == "tensorflow":
        return tf.control_dependencies([gradient])
    return contextlib.nullcontext()


@keras.saving.register_keras_serializable(package="resnext_keras")
class Warmup(LearningRateSchedule):
    """A schedule with a linear warm-up.

    Args:
        schedule: The schedule without the warm-up.
        steps: Number of updates of the warm-up, at least 1.
    """

    def __init__(self, schedule: LearningRateSchedule, steps: int):
        super().__init__()
        self.schedule, self.steps = schedule, steps

    def __call__(self, step):
        """The learning rate of an update, counted from 0."""
        rate = self.schedule(step)
        done = ops.minimum(ops.cast(step, rate.dtype) / self.steps, 1)
        return rate * (WARMUP_START + (1 - WARMUP_START) * done)

    def get_config(self):
        """The configuration for Keras."""
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        """A schedule from its configuration."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["steps"])


def build_optimizer(
    recipe: Recipe, *, steps_per_epoch: int, accumulate: int = 1
) -> SGD:
    """Builds the optimizer of a recipe, with its schedule.

    Args:
        recipe: The recipe.
        steps_per_epoch: Number of steps of an epoch.
        accumulate: Number of steps whose gradients are averaged for one update.
    """
    optimizer = SGD(
        schedule(recipe, _updates(recipe, steps_per_epoch, accumulate)),
        momentum=float(recipe.momentum),  # Keras refuses 0
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
    )
    if not recipe.norm_weight_decay:
        optimizer.exclude_from_weight_decay(var_names=[NOT_DECAYED])
    return optimizer


def learning_rate(
    recipe: Recipe, step: int, *, steps_per_epoch: int, accumulate: int
) -> float:
    """The learning rate after `step` steps; the others are as in `build_optimizer`."""
    rates = schedule(recipe, _updates(recipe, steps_per_epoch, accumulate))
    return float(rates(step // accumulate))


def _updates(recipe: Recipe, steps_per_epoch: int, accumulate: int) -> int:
    return max(steps_per_epoch * recipe.epochs // accumulate, 1)


def schedule(recipe: Recipe, updates: int) -> LearningRateSchedule:
    """The learning rate schedule of a recipe for a training of so many updates."""
    highest = recipe.learning_rate
    warmup = min(round(recipe.warmup * updates), updates - 1)
    if recipe.milestones:
        # Keras' schedule changes after a boundary, PyTorch's at it.
        boundaries = [max(round(share * updates), 1) - 1 for share in recipe.milestones]
        rates = [highest * 0.1**n for n in range(len(boundaries) + 1)]
        steps = PiecewiseConstantDecay(boundaries, rates)
        return Warmup(steps, warmup) if warmup else steps
    if not warmup:
        return CosineDecay(highest, updates)
    return CosineDecay(
        WARMUP_START * highest,
        updates - warmup,
        warmup_target=highest,
        warmup_steps=warmup,
    )
