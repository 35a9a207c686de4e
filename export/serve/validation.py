"""Checks of a request's tensors before they reach the graph."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from export.graph.search_module import MAX_ASPECT_RATIO
from export.prepared_image import prepare_image
from export.serve.loaded_version import LoadedVersion
from export.serve.server_config import ServerConfig
from export.serve.service_error import Code, ServiceError
from keras_dml.data.images.decoding import MOST_PIXELS

JPEG_SIGNATURE = b"\xff\xd8"
# Of a photograph of 100 megapixels; all of them are unpacked, though fewer are kept.
MOST_JPEG_PIXELS = 100_000_000


def check_inputs(
    version: LoadedVersion, signature: str, inputs: Mapping[str, np.ndarray], config: ServerConfig
) -> tuple[dict[str, np.ndarray], int | None, int]:
    """Checks names, types, shapes, finiteness and the server's limits.

    Args:
        version: The model.
        signature: A signature of it.
        inputs: Arrays by input name.
        config: The limits.

    Returns:
        The arrays with rows, `k` (None where the signature has none) and the number of pixels.

    Raises:
        ServiceError: INVALID_ARGUMENT, with the name of the input and what it must be.
    """
    specs = version.specs[signature]
    unknown = [name for name in inputs if name not in specs]
    if unknown:
        raise invalid(f"Signature {signature!r} has inputs {_names(specs)}. Received: {str(unknown[0])[:100]!r}")
    missing = [name for name in specs if name not in inputs and name != "k"]
    if missing:
        raise invalid(f"Signature {signature!r} needs input {missing[0]!r}. Received: {_names(inputs) or 'none'}")
    arrays = {}
    for name, value in inputs.items():
        spec = specs[name]
        expected = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
        if value.dtype != expected:
            raise invalid(f"Input {name!r} must have type {spec.dtype.name}. Received: {value.dtype}")
        if name == "k":
            continue
        wanted = spec.shape.as_list()
        fits = value.ndim == len(wanted) and all(w in (None, v) for w, v in zip(wanted, value.shape, strict=True))
        if not fits:
            shape = ", ".join("any" if side is None else str(side) for side in wanted)
            raise invalid(f"Input {name!r} must have shape ({shape}). Received: shape {value.shape}")
        arrays[name] = value
    ((name, rows),) = arrays.items()
    limit = config.max_queries if name == "embeddings" else config.max_images
    if not 1 <= len(rows) <= limit:
        raise invalid(f"Input {name!r} must have 1 to {limit} rows. Received: {len(rows)}")
    k = _k(version, inputs.get("k"), len(rows), config) if "k" in specs else None
    pixels = 0
    if name == "embeddings" and not np.isfinite(rows).all():
        raise invalid("Input 'embeddings' must be finite. Received: NaN or infinity")
    if name == "images":
        height, width, channels = rows.shape[1:]
        if channels not in (1, 3):
            raise invalid(f"Input 'images' must have 1 or 3 channels. Received: shape {rows.shape}")
        _check_size(height, width, height * width, config)
        pixels = len(rows) * height * width
    elif name == "image_bytes":
        ready: np.ndarray = np.empty(len(rows), dtype=object)
        for number, content in enumerate(rows):
            try:
                ready[number], height, width, count = prepare_image(content)
                count = _decoded_pixels(content, count)
                _check_size(height, width, count, config)
            except (ValueError, ServiceError) as error:
                raise invalid(f"Image {number} of input 'image_bytes': {error}") from None
            pixels += count
        arrays[name] = ready
    if pixels > config.max_request_pixels:
        raise invalid(f"A request may hold {config.max_request_pixels} pixels. Received: {pixels}. Send fewer images")
    return arrays, k, pixels


def invalid(message: str) -> ServiceError:
    """The error of a request that is wrong in itself."""
    return ServiceError(Code.INVALID_ARGUMENT, message)


def _decoded_pixels(content: bytes, pixels: int) -> int:
    """What a decoder makes of an image: large JPEGs are decoded at the half of their sides, or less."""
    if not content.startswith(JPEG_SIGNATURE) or pixels > MOST_JPEG_PIXELS:
        return pixels
    while pixels > MOST_PIXELS:
        pixels //= 4
    return pixels


def _check_size(height: int, width: int, pixels: int, config: ServerConfig) -> None:
    if not height or not width:
        raise invalid(f"an image must have pixels. Received: {height} x {width}")
    if pixels > config.max_pixels:
        raise invalid(f"an image may have {config.max_pixels} pixels. Received: {pixels} ({height} x {width})")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise invalid(f"an image may be {MAX_ASPECT_RATIO} times as long as wide. Received: {height} x {width} pixels")


def _k(version: LoadedVersion, value: np.ndarray | None, rows: int, config: ServerConfig) -> int:
    if value is None:
        k = version.model.default_k
    else:
        if value.shape not in ((), (rows,)):
            raise invalid(f"Input 'k' must be one number, or one per row. Received: shape {value.shape}")
        if value.min() < 1 or value.max() > config.max_k:
            raise invalid(f"Input 'k' must lie in [1, {config.max_k}]. Received: {int(value.flat[0])}")
        k = int(value.max())
    if rows * k > config.max_results:
        raise invalid(
            f"A request may ask for {config.max_results} neighbors in all. Received: {rows} rows with k={k}. "
            "Send fewer rows, or lower k"
        )
    return k


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(repr(str(name)[:100]) for name in names)
