"""Preprocessing, encoder, index and gallery in one graph."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from export.gallery import RESERVED, Gallery
from export.graph.searcher import Searcher
from export.index.spec import largest_value
from keras_dml.data.images.decoding import decode
from keras_dml.typing import Tensor

if TYPE_CHECKING:
    import keras

    from keras_dml import ImageEncoder

MAX_ASPECT_RATIO = 100
DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


class NonTrackable:
    """Holds a value where tf.Module does not look for things to save.

    Args:
        value: Anything.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


class SearchModule(tf.Module):
    """The tf.Module that is saved: signatures from images or embeddings to gallery items.

    Signatures (each search also takes `k`, int32, a scalar or one value per row of which the largest counts):
        `search_bytes` and `serving_default`: `image_bytes` `(n,)` encoded images;
        `search_images`: `images` `(n, height, width, channels)` uint8, channels 1 or 3;
        `search_embeddings`: `embeddings` `(n, d)` float32;
        `embed_bytes`, `embed_images`: the same images to `embeddings` `(n, d)`.
    Without an encoder, `search_embeddings` is the only one and the default.
    A search returns `ids`, `scores`, `indices` and the metadata columns, each `(n, min(k, size))`, nearest first.

    Args:
        searcher: How rows are found.
        gallery: Ids and metadata of the rows.
        metric: One of `export.index.spec.METRICS`.
        image_encoder: Embeds images; None leaves the signatures that take images out.
        default_k: Neighbors returned where a request names none.
        pair_scorer: PDDMUnit that reorders the `shortlist` nearest items; scores are then its own.
        shortlist: Items that `pair_scorer` sees per query, at least k of them.
    """

    def __init__(
        self,
        searcher: Searcher,
        gallery: Gallery,
        metric: str,
        image_encoder: "ImageEncoder | None" = None,
        default_k: int = 10,
        pair_scorer: "keras.layers.Layer | None" = None,
        shortlist: int = 0,
    ) -> None:
        super().__init__(name="search_module")
        self.searcher = searcher
        # Keras models are kept out of the object graph and their TensorFlow variables put into it: a Keras variable is
        # restored only by `tf.saved_model.load`, and sessions (TensorFlow Serving) would find it uninitialized.
        encoder = None if image_encoder is None else image_encoder.encoder
        self._encoder = NonTrackable(encoder)
        self._pair_scorer = NonTrackable(pair_scorer)
        self.keras_variables = [
            variable.value for model in (encoder, pair_scorer) if model is not None for variable in model.variables
        ]
        self._preprocessing = None if image_encoder is None else image_encoder.preprocessing
        self._metric = metric
        self._size = len(gallery)
        self._dim = gallery.dim
        self._default_k = default_k
        self._shortlist = shortlist
        if pair_scorer is not None:
            self.vectors = tf.Variable(gallery.embeddings, trainable=False, dtype=tf.float32, name="gallery_vectors")
        self.ids = _column(np.array(gallery.ids, dtype=object), "ids")
        self.columns = {name: _column(values, name) for name, values in gallery.metadata.items()}

    def signatures(self) -> dict[str, Any]:
        """The functions to save, by signature name."""
        k = tf.TensorSpec(None, tf.int32, "k")
        # Only a tensor as Python default reaches the signature's default inputs, which TensorFlow Serving honours.
        default = tf.constant(self._default_k, tf.int32)
        vectors = tf.TensorSpec((None, self._dim), tf.float32, "embeddings")

        def search_embeddings(embeddings: Tensor, k: Tensor = default) -> dict[str, Tensor]:
            return self.search(embeddings, k)

        signatures = {"search_embeddings": tf.function(search_embeddings, input_signature=(vectors, k))}
        if self._encoder.value is None:
            signatures[DEFAULT_SIGNATURE] = signatures["search_embeddings"]
            return signatures
        encoded = tf.TensorSpec((None,), tf.string, "image_bytes")
        pixels = tf.TensorSpec((None, None, None, None), tf.uint8, "images")

        def search_bytes(image_bytes: Tensor, k: Tensor = default) -> dict[str, Tensor]:
            return self.search(self.embed_bytes(image_bytes), k)

        def search_images(images: Tensor, k: Tensor = default) -> dict[str, Tensor]:
            return self.search(self.embed_images(images), k)

        def embed_bytes(image_bytes: Tensor) -> dict[str, Tensor]:
            return {"embeddings": self.embed_bytes(image_bytes)}

        def embed_images(images: Tensor) -> dict[str, Tensor]:
            return {"embeddings": self.embed_images(images)}

        signatures["search_bytes"] = tf.function(search_bytes, input_signature=(encoded, k))
        signatures["search_images"] = tf.function(search_images, input_signature=(pixels, k))
        signatures["embed_bytes"] = tf.function(embed_bytes, input_signature=(encoded,))
        signatures["embed_images"] = tf.function(embed_images, input_signature=(pixels,))
        signatures[DEFAULT_SIGNATURE] = signatures["search_bytes"]
        return signatures

    def embed_bytes(self, image_bytes: Tensor) -> Tensor:
        """Embeds encoded images `(n,)`: JPEG, PNG, GIF (first frame), BMP or WebP -> `(n, d)` float32."""

        def prepare(content: Tensor) -> Tensor:
            return self._prepare(decode(content, self._encoder.value.input_shape[-1]))

        return self._encode(self._map(prepare, image_bytes))

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeds images `(n, height, width, channels)` uint8 -> `(n, d)` float32."""
        shape = tf.shape(images)
        tf.debugging.assert_positive(shape[1:3], message="`images` must have a height and a width")
        tf.debugging.Assert(
            tf.reduce_any(tf.equal(shape[3], (1, 3))), ["`images` must have 1 or 3 channels. Received:", shape]
        )
        return self._encode(self._map(self._prepare, images))

    def search(self, embeddings: Tensor, k: Tensor) -> dict[str, Tensor]:
        """Finds gallery items for `(n, d)` float32 embeddings; every output has shape `(n, min(k, size))`."""
        k = tf.reduce_max(k)
        tf.debugging.assert_positive(k, message="`k` must be positive")
        embeddings = tf.debugging.check_numerics(embeddings, "Query embeddings must be finite")
        vectors = embeddings
        if self._metric == "cosine":
            # In two steps, so that the squares of tiny or huge values neither vanish nor overflow.
            largest = tf.reduce_max(tf.abs(embeddings), axis=1, keepdims=True)
            embeddings = tf.math.l2_normalize(tf.math.divide_no_nan(embeddings, largest), axis=1)
        else:
            limit = largest_value(self._dim)
            tf.debugging.assert_less_equal(
                tf.abs(embeddings),
                limit,
                message=f"Query embeddings may hold values up to {limit:g}, beyond which scores overflow",
            )
        k = tf.minimum(k, self._size)
        wanted = k if self._pair_scorer.value is None else tf.maximum(k, min(self._shortlist, self._size))
        if self._size == 0:
            empty = tf.zeros((tf.shape(embeddings)[0], 0))
            indices, scores = tf.cast(empty, tf.int32), empty
        else:
            indices, scores = tf.cond(
                tf.shape(embeddings)[0] > 0,
                lambda: self._find(embeddings, vectors, wanted, k),
                lambda: (tf.zeros((0, k), tf.int32), tf.zeros((0, k))),
            )
        outputs = {"ids": tf.gather(self.ids, indices), "scores": scores, "indices": indices}
        assert not set(outputs) - set(RESERVED)
        return outputs | {name: tf.gather(values, indices) for name, values in self.columns.items()}

    def _find(self, queries: Tensor, vectors: Tensor, wanted: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        indices, scores = self.searcher(queries, wanted)
        if self._pair_scorer.value is None:
            return indices, scores
        # The unit was trained on the encoder's own output, so it gets the vectors as they came.
        scores, positions = self._pair_scorer.value.rerank(vectors, tf.gather(self.vectors, indices))
        scores = tf.debugging.check_numerics(scores, "The pair scorer's scores of these queries are not finite")
        return tf.gather(indices, positions, batch_dims=1)[:, :k], scores[:, :k]

    def _prepare(self, image: Tensor) -> Tensor:
        assert self._preprocessing is not None
        # The short side is resized to a fixed length: a line of pixels would grow into gigabytes.
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        tf.debugging.assert_less_equal(
            tf.reduce_max(sides),
            MAX_ASPECT_RATIO * tf.reduce_min(sides),
            message=f"An image may be at most {MAX_ASPECT_RATIO} times as long as wide",
        )
        return self._preprocessing(image)

    def _map(self, function: Callable[[Tensor], Tensor], elements: Tensor) -> Tensor:
        spec = tf.TensorSpec(self._encoder.value.input_shape[1:], tf.float32)
        return tf.map_fn(function, elements, fn_output_signature=spec)

    def _encode(self, images: Tensor) -> Tensor:
        embeddings = tf.cast(self._encoder.value(images, training=False), tf.float32)
        embeddings = tf.ensure_shape(embeddings, (None, self._dim))
        return tf.debugging.check_numerics(embeddings, "The encoder's embeddings of these images are not finite")


def _column(values: np.ndarray, name: str) -> tf.Variable:
    dtype = tf.string if values.dtype == object else tf.as_dtype(values.dtype)
    return tf.Variable(tf.constant(values.tolist(), dtype, shape=values.shape), trainable=False, name=name)
