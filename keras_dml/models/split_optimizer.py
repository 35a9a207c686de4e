"""One optimizer for the encoder, another for the weights of the loss."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_dml.backend import replicas
from keras_dml.typing import Tensor


class SplitOptimizer(keras.optimizers.MultiOptimizer):
    """What `MetricLearner` trains with: the optimizers of encoder and head, behind the interface of one.

    The gradient of the encoder is clipped to a global norm and then gets coupled weight decay; both are left out for
    the head. To callbacks and schedulers it looks like the encoder's optimizer: `iterations` and `learning_rate` are
    that one's, and a learning rate that is set moves that of the head in proportion.

    Saved, it is the encoder's optimizer; `MetricLearner` saves the head's beside it.

    Args:
        encoder_optimizer: Trains the encoder.
        head_optimizer: Trains the weights of the loss and of the pair scorer.
        in_head: Tells of a variable whether it belongs to the head.
        l2_decay: Coupled weight decay: `l2_decay * w` is added to the gradient of every encoder weight `w`.
        clip_norm: Global norm of the encoder's gradient before the decay is added, or None.
    """

    def __init__(
        self,
        encoder_optimizer: keras.optimizers.Optimizer,
        head_optimizer: keras.optimizers.Optimizer,
        in_head: Callable[[keras.Variable], bool],
        l2_decay: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lambda variable: head_optimizer if in_head(variable) else encoder_optimizer)
        self._in_head = in_head
        self._l2_decay = l2_decay
        self._clip_norm = clip_norm
        # No list: Keras saves what it finds in those, and these two are saved elsewhere.
        self._inner_optimizers = collections.UserList([encoder_optimizer, head_optimizer])
        self._head_rate_ratio: float | None = None

    @property
    def encoder(self) -> Callable[[], keras.optimizers.Optimizer]:
        """Returns the encoder's optimizer when called, so that Keras does not save it twice."""
        return lambda: self._inner_optimizers[0]

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        # Even where there is nothing for it to train, its state is saved and restored.
        for optimizer in self._inner_optimizers:
            if not optimizer.built:
                optimizer.build([])

    def apply(
        self, grads: Sequence[Tensor | None], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        """Clips and decays the encoder's gradient, then lets each optimizer update its own variables."""
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        if not self.built:
            self.build(trainable_variables)
        in_head = [self._in_head(variable) for variable in trainable_variables]
        pairs = list(zip(replicas.reduce_gradients(grads, in_head), trainable_variables, strict=True))
        encoder = [pair for pair, head in zip(pairs, in_head, strict=True) if not head]
        head = [pair for pair, head in zip(pairs, in_head, strict=True) if head]
        # Keras sums over replicas what it is given on each of them.
        shares = replicas.count()
        for optimizer, part in zip(self._inner_optimizers, (self._regularized(encoder), head), strict=True):
            # An optimizer refuses to be given nothing but None.
            if any(gradient is not None for gradient, _ in part):
                gradients = [gradient if gradient is None or shares == 1 else gradient / shares for gradient, _ in part]
                optimizer.apply(gradients, [variable for _, variable in part])

    def _regularized(self, pairs: list[tuple[Tensor | None, keras.Variable]]) -> list[tuple[Tensor | None, Any]]:
        present = [gradient for gradient, _ in pairs if gradient is not None]
        factor: Tensor | None = None
        if self._clip_norm is not None and present:
            squares = [ops.sum(ops.square(ops.cast(gradient, "float32"))) for gradient in present]
            norm = ops.sqrt(sum(squares[1:], start=squares[0]))
            factor = ops.minimum(1.0, self._clip_norm / ops.maximum(norm, 1e-12))

        def regularized(gradient: Tensor, variable: keras.Variable) -> Tensor:
            if factor is not None:
                gradient = gradient * ops.cast(factor, gradient.dtype)
            if self._l2_decay:
                gradient = gradient + ops.cast(self._l2_decay, gradient.dtype) * ops.cast(variable, gradient.dtype)
            return gradient

        return [
            (None if gradient is None else regularized(gradient, variable), variable) for gradient, variable in pairs
        ]

    @property
    def iterations(self) -> keras.Variable:
        return self._inner_optimizers[0].iterations

    @property
    def learning_rate(self) -> Any:
        return self._inner_optimizers[0].learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        encoder, head = self._inner_optimizers
        schedule = keras.optimizers.schedules.LearningRateSchedule
        rated = not any(isinstance(optimizer._learning_rate, schedule) for optimizer in (encoder, head))
        if rated and self._head_rate_ratio is None:
            before = float(ops.convert_to_numpy(encoder.learning_rate))
            self._head_rate_ratio = float(ops.convert_to_numpy(head.learning_rate)) / before if before else None
        encoder.learning_rate = value
        if rated and self._head_rate_ratio is not None:
            head.learning_rate = self._head_rate_ratio * value

    def save_own_variables(self, store: Any) -> None:
        self._inner_optimizers[0].save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        self._inner_optimizers[0].load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("A SplitOptimizer is made by MetricLearner.compile, which saves its two optimizers.")
