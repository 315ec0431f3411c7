"""The moving average of a network's weights, which is often better than the last."""

import contextlib
from collections.abc import Iterator

import keras


class MovingAverage(keras.callbacks.Callback):
    """Averages the weights of a network over its steps, statistics too.

    Keras' optimizers average what gradients change alone. The moving statistics of
    batch norm belong to the weights of the last steps, and do not fit an average of
    a thousand; torchvision averages them alike (`use_buffers=True`).

    Validation sees the average. It begins as the mean of all steps, so that nothing
    is left of the random weights. Of several steps that are run at once the last
    counts for all.

    Args:
        network: Whose weights.
        steps: Number of steps that it spans.
    """

    def __init__(self, network: keras.Model, steps: float):
        super().__init__()
        self.weights = network.weights
        self.rate = 1 / max(steps, 1)
        # Of its own memory, as a step of JAX takes that of the weights.
        self.averages = [
            keras.Variable(keras.ops.copy(weight), trainable=False, name="average")
            for weight in self.weights
        ]
        self.seen = keras.Variable(0, trainable=False, dtype="int32", name="seen")
        self._batch = -1

    @property
    def variables(self) -> list:
        """What changes with each step."""
        return [*self.averages, self.seen]

    def on_epoch_begin(self, epoch, logs=None):
        """Begins to count steps, whose numbers begin anew in each epoch."""
        self._batch = -1

    def on_train_batch_end(self, batch, logs=None):
        """Counts the weights of a step in, or of the last of several."""
        _ = self.model  # has JAX give the network its weights back
        steps, self._batch = batch - self._batch, batch
        seen = int(self.seen.numpy())
        rate = max(1 - (1 - self.rate) ** steps, steps / (seen + steps))
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.assign(average + rate * (weight - average))
        self.seen.assign_add(steps)

    def on_test_begin(self, logs=None):
        """Has validation see the average."""
        self._swap()

    def on_test_end(self, logs=None):
        """Gives the weights back."""
        self._swap()

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """A time in which the network has the average for its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self):
        for average, weight in zip(self.averages, self.weights, strict=True):
            kept = keras.ops.copy(weight.value)
            weight.assign(average)
            average.assign(kept)
