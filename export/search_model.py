"""An exported model in a Python process."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from export import manifest, versions
from export.deprecated import renamed_arguments
from export.encoder_files import open_encoder
from export.filtered_search import FilteredSearch
from export.gallery import Gallery
from export.index.engine import engine_of_manifest
from export.index.spec import largest_value
from export.prepared_image import prepare_image
from export.search_result import SearchResult
from export.versions import GALLERY

if TYPE_CHECKING:
    from keras_dml import ImageEncoder

# Images in one call of the graph; more are split, so that memory stays bounded.
BATCH_IMAGES = 64
BATCH_QUERIES = 1024
ASSERTION = "assertion failed: "


@renamed_arguments({"brute_force": "exact"})
def load(path: str | pathlib.Path, *, exact: bool = False, verify: bool = False) -> "SearchModel":
    """Loads an exported model; registers the ops of its index engine itself.

    Args:
        path: A version directory, or a model directory, which means its newest version.
        exact: True loads the exact twin, which needs only TensorFlow.
        verify: True compares every file's sha256 with the manifest first, False only its size.

    Raises:
        FileNotFoundError: `path` is not an exported model.
        ValueError: The manifest is unreadable or a file does not fit it.
        RuntimeError: The engine's library is missing or does not fit the installed TensorFlow.
    """
    folder = versions.resolve(path)
    content = manifest.read(folder)
    manifest.verify(folder, content, checksum=verify)
    if not exact:
        engine_of_manifest(content["index"]).register()
    import tensorflow as tf

    return SearchModel(folder, content, tf.saved_model.load(str(versions.exact_twin(folder) if exact else folder)))


class SearchModel:
    """Searches the gallery of an exported model. Made by `export.load`.

    Args:
        folder: The version directory.
        content: Its manifest.
        module: The loaded SavedModel.
    """

    def __init__(self, folder: pathlib.Path, content: dict[str, Any], module: Any) -> None:
        self.folder = folder
        self.manifest = content
        # Signatures hold the module's resources only while it is alive.
        self._module = module
        self.signatures = dict(module.signatures)
        self._functions = {name: _positional(function) for name, function in self.signatures.items()}
        self._gallery: Gallery | None = None
        self._filtered: FilteredSearch | None = None
        self._image_encoder: ImageEncoder | None = None

    @property
    def name(self) -> str:
        """The model's name, that of its directory when built."""
        return self.manifest["name"]

    @property
    def version(self) -> int:
        """The version number."""
        return self.manifest["version"]

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings."""
        return self.manifest["embedding_dim"]

    @property
    def default_k(self) -> int:
        """Neighbors returned where a search names no `k`."""
        return self.manifest["default_k"]

    @property
    def has_encoder(self) -> bool:
        """Whether images can be searched, or embeddings only."""
        return self.manifest["preprocessing"] is not None

    @property
    def image_encoder(self) -> "ImageEncoder | None":
        """The encoder that was exported, read from disk when first used; None where the model has none."""
        if self._image_encoder is None:
            self._image_encoder = open_encoder(self.folder, self.manifest)
        return self._image_encoder

    @property
    def gallery(self) -> Gallery:
        """The gallery's embeddings (read from disk when used), ids and metadata."""
        if self._gallery is None:
            self._gallery = Gallery.open(self.folder / GALLERY)
        return self._gallery

    @property
    def filtered(self) -> FilteredSearch:
        """Exact search among the items that a filter keeps."""
        if self._filtered is None:
            reranking = self.manifest.get("reranking")
            image_encoder = self.image_encoder if reranking else None
            self._filtered = FilteredSearch(
                self.gallery,
                self.manifest["index"]["metric"],
                None if image_encoder is None else image_encoder.pair_scorer,
                reranking["shortlist"] if reranking else 0,
            )
        return self._filtered

    def __len__(self) -> int:
        return self.manifest["gallery"]["size"]

    def call(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs of a signature.

        Args:
            signature: One of `signatures`.
            inputs: An array for each of its inputs; `k` is `default_k` where left out.
        """
        import tensorflow as tf

        names, function = self._functions[signature]
        inputs = {"k": self.default_k, **inputs}
        return {
            name: value.numpy()
            for name, value in function(*(tf.constant(inputs[name], dtype) for name, dtype in names.items())).items()
        }

    def embed(self, images: Any) -> np.ndarray:
        """Embeds images of any size.

        Args:
            images: `(n, height, width, channels)` or `(height, width, channels)` uint8, or a sequence of such images of
                different sizes, or encoded images (`bytes`: JPEG, PNG, GIF, BMP, WebP), one or a sequence.

        Returns:
            `(n, d)` float32.

        Raises:
            ValueError: The model has no encoder, or `images` is not valid image data.
        """
        if not self.has_encoder:
            raise ValueError(f"Model {self.name!r} was built without an encoder: use search_embeddings")
        import tensorflow as tf

        pieces: list[np.ndarray] = [np.zeros((0, self.embedding_dim), np.float32)]
        for name, batch in _image_batches(images):
            if name == "image_bytes":
                batch = [_prepared(content) for content in batch]
            signature = "embed_bytes" if name == "image_bytes" else "embed_images"
            try:
                pieces.append(self.call(signature, {name: batch})["embeddings"])
            except tf.errors.InvalidArgumentError as error:
                raise ValueError(f"The images cannot be embedded: {first_line(error)}") from error
        return np.concatenate(pieces)

    def search(self, images: Any, k: int | None = None, *, where: Any = None, offset: int = 0) -> SearchResult:
        """The `k` gallery items nearest to each image.

        What an image may be, `embed` says, and `search_embeddings` the rest.
        """
        return self.search_embeddings(self.embed(images), k, where=where, offset=offset)

    def search_items(
        self, ids: str | Sequence[str], k: int | None = None, *, where: Any = None, offset: int = 0
    ) -> SearchResult:
        """The gallery items nearest to each of some items of the gallery, which find themselves too.

        Args:
            ids: Ids of items, one or a sequence.
            k: As in `search_embeddings`, like the rest.

        Raises:
            ValueError: The gallery has no item of an id.
        """
        rows = self.gallery.rows_of([ids] if isinstance(ids, str) else ids)
        return self.search_embeddings(np.array(self.gallery.embeddings[rows]), k, where=where, offset=offset)

    def search_embeddings(
        self, embeddings: Any, k: int | None = None, *, where: Any = None, offset: int = 0
    ) -> SearchResult:
        """The gallery items nearest to each embedding.

        Args:
            embeddings: `(n, d)` or `(d,)` finite floats.
            k: Neighbors per query, `default_k` by default; at most the gallery's size are returned.
            where: A filter on ids and metadata columns, `{"label": "cup", "price": {"$lt": 20}}`; see
                `export.where.where_mask`. Items that it keeps are searched exactly, whatever the index.
            offset: Nearest items left out, for the next page of results.

        Raises:
            ValueError: `k` is not positive, the width differs from the model's, a value is not finite or so large
                that scores would overflow, or the filter does not fit the gallery.
        """
        k = self.default_k if k is None else k
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 0 < k < 2**31:
            raise ValueError(f"`k` must be a positive integer. Received: k={k!r}")
        if isinstance(offset, bool) or not isinstance(offset, int | np.integer) or not 0 <= offset < 2**31 - k:
            raise ValueError(f"`offset` must be 0 or a positive integer. Received: offset={offset!r}")
        embeddings = np.asarray(embeddings, np.float32)
        if embeddings.ndim == 1:
            embeddings = embeddings[None]
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            raise ValueError(
                f"`embeddings` must have shape (n, {self.embedding_dim}). Received: shape {embeddings.shape}"
            )
        if not np.isfinite(embeddings).all():
            raise ValueError("`embeddings` must be finite. Received: NaN or infinity")
        starts = range(0, max(1, len(embeddings)), BATCH_QUERIES)
        batches = [embeddings[start : start + BATCH_QUERIES] for start in starts]
        if where is not None:
            pieces = [self.search_where(batch, k + offset, where) for batch in batches]
        else:
            import tensorflow as tf

            try:
                pieces = [self.call("search_embeddings", {"embeddings": batch, "k": k + offset}) for batch in batches]
            except tf.errors.InvalidArgumentError as error:
                raise ValueError(f"The embeddings cannot be searched: {first_line(error)}") from error
        return result_of({name: np.concatenate([piece[name] for piece in pieces])[:, offset:] for name in pieces[0]})

    def search_where(self, embeddings: np.ndarray, k: int, where: Any) -> dict[str, np.ndarray]:
        """The outputs of `search_embeddings`'s signature, of the items that a filter keeps.

        Args:
            embeddings: `(n, d)` finite float32.
            k: Neighbors per query.
            where: The filter.
        """
        metric = self.manifest["index"]["metric"]
        limit = largest_value(self.embedding_dim)
        if metric != "cosine" and embeddings.size and np.abs(embeddings).max() > limit:
            raise ValueError(f"Query embeddings may hold values up to {limit:g}, beyond which scores overflow")
        rows, scores = self.filtered.search(embeddings, k, where)
        ids: np.ndarray = np.empty(rows.shape, dtype=object)
        ids.flat[:] = [self.gallery.ids[row] for row in rows.ravel().tolist()]
        outputs = {"ids": encoded(ids), "scores": scores, "indices": rows}
        return outputs | {name: encoded(values[rows]) for name, values in self.gallery.metadata.items()}


def encoded(values: np.ndarray) -> np.ndarray:
    """Strings as UTF-8, as signatures return them; other values as they are."""
    if values.dtype == object:
        values.flat[:] = [text.encode() for text in values.ravel().tolist()]
    return values


def result_of(outputs: dict[str, np.ndarray]) -> SearchResult:
    """A `SearchResult` of a search signature's outputs; bytes become strings."""
    values = {name: _decode(value) for name, value in outputs.items()}
    return SearchResult(values.pop("ids"), values.pop("scores"), values.pop("indices"), values)


def first_line(error: Exception) -> str:
    """The part of a TensorFlow error that says what is wrong, without the graph's node names."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("Graph execution error", "Detected at node"))]
    texts = [line for line in lines if not line.startswith(("<stack", "[[", "File ", "(0)", "(1)"))]
    text = (texts or lines or ["unknown error"])[0].split(" [Op:")[0].split("\t [[")[0]
    if text.startswith(ASSERTION):
        text = text.removeprefix(ASSERTION).split(" [Condition ")[0].strip("[]").replace("] [", " ")
    return text


def _positional(signature: Any) -> tuple[dict[str, Any], Callable[..., dict[str, Any]]]:
    """A signature's inputs as `{name: dtype}` and a function that takes them in this order.

    Binding keyword arguments to a signature takes 0.04 ms a call, as long as the search of a small index.
    """
    import tensorflow as tf

    specs: dict[str, tf.TensorSpec] = signature.structured_input_signature[1]
    function = tf.compat.v1.wrap_function(
        lambda *tensors: signature(**dict(zip(specs, tensors, strict=True))), list(specs.values())
    )
    return {name: spec.dtype for name, spec in specs.items()}, function


def _prepared(content: bytes) -> bytes:
    try:
        return prepare_image(content)[0]
    except ValueError as error:
        raise ValueError(f"The images cannot be embedded: {error}") from None


def _decode(values: np.ndarray) -> np.ndarray:
    if values.dtype != object:
        return values
    texts = np.empty(values.shape, dtype=object)
    flat = texts.reshape(-1)
    for position, value in enumerate(values.reshape(-1)):
        flat[position] = value.decode("utf-8", "replace")
    return texts


def _image_batches(images: Any) -> "list[tuple[str, Any]]":
    """`(input name, batch)` pairs, images of equal kind and size that follow each other together."""
    if isinstance(images, bytes):
        images = [images]
    if not isinstance(images, Sequence):
        images = np.asarray(images)
        if images.ndim == 3:
            images = images[None]
        if images.ndim != 4:
            raise ValueError(f"`images` must have shape (n, height, width, channels). Received: shape {images.shape}")
    batches: list[tuple[str, list[Any]]] = []
    shape: tuple[int, ...] | None = None
    for image in images:
        if isinstance(image, bytes):
            name, this_shape = "image_bytes", None
        else:
            image = np.asarray(image)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3) or not image.size:
                raise ValueError(
                    "An image must be uint8 of shape (height, width, 1 or 3), or encoded bytes. "
                    f"Received: {image.dtype} of shape {image.shape}"
                )
            name, this_shape = "images", image.shape
        if not batches or batches[-1][0] != name or shape != this_shape or len(batches[-1][1]) == BATCH_IMAGES:
            batches.append((name, []))
        shape = this_shape
        batches[-1][1].append(image)
    return [(name, batch if name == "image_bytes" else np.stack(batch)) for name, batch in batches]
