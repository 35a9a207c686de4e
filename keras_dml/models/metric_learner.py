"""The model that trains an encoder: encoder forward, augmentation, loss on the union, gradient step."""

import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

import keras_dml.layers
from keras_dml import losses
from keras_dml.backbones.pixel_values import expects_bytes
from keras_dml.backbones.unit_length import has_unit_length
from keras_dml.backend import integers, replicas
from keras_dml.callbacks.retrieval_evaluation import RetrievalEvaluation
from keras_dml.losses.unusable_batches import STEPS, STEPS_WITH
from keras_dml.models import gradient_cache
from keras_dml.models.epoch_hook import EpochHook
from keras_dml.models.kept_state import kept_state
from keras_dml.models.split_optimizer import SplitOptimizer
from keras_dml.typing import Shape, Tensor
from keras_dml.utils.deprecation import renamed_property, warn_renamed
from keras_dml.utils.requirements import check_trainable

Logs = dict[str, Tensor]
STEPS_WITH_BYTES = "steps_with_pixels_above_1"


@keras.saving.register_keras_serializable(package="keras_dml")
class MetricLearner(keras.Model):
    """Trains an encoder with an embedding loss; called on images, it is the encoder.

    A training step embeds the batch, hands embeddings and labels to `augmentation` (DAS), evaluates the loss on all
    real and produced embeddings and updates the weights. `fit` takes batches `(images, labels)`; `evaluate` gives
    the loss on real embeddings, `predict` the embeddings. The loss is `compute_loss`, on the TensorFlow and on the JAX
    backend; losses that the encoder adds itself (regularizers) are part of it.

    Args:
        encoder: Model from images to embeddings `(batch, dim)`.
        augmentation: Layer called as `layer(embeddings, labels, training=True)`, such as
            `keras_dml.layers.DASAugmentation`; it returns embeddings and labels, the real rows first. Used in
            training only. One that implements `EpochHook` is told of the end of every epoch.
        pair_scorer: Scores pairs of embeddings, such as `keras_dml.layers.PDDMUnit`; given to losses that ask for one.
        l2_decay: Coupled weight decay: `l2_decay * w` is added to the gradient of every encoder weight `w`, as
            PyTorch's Adam does. (A Keras optimizer's own `weight_decay` is decoupled, as in AdamW.)
        clip_norm: Global norm that the encoder's gradient is clipped to, before the decay is added.
        frozen_batch_norm: Runs the encoder in inference mode while training, so that batch normalization uses its
            moving statistics; its scale and shift still train. Dropout inside the encoder is off as well.
        chunk_size: Images that are embedded at a time in a training step, for batches whose activations do not fit into
            memory: the loss still sees all embeddings, and its gradient is the same. Costs a second forward pass. Needs
            an encoder that embeds an image alike whatever it is in a batch with: `frozen_batch_norm`, or neither batch
            normalization nor dropout. (Gao et al., "Scaling deep contrastive learning batch size under memory limited
            setup", 2021.)
        identity_aware: Whether an embedding and those produced from it are never compared with one another. In the
            paper they are positives of each other, which harms losses that sample their positives (docs/das.md); this
            option is ours, and goes best with `DASAugmentation(detach=False)`.
        auxiliary_weight: With a number w, the loss is `L(real) + w L(real + produced)`, each with a miner call of
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

    similarity = renamed_property("similarity", "pair_scorer")
    train_function: Any
    test_function: Any

    def __init__(
        self,
        encoder: keras.Model,
        augmentation: keras.layers.Layer | None = None,
        pair_scorer: keras.layers.Layer | None = None,
        l2_decay: float = 0.0,
        clip_norm: float | None = None,
        frozen_batch_norm: bool = False,
        auxiliary_weight: float | None = None,
        chunk_size: int | None = None,
        identity_aware: bool = False,
        **kwargs: Any,
    ) -> None:
        replicas.check_strategy()
        if "similarity" in kwargs:
            warn_renamed("`similarity` of MetricLearner", "`pair_scorer`")
            pair_scorer = kwargs.pop("similarity")
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
        if identity_aware and augmentation is None:
            raise ValueError(
                "`identity_aware` keeps embeddings from being compared with those produced from them, and there is no "
                "`augmentation` to produce any. Received: identity_aware=True"
            )
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"`chunk_size` must be positive, or None. Received: chunk_size={chunk_size}")
        super().__init__(**kwargs)
        self.encoder = encoder
        self.augmentation = augmentation
        self.pair_scorer = pair_scorer
        self.l2_decay = l2_decay
        self.clip_norm = clip_norm
        self.frozen_batch_norm = frozen_batch_norm
        self.auxiliary_weight = auxiliary_weight
        self.chunk_size = chunk_size
        self.identity_aware = identity_aware
        self.embedding_loss: losses.EmbeddingLoss | None = None
        self.loss_optimizer: keras.optimizers.Optimizer | None = None
        self._epoch = _Epoch()
        self._pixels_checked = False
        if encoder.built and hasattr(encoder, "output_shape"):
            self._build_heads(encoder.output_shape)
            self.built = True

    # ------------------------------------------------------------------ building and compiling

    def build(self, input_shape: Shape) -> None:
        """Builds the encoder on `input_shape`, then whatever works on embeddings."""
        # A symbolic call builds any encoder and tells its output's shape.
        output = self.encoder(keras.KerasTensor(input_shape))
        self._build_heads(keras.tree.map_structure(lambda tensor: tensor.shape, output))
        self.built = True

    def _build_heads(self, embedding_shape: Shape) -> None:
        """Creates every weight beyond the encoder's, and the optimizers' state."""
        if not _is_shape(embedding_shape):
            raise ValueError(
                "The encoder must return one tensor of embeddings (batch, dim). Received: several outputs, "
                f"{embedding_shape}. Make a model of the one to train: keras.Model(encoder.inputs, encoder.outputs[0])"
            )
        if len(embedding_shape) != 2 or embedding_shape[-1] is None:
            raise ValueError(
                "The encoder must return embeddings of shape (batch, dim) with a known dim. "
                f"Received: output shape {tuple(embedding_shape)}"
            )
        shape = self._embedding_shape = (None, embedding_shape[-1])
        self._check_encoder()
        self._check_lengths()
        if self.augmentation is not None and not self.augmentation.built:
            # A symbolic call, which builds any layer whatever the signature of its `build`.
            self.augmentation(keras.KerasTensor(shape), keras.KerasTensor((None,), dtype="int32"), training=False)
        if self.pair_scorer is not None and not self.pair_scorer.built:
            self.pair_scorer.build([shape, shape])
        if self.embedding_loss is not None and not self.embedding_loss.built:
            self.embedding_loss.build((None,), shape)
        if self.embedding_loss is not None and self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _check_encoder(self) -> None:
        """Raises where a part of a batch would be embedded otherwise than the whole."""
        if self.frozen_batch_norm:
            return
        layers = list(_all_layers(self.encoder))
        plain = [
            layer.name
            for layer in layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and not layer.synchronized
        ]
        if replicas.count() > 1 and plain:
            raise ValueError(
                f"On {replicas.count()} replicas, batch normalization takes the statistics of a replica's own rows. "
                f"The encoder has: {', '.join(plain[:3])}{' ...' if len(plain) > 3 else ''}. Build it with "
                "keras.layers.BatchNormalization(synchronized=True), or freeze it: "
                "MetricLearner(..., frozen_batch_norm=True)"
            )
        if self.chunk_size is None:
            return
        random = [layer.name for layer in layers if isinstance(layer, keras.layers.Dropout) and layer.rate]
        found = [layer.name for layer in layers if isinstance(layer, keras.layers.BatchNormalization)] + random
        if found:
            raise ValueError(
                "`chunk_size` embeds a batch in parts and twice, and batch normalization and dropout would embed them "
                f"otherwise than the whole. Received: {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}. Set "
                "frozen_batch_norm=True, or take an encoder without them"
            )

    def _check_lengths(self) -> None:
        """Raises where produced embeddings would be normalized and real ones not, or the other way round."""
        if not isinstance(self.augmentation, keras_dml.layers.DASAugmentation):
            return
        unit, normalize = has_unit_length(self.encoder), self.augmentation.normalize
        if unit is None or unit == normalize:
            return
        raise ValueError(
            f"The embeddings of {self.encoder.name} {'have' if unit else 'do not have'} unit length, and those "
            f"produced by DAS {'would' if normalize else 'would not'}. Received: "
            f"DASAugmentation(normalize={normalize}). Pass DASAugmentation(..., normalize={unit}), or "
            f"{'leave out' if unit else 'end the encoder with'} keras.layers.UnitNormalization()"
        )

    @property
    def _head_variables(self) -> list[keras.Variable]:
        """Trainable weights of the loss and of the pair scorer."""
        owners = [self.embedding_loss, self.pair_scorer]
        return [variable for owner in owners if owner is not None for variable in owner.trainable_variables]

    def compile(
        self,
        optimizer: str | dict | keras.optimizers.Optimizer = "adam",
        loss: Any = None,
        loss_optimizer: str | dict | keras.optimizers.Optimizer | None = None,
        metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str | None = None,
        auto_scale_loss: bool = True,
    ) -> None:
        """Configures training.

        Args:
            optimizer: Trains the encoder.
            loss: A name or an object that `keras_dml.losses.get` takes: a keras_dml loss, a tensorflow-similarity
                loss, a Keras loss, a function `loss(labels, embeddings)`.
            loss_optimizer: Trains the weights of the loss (proxies, margins) and of `pair_scorer`. By default a copy
                of `optimizer` without weight decay, at the rate the loss suggests (`loss_learning_rate`) where
                it suggests one.
            metrics: Keras metrics of labels and embeddings.
            run_eagerly: Runs the step in Python, for debugging.
            steps_per_execution: Steps for each call of the compiled function.
            jit_compile: XLA. On by default on JAX, which would run op by op without it, and off on TensorFlow: it
                compiles for longer, and on a CPU it made most losses faster and those with a memory slower
                (benchmarks/losses.py). Measure your own model.
            auto_scale_loss: Loss scaling under mixed_float16.

        Raises:
            ValueError: Without a loss, or where it cannot train as asked: the text says what to change.
        """
        check_trainable()
        if loss is None:
            raise ValueError(
                "`loss` is missing. Pass a name or a loss, for example "
                'loss=keras_dml.losses.similarity("multi_similarity")'
            )
        resolved = losses.get(loss)
        if self.identity_aware and not resolved.uses_ids:
            raise ValueError(
                f"The loss {resolved.name!r} cannot leave out pairs by their ids, which `identity_aware` asks for. Use "
                "a loss of keras_dml.losses, or build the model with identity_aware=False"
            )
        if steps_per_execution > 1 and replicas.count() > 1:
            raise ValueError(
                "Keras cannot run several steps in one call on several TensorFlow replicas. Leave it at 1. Received: "
                f"steps_per_execution={steps_per_execution}, {replicas.count()} replicas"
            )
        if jit_compile is None:
            jit_compile = keras.backend.backend() == "jax"
        main = keras.optimizers.get(optimizer)
        encoder_optimizer = getattr(main, "inner_optimizer", main)
        if resolved.needs_pair_scorer and self.pair_scorer is None:
            raise ValueError(
                f"The loss {resolved.name!r} needs a pair scorer, and the model has none. "
                "Build it as MetricLearner(encoder, pair_scorer=keras_dml.layers.PDDMUnit())"
            )
        # Keras locks a built layer against new sublayers, and goes on tracking the weights of one that is replaced.
        self._tracker.unlock()
        if self.embedding_loss is not None:
            self._tracker.untrack(self.embedding_loss)
        self.embedding_loss = resolved
        self.loss_optimizer = self._make_loss_optimizer(loss_optimizer, encoder_optimizer)
        self._epoch = _Epoch(resolved.statistics_names)
        # Kept by itself, since Keras hides it behind the optimizer that the model has.
        self._encoder_optimizer = types.SimpleNamespace(optimizer=encoder_optimizer)
        split = SplitOptimizer(encoder_optimizer, self.loss_optimizer, self._in_head, self.l2_decay, self.clip_norm)
        super().compile(
            optimizer=_with_loss_scale_of(main, split),
            metrics=metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
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

    def _in_head(self, variable: keras.Variable) -> bool:
        """Whether a variable belongs to the loss, the pair scorer or the augmentation, rather than to the encoder."""
        return not any(variable is one for one in self.encoder.trainable_variables)

    def _make_loss_optimizer(self, given: Any, main: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
        assert self.embedding_loss is not None
        if given is not None:
            return keras.optimizers.get(given)
        config = main.get_config()
        config["name"] = f"loss_{config['name']}"
        if "weight_decay" in config:
            config["weight_decay"] = 0.0
        if self.embedding_loss.loss_learning_rate is not None:
            config["learning_rate"] = self.embedding_loss.loss_learning_rate
        return type(main).from_config(config)

    # ------------------------------------------------------------------ forward

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Embeds images; see the encoder for shapes."""
        training = bool(training)

        def embed(images: Tensor) -> Tensor:
            return self.encoder(images, training=training and not self.frozen_batch_norm)

        if not training or self.chunk_size is None or keras.backend.backend() == "tensorflow":
            return embed(inputs)
        # Computed again in the backward pass, chunk by chunk. TensorFlow's step does this by itself, see `train_step`.
        rows = inputs.shape[0]
        starts = range(0, rows, self.chunk_size)
        return ops.concatenate([keras.remat(embed)(inputs[start : start + self.chunk_size]) for start in starts])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.encoder.compute_output_shape(input_shape)

    # ------------------------------------------------------------------ loss

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """The loss of a batch; on every backend, all that a step does beyond forward pass and update.

        Args:
            x: Images.
            y: `(batch,)` or `(batch, 1)` integers.
            y_pred: `(batch, dim)` embeddings of the images.
            sample_weight: None.
            training: Whether to augment, and to update the state of augmentation and loss.

        Returns:
            A float32 scalar.

        Raises:
            ValueError: Sample weights, missing labels, or labels that are not integers.
        """
        labels, embeddings = replicas.gather(_class_numbers(y, sample_weight)), replicas.gather(y_pred)
        # While a step is traced: what it logs is known then, and the same for every step.
        self._epoch.training = training
        if training:
            value, logs, pairs = self._training_loss(labels, embeddings)
            self._epoch.update(logs, pairs, self._some_pixel_above_one(x))
        else:
            value = self._held_out_loss(labels, embeddings)
        for added in self.losses:
            value = value + replicas.once(ops.sum(ops.cast(added, value.dtype)))
        return value

    # TensorFlow's step, which Keras would have log a loss times the number of replicas. JAX's is Keras's own.
    def train_step(self, *args: Any) -> Any:
        """One update on a batch; a thin step over `compute_loss`.

        Args:
            *args: On TensorFlow `(images, labels)`; on JAX what Keras gives: the state, and the same.
        """
        if keras.backend.backend() != "tensorflow":
            return super().train_step(*args)
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(*args)

        def loss_of(embeddings: Tensor) -> tuple[Tensor, Tensor]:
            loss = self._compute_loss(images, labels, embeddings, sample_weight, training=True)
            return loss, self.optimizer.scale_loss(loss)

        def embed(part: Tensor) -> Tensor:
            return self(part, training=True)

        gradients = gradient_cache.plain if self.chunk_size is None else gradient_cache.chunked(self.chunk_size)
        # The variables only now: a subclassed encoder may be built by the first call.
        loss, embeddings, found = gradients(embed, loss_of, images, lambda: self.trainable_variables)
        self.optimizer.apply(found, self.trainable_variables)
        return self._logs(loss, images, labels, embeddings)

    def test_step(self, *args: Any) -> Any:
        """The loss of a batch, without augmentation; arguments as for `train_step`."""
        if keras.backend.backend() != "tensorflow":
            return super().test_step(*args)
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(*args)
        embeddings = self(images, training=False)
        loss = self._compute_loss(images, labels, embeddings, sample_weight, training=False)
        return self._logs(loss, images, labels, embeddings)

    def make_train_function(self, force: bool = False) -> Any:
        made = self.train_function
        super().make_train_function(force)
        if keras.backend.backend() == "jax" and self.train_function is not made:
            self.train_function = _uncut(self.train_function)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        made = self.test_function
        super().make_test_function(force)
        if keras.backend.backend() == "jax" and self.test_function is not made:
            self.test_function = _uncut(self.test_function)
        return self.test_function

    def _logs(self, loss: Tensor, images: Tensor, labels: Tensor, embeddings: Tensor) -> Logs:
        self._loss_tracker.update_state(loss, sample_weight=ops.shape(embeddings)[0])
        return self.compute_metrics(images, labels, embeddings)

    def _training_loss(self, labels: Tensor, embeddings: Tensor) -> tuple[Tensor, Logs, losses.PairStatus | None]:
        """The loss, what to log beside it, and what pairs there were."""
        if self.augmentation is None:
            output = self._loss_of(labels, embeddings, training=True)
            return output.loss, self._loss_logs(output), output.pairs
        union, union_labels = self.augmentation(embeddings, labels, training=True)
        count = ops.shape(embeddings)[0]
        # The blocks of produced rows follow the real rows in the same order.
        ids = ops.mod(ops.arange(ops.shape(union)[0], dtype="int32"), count) if self.identity_aware else None
        output = self._loss_of(union_labels, union, training=True, ids=ids)
        logs = self._loss_logs(output)
        anchors = ops.cast(embeddings, union.dtype)
        shifts = ops.reshape(union[count:], (-1, *ops.shape(anchors))) - anchors
        logs["produced_distance"] = ops.mean(ops.sqrt(ops.sum(ops.square(ops.stop_gradient(shifts)), axis=-1)))
        if output.key_counts is not None:
            logs["produced_share"] = ops.divide_no_nan(ops.sum(output.key_counts[count:]), ops.sum(output.key_counts))
        value = output.loss
        if self.auxiliary_weight is not None:
            value = self._loss_of(labels, embeddings, training=True).loss + self.auxiliary_weight * value
        return value, logs, output.pairs

    def _held_out_loss(self, labels: Tensor, embeddings: Tensor) -> Tensor:
        """The loss without augmentation; NaN, and counted, where it has no weights for a class."""
        classes = _num_classes(self.embedding_loss)
        if classes is None:
            return self._loss_of(labels, embeddings, training=False).loss
        outside = ops.logical_or(labels < 0, labels >= classes)
        value = self._loss_of(ops.where(outside, 0, labels), embeddings, training=False).loss
        self._epoch.unknown_classes.update_state(ops.any(outside))
        return ops.where(ops.any(outside), float("nan"), value)

    def _loss_of(
        self, labels: Tensor, embeddings: Tensor, training: bool, ids: Tensor | None = None
    ) -> losses.LossOutput:
        assert self.embedding_loss is not None
        return self.embedding_loss.compute(
            losses.EmbeddingBatch.create(labels, embeddings, ids=ids, pair_scorer=self.pair_scorer, training=training)
        )

    @staticmethod
    def _loss_logs(output: losses.LossOutput) -> Logs:
        logs = dict(output.statistics)
        if output.key_counts is not None:
            logs["active_pairs"] = ops.sum(output.key_counts)
        return logs

    def _some_pixel_above_one(self, images: Any) -> Tensor:
        """1.0 if the batch may be pixel values in [0, 255], as far as the encoder wants that; a look at two images."""
        floats = ops.is_tensor(images) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(images.dtype))
        if not floats or not expects_bytes(self.encoder):
            return ops.ones((), "float32")
        return ops.cast(ops.any(images[:2] > 1.0), "float32")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """All metrics, those of the augmentation and of the loss included."""
        return [*super().metrics, *self._epoch.metrics]

    def get_metrics_result(self) -> dict[str, Any]:
        """Results by name: outside training, without those of augmentation and loss, which were not computed."""
        results = super().get_metrics_result()
        hidden = self._epoch.hidden
        return {name: value for name, value in results.items() if name not in hidden}

    # ------------------------------------------------------------------ fit

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`; `RetrievalEvaluation` runs before callbacks that monitor its values.

        At the end of every epoch the augmentation, where it implements `EpochHook`, and the loss judge it. Checking in
        the step itself would make every step wait for the device.

        Raises:
            ValueError: The loss or the augmentation met data that it can learn nothing from or that is wrong, see
                `keras_dml.losses.unusable_batches` and `DASAugmentation`.

        Warns:
            UserWarning: Every pair of an epoch had met its margin, so training ends there. Or, once, that no image had
                a pixel value above 1 while the encoder expects values up to 255.
        """
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            given = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
            given = [callback for callback in given if callback is not None]
            given.sort(key=lambda callback: not isinstance(callback, RetrievalEvaluation))
            callbacks = [_EpochEnd(), *given]
        if not isinstance(args[0] if args else kwargs.get("x"), np.ndarray | list | tuple):
            # What brings its own batches orders them too; Keras warns about its default otherwise.
            kwargs.setdefault("shuffle", False)
        _check_label_arrays(args, kwargs)
        with replicas.uneven_batches_named(), kept_state(self):
            return super().fit(*args, callbacks=callbacks, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`: the loss on real embeddings.

        A loss with a weight for each class has no value on other classes, such as those that retrieval is tested on.
        With `return_dict=True`, `loss` is then left out, as `val_loss` is in `fit`.

        Raises:
            ValueError: Without `return_dict`, where the loss has no value.
        """
        _check_label_arrays(args, kwargs)
        with kept_state(self):
            return self._without_undefined_loss(super().evaluate(*args, **kwargs))

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`."""
        _check_label_arrays(args, kwargs)
        return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.test_on_batch`, and `evaluate` here."""
        _check_label_arrays(args, kwargs)
        return self._without_undefined_loss(super().test_on_batch(*args, **kwargs))

    def _without_undefined_loss(self, results: Any) -> Any:
        if not float(self._epoch.unknown_classes.result()):
            return results
        if isinstance(results, dict):
            return {name: value for name, value in results.items() if name != "loss"}
        loss = self.embedding_loss
        assert loss is not None
        raise ValueError(
            f"The loss {loss.name} has weights for {_num_classes(loss)} classes, numbered from 0, and so no "
            "value on these data, which hold others. Measure retrieval on held-out classes with "
            "keras_dml.callbacks.RetrievalEvaluation or keras_dml.evaluation.evaluate_retrieval; for metrics of your "
            "own alone, pass return_dict=True"
        )

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.predict`: the embeddings."""
        with kept_state(self):
            return super().predict(*args, **kwargs)

    # ------------------------------------------------------------------ saving

    def export(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.export`: the encoder's forward pass, from images to embeddings.

        Augmentation, loss and optimizers are left out; `save` keeps them.
        """
        self.encoder.export(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "encoder": serialize(self.encoder),
            "augmentation": None if self.augmentation is None else serialize(self.augmentation),
            "pair_scorer": None if self.pair_scorer is None else serialize(self.pair_scorer),
            "l2_decay": self.l2_decay,
            "clip_norm": self.clip_norm,
            "frozen_batch_norm": self.frozen_batch_norm,
            "auxiliary_weight": self.auxiliary_weight,
            "chunk_size": self.chunk_size,
            "identity_aware": self.identity_aware,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "MetricLearner":
        config = dict(config)
        if "similarity" in config:  # the older name
            config["pair_scorer"] = config.pop("similarity")
        for name in ("encoder", "augmentation", "pair_scorer"):
            if config[name] is not None:
                config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
        return cls(**config)

    def get_compile_config(self) -> dict[str, Any] | None:
        if not self.compiled:
            return None
        serialize = keras.saving.serialize_keras_object
        arguments = {
            **vars(self._compile_arguments),
            # The wrappers are put back by `compile`.
            "optimizer": self._encoder_optimizer.optimizer,
            "loss": self.embedding_loss,
            "loss_optimizer": self.loss_optimizer,
        }
        return serialize(arguments)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))


def _all_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layers in a model, those in models inside it included."""
    for inner in getattr(layer, "layers", ()):
        yield inner
        yield from _all_layers(inner)


def _is_shape(found: Any) -> bool:
    """Whether this is the shape of one tensor, rather than a list, tuple or dict of shapes."""
    return isinstance(found, tuple) and all(size is None or isinstance(size, int) for size in found)


def _class_numbers(labels: Any, sample_weight: Any) -> Tensor:
    """Labels `(batch,)` or `(batch, 1)` as `(batch,)` integers, none of them cut."""
    if sample_weight is not None:
        raise ValueError(
            "MetricLearner takes no sample weights: its losses are defined on pairs and tuples of a batch, which "
            "have no weight per sample. Remove `sample_weight` (or the third element of the batch); to show a "
            "class more often, sample it more often."
        )
    if labels is None:
        raise ValueError("MetricLearner needs labels: pass batches (images, labels), or `y`.")
    integers.check_width(labels, "labels")
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == 2 and labels.shape[-1] == 1:
        labels = ops.squeeze(labels, axis=-1)
    if len(labels.shape) != 1:
        raise ValueError(
            "Labels must be class numbers of shape (batch,) or (batch, 1), not one-hot rows. "
            f"Received: shape {tuple(labels.shape)}"
        )
    return integers.exact(labels, "labels")


def _check_label_arrays(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises for arrays of labels, in a call of `fit` and its like, that the backend would cut.

    Keras puts arrays on the device before a step sees them, where JAX has made 32-bit numbers of them.
    """
    validation = kwargs.get("validation_data")
    for labels in (
        args[1] if len(args) > 1 else kwargs.get("y"),
        validation[1] if isinstance(validation, list | tuple) and len(validation) > 1 else None,
    ):
        integers.check_width(labels, "labels")


def _uncut(step: Any) -> Any:
    """A compiled step of JAX that looks at the labels of its batches before JAX makes 32-bit numbers of them."""

    def batches(iterator: Iterator[Any]) -> Iterator[Any]:
        for batch in iterator:
            integers.check_width(keras.utils.unpack_x_y_sample_weight(batch)[1], "labels")
            yield batch

    return lambda state, iterator: step(state, batches(iterator))


def _num_classes(loss: losses.EmbeddingLoss | None) -> int | None:
    """For how many classes a loss, or the one that it is wrapped around, has weights; None where it has none."""
    while loss is not None and loss.num_classes is None:
        loss = loss.loss if isinstance(loss, losses.WrapperLoss) else None
    return None if loss is None else loss.num_classes


def _with_loss_scale_of(given: keras.optimizers.Optimizer, split: SplitOptimizer) -> keras.optimizers.Optimizer:
    """`split`, scaled as the user's optimizer was where that is a `LossScaleOptimizer`."""
    if not isinstance(given, keras.optimizers.LossScaleOptimizer):
        return split
    return keras.optimizers.LossScaleOptimizer(
        split, initial_scale=given.initial_scale, dynamic_growth_steps=given.dynamic_growth_steps
    )


class _Epoch:
    """What a training epoch adds up beside the loss.

    An object that Keras does not track: what it holds is no part of a saved model.

    Args:
        statistics: Names of what the loss reports about itself.
    """

    MEANS = ("active_pairs", "produced_distance", "produced_share")

    def __init__(self, statistics: Sequence[str] = ()) -> None:
        self._means = {name: keras.metrics.Mean(name=name) for name in (*statistics, *self.MEANS)}
        self._totals = _StepTotals()
        self.unknown_classes = keras.metrics.Sum(name="batches_of_unknown_classes")
        self._logged: set[str] = set()
        self.training = False

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Everything with variables that a step changes."""
        return [*self._means.values(), self._totals, self.unknown_classes]

    @property
    def hidden(self) -> set[str]:
        """Names in `metrics` that are not reported now."""
        always = {self._totals.name, self.unknown_classes.name}
        return always | (set(self._means) - (self._logged if self.training else set()))

    def update(self, logs: Logs, pairs: losses.PairStatus | None, pixel_above_one: Tensor) -> None:
        """Takes in a step.

        Args:
            logs: Scalars by name.
            pairs: Flags, 0 or 1 each; None for a loss that does not compare pairs.
            pixel_above_one: 0 or 1.

        Raises:
            ValueError: The loss reports what it does not announce.
        """
        unknown = sorted(logs.keys() - self._means.keys())
        if unknown:
            raise ValueError(
                f"The loss reports statistics that its `statistics_names` does not name: {', '.join(unknown)}. "
                f"Announced: {', '.join(name for name in self._means if name not in self.MEANS) or 'none'}"
            )
        for name, value in logs.items():
            self._means[name].update_state(value)
        self._logged = set(logs)
        one = ops.ones((), "float32")
        flags = losses.PairStatus(one, one, one, one) if pairs is None else pairs
        self._totals.update_state(ops.stack([one, *flags, pixel_above_one]))

    def begin(self) -> None:
        """Starts the epoch's totals at 0."""
        self._totals.begin()

    def totals(self) -> dict[str, float]:
        """How many steps there were, and how many of them had what, by name."""
        names = (STEPS, *STEPS_WITH, STEPS_WITH_BYTES)
        return dict(zip(names, ops.convert_to_numpy(self._totals.totals).tolist(), strict=True))


class _StepTotals(keras.metrics.Metric):
    """Sums of flags over a training epoch. Validation, which comes before the epoch's end, does not reset them."""

    def __init__(self) -> None:
        super().__init__(name="step_totals", dtype="float32")
        self.totals = self.add_variable((2 + len(STEPS_WITH),), "zeros", name="totals")

    def update_state(self, flags: Tensor) -> None:
        self.totals.assign_add(flags)

    def result(self) -> Tensor:
        return ops.sum(self.totals)

    def reset_state(self) -> None:
        pass

    def begin(self) -> None:
        self.totals.assign(ops.zeros(self.totals.shape))


class _EpochEnd(keras.callbacks.Callback):
    """Tells augmentation and loss of the end of an epoch, and ends training where they say so."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.model._epoch.begin()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = {} if logs is None else logs
        totals = self.model._epoch.totals()
        self._check_pixels(totals)
        # For the hooks alone, not to be reported.
        logs.update(totals)
        try:
            if isinstance(self.model.augmentation, EpochHook):
                self.model.augmentation.on_epoch_end(epoch, logs)
            self.model.embedding_loss.on_epoch_end(epoch, logs)
        except losses.NothingLeftToLearn as reason:
            warnings.warn(str(reason), UserWarning, stacklevel=2)
            self.model.stop_training = True
        finally:
            for name in totals:
                logs.pop(name, None)

    def _check_pixels(self, totals: dict[str, float]) -> None:
        if self.model._pixels_checked or not totals[STEPS]:
            return
        self.model._pixels_checked = True
        if not totals[STEPS_WITH_BYTES]:
            warnings.warn(
                f"The encoder {self.model.encoder.name} expects pixel values in [0, 255] and scales them itself, and "
                "no value of the images looked at in the first epoch was above 1. Feed the images as they are: leave "
                "out your own division by 255.",
                UserWarning,
                stacklevel=2,
            )
