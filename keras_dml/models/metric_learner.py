"""The model that trains an encoder: encoder forward, augmentation, loss on the union, gradient step."""

import math
import types
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_dml import losses
from keras_dml.callbacks.retrieval_evaluation import RetrievalEvaluation

Logs = dict[str, tf.Tensor]


@keras.saving.register_keras_serializable(package="keras_dml")
class MetricLearner(keras.Model):
    """Trains an encoder with an embedding loss; called on images, it is the encoder.

    A training step embeds the batch, hands embeddings and labels to `augmentation` (DAS), evaluates the loss on all
    real and produced embeddings and updates the weights. `fit` takes batches `(images, labels)`; `evaluate` gives
    the loss on real embeddings, `predict` the embeddings. TensorFlow backend only.

    Args:
        encoder: Model from images to embeddings `(batch, dim)`.
        augmentation: Layer called as `layer(embeddings, labels, training=True)`, such as
            `keras_dml.layers.DASAugmentation`; it returns embeddings and labels, the real rows first. Used in
            training only.
        similarity: Learned similarity, such as `keras_dml.layers.PDDMUnit`, given to losses that ask for one.
        l2_decay: Coupled weight decay: `l2_decay * w` is added to the gradient of every encoder weight `w`, as
            PyTorch's Adam does. (A Keras optimizer's own `weight_decay` is decoupled, as in AdamW.)
        clip_norm: Global norm that the encoder's gradient is clipped to, before the decay is added.
        frozen_batch_norm: Runs the encoder in inference mode while training, so that batch normalisation uses its
            moving statistics; its scale and shift still train. Dropout inside the encoder is off as well.
        auxiliary_weight: With a number w, the loss is `L(real) + w L(real + produced)`, each with a sampler call of
            its own, instead of `L(real + produced)`.

    Example:

    ```python
    model = MetricLearner(encoder, augmentation=DASAugmentation(num_classes=100))
    model.compile(keras.optimizers.Adam(1e-5), loss=keras_dml.losses.similarity("multi_similarity"))
    model.fit(batches, epochs=10, callbacks=[RetrievalEvaluation((test_images, test_labels))])
    embeddings = model.predict(test_images)
    ```

    Reference: DAS, arXiv 2208.00119, Algorithm 1; the options are those of the authors' training code.
    """

    def __init__(
        self,
        encoder: keras.Model,
        augmentation: keras.layers.Layer | None = None,
        similarity: keras.layers.Layer | None = None,
        l2_decay: float = 0.0,
        clip_norm: float | None = None,
        frozen_batch_norm: bool = False,
        auxiliary_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(encoder, keras.Model):
            raise ValueError(
                "`encoder` must be a keras.Model from images to embeddings, for example "
                f"keras_dml.backbones.build(...). Received: {encoder!r}"
            )
        if l2_decay < 0:
            raise ValueError(f"`l2_decay` must not be negative. Received: l2_decay={l2_decay}")
        if clip_norm is not None and clip_norm <= 0:
            raise ValueError(f"`clip_norm` must be positive, or None for no clipping. Received: clip_norm={clip_norm}")
        if auxiliary_weight is not None and augmentation is None:
            raise ValueError(
                "`auxiliary_weight` weighs the loss on produced embeddings, and there is no `augmentation` to produce "
                f"any. Received: auxiliary_weight={auxiliary_weight}"
            )
        super().__init__(**kwargs)
        self.encoder = encoder
        self.augmentation = augmentation
        self.similarity = similarity
        self.l2_decay = l2_decay
        self.clip_norm = clip_norm
        self.frozen_batch_norm = frozen_batch_norm
        self.auxiliary_weight = auxiliary_weight
        self.embedding_loss: losses.EmbeddingLoss | None = None
        self.loss_optimizer: keras.optimizers.Optimizer | None = None
        self._log_means = _LogMeans()
        if encoder.built and hasattr(encoder, "output_shape"):
            self._build_heads(encoder.output_shape)
            self.built = True

    # ------------------------------------------------------------------ building and compiling

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Builds the encoder on `input_shape`, then whatever works on embeddings."""
        # A symbolic call builds any encoder and tells its output's shape.
        self._build_heads(self.encoder(keras.KerasTensor(input_shape)).shape)
        self.built = True

    def _build_heads(self, embedding_shape: Sequence[int | None]) -> None:
        """Creates every weight beyond the encoder's, and the optimisers' state."""
        if len(embedding_shape) != 2 or embedding_shape[-1] is None:
            raise ValueError(
                "The encoder must return embeddings of shape (batch, dim) with a known dim. "
                f"Received: output shape {tuple(embedding_shape)}"
            )
        shape = self._embedding_shape = (None, embedding_shape[-1])
        if self.augmentation is not None and not self.augmentation.built:
            # A symbolic call, which builds any layer whatever the signature of its `build`.
            self.augmentation(keras.KerasTensor(shape), keras.KerasTensor((None,), dtype="int32"), training=False)
        if self.similarity is not None and not self.similarity.built:
            self.similarity.build([shape, shape])
        if self.embedding_loss is not None and not self.embedding_loss.built:
            self.embedding_loss.build((None,), shape)
        # Without these two, Keras would build one optimiser on all trainable weights.
        if self.embedding_loss is not None and self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.encoder.trainable_variables)
        if self.loss_optimizer is not None and not self.loss_optimizer.built:
            self.loss_optimizer.build(self._head_variables)

    @property
    def _head_variables(self) -> list[keras.Variable]:
        """Trainable weights of the loss and of the learned similarity."""
        owners = [self.embedding_loss, self.similarity]
        return [variable for owner in owners if owner is not None for variable in owner.trainable_variables]

    def compile(
        self,
        optimizer: str | dict | keras.optimizers.Optimizer = "adam",
        loss: Any = None,
        loss_optimizer: str | dict | keras.optimizers.Optimizer | None = None,
        metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = False,
        auto_scale_loss: bool = True,
    ) -> None:
        """Configures training.

        Args:
            optimizer: Trains the encoder.
            loss: A name or an object that `keras_dml.losses.get` takes: a keras_dml loss, a tensorflow-similarity
                loss, a Keras loss, a function `loss(labels, embeddings)`.
            loss_optimizer: Trains the weights of the loss (proxies, margins) and of `similarity`. By default a copy
                of `optimizer` without weight decay, at the rate the loss suggests (`parameter_learning_rate`) where
                it suggests one.
            metrics: Keras metrics of labels and embeddings.
            run_eagerly: Runs the step in Python, for debugging.
            steps_per_execution: Steps for each call of the compiled function.
            jit_compile: XLA. Off by default: it compiles for longer, and on a CPU it made most losses faster and
                those with a memory slower (benchmarks/losses.py). Measure your own model.
            auto_scale_loss: Loss scaling under mixed_float16.
        """
        if loss is None:
            raise ValueError(
                "`loss` is missing. Pass a name or a loss, for example "
                'loss=keras_dml.losses.similarity("multi_similarity")'
            )
        resolved = losses.get(loss)
        if getattr(resolved, "needs_similarity", False) and self.similarity is None:
            raise ValueError(
                f"The loss {resolved.name!r} scores pairs with a learned similarity, and the model has none. "
                "Build it as MetricLearner(encoder, similarity=keras_dml.layers.PDDMUnit())"
            )
        super().compile(
            optimizer=optimizer,
            metrics=metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        # Keras locks a built layer against new sublayers, and goes on tracking the weights of one that is replaced.
        self._tracker.unlock()
        if self.embedding_loss is not None:
            self._tracker.untrack(self.embedding_loss)
        self.embedding_loss = resolved
        self.loss_optimizer = self._make_loss_optimizer(loss_optimizer)
        self._log_means = _LogMeans()
        # A namespace, which Keras does not look into: the metrics in it are tracked elsewhere.
        self._compile_arguments = types.SimpleNamespace(
            metrics=metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        if self.built:
            self._build_heads(self._embedding_shape)

    def _make_loss_optimizer(self, given: Any) -> keras.optimizers.Optimizer:
        if given is not None:
            return keras.optimizers.get(given)
        main: keras.optimizers.Optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        config = main.get_config()
        config["name"] = f"loss_{config['name']}"
        if "weight_decay" in config:
            config["weight_decay"] = 0.0
        rate = getattr(self.embedding_loss, "parameter_learning_rate", None)
        if rate is not None:
            config["learning_rate"] = rate
        return type(main).from_config(config)

    # ------------------------------------------------------------------ forward

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Embeds images; see the encoder for shapes."""
        return self.encoder(inputs, training=training)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return self.encoder.compute_output_shape(input_shape)

    # ------------------------------------------------------------------ steps

    def train_step(self, data: Any) -> Logs:
        """One update on a batch `(images, labels)`."""
        images, labels = self._unpack(data)
        with tf.GradientTape() as tape:
            embeddings = self(images, training=not self.frozen_batch_norm)
            value, logs = self._training_loss(labels, embeddings)
            scaled = self.optimizer.scale_loss(value)
        # Only now: a subclassed encoder may have been built by the call above.
        encoder_variables, head_variables = self.encoder.trainable_variables, self._head_variables
        gradients = tape.gradient(scaled, [*encoder_variables, *head_variables])
        self._apply(gradients[: len(encoder_variables)], gradients[len(encoder_variables) :])
        return self._step_logs(value, logs, labels, embeddings)

    def test_step(self, data: Any) -> Logs:
        """The loss of a batch `(images, labels)`, without augmentation."""
        images, labels = self._unpack(data)
        embeddings = self(images, training=False)
        value = self._loss(labels, embeddings, training=False)
        return self._step_logs(value, {}, labels, embeddings)

    def _unpack(self, data: Any) -> tuple[Any, tf.Tensor]:
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if sample_weight is not None:
            raise ValueError(
                "MetricLearner takes no sample weights: its losses are defined on pairs and tuples of a batch, which "
                "have no weight per sample. Remove `sample_weight` (or the third element of the batch); to show a "
                "class more often, sample it more often."
            )
        if labels is None:
            raise ValueError("MetricLearner needs labels: pass batches (images, labels), or `y`.")
        if len(labels.shape) == 2 and labels.shape[-1] == 1:
            labels = ops.squeeze(labels, axis=-1)
        if len(labels.shape) != 1:
            raise ValueError(
                "Labels must be class numbers of shape (batch,) or (batch, 1), not one-hot rows. "
                f"Received: shape {tuple(labels.shape)}"
            )
        return images, ops.cast(labels, "int32")

    def _training_loss(self, labels: tf.Tensor, embeddings: tf.Tensor) -> tuple[tf.Tensor, Logs]:
        if self.augmentation is None:
            value, _, statistics = self._loss_with_usage(labels, embeddings)
            return value, statistics
        union, union_labels = self.augmentation(embeddings, labels, training=True)
        value, usage, statistics = self._loss_with_usage(union_labels, union)
        logs = dict(statistics)
        count = ops.shape(embeddings)[0]
        anchors = ops.cast(embeddings, union.dtype)
        # The blocks of produced rows follow the real rows in the same order.
        shifts = ops.reshape(union[count:], (-1, *ops.shape(anchors))) - anchors
        logs["produced_distance"] = ops.mean(ops.sqrt(ops.sum(ops.square(ops.stop_gradient(shifts)), axis=-1)))
        if usage is not None:
            logs["produced_share"] = ops.divide_no_nan(ops.sum(usage[count:]), ops.sum(usage))
        if self.auxiliary_weight is not None:
            value = self._loss(labels, embeddings, training=True) + self.auxiliary_weight * value
        return value, logs

    def _loss(self, labels: tf.Tensor, embeddings: tf.Tensor, training: bool) -> tf.Tensor:
        assert self.embedding_loss is not None
        return self.embedding_loss(labels, embeddings, similarity=self.similarity, training=training)

    def _loss_with_usage(self, labels: tf.Tensor, embeddings: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None, Logs]:
        """Loss, how often each row was used as a key (or None), and the loss's own statistics."""
        assert self.embedding_loss is not None
        value, usage, statistics = self.embedding_loss(
            labels,
            embeddings,
            similarity=self.similarity,
            training=True,
            return_usage=True,
            return_statistics=True,
        )
        if usage is not None:
            statistics = {**statistics, "active_pairs": ops.sum(usage)}
        return value, usage, statistics

    def _apply(self, encoder_gradients: list, head_gradients: list) -> None:
        """Clips, decays and applies gradients that `optimizer.scale_loss` may have scaled."""
        variables = self.encoder.trainable_variables
        scale = self.optimizer.scale_loss(ops.ones((), "float32"))
        if self.clip_norm is not None:
            present = [gradient for gradient in encoder_gradients if gradient is not None]
            norm = tf.linalg.global_norm([tf.cast(gradient, tf.float32) for gradient in present])
            factor = ops.minimum(1.0, self.clip_norm * scale / ops.maximum(norm, 1e-12))
            encoder_gradients = [
                None if gradient is None else gradient * ops.cast(factor, gradient.dtype)
                for gradient in encoder_gradients
            ]
        if self.l2_decay:
            encoder_gradients = [
                None if gradient is None else gradient + ops.cast(self.l2_decay * scale, gradient.dtype) * variable
                for gradient, variable in zip(encoder_gradients, variables, strict=True)
            ]
        self.optimizer.apply_gradients(zip(encoder_gradients, variables, strict=True))
        if not head_gradients:
            return
        assert self.loss_optimizer is not None
        loss_optimizer, head_variables = self.loss_optimizer, self._head_variables
        head_gradients = [None if gradient is None else gradient / scale for gradient in head_gradients]

        def update() -> None:
            loss_optimizer.apply_gradients(zip(head_gradients, head_variables, strict=True))

        if not isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            update()
            return
        # As the loss scale optimiser does for the encoder: a step that overflowed float16 is skipped.
        finite = [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in head_gradients if gradient is not None]
        tf.cond(tf.reduce_all(finite), update, lambda: None)

    def _step_logs(self, value: tf.Tensor, logs: Logs, labels: tf.Tensor, embeddings: tf.Tensor) -> Logs:
        count = ops.shape(embeddings)[0]
        self._loss_tracker.update_state(value, sample_weight=count)
        result = self.compute_metrics(None, labels, embeddings)
        for name, log in logs.items():
            result[name] = self._log_means.update(name, log)
        return result

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All metrics, those of the augmentation and of the loss included."""
        return [*super().metrics, *self._log_means.means.values()]

    # ------------------------------------------------------------------ fit

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`; `RetrievalEvaluation` runs before callbacks that monitor its values.

        Raises:
            ValueError: At the end of an epoch in which the augmentation met labels outside its classes or embeddings
                that were not finite. Those rows never change its state; checking in the step itself would make
                every step wait for the device.
        """
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            given = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
            given = [callback for callback in given if callback is not None]
            given.sort(key=lambda callback: not isinstance(callback, RetrievalEvaluation))
            callbacks = [_EpochEnd(), *given]
        if isinstance(args[0] if args else kwargs.get("x"), tf.data.Dataset):
            # A data set orders its own batches; Keras warns about its default otherwise.
            kwargs.setdefault("shuffle", False)
        return super().fit(*args, callbacks=callbacks, **kwargs)

    # ------------------------------------------------------------------ saving

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "encoder": serialize(self.encoder),
            "augmentation": None if self.augmentation is None else serialize(self.augmentation),
            "similarity": None if self.similarity is None else serialize(self.similarity),
            "l2_decay": self.l2_decay,
            "clip_norm": self.clip_norm,
            "frozen_batch_norm": self.frozen_batch_norm,
            "auxiliary_weight": self.auxiliary_weight,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "MetricLearner":
        config = dict(config)
        for name in ("encoder", "augmentation", "similarity"):
            if config[name] is not None:
                config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
        return cls(**config)

    def get_compile_config(self) -> dict[str, Any] | None:
        if not self.compiled:
            return None
        serialize = keras.saving.serialize_keras_object
        arguments = {
            **vars(self._compile_arguments),
            # The loss-scaling wrapper is put back by `compile`.
            "optimizer": getattr(self.optimizer, "inner_optimizer", self.optimizer),
            "loss": self.embedding_loss,
            "loss_optimizer": self.loss_optimizer,
        }
        return serialize(arguments)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))


class _LogMeans:
    """Means over an epoch of scalars whose names are known once the step has been traced.

    An object that Keras does not track: what it holds is no part of a saved model.
    """

    def __init__(self) -> None:
        self.means: dict[str, keras.metrics.Mean] = {}

    def update(self, name: str, value: tf.Tensor) -> tf.Tensor:
        """Takes in a step's value and returns the mean so far."""
        if name not in self.means:
            with tf.init_scope():
                self.means[name] = keras.metrics.Mean(name=name)
        self.means[name].update_state(value)
        return self.means[name].result()


class _EpochEnd(keras.callbacks.Callback):
    """Once an epoch: reports how full the bank is, and stops a run whose data can teach nothing or is wrong."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        augmentation = self.model.augmentation
        if hasattr(augmentation, "raise_if_rejected"):
            augmentation.raise_if_rejected()
        loss = self.model.embedding_loss
        if logs and isinstance(loss, losses.TupleLoss) and not logs.get("active_pairs", 1):
            raise ValueError(
                f"No batch of epoch {epoch + 1} gave {loss.name} a triplet, so nothing was learned: a batch needs two "
                "images of a class and two classes. Draw batches with "
                "keras_dml.data.ClassBatches(..., images_per_class=2) or more"
            )
        num_classes = getattr(loss, "num_classes", None)
        if logs and num_classes is not None and math.isnan(logs.get("loss", 0.0)):
            raise ValueError(
                f"The loss {loss.name} was NaN in epoch {epoch + 1}. It is where a label lies outside "
                f"[0, num_classes={num_classes}): number the training classes from 0 and set `num_classes` to how many "
                "there are. If labels are right, training has diverged: lower the learning rate"
            )
        if logs is not None and hasattr(augmentation, "bank_fill_ratio"):
            logs["bank_fill"] = float(augmentation.bank_fill_ratio())
